"""The laws of sections in the report of a study, :func:`section_conformance`: they have to suit any study."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import DamagedError, StoppedError
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.core.sweep import TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.report.render import render
from t2iprobe.report.sections import Page, Section
from t2iprobe.simulation import Additive, Simulation, Truth, simulated
from t2iprobe.testing.conformance import Laws, require

LAYERS, PAIRS, SIDE = 6, 5, 16
Hook = Callable[[StudyResult], Sequence[Section]]


@dataclass
class EachLayer(Localizer):
    """Patches each layer by itself and names those that go half of the way: the least that a study can be of."""

    name: ClassVar[str] = "each-layer"
    summary: ClassVar[str] = "each layer by itself"

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        scored = runner.ask(runner.space.trial([layer]) for layer in range(runner.space.layers))
        low, high, *means = scored.clustered(scored.rank).mean(1)
        ways = tuple(float((mean - low) / (high - low)) for mean in means)
        layers = tuple(layer for layer, way in enumerate(ways) if way > 0.5)
        response = Interval(max(ways), max(ways), max(ways)) if layers else None
        return Finding(layers, ways, f"Layers {layers}." if layers else "Nothing stands out.", response)


@dataclass
class WithoutLayers(Localizer):
    """A study whose question is not about layers."""

    name: ClassVar[str] = "without-layers"
    summary: ClassVar[str] = "no layers"

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        runner.ask([])
        return Finding((), (), "It is as it is.")


@dataclass
class Drawn(Simulation):
    """A simulation that also draws noise for pictures, and is stopped after some pairs."""

    stops: int = PAIRS

    def measure(self, asks: Sequence[TrialBatch], **more: Any) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        for number, result in enumerate(super().measure(asks, **more)):
            if number == self.stops:
                raise StoppedError("stopped on purpose")
            noise = np.random.default_rng(result.pair).integers(1, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            yield replace(result, images=dict.fromkeys(result.scores, Image.fromarray(noise)))


@dataclass(frozen=True)
class SectionCase:
    """A ``t2iprobe_report_sections`` hook.

    Args:
        hook: the function.
        localizer: the method of the studies; those of a method that the sections are about have its finding.
    """

    hook: Hook
    localizer: Localizer = field(default_factory=EachLayer)

    def html(self, result: StudyResult) -> str:
        """The page with the sections of a study."""
        sections: Any = self.hook(result)
        require(isinstance(sections, list), f"the hook must return a list, found a {type(sections).__name__}")
        other = [type(one).__name__ for one in sections if not isinstance(one, Section)]
        require(not other, f"the hook must return Sections, found {', '.join(other)}")
        return render(Page("a model: a method", "A sentence.", sections))


#: the laws of report sections; each is called with a :class:`SectionCase`
SECTION_LAWS = Laws()


def section_conformance(hook: Hook, localizer: Localizer | None = None) -> type:
    """A pytest class with one method per law of report sections.

    Args:
        hook: the function that is marked as ``t2iprobe_report_sections``.
        localizer: see :class:`SectionCase`.
    """
    return SECTION_LAWS.tests("Sections", lambda: (SectionCase(hook, localizer or EachLayer()),))


@SECTION_LAWS
def a_finished_study_is_shown(case: SectionCase) -> None:
    """The sections of a finished study make a page, the same each time, and change nothing in its folder."""
    with _study(case.localizer) as folder:
        before = _contents(folder)
        first = case.html(StudyResult.open(folder))
        require(case.html(StudyResult.open(folder)) == first, "the same study was shown differently the second time")
        require(_contents(folder) == before, "the folder of the study is not as it was")


@SECTION_LAWS
def an_unfinished_study_is_shown(case: SectionCase) -> None:
    """A study that was stopped has no finding, and scores of some pairs only."""
    with _study(case.localizer, stops=2) as folder:
        case.html(StudyResult.open(folder))


@SECTION_LAWS
def a_study_without_an_answer_is_shown(case: SectionCase) -> None:
    """Nothing stands out, or the question was not about layers: no layers, no response, no details."""
    for localizer, truth in ((EachLayer(), Additive(LAYERS, {})), (WithoutLayers(), Additive(LAYERS, {3: 1.0}))):
        with _study(localizer, truth) as folder:
            case.html(StudyResult.open(folder))


@SECTION_LAWS
def damage_is_no_surprise(case: SectionCase) -> None:
    """Where pictures are missing on the disk, there are sections without them, or the error that says so."""
    with _study(case.localizer) as folder:
        for file in (folder / "study.zarr" / "images").rglob("*"):
            if file.is_file() and file.name != "zarr.json":
                file.unlink()
        with suppress(DamagedError):
            case.html(StudyResult.open(folder))


@contextmanager
def _study(localizer: Localizer, truth: Truth | None = None, stops: int = PAIRS) -> Iterator[Path]:
    """The folder of a simulated study; with fewer ``stops`` than pairs, of one that was stopped."""
    made = Drawn(truth or Additive(LAYERS, {3: 1.0}), PAIRS, stops=stops)
    runner = simulated(made)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with suppress(StoppedError):
            StudyRunner(StudyContext(made, runner.space), runner.pairs, localizer).run(folder)
        yield folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
