"""The engine on the tiny pipelines: what an edit changes, where, when, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core import cache
from t2iprobe.core.batches import quiet
from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import ActivationCache
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError, HookError, NonFiniteError, ShapeError, SiteError, T2IProbeError
from t2iprobe.core.interventions import HookContext, Intervention, ablate, interpolate, patch, steer
from t2iprobe.core.model import Generation, Model, Run
from t2iprobe.core.scope import Scope

ADAPTERS: tuple[type[Adapter], ...] = (SD, SDXL, SD3, DeepFloydIF, Flux)
DOG, CAT = "a sign that says DOG", "a red CAT on the sign"
K = "blocks.1.cross_attn.k"  # of a U-Net: the same at every step
COND, UNCOND = Branch.COND, Branch.UNCOND


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.name)
def model(request: pytest.FixtureRequest) -> Model:
    return build(request.param)


@pytest.fixture
def sd() -> Model:
    return build(SD)


def build(adapter: type[Adapter]) -> Model:
    return Model(adapter.tiny(), adapter())


def pixels(run: Run) -> Any:
    """(row, y, x, rgb), signed so that differences are."""
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def gap(run: Run, other: Run) -> int:
    """The largest difference of two runs' images, in levels of 255."""
    return int(np.abs(pixels(run) - pixels(other)).max())


def pair(model: Model, steps: int = 2, **settings: Any) -> Generation:
    """The source in row 0, the target in row 1, from the same noise."""
    return model.generation([DOG, CAT], num_steps=steps, **settings)


def ones(value: Tensor, hook: HookContext) -> Tensor:
    return torch.ones_like(value)


