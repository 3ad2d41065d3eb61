"""Compiled blocks: pictures are the same, no hook is skipped, and what is not hooked runs compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import t2iprobe as t2i
from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core import compiling
from t2iprobe.core.compiling import BlockCall
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError, HookError
from t2iprobe.core.model import Model, Run
from t2iprobe.registry import placing

FAMILIES: tuple[type[Adapter], ...] = (SD, SDXL, SD3, DeepFloydIF, Flux)
PROMPTS = ["a cat", "a dog on the sign"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are traced and guarded as ever, but the code that runs is torch's own: no minutes for a compiler."""
    compile_blocks = compiling.compile_blocks
    monkeypatch.setattr(compiling, "compile_blocks", lambda *given: compile_blocks(*given, backend="eager"))
    yield
    torch._dynamo.reset()


def calls(model: Model) -> dict[str, BlockCall]:
    return {
        name: module._compiled_call_impl
        for name, module in model.denoiser.named_modules()
        if module._compiled_call_impl is not None
    }


def compiled(adapter: type[Adapter]) -> Model:
    return t2i.load(adapter.tiny(), compile=True)


def gap(run: Run, other: Run) -> int:
    pictures = [np.stack([np.asarray(image, np.int16) for image in one.images]) for one in (run, other)]
    return int(np.abs(pictures[0] - pictures[1]).max())


@pytest.mark.parametrize("adapter", FAMILIES, ids=lambda one: one.name)
def test_a_patch_is_the_same_and_only_its_blocks_run_uncompiled(adapter: type[Adapter]) -> None:
    model, plain = compiled(adapter), Model(adapter.tiny(), adapter())
    layer = model.n_layers // 2
    sites = model.text_sites(layer)
    assert gap(model.run(PROMPTS, num_steps=2), plain.run(PROMPTS, num_steps=2)) <= 1  # now everything is compiled
    before = {name: call.calls for name, call in calls(model).items()}
    assert min(before.values()) > 0
    patched = [
        one.run(PROMPTS, num_steps=2, cache=sites, interventions=[t2i.patch({1: 0}, sites)]) for one in (model, plain)
    ]
    assert gap(*patched) <= 1 and gap(patched[0], model.run(PROMPTS, num_steps=2)) > 0
    for name in sites.names:
        assert torch.allclose(patched[0].cache[name], patched[1].cache[name], atol=1e-4)
    again = {name: call.calls for name, call in calls(model).items()}
    hooked = {name for name in again if sites[0].module.startswith(f"{name}.")}
    assert len(hooked) == 1 and len(again) > 1
    for name in again:  # once more by the patched run, twice by the plain ones, at every call of the denoiser
        assert again[name] == before[name] * (2 if name in hooked else 3), name


def test_hooks_that_the_engine_does_not_know_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = compiled(SD3), []
    model.run(PROMPTS, num_steps=1)
    module = model.denoiser.get_submodule("transformer_blocks.1.attn.add_k_proj")
    handle = module.register_forward_hook(lambda *call: seen.append(1))
    model.run(PROMPTS, num_steps=1)
    handle.remove()
    model.run(PROMPTS, num_steps=1)
    assert len(seen) == 1


def test_gradients_flow() -> None:
    model = compiled(SD3)
    model.run(PROMPTS, num_steps=1)
    text = model.adapter.encode_prompts(model.pipeline, PROMPTS)
    tokens = text.tokens.detach().requires_grad_()
    latents, time = torch.randn(2, 4, 8, 8), torch.full((2,), 500.0)
    model.denoiser(latents, tokens, text.pooled, time, return_dict=False)[0].sum().backward()
    assert tokens.grad is not None and tokens.grad.abs().sum() > 0


def test_a_lora_put_on_later_acts(tmp_path: Any) -> None:
    from t2iprobe.training.lora import Lora

    model = compiled(SD3)
    before = model.run(PROMPTS, num_steps=1)
    lora = Lora.attach(model, ["transformer_blocks.0.attn.to_q"], rank=2)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(std=0.5)
    assert gap(model.run(PROMPTS, num_steps=1), before) > 0
    lora.detach()
    assert gap(model.run(PROMPTS, num_steps=1), before) <= 1


def test_what_is_not_safe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(SD3.tiny(), SD3())
    model.denoiser.transformer_blocks[1].compile()  # type: ignore[index,operator]
    with pytest.raises(HookError, match="load it uncompiled, or with "):
        model.run(PROMPTS, num_steps=1, cache="blocks.1.joint_attn.k")
    with pytest.raises(ConfigError, match="has no blocks to compile"):
        compiling.compile_blocks(torch.nn.Linear(2, 2), ())
    monkeypatch.setattr(placing, "choose", lambda *given, **more: "group")
    monkeypatch.setattr(placing, "apply", lambda *given: None)
    with pytest.raises(ConfigError, match="offload group moves them in and out"):
        t2i.load("tiny-sd3", compile=True, device="cpu")
