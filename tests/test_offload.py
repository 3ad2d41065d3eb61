"""Offloaded and quantised models: the facts that docs/explanation/architecture.md states. Edits act as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import PyramidAttentionBroadcastConfig
from numpy.typing import NDArray
from torch import Tensor, nn

from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import HookError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model, Run

CASES: tuple[tuple[type[Adapter], str], ...] = (
    (SD3, "blocks.1.joint_attn.[kv]"),
    (SDXL, "blocks.2.cross_attn.[kvz]"),
    (SDXL, "blocks.2.cross_attn.text"),
    (SDXL, "blocks.2.cross_attn.[kv]"),
)


def swapped(model: Model, site: str, rows: tuple[int, ...] = (0, 1, 2)) -> Run:
    """Row 2 is row 0 but for one layer, which is row 1's."""
    generation = model.generation(["a cat", "a dog on the sign", "a cat"], 0, num_steps=2)
    return model.run(generation, interventions=[patch({2: 1}, site)], cache=site, rows=rows)


def pixels(run: Run) -> NDArray[np.int16]:
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def parts(pipeline: Any) -> list[nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


# offloading: hooks of accelerate and diffusers replace a module's forward, and torch's hooks run around that


def model_offload(pipeline: Any, denoiser: nn.Module, folder: Path) -> None:
    """What ``enable_model_cpu_offload`` does."""
    for part in parts(pipeline):
        accelerate.cpu_offload_with_hook(part, execution_device="cpu")


def sequential_offload(pipeline: Any, denoiser: nn.Module, folder: Path) -> None:
    """What ``enable_sequential_cpu_offload`` does: between the calls every weight is on the meta device."""
    for part in parts(pipeline):
        accelerate.cpu_offload(part, execution_device="cpu", offload_buffers=True)


def disk_offload(pipeline: Any, denoiser: nn.Module, folder: Path) -> None:
    accelerate.disk_offload(denoiser, str(folder), execution_device="cpu")


def device_map(pipeline: Any, denoiser: nn.Module, folder: Path) -> None:
    """What ``from_pretrained(device_map=…)`` does."""
    places = {name: "cpu" for name, _ in denoiser.named_children()}
    accelerate.dispatch_model(denoiser, places, main_device="cpu", force_hooks=True)


def group_offload(pipeline: Any, denoiser: Any, folder: Path) -> None:
    cpu = torch.device("cpu")
    denoiser.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def block_offload(pipeline: Any, denoiser: Any, folder: Path) -> None:
    cpu = torch.device("cpu")
    denoiser.enable_group_offload(
        onload_device=cpu, offload_device=cpu, offload_type="block_level", num_blocks_per_group=1
    )


WAYS = (model_offload, sequential_offload, disk_offload, device_map, group_offload, block_offload)


@pytest.mark.filterwarnings("ignore:.*")  # accelerate's, about devices that are the same here
@pytest.mark.parametrize(("adapter", "site"), CASES)
@pytest.mark.parametrize("offload", WAYS)
def test_an_offloaded_model_gives_the_same_pictures(
    offload: Callable[..., None], adapter: type[Adapter], site: str, tmp_path: Path
) -> None:
    plain = swapped(Model(adapter.tiny(), adapter()), site)
    pipeline = adapter.tiny()
    offload(pipeline, adapter().module(pipeline), tmp_path)
    model = Model(pipeline, adapter())
    if offload in (sequential_offload, disk_offload):
        assert next(model.denoiser.parameters()).is_meta
    moved = swapped(model, site)
    assert (pixels(moved) == pixels(plain)).all()
    assert (pixels(moved)[2] != pixels(moved)[0]).any()
    apart = swapped(model, site, rows=(0, 2))  # where it can, the donor takes no row
    assert np.abs(pixels(apart) - pixels(plain)[[0, 2]]).max() <= 1


# quantisation: the modules are called as ever; only the name of a linear layer's argument differs


class Rounded(nn.Linear):
    """Eight bits a weight, and an argument named as in bitsandbytes (``x``)."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().amax(1, keepdim=True) / 127
        return F.linear(x, (self.weight / scale).round() * scale, self.bias)


class RoundedInputs(Rounded):
    """Named as in diffusers' GGUF (``inputs``)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)


def quantise(module: nn.Module, kind: type[nn.Linear]) -> None:
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = kind


@pytest.mark.parametrize(("adapter", "site"), CASES)
@pytest.mark.parametrize("kind", [Rounded, RoundedInputs])
def test_a_quantised_model_is_edited(kind: type[nn.Linear], adapter: type[Adapter], site: str) -> None:
    """Also ``z``, which is the argument of a linear layer: the patched row holds the donor's values and no others."""
    pipeline = adapter.tiny()
    quantise(adapter().module(pipeline), kind)
    model = Model(pipeline, adapter())
    run = swapped(model, site)
    assert (pixels(run)[2] != pixels(run)[0]).any()
    for name in model.sites.match(site).names:
        value = run.cache[name, 1, Branch.COND]
        assert torch.equal(value[2], value[1]) and not torch.equal(value[2], value[0])


# what would drop an edit


@pytest.mark.parametrize("site", ["blocks.1.joint_attn.text", "blocks.2.joint_attn.k"])
def test_a_denoiser_that_reuses_earlier_steps_is_refused(site: str) -> None:
    """Its attention is called, and answers with what it said a step before: an edit of its input would go unread."""
    pipeline = Flux.tiny()
    pipeline.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(0, 1001),
            current_timestep_callback=lambda: 500,
            spatial_attention_block_identifiers=("transformer_blocks", "single_transformer_blocks"),
        )
    )
    with pytest.raises(HookError, match=r"enable_cache.*call disable_cache\(\) first"):
        swapped(Model(pipeline, Flux()), site)
    pipeline.transformer.disable_cache()
    swapped(Model(pipeline, Flux()), site)
