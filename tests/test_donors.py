"""Donors whose activations follow from the text alone: they take no row, and give what a row would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.qwenimage import QwenImage
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import HookError
from t2iprobe.core.interventions import Intervention, ablate, interpolate, patch
from t2iprobe.core.model import Model, Run
from t2iprobe.core.scope import Scope
from t2iprobe.registry.manager import Plugins
from t2iprobe.testing.watching import marks

DOG, CAT, RED = "a sign that says DOG", "a red CAT on the sign", "a red hat"
FAMILIES: tuple[type[Adapter], ...] = (SD, SDXL, DeepFloydIF, SD3, Flux)


def build(adapter: type[Adapter]) -> Model:
    return Model(adapter.tiny(), adapter())


def pixels(run: Run) -> Any:
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def static_text(model: Model) -> tuple[str, ...]:
    """Static sites with a token axis. The pooled vector, a product of few rows, depends in its last bit on how many."""
    return tuple(site.name for site in model.sites if site.static and "token" in site.axes)


def guided(model: Model) -> dict[str, Any]:
    """Guidance with a negative prompt for each of four rows."""
    options: dict[str, Any] = {"negative_prompt": ["blurred", "grey", "cut", "drawn"]}
    if isinstance(model.adapter, Flux):
        return {"options": options | {"true_cfg_scale": 3.0}}
    return {"guidance": 3.0, "options": options}


def check_donors(model: Model, **settings: Any) -> None:
    """Rows 0 and 2 take from rows 1 and 3, which are not wanted, as they take from a cache of these."""
    sites = static_text(model)
    generation = model.generation([DOG, CAT, DOG, RED], num_steps=2, **settings)
    donor = model.run(generation, cache=sites).cache
    cached = patch(donor, sites, rows={0: 1, 2: 3})
    expected = model.run(generation, rows=[0, 2], cache=sites, interventions=[cached])
    for size in (1, 2):
        run = model.run(
            generation, rows=[0, 2], cache=sites, interventions=[patch({0: 1, 2: 3}, sites)], batch_size=size
        )
        assert run.denoiser_rows == expected.denoiser_rows == 2 * 2 * 2
        for site in sites:
            for branch in donor.branches(site):
                taken = run.cache.fetch(site, 1, branch, [0, 2])
                assert torch.equal(taken, donor.fetch(site, 1, branch, [1, 3])), (site, branch)
        if size == 2:
            assert (pixels(run) == pixels(expected)).all()


@pytest.mark.parametrize("adapter", FAMILIES, ids=lambda one: one.name)
def test_a_donor_of_text_takes_no_row_and_gives_the_same(adapter: type[Adapter]) -> None:
    model = build(adapter)
    model.run(DOG, num_steps=1)  # a text encoder may put hooks of its own on itself
    before = marks(model)
    check_donors(model, **guided(model))
    assert marks(model) == before and "forward" not in vars(model.denoiser)


@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-if"])
def test_the_embedded_models_too(name: str) -> None:
    check_donors(Plugins().load(name))


def test_a_lora_on_the_keys_counts_at_its_scale() -> None:
    model = build(SD)
    torch.manual_seed(0)
    model.denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    check_donors(model, options={"cross_attention_kwargs": {"scale": 0.5}})


def test_a_donor_that_ran_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(SDXL)
    encoded: list[list[str]] = []
    encode = type(model.pipeline).encode_prompt
    monkeypatch.setattr(
        type(model.pipeline),
        "encode_prompt",
        lambda self, **more: encoded.append(more["prompt"]) or encode(self, **more),  # type: ignore[func-returns-value]
    )
    generation = model.generation([CAT, DOG, DOG, DOG, DOG], num_steps=1)
    edits = [patch(dict.fromkeys((1, 2, 3, 4), 0), model.text_sites(1))]
    model.run(generation, interventions=edits, batch_size=2)
    assert encoded == [[CAT, DOG], [DOG, DOG], [DOG]]
    encoded.clear()
    model.run(generation, interventions=edits, rows=[1, 2, 3, 4], batch_size=2)
    assert encoded == [[CAT], [DOG, DOG], [DOG, DOG]]  # once for all batches


def rows_of(model: Model, *edits: Intervention) -> int:
    """Rows that a picture takes whose donor is not wanted."""
    run = model.run(model.generation([DOG, CAT], num_steps=1), rows=[0], interventions=edits)
    return run.denoiser_rows // 2


@pytest.mark.parametrize("adapter", [SD, SD3], ids=lambda one: one.name)
def test_a_donor_runs_where_the_text_does_not_say_it_all(adapter: type[Adapter]) -> None:
    model = build(adapter)
    keys, moving = model.text_sites(1), "blocks.1.mlp.out"
    static = adapter is SD
    assert rows_of(model, patch({0: 1}, keys)) == (1 if static else 2)
    assert rows_of(model, interpolate({0: 1}, keys, 0.5)) == (1 if static else 2)
    assert rows_of(model, patch({0: 1}, moving)) == 2
    assert rows_of(model, patch({0: 1}, keys), ablate(moving)) == (1 if static else 2)
    assert rows_of(model, patch({0: 1}, keys), patch({0: 1}, moving)) == 2
    # what is edited in the donor has to be seen by who takes from it
    assert rows_of(model, patch({0: 1}, keys), ablate("text")) == 2
    assert rows_of(model, patch({0: 1}, keys), ablate("text", scope=Scope(rows=(1,)))) == 2


def test_a_row_that_is_not_a_donor_cannot_be_read() -> None:
    model = build(SD)
    edit = Intervention(lambda value, hook: hook.of([1]), "blocks.1.cross_attn.k", Scope(rows=(0,)))
    with pytest.raises(HookError, match=r"blocks\.1\.cross_attn\.k: rows \[1\] are not in the batch"):
        model.run(model.generation([DOG, CAT], num_steps=1), rows=[0], interventions=[edit])


def test_only_the_branch_and_step_in_scope_take_from_a_donor() -> None:
    model = build(SD)
    site = "blocks.1.cross_attn.k"
    generation = model.generation([DOG, CAT], num_steps=2)
    own = model.run(generation, cache=site).cache
    edit = patch({0: 1}, site, steps=1, branches="cond")
    found = model.run(generation, rows=[0], cache=site, interventions=[edit]).cache
    for step in (0, 1):
        for branch in Branch.COND, Branch.UNCOND:
            row = 1 if (step, branch) == (1, Branch.COND) else 0
            assert torch.equal(found.fetch(site, step, branch, [0]), own.fetch(site, step, branch, [row]))


def test_a_donor_runs_where_texts_are_padded_to_the_longest_of_a_batch() -> None:
    model = build(QwenImage)
    assert all(model.adapter.from_text(model.pipeline, site) is None for site in model.sites)
    generation = model.generation([DOG, " ".join(["a very long prompt"] * 9)], num_steps=1)
    run = model.run(generation, rows=[0], interventions=[patch({0: 1}, "text")])
    assert run.denoiser_rows == 2 * model.rows({"num_steps": 1})
