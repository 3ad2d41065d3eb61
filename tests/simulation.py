"""An evaluator without a model, and a study on it, quick enough to be killed often. For the tests of studies."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr.storage._local
from PIL import Image

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import NonFiniteError
from t2iprobe.core.model import OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.core.sweep import Cost, TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Space, Trial

NAMES = ["score_target", "score_source", "ssim"]
LAYERS, SIDE = 6, 16
Told = Callable[[TrialBatch], None]


def number(*parts: Any) -> float:
    """The same for the same parts, in 0..1."""
    return zlib.crc32(repr(parts).encode()) % 1000 / 1000


def picture(pair: int, trial: Trial) -> Image.Image:
    """Noise, the same for the same trial; the source of pair 0 is black, which Zarr would rather not write."""
    if pair == 0 and not trial.sites:
        return Image.new("RGB", (SIDE, SIDE))
    rng = np.random.default_rng(zlib.crc32(f"{pair} {trial.label}".encode()))
    return Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


class Simulated:
    """Answers at once, ``batch`` asks together."""

    names = NAMES

    def __init__(self, told: Told = lambda ask: None, seconds: float = 0.0, batch: int = 1) -> None:
        self.told, self.seconds, self.batch = told, seconds, batch

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        rows = sum(ask.rows for ask in asks)
        return Cost(rows, rows, len(asks))

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        for first in range(0, len(asks), self.batch):
            together = asks[first : first + self.batch]
            for ask in together:
                self.told(ask)
            time.sleep(self.seconds)
            for position, ask in enumerate(together):
                yield answer(ask, len(together) - position - 1)


def answer(ask: TrialBatch, more: int = 0) -> TrialResult:
    scores = {t.label: {name: number(ask.pair, t.label, name) for name in NAMES} for t in ask.trials}
    return TrialResult(ask.pair, scores, {t.label: picture(ask.pair, t) for t in ask.trials}, 1, ask.rows, more)


class Climbing(Localizer):
    """Every layer by itself, then the best two together, confirmed on held-out pairs: it asks three times."""

    name = "climbing"
    summary = "for tests"

    def find(self, runner: TrialRunner) -> Finding:
        alone = runner.ask(runner.space.trial([layer]) for layer in range(runner.space.layers))
        ranking = tuple(alone.scores[alone.rank][2:].mean(axis=1).tolist())
        weights = runner.memory.memo("weights/of layers", lambda: np.arange(6.0))
        best = sorted(range(runner.space.layers), key=lambda layer: -ranking[layer])[:2]
        both = runner.ask([runner.space.trial(best)])
        held = runner.ask([runner.space.trial(best)], runner.held_out)
        means = " ".join(f"{one.scores[one.rank][2].mean():.4f}" for one in (both, held))
        said = f"{means} {weights.sum():.0f} {runner.spent.rows}"
        return Finding(tuple(best), ranking, said, Interval(0.5, 0.4, 0.6))


def pairs(count: int) -> list[Pair]:
    return [Pair(f'a "A{i}"', f'a "B{i}"', i, f"A{i}", f"B{i}") for i in range(count)]


def study(evaluator: Any = None, count: int = 10, **settings: Any) -> StudyRunner:
    space = Space(tuple((f"k{i}", f"v{i}") for i in range(LAYERS)), ((),) * LAYERS, (2,) * LAYERS, 10)
    return StudyRunner(
        StudyContext(evaluator or Simulated(), space),
        pairs(count),
        Climbing(),
        held_out=range(count - 3, count),
        **settings,
    )


def logging(log: Path) -> Told:
    """Appends a line for every ask; it is there even if the process is killed next."""

    def told(ask: TrialBatch) -> None:
        with log.open("a") as file:
            file.write(f"{ask.pair} {len(ask.trials)}\n")

    return told


def child(path: Path, log: Path, count: int, batch: int, killed_at: int | None) -> None:
    """A process that runs the study, to be killed; at write number ``killed_at`` it kills itself half way through."""
    if killed_at is not None:
        _die_in_write(killed_at)
    study(Simulated(logging(log), 0.002, batch), count).run(path)


def _die_in_write(number: int) -> None:
    real, left = zarr.storage._local._put, [number]

    def put(path: Path, value: Any, exclusive: bool = False) -> int:
        left[0] -= 1
        if left[0] >= 0:
            return real(path, value, exclusive)
        half = memoryview(value.as_buffer_like())[: len(value) // 2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".killed.partial").write_bytes(half)  # as LocalStore does it: beside the place
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    zarr.storage._local._put = put


class Fragile(Simulated):
    """Notes which process answers what; at pair ``fatal`` the process is killed, as often as ``times``."""

    def __init__(self, log: Path, fatal: int, times: int, broken: bool) -> None:
        super().__init__(logging(log), 0.02)
        self.log, self.fatal, self.times, self.broken = log, fatal, times, broken

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        for ask in asks:
            deaths = self.log.with_suffix(".deaths")
            died = len(deaths.read_text()) if deaths.exists() else 0
            with self.log.with_suffix(".workers").open("a") as file:
                file.write(f"{os.getpid()}\n")
            if ask.pair == self.fatal and died < self.times:
                deaths.write_text("x" * (died + 1))
                os.kill(os.getpid(), signal.SIGKILL)
            if self.broken:
                raise NonFiniteError("NaN at step 0")
        yield from super().measure(asks)


@dataclass(frozen=True)
class Recipe:
    """Makes the context of a cluster's worker."""

    log: Path
    fatal: int = -1
    times: int = 1
    broken: bool = False

    def __call__(self) -> StudyContext:
        return StudyContext(Fragile(self.log, self.fatal, self.times, self.broken), study().context.space)
