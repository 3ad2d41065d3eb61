"""Sites of whole blocks hold what their names say: streams, updates, skip connections, modulation, hidden units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.pixart import PixArtSigma
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.architectures.zimage import ZImage
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.interventions import ablate
from t2iprobe.core.model import Model

PROMPT = 'a sign that says "DOG"'


def first(model: Model, *sites: str, **edits: object) -> dict[str, Tensor]:
    """The values of some sites at the first step, without guidance."""
    cache = model.run(PROMPT, num_steps=1, guidance=1.0, cache=sites, **edits).cache
    return {name: cache[name, 0, Branch.COND] for name in cache}


@pytest.mark.parametrize("family", [SD3, Flux, PixArtSigma, ZImage])
def test_a_block_begins_with_what_the_last_one_gave(family: type[Adapter]) -> None:
    model = Model(family.tiny(), family())
    found = first(model, "blocks.*.resid.*")
    for layer in range(1, model.n_layers):
        assert torch.equal(found[f"blocks.{layer}.resid.in"], found[f"blocks.{layer - 1}.resid.out"]), layer
        assert not torch.equal(found[f"blocks.{layer}.resid.in"], found[f"blocks.{layer}.resid.out"])


def test_a_skip_connection_is_what_the_way_down_gave() -> None:
    model = Model(SDXL.tiny(), SDXL())
    found = first(model, "resnets.*", "skips.*", "mid")
    last = sum(name.startswith("skips.") for name in found) - 1
    up = len(model.sites.match("resnets.*.in")) - last - 1
    assert torch.equal(found["skips.0"], found[f"resnets.{up}.in"][:, -found["skips.0"].shape[1] :])
    assert torch.equal(found[f"resnets.{up}.in"][:, : found["mid"].shape[1]], found["mid"])
    assert torch.equal(found[f"skips.{last}"], found["resnets.0.in"])  # the first convolution's result, kept longest


def test_without_its_gate_an_mlp_adds_nothing_and_without_hidden_units_only_its_bias() -> None:
    model = Model(SD3.tiny(), SD3())
    plain = first(model, "blocks.1.resid.out", "blocks.1.text.out", "blocks.1.mlp.out")
    closed = first(model, "blocks.1.resid.out", "blocks.1.text.out", interventions=[ablate("blocks.1.ada.mlp_gate")])
    silent = first(model, "blocks.1.resid.out", interventions=[ablate("blocks.1.mlp.out")])
    assert torch.allclose(closed["blocks.1.resid.out"], silent["blocks.1.resid.out"], atol=1e-6)
    assert not torch.allclose(closed["blocks.1.resid.out"], plain["blocks.1.resid.out"], atol=1e-3)
    assert torch.equal(closed["blocks.1.text.out"], plain["blocks.1.text.out"])  # the text's gate is text_ada's
    bias = first(model, "blocks.1.mlp.out", interventions=[ablate("blocks.1.mlp.hidden")])["blocks.1.mlp.out"]
    assert torch.allclose(bias, bias[:, :1].expand_as(bias))
