"""The measurement of memory, and what is said of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from t2iprobe.architectures.sd import SD
from t2iprobe.core import measuring as measure
from t2iprobe.core.measuring import peak
from t2iprobe.core.model import CostProbe, Model
from t2iprobe.plugins.localization.planning import memory

MEBIBYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_is_what_was_held_for_a_while() -> None:
    """Twice: the first peak must not count as the second's."""
    for size in (200, 60):
        with peak(torch.device("cpu")) as found:
            torch.ones(size, MEBIBYTE, dtype=torch.uint8).max()
        assert found.bytes is not None
        assert size * 0.9 <= found.bytes / MEBIBYTE <= size + 40


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_where_it_cannot_be_measured_nothing_is_said(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if device == "cpu":
        monkeypatch.setattr(measure, "PROCESS", tmp_path / "nowhere")
    with peak(torch.device(device)) as found:
        pass
    assert found.bytes is None


def test_a_probe_measures_time_and_memory() -> None:
    probe = Model(SD.tiny(), SD()).probe({"guidance": 2.0})
    assert 0 < probe.seconds_a_row < 5
    assert 0 < probe.seconds_an_image < 5
    assert probe.bytes_an_image is None or probe.bytes_an_image >= 0


def test_what_comes_once_a_picture_is_not_counted_every_step() -> None:
    """A decoder of 0.4 s for four pictures, a denoiser of 0.03 s a call: a plan of many steps is near the latter."""
    model = Model(SD.tiny(), SD())
    model.pipeline.vae.decoder.register_forward_pre_hook(lambda module, args: time.sleep(0.4))
    model.denoiser.register_forward_pre_hook(lambda module, args: time.sleep(0.03))
    probe = model.probe({"guidance": 2.0}, rows=4)
    assert 0.03 <= probe.seconds_a_row * 8 < 0.15
    assert 0.4 <= probe.seconds_an_image * 4 < 1.5


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (None, "memory 0 MB for weights"),
        (300_000_000, "memory 0 MB for weights and about 2 GB for a batch"),
        (70_000_000, "memory 0 MB for weights and about 0.6 GB for a batch"),
        (1_000_000, "memory 0 MB for weights and less than 0.1 GB for a batch"),
    ],
)
def test_the_plan_says_one_digit(each: int | None, said: str) -> None:
    model = Model(SD.tiny(), SD())
    total = f"{model.weight_bytes / 1e6:,.0f}"
    assert memory(model, CostProbe(0.1, 0.0, each), 8) == said.replace(" 0 MB", f" {total} MB")
