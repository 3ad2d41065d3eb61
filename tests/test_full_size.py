"""Published configurations on the meta device: the layers and shares of the localization paper (arXiv 2502.09935)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.architectures.unet import LatentUNet
from t2iprobe.core.contracts.adapter import Adapter, LayerRow, count_parameters, layer_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model


def full(adapter: type[Adapter]) -> tuple[Any, list[LayerRow]]:
    """The full-size denoiser and its table."""
    denoiser = adapter.full_size()
    assert {parameter.device.type for parameter in denoiser.parameters()} == {"meta"}
    rows = layer_table(adapter(), SimpleNamespace(**{adapter.denoiser: denoiser}))
    assert [row.index for row in rows] == list(range(len(rows)))
    return denoiser, rows


def forward_order(denoiser: Any, rows: list[LayerRow], *arguments: Any, **named: Any) -> list[str]:
    """Paths of the attention modules in the order a meta forward runs them."""
    order: list[str] = []
    for row in rows:
        denoiser.get_submodule(row.path).register_forward_pre_hook(lambda *_, path=row.path: order.append(path))
    with torch.no_grad():
        denoiser(*arguments, **named)
    return order


def meta(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device="meta")


def test_sdxl() -> None:
    unet, rows = full(SDXL)
    assert len(rows) == 70
    chosen = rows[55:58]
    assert [row.path for row in chosen] == [
        f"up_blocks.0.attentions.2.transformer_blocks.{block}.attn2" for block in (1, 2, 3)
    ]
    assert sum(row.parameters for row in chosen) == 15_728_640
    assert count_parameters(unet) == 2_567_463_684
    assert round(100 * sum(row.share for row in chosen), 2) == 0.61
    assert {(row.heads, row.width) for row in chosen} == {(20, 1280)}
    assert chosen[0].sites == ("blocks.55.cross_attn.k", "blocks.55.cross_attn.v")
    extra = {"text_embeds": meta(1, 1280), "time_ids": meta(1, 6)}
    order = forward_order(unet, rows, meta(1, 4, 16, 16), meta(1), meta(1, 77, 2048), added_cond_kwargs=extra)
    assert order == [row.path for row in rows]


def test_sd3() -> None:
    transformer, rows = full(SD3)
    assert len(rows) == 24
    assert rows[10].path == "transformer_blocks.10.attn"
    assert rows[10].parameters == 2 * (1536 * 1536 + 1536)
    assert round(100 * rows[10].share, 2) == 0.23
    assert round(count_parameters(transformer) / 1e9, 2) == 2.03
    assert (rows[10].heads, rows[10].width) == (24, 1536)


def test_deepfloyd() -> None:
    unet, rows = full(DeepFloydIF)
    assert len(rows) == 22
    assert rows[17].path == "up_blocks.1.attentions.3"
    assert rows[17].parameters == 8_925_312
    assert count_parameters(unet) == 4_235_274_374
    assert round(100 * rows[17].share, 4) == 0.2107
    assert (rows[17].heads, rows[17].width) == (33, 2112)
    order = forward_order(unet, rows, meta(1, 3, 64, 64), meta(1), meta(1, 77, 4096))
    assert order == [row.path for row in rows]


def test_sd() -> None:
    unet, rows = full(SD)
    assert len(rows) == 16
    assert count_parameters(unet) == 859_520_964
    assert rows[6].path == "mid_block.attentions.0.transformer_blocks.0.attn2"


def test_flux() -> None:
    transformer, rows = full(Flux)
    assert len(rows) == 19 + 38
    assert count_parameters(transformer) == 11_901_408_320
    assert (rows[18].path, rows[19].path) == ("transformer_blocks.18.attn", "single_transformer_blocks.0.attn")
    assert {row.parameters for row in rows} == {2 * (3072 * 3072 + 3072)}


@pytest.mark.parametrize(("adapter", "side"), [(SD, 512), (SDXL, 1024), (SD3, 1024), (DeepFloydIF, 64), (Flux, 1024)])
def test_a_published_picture_has_its_size(adapter: type[Adapter], side: int) -> None:
    """As the model cards say; FLUX's configuration has no sample_size."""
    model = Model(adapter.published(), adapter())
    assert model.picture_size() == (side, side) and model.image_bytes({}) == 3 * side**2
    assert model.picture_size({"height": 2 * side, "width": None}) == (2 * side, side)


def test_only_what_is_inferred_says_so() -> None:
    assert [adapter.name for adapter in (SD, SDXL, SD3, DeepFloydIF, Flux) if adapter.inferred] == ["if"]


def test_a_family_without_a_published_configuration_says_so() -> None:
    class Mine(LatentUNet):
        name = "mine"

    with pytest.raises(ConfigError, match="mine has no published configuration"):
        Mine.full_size()
