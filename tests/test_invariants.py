"""What must hold of patching by the architectures' own algebra, as the paper uses it (arXiv 2502.09935)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.interventions import Intervention, patch
from t2iprobe.core.model import Model, Run
from t2iprobe.core.scope import Scope

U_NETS: tuple[type[Adapter], ...] = (SD, SDXL, DeepFloydIF)
MM_DITS: tuple[type[Adapter], ...] = (SD3, Flux)
DOG, CAT = "a sign that says DOG", "a red CAT on the sign"
COND, UNCOND = Branch.COND, Branch.UNCOND


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    """The tiny model of the adapter that the test is parametrized with."""
    return Model(request.param.tiny(), request.param())


def each(*adapters: type[Adapter]) -> Any:
    return pytest.mark.parametrize("model", adapters, ids=lambda adapter: adapter.name, indirect=True)


def pixels(run: Run) -> Any:
    """(row, y, x, rgb), signed so that differences are."""
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def gap(run: Run, other: Run) -> int:
    """The largest difference of two runs' images, in levels of 255."""
    return int(np.abs(pixels(run) - pixels(other)).max())


def generate(model: Model, prompt: str, *edits: Intervention, cache: Any = (), **settings: Any) -> Run:
    return model.run(model.generation(prompt, num_steps=3, **settings), cache=cache, interventions=edits)


def with_pooled(model: Model, *patterns: str) -> list[str]:
    """The patterns, and the pooled text where the family has it."""
    return [*patterns, *(["pooled"] if "pooled" in model.sites.names else [])]


def from_target(model: Model, *patterns: str, scope: Scope | None = None, **settings: Any) -> tuple[Run, Run]:
    """The target's run, and the source's with these sites patched from it."""
    target = generate(model, CAT, cache=patterns, **settings)
    return target, generate(model, DOG, patch(target.cache, patterns, scope=scope), **settings)


# U-Nets: text keys and values depend on the text alone


@each(*U_NETS)
def test_injection_into_one_layer_is_patching_its_keys_and_values(model: Model) -> None:
    plain = generate(model, DOG)
    for layer in range(model.n_layers):
        _, injected = from_target(model, f"blocks.{layer}.cross_attn.text")
        _, patched = from_target(model, f"blocks.{layer}.cross_attn.k", f"blocks.{layer}.cross_attn.v")
        assert gap(injected, patched) == 0
        assert gap(injected, plain) > 0


@each(*U_NETS)
@pytest.mark.parametrize("kind", ["text", "{k,v}"])
def test_injection_into_every_layer_and_the_pooled_text_is_the_target(model: Model, kind: str) -> None:
    target, injected = from_target(model, *with_pooled(model, f"blocks.*.cross_attn.{kind}"))
    assert gap(injected, target) == 0


@each(SDXL, DeepFloydIF)
def test_without_the_pooled_text_it_is_not(model: Model) -> None:
    target, injected = from_target(model, "blocks.*.cross_attn.text")
    assert gap(injected, target) > 0


@each(*U_NETS)
def test_text_keys_and_values_do_not_depend_on_the_step(model: Model) -> None:
    sites = model.text_sites(model.n_layers - 1)
    cache = generate(model, DOG, cache=sites).cache
    for site in sites:
        assert torch.equal(cache[site.name, 0, COND], cache[site.name, 2, COND])


@each(*U_NETS)
def test_patching_both_branches_of_text_keys_and_values_is_patching_cond(model: Model) -> None:
    """The empty prompt's text is the same in both runs."""
    names = [site.name for site in model.text_sites(0)]
    _, both = from_target(model, *names)
    _, cond = from_target(model, *names, scope=Scope(branches=(COND,)))
    assert gap(both, cond) == 0


# MM-DiTs: the text stream evolves with the image


@each(*MM_DITS)
def test_text_keys_and_values_depend_on_the_step(model: Model) -> None:
    sites = model.text_sites(model.n_layers - 1)
    cache = generate(model, DOG, cache=sites).cache
    for site in sites:
        assert not torch.equal(cache[site.name, 0, COND], cache[site.name, 2, COND])


@each(*MM_DITS)
def test_patching_every_layer_is_not_the_target(model: Model) -> None:
    plain = generate(model, DOG)
    target, patched = from_target(model, "blocks.*.joint_attn.{k,v}")
    assert gap(patched, target) > 0
    assert gap(patched, plain) > 0


@each(*MM_DITS)
def test_the_pooled_text_is_all_that_patching_every_layer_misses(model: Model) -> None:
    """Image tokens see the text through its keys and values, and through the pooled text's modulation, only."""
    target, patched = from_target(model, "pooled", "blocks.*.joint_attn.{k,v}")
    assert gap(patched, target) == 0


