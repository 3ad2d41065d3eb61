"""What surrounds the pictures of a large study: keeping its answers, and its report.

    OMP_NUM_THREADS=1 python benchmarks/large_study.py [--pairs 1000] [--layers 70] [--side 64]

A simulated model answers at once, with plain pictures, so what is left is t2iprobe's own work. Seconds of CPU time
of one process. *In memory* is the same study without a store: the search, its statistics and the simulation itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from t2iprobe.core.model import OnStep
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.core.sweep import TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.plugins.localization.output import patch_view
from t2iprobe.registry.manager import Plugins
from t2iprobe.report.folder import write
from t2iprobe.report.render import render
from t2iprobe.report.studies import study_view
from t2iprobe.simulation import Additive, Simulation, simulated

NOISE = 64  # different pictures


TEXT = [f"{name}_{side}" for name in ("ocr_f1", "ocr_precision", "ocr_recall") for side in ("target", "source")]


class WithPictures(Simulation):
    """A simulation whose answers have pictures, and the scores of a study of text."""

    pictures: Sequence[Image.Image] = ()

    def draw(self, side: int) -> WithPictures:
        """Draw the pictures that answers have."""
        self.names, rng = [*TEXT, "ssim"], np.random.default_rng(0)
        plain = rng.integers(0, 256, (NOISE, 8, 8, 3), np.uint8).repeat(side // 8, axis=1).repeat(side // 8, axis=2)
        self.pictures = list(map(Image.fromarray, plain))
        return self

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        for found in super().measure(asks):
            images = {label: self.pictures[(found.pair + row) % NOISE] for row, label in enumerate(found.scores)}
            scores = {label: self._of_text(one) for label, one in found.scores.items()}
            yield replace(found, scores=scores, images=images)

    def _of_text(self, scores: Mapping[str, float]) -> dict[str, float]:
        return {"ssim": scores["ssim"]} | {name: scores[f"f1_{name.rpartition('_')[2]}"] for name in TEXT}


def measured(work: Callable[[], object]) -> float:
    """CPU seconds that work takes."""
    before = time.process_time()
    work()
    return time.process_time() - before


def study(method: str, pairs: int, layers: int, side: int, plugins: Plugins) -> tuple[StudyRunner, TrialRunner]:
    """A study with a store, and a runner of the same trials in memory."""
    evaluator = WithPictures(Additive(layers, {layers // 2: 1.0}), pairs).draw(side)
    runner = simulated(evaluator, held_out=pairs // 10)
    context = StudyContext(evaluator, runner.space, {"pipeline": "simulated"})
    return StudyRunner(context, runner.pairs, plugins.localizer(method), runner.held_out), runner


def rows(pairs: int, layers: int, side: int, folder: Path, plugins: Plugins) -> Iterator[tuple[str, float]]:
    """CPU seconds of each part, with its name."""
    run, runner = study("exhaustive", pairs, layers, side, plugins)
    place, fewer = folder / "localize", min(pairs, 100)
    yield "search in memory", measured(lambda: run.localizer.find(runner))
    yield "the study with its store", measured(lambda: run.run(place))
    yield "its report", measured(lambda: write(place, study_view(StudyResult.open(place), plugins)))
    yield "the page before it is finished", measured(lambda: unfinished(place, plugins))
    place = folder / "patch"
    study("single", fewer, layers, side, plugins)[0].run(place)
    for what in ("report", "report again"):
        name = f"{what} of patch on {fewer} pairs, with a PNG for each picture"
        yield name, measured(lambda: write(place, patch_view(place, plugins)))


def unfinished(folder: Path, plugins: Plugins) -> None:
    """The page of a study that has no answer yet."""
    result = StudyResult.open(folder)
    render(study_view(StudyResult(folder, {**result.manifest, "finding": None}, result._recorded), plugins).page)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=70)
    parser.add_argument("--side", type=int, default=64, help="pixels on a side of a picture, a multiple of 8")
    given, plugins = parser.parse_args(), Plugins()
    with tempfile.TemporaryDirectory() as scratch:
        dict(rows(6, 3, 8, Path(scratch) / "warm", plugins))  # what is imported and drawn once is not counted
        print(f"{given.pairs:,} pairs, {given.layers} layers, pictures of {given.side}²; CPU seconds", flush=True)
        for what, seconds in rows(given.pairs, given.layers, given.side, Path(scratch) / "run", plugins):
            print(f"{what:64} {seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
