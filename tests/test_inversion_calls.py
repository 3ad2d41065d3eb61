"""The calls that an inversion reports are those that a hook on the denoiser counts, and its plan says as many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from t2iprobe.core.contracts.inverter import InversionInputs
from t2iprobe.core.model import Model
from t2iprobe.plugins.inversion import sources
from t2iprobe.plugins.inversion.arms import parse_arm
from t2iprobe.plugins.inversion.guidance import NullText
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import InvertOptions
from t2iprobe.plugins.inversion.question import InversionQuestion
from t2iprobe.plugins.inversion.run import InversionStudy
from t2iprobe.registry.manager import Plugins
from t2iprobe.sampling import model_denoiser, state_shape, used_schedule

PLUGINS = Plugins(installed=False)
INVERTERS = PLUGINS.inverters()
STEPS, ROWS = 2, 3
FLOW = ["euler", "forward", "fixed-point", "edict", "belm", "rf-solver", "fireflow", "uni-inv", "rf-inversion"]
NOISE = ["ddim", "oracle", "edit-friendly", "negative-prompt", "null-text:iterations=4,tolerance=-1"]


def tiny(arch: str) -> Model:
    adapter = PLUGINS.adapters()[arch]
    return Model(adapter.tiny(), adapter(), ref=f"tiny-random-{arch}")


@contextmanager
def counted(model: Model) -> Iterator[dict[str, int]]:
    """Rows that go through the denoiser, and back."""
    seen = {"forward": 0, "backward": 0}

    def back(gradient: torch.Tensor) -> None:
        seen["backward"] += len(gradient)

    def hook(module: Any, given: Any, output: Any) -> None:
        found = output[0]
        seen["forward"] += len(found)
        if found.requires_grad:
            found.register_hook(back)

    handle = model.denoiser.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore:.* misses the noise:UserWarning")
@pytest.mark.parametrize(("guidance", "inversion_guidance"), [(1.0, 1.0), (3.0, 1.0), (3.0, 2.0)])
@pytest.mark.parametrize(("arch", "methods"), [("sd", NOISE), ("sd3", FLOW)])
def test_reported_planned_and_counted_calls_are_the_same(
    arch: str, methods: list[str], guidance: float, inversion_guidance: float, tmp_path: Path
) -> None:
    model = tiny(arch)
    guided = {"guidance": guidance, "inversion_guidance": inversion_guidance}
    options = InvertOptions(num_steps=STEPS, batch_size=2, keep="ends", **guided)
    asked = InversionQuestion(sources.repeated(["a red cat"], ROWS, 3), tuple(map(parse_arm, methods)), options)
    study = InversionStudy(model, asked, INVERTERS)
    with counted(model) as seen:
        run = Inverted(study.run(tmp_path / "run"))
    total = float(run.score("nfe_sample", "source").sum())
    for text, planned in study.examined.items():
        assert set(run.score("nfe_invert", text)) == {planned.invert}, text
        assert set(run.score("nfe_sample", text)) == {planned.sample}, text
        assert set(run.score("backward", text)) == {planned.backward}, text
        assert bool(planned.backward) == (text.startswith("null-text") and guidance != 1)
        total += ROWS * (planned.invert + planned.sample)
    assert total == seen["forward"] == study.cost().rows == run.manifest["spent"]["denoiser_rows"]
    assert ROWS * sum(one.backward for one in study.examined.values()) == seen["backward"] == study.cost().backward


def test_a_row_of_null_text_is_optimised_by_itself_and_stops_early() -> None:
    model = tiny("sd")
    steps = 3
    schedule = used_schedule(model, steps, {})
    noise = torch.randn(2, *state_shape(model, {}), generator=torch.Generator().manual_seed(0))
    prompts = ["a red cat", 'a sign that says "OPEN"']

    def sampled(rows: list[int], method: NullText) -> Any:
        with torch.no_grad():
            denoiser = model_denoiser(model, [prompts[row] for row in rows], 3.0)
            there = method.invert(denoiser, schedule, noise[rows])
            return method.sample(denoiser, schedule, there.noise, InversionInputs(there))

    method = NullText(iterations=6, tolerance=3.0)
    both, alone = sampled([0, 1], method), [sampled([row], method) for row in (0, 1)]
    for row in (0, 1):
        assert torch.allclose(both.clean[row], alone[row].clean[0], atol=2e-4)
    assert len({one.backward for one in (both, *alone)}) > 1  # so the rows did stop at different times
    assert both.backward < 6 * steps and both.nfe == both.backward + 2 * steps