@each(*MM_DITS)
def test_the_context_embedder_and_the_pooled_text_are_the_target(model: Model) -> None:
    target, patched = from_target(model, "text", "pooled")
    assert gap(patched, target) == 0
    for part in ("text", "pooled"):
        _, half = from_target(model, part)
        assert gap(half, target) > 0


@each(*MM_DITS)
def test_injection_into_one_layer_is_not_patching_its_keys_and_values(model: Model) -> None:
    """Injection also moves the text queries, and with them the text of every later block."""
    _, injected = from_target(model, "blocks.0.joint_attn.text")
    _, patched = from_target(model, "blocks.0.joint_attn.k", "blocks.0.joint_attn.v")
    assert gap(injected, patched) > 0


@each(SD3)
def test_patching_both_branches_is_not_patching_cond(model: Model) -> None:
    """The empty prompt's text has seen the image, which differs from the second step on."""
    names = ["blocks.1.joint_attn.k", "blocks.1.joint_attn.v"]
    _, both = from_target(model, *names)
    _, cond = from_target(model, *names, scope=Scope(branches=(COND,)))
    assert gap(both, cond) > 0


# guidance


@each(*U_NETS, SD3)
def test_uncond_of_two_prompts_is_the_same_until_the_images_differ(model: Model) -> None:
    sites = model.text_sites(1)
    source, target = (generate(model, prompt, cache=sites).cache for prompt in (DOG, CAT))
    for site in sites:
        assert torch.equal(source[site.name, 0, UNCOND], target[site.name, 0, UNCOND])
        assert not torch.equal(source[site.name, 0, COND], target[site.name, 0, COND])


@each(*U_NETS, *MM_DITS)
def test_a_patch_of_every_step_but_none_is_a_patch_of_each_step_in_turn(model: Model) -> None:
    names = [site.name for site in model.text_sites(1)]
    target = generate(model, CAT, cache=names).cache
    whole = generate(model, DOG, patch(target, names))
    turns = [patch(target, names, scope=Scope(steps=(step,))) for step in range(3)]
    assert gap(generate(model, DOG, *turns), whole) == 0


# heads


def z_and_out(model: Model) -> tuple[str, str]:
    """One attention's heads and its result, both of the image tokens."""
    z = next(
        site.name for site in model.sites if site.kind in ("cross_attn.z", "joint_attn.z") and (site.heads or 1) > 1
    )
    return z, z.removesuffix("z") + "out"


def at_step_0(model: Model, prompt: str, names: tuple[str, ...], *edits: Intervention) -> list[Tensor]:
    """What was seen at these sites, in double precision."""
    cache = model.run(model.generation(prompt, num_steps=1), cache=names, interventions=edits).cache
    return [cache[name, 0, COND].double() for name in names]


@each(SD, SDXL, SD3, DeepFloydIF)
def test_patching_a_head_adds_its_part_of_the_output_projection(model: Model) -> None:
    names = z_and_out(model)
    z = names[0]
    site = model.sites.named(z)
    weight = model.denoiser.get_submodule(site.module).get_parameter("weight").double()
    donor = model.run(model.generation(CAT, num_steps=1), cache=z).cache
    (z_source, before), (z_target,) = at_step_0(model, DOG, names), at_step_0(model, CAT, (z,))
    assert site.heads is not None
    width = weight.shape[1] // site.heads
    for head in range(site.heads):
        _, after = at_step_0(model, DOG, names, patch(donor, z, scope=Scope(heads=[head])))
        part = slice(head * width, (head + 1) * width)
        expected = (z_target - z_source)[..., part] @ weight[:, part].T
        found = after - before
        if found.ndim == 4:  # IF's attention gives back a feature map
            found = found.flatten(2).transpose(1, 2)
        assert torch.allclose(found, expected, atol=1e-4)
        assert expected.abs().max() > 1e-3


@each(*U_NETS, *MM_DITS)
def test_patching_every_head_in_turn_is_patching_them_all(model: Model) -> None:
    for site in (model.sites.named(z_and_out(model)[0]), model.text_sites(1)[0]):
        donor = generate(model, CAT, cache=site).cache
        heads = [patch(donor, site, scope=Scope(heads=[head])) for head in range(site.heads or 1)]
        assert gap(generate(model, DOG, *heads), generate(model, DOG, patch(donor, site))) == 0


@each(*U_NETS, *MM_DITS)
def test_patching_every_token_in_turn_is_patching_them_all(model: Model) -> None:
    site = model.text_sites(1)[0]
    target = generate(model, CAT, cache=site).cache
    count = target[site.name, 0, COND].shape[1]
    halves = [patch(target, site, scope=Scope(tokens=range(start, count, 2))) for start in range(2)]
    assert gap(generate(model, DOG, *halves), generate(model, DOG, patch(target, site))) == 0