def middle_layer(model: Model) -> Any:
    return model.text_sites(model.n_layers // 2)


# patching


def test_lock_step_and_cached_donors_give_the_same(model: Model) -> None:
    sites = middle_layer(model)
    plain = model.run(pair(model), cache=sites)
    lock_step = model.run(pair(model), interventions=[patch({0: 1}, sites)])
    cached = model.run(pair(model), interventions=[patch(plain.cache, sites, rows={0: 1})])
    assert gap(lock_step, cached) == 0
    assert (pixels(lock_step)[0] != pixels(plain)[0]).any()
    assert (pixels(lock_step)[1] == pixels(plain)[1]).all()


def test_a_donor_of_one_row_serves_every_row(model: Model) -> None:
    sites = middle_layer(model)
    donor = model.run(model.generation(CAT, num_steps=2), cache=sites).cache
    run = model.run(model.generation([DOG, "the sign"], num_steps=2), cache=sites, interventions=[patch(donor, sites)])
    for site in sites:
        assert torch.equal(run.cache[site.name, 1, COND], donor[site.name, 1, COND].expand(2, -1, -1))


def test_a_lock_step_donor_gives_what_it_had_before_its_own_edits(sd: Model) -> None:
    generation = sd.generation([DOG, CAT, "the sign"], num_steps=1)
    plain = sd.run(generation, cache=K).cache[K, 0, COND]
    edited = sd.run(generation, cache=K, interventions=[patch({0: 1, 1: 2}, K)]).cache[K, 0, COND]
    assert torch.equal(edited, plain[[1, 2, 2]])


def test_cached_rows_choose_which_rows_are_patched(sd: Model) -> None:
    plain = sd.run(pair(sd), cache=K).cache
    edited = sd.run(pair(sd), cache=K, interventions=[patch(plain, K, rows={1: 0})]).cache[K, 0, COND]
    assert torch.equal(edited, plain[K, 0, COND][[0, 0]])


def test_a_donor_of_another_size_is_refused(sd: Model) -> None:
    site = "blocks.0.self_attn.k"
    donor = sd.run(sd.generation(DOG, num_steps=1, height=16, width=24), cache=site).cache
    with pytest.raises(
        ShapeError, match=r"blocks\.0\.self_attn\.k: the donor has \(1, 96, 16\), the run \(1, 64, 16\)"
    ):
        sd.run(sd.generation(DOG, num_steps=1), interventions=[patch(donor, site)])


def test_an_edit_that_changes_the_shape_is_refused(sd: Model) -> None:
    with pytest.raises(ShapeError, match=r"intervention at blocks\.1\.cross_attn\.k gave"):
        sd.run(sd.generation(DOG, num_steps=1), interventions=[Intervention(lambda value, hook: value[:, :2], (K,))])


def test_what_was_not_cached_is_said(sd: Model) -> None:
    donor = sd.run(sd.generation(DOG, num_steps=1), cache=K).cache
    with pytest.raises(SiteError, match="at step 1, branch uncond, is not in the cache; it holds steps 0-0"):
        sd.run(sd.generation(DOG, num_steps=2), interventions=[patch(donor, K)])
    with pytest.raises(SiteError, match=r"blocks\.1\.cross_attn\.v is not among the kept activations; did you mean"):
        sd.run(sd.generation(DOG, num_steps=1), interventions=[patch(donor, "blocks.1.cross_attn.v")])
    with pytest.raises(SiteError, match=r"rows \[1\] of"):
        two = sd.run(sd.generation([DOG, CAT], num_steps=1), cache=K, rows=[0]).cache
        sd.run(sd.generation([DOG, CAT], num_steps=1), interventions=[patch(two, K)])


@pytest.mark.parametrize("rows", [(5,), (-1,)])
def test_rows_that_do_not_exist_are_refused(sd: Model, rows: tuple[int, ...]) -> None:
    for edit in (ablate(K, scope=Scope(rows=rows)), patch({0: rows[0]}, K)):
        with pytest.raises(ConfigError, match=f"no row {rows[0]}; the generation has 2"):
            sd.run(pair(sd), interventions=[edit])
    with pytest.raises(ConfigError, match="rows: no row"):
        sd.run(pair(sd), rows=rows)


# scope


def cached_k(model: Model, *edits: Intervention, steps: int = 3) -> ActivationCache:
    return model.run(pair(model, steps), cache=K, interventions=edits).cache


@pytest.mark.parametrize("steps", [(1,), range(1, 3), {0, 2}])
def test_scope_of_steps(sd: Model, steps: Any) -> None:
    plain, edited = cached_k(sd), cached_k(sd, ablate(K, scope=Scope(steps=steps)))
    for step in range(3):
        expected = torch.zeros_like(plain[K, step, COND]) if step in steps else plain[K, step, COND]
        assert torch.equal(edited[K, step, COND], expected)


@pytest.mark.parametrize("branch", [COND, UNCOND])
def test_scope_of_branches(sd: Model, branch: Branch) -> None:
    plain, edited = cached_k(sd), cached_k(sd, ablate(K, scope=Scope(branches={branch})))
    for other in (COND, UNCOND):
        assert torch.equal(edited[K, 1, other], plain[K, 1, other] * (other is not branch))


def test_scope_of_rows(sd: Model) -> None:
    plain, edited = cached_k(sd), cached_k(sd, ablate(K, scope=Scope(rows=[1])))
    assert torch.equal(edited[K, 1, COND], plain[K, 1, COND] * torch.tensor([1.0, 0.0])[:, None, None])


def test_scope_of_tokens(sd: Model) -> None:
    plain, edited = cached_k(sd)[K, 0, COND], cached_k(sd, ablate(K, scope=Scope(tokens=[0, 3])))[K, 0, COND]
    expected = plain.clone()
    expected[:, [0, 3]] = 0
    assert torch.equal(edited, expected)


def test_scope_of_heads(sd: Model) -> None:
    heads = sd.sites.named(K).heads
    assert heads == 2
    plain, edited = cached_k(sd)[K, 0, COND], cached_k(sd, ablate(K, scope=Scope(heads=[1])))[K, 0, COND]
    expected = plain.clone()
    expected[..., plain.shape[-1] // 2 :] = 0
    assert torch.equal(edited, expected)


def test_an_edit_leaves_the_pipelines_own_tensors_alone(sd: Model) -> None:
    """The pipeline gives the same prompt embedding at every step, so that an edit in place would last."""
    generation, edit = sd.generation(DOG, num_steps=2), ablate("text", scope=Scope(steps=(0,)))
    plain = sd.run(generation, cache="text").cache
    edited = sd.run(generation, cache="text", interventions=[edit]).cache
    assert not edited["text", 0, COND].any()
    assert torch.equal(edited["text", 1, COND], plain["text", 1, COND])


def test_scope_of_tokens_and_heads_is_where_both_are(sd: Model) -> None:
    plain = cached_k(sd)[K, 0, COND]
    edited = cached_k(sd, ablate(K, scope=Scope(tokens=[2], heads=[0], rows=[0])))[K, 0, COND]
    expected = plain.clone()
    expected[0, 2, : plain.shape[-1] // 2] = 0
    assert torch.equal(edited, expected)


@pytest.mark.parametrize(
    ("adapter", "site", "scope", "message"),
    [
        (SD, K, Scope(tokens=[24]), r"no token of blocks\.1\.cross_attn\.k has number 24; there are 24"),
        (SD, K, Scope(heads=[2]), r"no head of blocks\.1\.cross_attn\.k has number 2; there are 2"),
        (SD, "blocks.1.cross_attn.text", Scope(heads=[0]), "has no heads"),
        (DeepFloydIF, "blocks.1.cross_attn.in", Scope(tokens=[0]), r"has no token axis \(it has channel, y, x\)"),
    ],
)
def test_scope_outside_of_the_site_is_refused(adapter: type[Adapter], site: str, scope: Scope, message: str) -> None:
    one = build(adapter)
    with pytest.raises(HookError, match=message):
        one.run(one.generation(DOG, num_steps=1), interventions=[ablate(site, scope=scope)])


def test_a_shared_sequence_is_edited_in_the_stream_of_the_site_only() -> None:
    flux = build(Flux)
    names = ["blocks.2.joint_attn.k", "blocks.2.self_attn.k"]
    generation = flux.generation(DOG, num_steps=1)
    plain = flux.run(generation, cache=names).cache
    edited = flux.run(generation, cache=names, interventions=[ablate(names[0], scope=Scope(tokens=[1]))]).cache
    expected = plain[names[0], 0, COND].clone()
    expected[:, 1] = 0
    assert torch.equal(edited[names[0], 0, COND], expected)
    assert torch.equal(edited[names[1], 0, COND], plain[names[1], 0, COND])


def test_a_scope_that_is_never_met_is_an_error(sd: Model) -> None:
    said = r"ablate \(zero\) on blocks\.1\.cross_attn\.k was never applied: its scope \(steps 10, 11, all branches\)"
    with pytest.raises(HookError, match=said):
        sd.run(sd.generation(DOG, num_steps=2), interventions=[ablate(K, steps=range(10, 12))])
    with pytest.raises(HookError, match="was never applied"):
        scope = Scope(branches=(UNCOND,))
        sd.run(sd.generation(DOG, num_steps=2, guidance=1.0), interventions=[ablate(K, scope=scope)])


def test_an_unknown_pattern_names_near_sites(sd: Model) -> None:
    for ask in ({"cache": "blocks.1.cross_attn.kk"}, {"interventions": [ablate("blocks.1.cross_attn.kk")]}):
        with pytest.raises(
            SiteError, match=r"no site matches 'blocks\.1\.cross_attn\.kk'; near: .*blocks\.1\.cross_attn\.k"
        ):
            sd.run(sd.generation(DOG, num_steps=1), **ask)


# edits


def test_edits_apply_in_the_order_given_and_the_cache_sees_their_result(sd: Model) -> None:
    zero, add = ablate(K), steer(torch.ones(1), K, strength=2.0)
    assert (cached_k(sd, zero, add)[K, 0, COND] == 2).all()
    assert (cached_k(sd, add, zero)[K, 0, COND] == 0).all()


def test_steering_adds_the_direction(sd: Model) -> None:
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    width = cached_k(sd)[K, 0, COND].shape[-1]
    direction = direction.repeat(width // 16)
    edited = cached_k(sd, steer(direction, K, strength=-0.5))[K, 0, COND]
    assert torch.equal(edited, cached_k(sd)[K, 0, COND] - 0.5 * direction)


def test_ablation_by_the_mean(sd: Model) -> None:
    plain, edited = cached_k(sd)[K, 0, COND], cached_k(sd, ablate(K, kind="mean"))[K, 0, COND]
    assert torch.allclose(edited, plain.mean(dim=1, keepdim=True).expand_as(plain), atol=1e-6)


def test_ablation_by_the_mean_of_a_feature_map() -> None:
    one, name = build(DeepFloydIF), "blocks.1.cross_attn.in"
    generation = one.generation([DOG, CAT], num_steps=1)
    plain = one.run(generation, cache=name).cache[name, 0, COND]
    edited = one.run(generation, cache=name, interventions=[ablate(name, kind="mean")]).cache[name, 0, COND]
    assert torch.allclose(edited, plain.mean(dim=(2, 3), keepdim=True).expand_as(plain), atol=1e-5)


def test_ablation_by_the_mean_of_a_reference(sd: Model) -> None:
    """Place by place, over rows that are none of the run's."""
    reference = sd.run(sd.generation(["the sign", "a red sign", CAT], num_steps=3), cache=K).cache
    edited = cached_k(sd, ablate(K, kind="mean", reference=reference))
    for branch in (COND, UNCOND):
        expected = sum(reference[K, 1, branch][row] for row in range(3)) / 3
        assert torch.allclose(edited[K, 1, branch], expected.expand(2, -1, -1), atol=1e-6)
    with pytest.raises(ConfigError, match="zero ablation takes none"):
        ablate(K, reference=reference)


def test_what_has_no_tokens_has_no_mean_of_its_own() -> None:
    model = build(SD3)
    with pytest.raises(ConfigError, match=r"pooled has no tokens.*reference="):
        model.run(model.generation(DOG, num_steps=1), interventions=[ablate("pooled", kind="mean")])


def test_a_direction_is_the_same_for_every_row(sd: Model) -> None:
    """One with a row axis would mean other rows in other batches."""
    width = cached_k(sd)[K, 0, COND].shape[-1]
    with pytest.raises(ShapeError, match=r"steer at blocks\.1\.cross_attn\.k: one row has.*steer rows apart"):
        cached_k(sd, steer(torch.zeros(2, 1, width), K))
    cached_k(sd, steer(torch.zeros(1, 1, width), K))


def test_ablation_by_another_row(sd: Model) -> None:
    plain, edited = cached_k(sd), cached_k(sd, ablate(K, kind="resample", donors={0: 1}))
    assert torch.equal(edited[K, 0, COND], plain[K, 0, COND][[1, 1]])
    with pytest.raises(ConfigError, match="needs donors"):
        ablate(K, kind="resample")


def test_interpolation_ends_at_nothing_and_at_the_patch(model: Model) -> None:
    sites = middle_layer(model)
    plain = model.run(pair(model))
    patched = model.run(pair(model), interventions=[patch({0: 1}, sites)])
    for alpha, expected in ((0.0, plain), (1.0, patched)):
        assert gap(model.run(pair(model), interventions=[interpolate({0: 1}, sites, alpha)]), expected) == 0


def test_interpolation_is_linear_between(sd: Model) -> None:
    plain, edited = cached_k(sd)[K, 0, COND], cached_k(sd, interpolate({0: 1}, K, 0.25))[K, 0, COND]
    assert torch.allclose(edited[0], 0.75 * plain[0] + 0.25 * plain[1], atol=1e-6)


# rows and batches


def sweep(model: Model) -> tuple[Generation, list[Intervention]]:
    """Source, target, and four rows that each patch one layer from the target."""
    generation = model.generation([DOG, CAT] + [DOG] * 4, num_steps=2)
    layers = [i % model.n_layers for i in range(4)]
    return generation, [patch({row: 1}, model.text_sites(layer)) for row, layer in enumerate(layers, start=2)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_result_does_not_depend_on_the_batch_size(model: Model, size: int) -> None:
    generation, edits = sweep(model)
    whole = model.run(generation, interventions=edits, cache=middle_layer(model))
    parts = model.run(generation, interventions=edits, cache=middle_layer(model), batch_size=size)
    assert gap(whole, parts) <= 1
    for site in middle_layer(model):
        assert torch.allclose(whole.cache[site.name, 1, COND], parts.cache[site.name, 1, COND], rtol=1e-3, atol=1e-3)


def test_rows_chooses_and_orders_the_images() -> None:
    model = build(SD3)
    generation, edits = sweep(model)
    whole, some = model.run(generation, interventions=edits), model.run(generation, interventions=edits, rows=(4, 0))
    assert np.abs(pixels(some) - pixels(whole)[[4, 0]]).max() <= 1
    assert some.denoiser_rows == 2 * 2 * 3  # steps, branches, rows 0 and 4 and the donor 1
    assert some.denoiser_calls == 2


def test_rows_have_their_own_seeds(model: Model) -> None:
    three = pixels(model.run(model.generation([DOG] * 3, (0, 1, 0), num_steps=2)))
    alone = pixels(model.run(model.generation(DOG, 1, num_steps=2)))[0]
    assert np.abs(three[0] - three[2]).max() <= 1
    assert np.abs(three[1] - alone).max() <= 1
    assert np.abs(three[0] - three[1]).max() > 10


@contextmanager
def little_memory(model: Model, most: int) -> Iterator[list[int]]:
    """The denoiser takes at most ``most`` rows of a batch, without guidance's doubling; lists what it was given."""
    sizes: list[int] = []

    def check(module: nn.Module, call: tuple[Any, ...], named: dict[str, Any]) -> None:
        sizes.append(len(named["encoder_hidden_states"]) // 2)
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("on purpose")

    handle = model.denoiser.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("adapter", [SDXL, SD3, DeepFloydIF])
def test_out_of_memory_halves_the_batch_and_keeps_the_donors(adapter: type[Adapter]) -> None:
    model = build(adapter)
    generation, edits = sweep(model)
    names = middle_layer(model)
    whole = model.run(generation, interventions=edits, cache=names)
    with little_memory(model, most=3) as sizes:
        parts = model.run(generation, interventions=edits, cache=names)
    assert sizes[0] == 6
    assert gap(whole, parts) <= 1
    found, expected = (run.cache[names[0].name, 1, COND] for run in (parts, whole))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_too_little_memory_for_one_row_is_said() -> None:
    model = build(SD3)
    generation, edits = sweep(model)
    with little_memory(model, most=1), pytest.raises(T2IProbeError, match="out of memory with 2 rows in a batch"):
        model.run(generation, interventions=edits)


def test_progress_and_costs_are_counted(sd: Model) -> None:
    seen: list[tuple[int, int]] = []
    run = sd.run(pair(sd, 3), on_step=lambda rows, step: seen.append((rows, step)))
    assert seen == [(2, 1), (2, 2), (2, 3)]
    assert (run.denoiser_calls, run.denoiser_rows) == (3, 12)
    assert run.seconds > 0


def test_generations_are_checked(sd: Model) -> None:
    with pytest.raises(ConfigError, match="2 prompts and 1 seeds"):
        Generation((DOG, CAT), (0,))
    with pytest.raises(ConfigError, match="at least one prompt"):
        sd.generation([])
    with pytest.warns(UserWarning, match="is cut off"):
        sd.run(sd.generation("a sign that says " + "very " * 30, num_steps=1))


def test_numbers_are_numpys_too_and_in_range(sd: Model) -> None:
    made = sd.generation(DOG, np.int64(3), num_steps=np.int64(2))  # type: ignore[arg-type]
    assert (made.seeds, made.num_steps) == ((3,), 2)
    assert sd.generation([DOG, CAT], np.array([1, 2])).seeds == (1, 2)  # type: ignore[arg-type]
    for seed in (2**70, -1, 1.5):
        with pytest.raises(ConfigError, match="a seed is a whole number from 0 to"):
            sd.generation(DOG, seed)  # type: ignore[arg-type]
    for name in ("num_steps", "height", "width"):
        with pytest.raises(ConfigError, match=f"{name} must be a whole number from 1, found 0"):
            sd.generation(DOG, **{name: 0})
    with pytest.raises(ConfigError, match="num_steps must be a whole number from 1, found 0"):
        sd.steps(0)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("generator", torch.Generator(), "use seed="),
        ("output_type", "pt", "pictures are always PIL images"),
        ("num_images_per_prompt", 2, "each with its seed"),
        ("callback_on_step_end", print, "on_step="),
        ("guidance_scale", 2.0, "use guidance="),
        ("timesteps", [900, 600], "DDIMScheduler takes no timesteps"),
        ("negativ_prompt", "blurred", "takes no 'negativ_prompt'; did you mean negative_prompt"),
        ("negative_prompt", ["blurred"], "1 texts as negative_prompt for 2 prompts"),
    ],
)
def test_options_that_are_not_heard_are_refused(sd: Model, name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sd.run(pair(sd, options={name: value}))


@pytest.mark.parametrize("adapter", [SD, SDXL, SD3, DeepFloydIF], ids=lambda one: one.name)
def test_every_row_may_have_its_own_negative_prompt(adapter: type[Adapter]) -> None:
    """Also where the rows are split over batches; diffusers by itself is asked row by row."""
    model = build(adapter)
    negatives = ["blurred", "a red cat"]
    run = pixels(model.run(pair(model, options={"negative_prompt": negatives}), batch_size=1))
    for row, (prompt, negative) in enumerate(zip((DOG, CAT), negatives, strict=True)):
        inputs = model.adapter.inputs(model.pipeline, [prompt])
        generator = torch.Generator().manual_seed(0)
        plain = model.pipeline(**inputs, negative_prompt=[negative], num_inference_steps=2, generator=generator)
        assert np.abs(np.asarray(plain.images[0], np.int16) - run[row]).max() <= 1


# what may go wrong in a model


class Bypassing:
    """An attention processor that never calls the key projection as a module."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        key = F.linear(text, attn.to_k.weight)
        heads = [
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), key, attn.to_v(text))
        ]
        return attn.to_out[0](F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def test_a_site_that_does_not_fire_is_an_error(sd: Model) -> None:
    sd.denoiser.get_submodule(sd.sites.named(K).module.removesuffix(".to_k")).set_processor(Bypassing())
    with pytest.raises(HookError, match=r"1 of 7 sites did not fire.*blocks\.1\.cross_attn\.k with 0"):
        sd.run(sd.generation(DOG, num_steps=1), cache="blocks.*.cross_attn.k")
    sd.run(sd.generation(DOG, num_steps=1), cache="blocks.0.cross_attn.k")


def not_a_number(value: Tensor, hook: HookContext) -> Tensor:
    return torch.full_like(value, torch.nan)


def test_not_a_number_is_traced_to_site_and_step(model: Model) -> None:
    site = middle_layer(model)[-1].name
    edit = Intervention(not_a_number, (site,), Scope(steps=(1,)))
    with pytest.raises(NonFiniteError, match=f"at step 1, first at site {site}"):
        model.run(model.generation(DOG, num_steps=2), interventions=[edit])


def test_a_broken_weight_is_traced_too(sd: Model) -> None:
    with torch.no_grad():
        sd.denoiser.get_submodule(sd.sites.named(K).module).get_parameter("weight").fill_(torch.inf)
    with pytest.raises(NonFiniteError, match=f"at step 0, first at site {K}"):
        sd.run(sd.generation(DOG, num_steps=2))


def lora(model: Model, *targets: str) -> None:
    """Random low-rank adapters on the modules of these names; the denoiser's modules are wrapped."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model.denoiser.add_adapter(LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False))


@pytest.mark.parametrize(
    ("adapter", "name", "target"),
    [
        (SDXL, "blocks.1.cross_attn.q", "to_q"),
        (SDXL, "blocks.1.cross_attn.k", "to_k"),
        (SDXL, "blocks.1.cross_attn.v", "to_v"),
        (SDXL, "blocks.1.cross_attn.z", "to_out.0"),
        (SD3, "blocks.1.joint_attn.k", "add_k_proj"),
        (SD3, "blocks.1.joint_attn.v", "add_v_proj"),
        (SD3, "blocks.1.joint_attn.z", "to_out.0"),
        (SD3, "text", "context_embedder"),
    ],
)
def test_a_lora_wrapped_module_is_read_and_edited(adapter: type[Adapter], name: str, target: str) -> None:
    model = build(adapter)
    generation = model.generation(DOG, num_steps=2)
    before = model.run(generation, cache=name)
    lora(model, target)
    plain = model.run(generation, cache=name)
    edited = model.run(generation, cache=name, interventions=[Intervention(ones, (name,))])
    assert (edited.cache[name, 0, COND] == 1).all()
    assert gap(plain, before) > 0
    assert gap(edited, plain) > 0
    assert gap(model.run(generation, interventions=[patch(plain.cache, name)]), plain) == 0


def test_an_edit_of_wrapped_values_gives_the_image_of_the_wrapped_model() -> None:
    """All text keys and values and the pooled text from the target are the target, with LoRA as without."""
    model = build(SDXL)
    lora(model, "to_k", "to_v", "to_q", "to_out.0")
    sites = ["pooled", "blocks.*.cross_attn.{k,v}"]
    target = model.run(model.generation(CAT, num_steps=2), cache=sites)
    assert gap(model.run(model.generation(DOG, num_steps=2), interventions=[patch(target.cache, sites)]), target) == 0


# nothing is left behind


def traces(model: Model) -> tuple[int, dict[str, Any], Any]:
    """Hooks on the denoiser, what is set on the scheduler instance, and the progress bar's settings."""
    modules = list(model.denoiser.modules())
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
    shadowed = {name: value for name, value in vars(model.pipeline.scheduler).items() if callable(value)}
    return hooks, shadowed, vars(model.pipeline).get("_progress_bar_config", "none")


def explode(value: Tensor, hook: HookContext) -> Tensor:
    raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize("edit", [ones, explode, not_a_number])
@pytest.mark.parametrize("bar", [True, False])
def test_nothing_is_left_behind(sd: Model, edit: Callable[[Tensor, HookContext], Tensor], bar: bool) -> None:
    if bar:
        sd.pipeline.set_progress_bar_config(desc="mine")
    else:
        del sd.pipeline._progress_bar_config
    before = traces(sd)
    try:
        sd.run(sd.generation(DOG, num_steps=1), cache="*", interventions=[Intervention(edit, (K,))])
    except (ZeroDivisionError, NonFiniteError):
        assert edit is not ones
    assert traces(sd) == before
    assert before[0] == 0


def test_the_random_state_is_left_alone(model: Model) -> None:
    state = torch.get_rng_state()
    model.run(pair(model), cache="*")
    assert torch.equal(torch.get_rng_state(), state)


# the clock and the branches


@pytest.fixture
def heun(sd: Model) -> Model:
    sd.pipeline.scheduler = HeunDiscreteScheduler.from_config(sd.pipeline.scheduler.config)
    return sd


def test_a_second_order_scheduler_keeps_the_steps(heun: Model) -> None:
    site = "blocks.1.cross_attn.q"
    generation = heun.generation(DOG, num_steps=3)
    plain = heun.run(generation, cache=site)
    assert plain.cache.steps(site) == (0, 1, 2)
    assert plain.denoiser_calls == 5
    edited = heun.run(generation, cache=site, interventions=[ablate(site, scope=Scope(steps=(1,)))])
    assert [not edited.cache[site, step, COND].any() for step in range(3)] == [False, True, False]
    assert torch.equal(edited.cache[site, 0, COND], plain.cache[site, 0, COND])


def test_a_second_order_scheduler_caches_both_evaluations(heun: Model) -> None:
    generation = heun.generation(DOG, num_steps=3)
    plain = heun.run(generation, cache="*")
    first, second = (plain.cache.fetch("blocks.1.cross_attn.q", 1, COND, [0], evaluation) for evaluation in (0, 1))
    assert not torch.equal(first, second)
    assert gap(heun.run(generation, interventions=[patch(plain.cache, "*")]), plain) == 0


SCHEDULERS: tuple[tuple[type[Adapter], type[Any], dict[str, Any]], ...] = (
    (SD, DDIMScheduler, {}),
    (SD, PNDMScheduler, {"skip_prk_steps": True}),  # the default of SD 1: one call more than asked for
    (SD, HeunDiscreteScheduler, {}),
    (SD3, FlowMatchHeunDiscreteScheduler, {}),
    (Flux, FlowMatchEulerDiscreteScheduler, {"use_dynamic_shifting": True}),
)


@pytest.mark.parametrize(("adapter", "scheduler", "options"), SCHEDULERS, ids=[one[1].__name__ for one in SCHEDULERS])
def test_steps_are_foretold(adapter: type[Adapter], scheduler: type[Any], options: dict[str, Any]) -> None:
    model = build(adapter)
    config = dict(model.pipeline.scheduler.config) if adapter is SD else {}
    model.pipeline.scheduler = scheduler.from_config(config | options)
    before = dict(vars(model.pipeline.scheduler))
    told = model.steps(4), model.evaluations(4)
    assert dict(vars(model.pipeline.scheduler)).keys() == before.keys()
    seen: list[int] = []
    run = model.run(model.generation(DOG, num_steps=4), on_step=lambda rows, step: seen.append(step))
    site = "text"
    cached = model.run(model.generation(DOG, num_steps=4), cache=site).cache
    assert told == (len(cached.steps(site)), run.denoiser_calls)
    assert len(seen) == run.denoiser_calls


def test_the_last_call_of_pndm_is_in_the_scope_of_all_steps(sd: Model) -> None:
    config = dict(sd.pipeline.scheduler.config) | {"skip_prk_steps": True}
    sd.pipeline.scheduler = PNDMScheduler.from_config(config)
    generation = sd.generation(DOG, num_steps=3)
    assert sd.steps(3) == 4

    def edited(steps: Any) -> Run:
        return sd.run(generation, interventions=[ablate("text", scope=Scope(steps=steps))])

    assert gap(edited(range(sd.steps(3))), edited(None)) == 0
    assert gap(edited(range(3)), edited(None)) > 0


def test_two_calls_of_guidance_are_told_apart() -> None:
    flux = build(Flux)
    guided = {"true_cfg_scale": 2.0, "negative_prompt": [CAT]}
    generation = flux.generation(DOG, num_steps=2, options=guided)
    cond, uncond = (flux.run(flux.generation(prompt, num_steps=2), cache="text").cache for prompt in (DOG, CAT))
    run = flux.run(generation, cache="text")
    assert run.denoiser_calls == 4
    assert torch.equal(run.cache["text", 1, COND], cond["text", 1, COND])
    assert torch.equal(run.cache["text", 1, UNCOND], uncond["text", 1, COND])
    edited = flux.run(generation, cache="text", interventions=[ablate("text", scope=Scope(branches=(COND,)))]).cache
    assert not edited["text", 1, COND].any()
    assert torch.equal(edited["text", 1, UNCOND], run.cache["text", 1, UNCOND])


SKIP = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.7}


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        (SDXL, {"options": {"timesteps": [900, 600, 300], "guidance_rescale": 0.0}, "guidance": 1.0}),
        (SD3, {"options": {"sigmas": [1.0, 0.6, 0.2]}, "num_steps": 9}),
        (Flux, {"options": {"sigmas": [1.0, 0.6, 0.2], "true_cfg_scale": 2.0}}),
        (SD3, {"options": SKIP, "num_steps": 5}),
        (SD3, {"options": SKIP | {"sigmas": [1.0, 0.7, 0.4, 0.2]}}),
        (SD3, {"options": SKIP, "num_steps": 5, "guidance": 1.0}),
        (SD3, {"options": SKIP, "num_steps": 4, "heun": True}),
        (SD, {"options": {"timesteps": [900, 600, 300]}, "euler": True}),
    ],
)
def test_as_many_rows_run_as_are_planned(adapter: type[Adapter], settings: dict[str, Any]) -> None:
    model, settings = build(adapter), dict(settings)
    if settings.pop("heun", False):
        model.pipeline.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    if settings.pop("euler", False):
        model.pipeline.scheduler = EulerDiscreteScheduler.from_config(model.pipeline.scheduler.config)
    steps: list[int] = []
    run = model.run([DOG, CAT], **settings, on_step=lambda rows, step: steps.append(step))
    assert (run.denoiser_calls, run.denoiser_rows) == (model.calls(settings), 2 * model.rows(settings))
    order = model.pipeline.scheduler.order  # the last step of a second-order scheduler has one evaluation
    assert max(steps) == model.steps(settings.get("num_steps"), settings["options"]) - (order > 1)


def test_skip_layer_guidance_keeps_the_steps() -> None:
    sd3 = build(SD3)
    skip = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.6}
    plain = sd3.run(sd3.generation(DOG, num_steps=4), cache="*")
    generation = sd3.generation(DOG, num_steps=4, options=skip)
    run = sd3.run(generation, cache="*")
    assert (plain.denoiser_calls, run.denoiser_calls) == (4, 6)
    for name in ("blocks.0.joint_attn.q", "blocks.1.joint_attn.q"):
        assert run.cache.steps(name) == (0, 1, 2, 3)
        for step in (0, 1):  # the first skipped layer acts at the end of step 1
            assert torch.equal(run.cache[name, step, COND], plain.cache[name, step, COND])
        assert not torch.equal(run.cache[name, 2, COND], plain.cache[name, 2, COND])
    assert ("blocks.0.joint_attn.q", 1, Branch.SKIP) in run.cache
    assert ("blocks.1.joint_attn.q", 1, Branch.SKIP) not in run.cache
    assert gap(sd3.run(generation, interventions=[patch(run.cache, "*")]), run) == 0


# nothing waits for the device, or copies to it, within a step


#: operations that do on a GPU: ``float(x)``, ``if x``, ``x[mask]``, ``torch.tensor(list)``, ``x[list]``
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "index", "index_put_")


