"""Models on which a hook would be dropped silently are refused, with the way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import HookError
from t2iprobe.core.model import Model
from t2iprobe.core.preflight import check_module

K = {"sd": "blocks.1.cross_attn.k", "sd3": "blocks.1.joint_attn.k", "flux": "blocks.2.joint_attn.k"}


def build(adapter: type[Adapter]) -> tuple[Model, str]:
    return Model(adapter.tiny(), adapter()), K[adapter.name]


def replace(model: nn.Module, path: str, change: Callable[[nn.Module], nn.Module]) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, change(model.get_submodule(path)))


def refused(model: Model, site: str, message: str) -> None:
    with pytest.raises(HookError, match=message):
        model.run(model.generation("a sign", num_steps=1), cache=site)
    assert "step" not in vars(model.pipeline.scheduler)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_denoiser_is_refused(in_place: bool) -> None:
    model, site = build(SD)
    if in_place:
        model.pipeline.unet.compile()
    else:
        model.pipeline.unet = torch.compile(model.pipeline.unet)
    refused(model, site, r"the denoiser is compiled by torch\.compile.*load it uncompiled")


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_compiled_module_on_the_way_to_a_site_is_refused(levels: int) -> None:
    """The projection itself, the attention around it, the block around that."""
    model, site = build(SD3)
    path = model.sites.named(site).module.rsplit(".", levels)[0]
    model.denoiser.get_submodule(path).compile()
    refused(model, site, f"{path} is compiled")


def test_a_block_wrapped_by_the_compiler_is_refused() -> None:
    model, site = build(SD3)
    assert site in model.sites  # sites were found before the block was wrapped
    replace(model.denoiser, "transformer_blocks.1", lambda block: torch.compile(block))
    refused(model, site, r"transformer_blocks\.1 is compiled")


def test_a_compiled_module_elsewhere_does_no_harm() -> None:
    model, site = build(SD3)
    check_module(model.denoiser, [model.sites.named(site)])
    model.denoiser.get_submodule("transformer_blocks.0.ff").compile()
    check_module(model.denoiser, [model.sites.named(site)])


@pytest.mark.parametrize("adapter", [SD, SD3, Flux])
def test_fused_projections_are_refused_until_unfused(adapter: type[Adapter]) -> None:
    model, site = build(adapter)
    model.denoiser.fuse_qkv_projections()
    refused(model, site, r"has fused projections, so .* would never run; call unfuse_qkv_projections\(\)")
    model.denoiser.unfuse_qkv_projections()
    model.run(model.generation("a sign", num_steps=1), cache=site)


def test_a_missing_module_is_refused() -> None:
    model, site = build(SD)
    assert site in model.sites
    attention = model.denoiser.get_submodule(model.sites.named(site).module.rpartition(".")[0])
    del attention.to_k
    refused(model, site, r"the model has no module '.*attn2\.to_k'; the adapter does not match it")