class Waiting(TorchDispatchMode):
    """Counts the operations after which the host has waited for the device, or copied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(op.overloadpacket).removeprefix("aten.").replace("is_nonzero", "_local_scalar_dense")
        self.counted[name] += name in WAITS
        return op(*args, **(kwargs or {}))


def waits(model: Model, steps: int, edits: Sequence[Intervention], **more: Any) -> Counter[str]:
    """What a run waits for in so many steps beyond what its pipeline does."""
    generation = model.generation([DOG, CAT, DOG], num_steps=steps)
    with Waiting() as bare, quiet(model.pipeline), torch.no_grad():
        model.pipeline(**model.arguments(generation, range(3)), output_type="pil")
    with Waiting() as run:
        model.run(generation, interventions=edits, **more)
    run.counted.subtract(bare.counted)
    return run.counted


@pytest.mark.parametrize("adapter", [SDXL, SD3], ids=lambda one: one.name)
def test_no_step_waits_for_the_device(adapter: type[Adapter]) -> None:
    model = build(adapter)
    sites = middle_layer(model)
    name = sites[0].name
    cache = model.run(model.generation(CAT, num_steps=4), cache=sites).cache
    edits = [
        patch({0: 1, 2: 1}, sites),
        patch(cache, sites, rows={1: 0}, tokens=(1, 3)),
        ablate(name, heads=0),
        ablate(name, kind="mean", steps=range(9)),
        steer(torch.ones(1), name, strength=0.1),
        interpolate({2: 0}, name, 0.5, branches="cond"),
    ]
    waits(model, 2, edits)  # masks are made once
    few, many = waits(model, 2, edits), waits(model, 4, edits)
    assert few == many


# copies from a GPU


class Arrival:
    """A copy that is there only once somebody has waited for it."""

    def __init__(self, value: Tensor, host: Tensor, waited: list[float]) -> None:
        self.value, self.host, self.waited = value.clone(), host.fill_(torch.nan), waited

    def synchronize(self) -> None:
        self.host.copy_(self.value)
        self.waited.append(float(self.value[0, 0]))


def test_a_cache_waits_for_what_is_read_or_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(cache, "send", lambda value, host: Arrival(value, host, waited))
    monkeypatch.setattr(cache, "ARRIVING", 40)
    kept = ActivationCache(1)
    keys = [cache.Key(K, step, COND) for step in range(4)]
    value = torch.zeros(1, 4)  # 16 bytes
    for step, key in enumerate(keys):
        kept.add([key], (0,), value.fill_(step))
    assert waited == [0, 1]  # two of them fit
    assert [float(kept[key.site, key.step, COND][0, 0]) for key in keys] == [0, 1, 2, 3]
    assert waited == [0, 1, 2, 3] and kept.steps(K) == (0, 1, 2, 3) and kept.nbytes == 64


def test_a_call_that_the_adapter_does_not_know_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As further guidance makes it: its rows would be kept as those of a branch that they are not."""
    model = Model(SD.tiny(), SD())
    scheduler, unet = model.pipeline.scheduler, model.pipeline.unet
    original = scheduler.scale_model_input

    def guided_further(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        unet(sample[:1], timestep, encoder_hidden_states=torch.zeros(1, 4, unet.config.cross_attention_dim))
        return original(sample, timestep)

    monkeypatch.setattr(scheduler, "scale_model_input", guided_further)
    with pytest.raises(HookError, match="call 2 of step 0 would be the branch cond a second time"):
        model.run("a cat", num_steps=2, cache="blocks.0.cross_attn.k")
