"""Runs a localizer over stored answers: :class:`StudyRunner`.

Resuming means running the localizer again: what it asked before is in the store, so it retraces its steps to where it
was and continues from there. A localizer must therefore be deterministic, given the answers and the study's seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2iprobe.core.contracts.localizer import Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair, cluster_of
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.scoring import Scale
from t2iprobe.core.study.context import StudyCallbacks, StudyContext
from t2iprobe.core.study.result import StudyResult, finding_as_json
from t2iprobe.core.study.stored_results import StoredResults
from t2iprobe.core.study.tracking import Tracking
from t2iprobe.core.sweep import TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner


@dataclass
class StudyRunner:
    """A question about a model, and the pairs to ask it of.

    Args:
        context: what the study measures with.
        pairs: all pairs.
        localizer: chooses the trials.
        held_out: numbers of the pairs to confirm on; the search uses the others.
        budget: largest number of rows through the denoiser; ``None`` for no limit.
        seed: seed of the localizer's own randomness.
        arguments: arguments as they were given, for the manifest.
        plugins: versions of the plugins by name, for the manifest.
        store: URL of the store if it is not in the run folder (``s3://bucket/words.zarr``); the manifest stays in the
            folder.
        set_aside: numbers of the pairs that are not asked; see :meth:`~t2iprobe.core.scoring.Scorer.blind`.
    """

    context: StudyContext
    pairs: Sequence[Pair]
    localizer: Localizer
    held_out: Sequence[int] = ()
    budget: int | None = None
    seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None
    set_aside: Sequence[int] = ()

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result; where the study runs, and how much at once, does not."""
        return {
            **self.context.facts.get("decides", {}),
            "pairs": [list(dataclasses.astuple(pair)) for pair in self.pairs],
            "localizer": {"name": self.localizer.name, **_options(self.localizer)},
            "scores": self.context.evaluator.names,
            "held_out": list(self.held_out),
            "set_aside": list(self.set_aside),
            "budget": self.budget,
            "seed": self.seed,
        }

    def run(self, path: str | Path, callbacks: StudyCallbacks | None = None) -> StudyResult:
        """Run the study in a folder, resume it there, or find it finished.

        Raises:
            RunExistsError: the folder has a run with other settings; nothing was touched.
            LockedError: another process is working on it.
            StoppedError: the process received SIGINT; what was measured is kept.
            StoreError: the disk is full or damaged; what was measured before is kept.
        """
        if not self.pairs:
            raise ConfigError("a study needs pairs, found none")
        if self.localizer.needs_model and self.context.model is None:
            raise ConfigError(f"the localizer {self.localizer.name} reads the model itself: this must run locally")
        callbacks = callbacks or StudyCallbacks()
        tracking = Tracking(callbacks.trackers)
        execute(self._run(Path(path), callbacks, tracking), Path(path), callbacks.stop)
        result = StudyResult.open(path)
        tracking.finished(result)
        return result

    def _run(self, folder: Path, callbacks: StudyCallbacks, tracking: Tracking) -> RunDefinition:
        again = f"the same {'command' if self.arguments else 'call'} continues"
        resume = f"`t2iprobe study resume {folder}` continues" if "question" in self.arguments else again
        return RunDefinition(
            "study",
            self.settings(),
            lambda session: self._work(session, callbacks, tracking),
            self._facts(),
            self.arguments,
            self.plugins,
            "answer",
            resume,
            self.store,
        )

    def _work(self, session: RunSession, callbacks: StudyCallbacks, tracking: Tracking) -> dict[str, Any]:
        evaluator, where = self.context.evaluator, self.store or session.path / runfolder.STORE
        memory = StoredResults(where, labels(self.pairs), evaluator.names, _digest(session.run.settings))
        session.begin(int(memory.done.sum()))
        tracking.started(lambda: StudyResult.open(session.path))
        runner = TrialRunner(
            evaluator,
            self.context.space,
            self.pairs,
            [number for number in range(len(self.pairs)) if number not in {*self.held_out, *self.set_aside}],
            tuple(self.held_out),
            self.context.model,
            memory,
            self.budget,
            self.seed,
            callbacks.on_step,
            settings=self.context.settings,
            set_aside=tuple(self.set_aside),
        )

        def measured(answer: TrialResult) -> None:
            callbacks.measured(answer)
            tracking.measured(answer)
            session.spent |= dataclasses.asdict(runner.spent)  # over all sessions: remembered answers are charged, too
            session.done(len(answer.scores))
            if not answer.more and not getattr(evaluator, "busy", 0):
                session.check()

        @contextmanager
        def around(asks: Sequence[TrialBatch]) -> Iterator[None]:
            session.check()
            callbacks.planned(len(asks), evaluator.cost(asks))
            yield
            session.check()  # an evaluator that has noticed a stop itself leaves trials without results

        runner.on_measured, runner.around = measured, around
        finding = self.localizer.find(runner)
        session.spent |= dataclasses.asdict(runner.spent)
        return {"finding": finding_as_json(finding), "ranking_unit": self.localizer.unit}

    def _facts(self) -> dict[str, Any]:
        """Facts for the manifest."""
        scale: Scale = getattr(self.context.evaluator, "scale", Scale())
        return {
            **self.context.facts,
            "scores": self.context.evaluator.names,
            "scale": scale.as_json(),
            "pairs": len(self.pairs),
            "clusters": len({cluster_of(pair) for pair in self.pairs}),
            **({"store": self.store} if self.store else {}),
        }


def _digest(settings: Mapping[str, Any]) -> str:
    """Digest of what decides the answers; the budget is left out, since it only decides how many there are."""
    decides = {key: value for key, value in settings.items() if key != "budget"}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def labels(pairs: Sequence[Pair]) -> list[str]:
    """A name for each pair."""
    width = len(str(max(0, len(pairs) - 1)))
    return [f"{i:0{width}d} {pair.source_word} -> {pair.target_word}" for i, pair in enumerate(pairs)]


def _options(localizer: Localizer) -> dict[str, Any]:
    """Plain settings of a localizer: dataclass fields, else attributes; any other value is derived from a plain one."""
    thing: Any = localizer
    own: dict[str, Any] = vars(thing)
    if dataclasses.is_dataclass(thing):
        own = {one.name: getattr(thing, one.name) for one in dataclasses.fields(thing) if one.init}
    return {key: value for key, value in own.items() if not key.startswith("_") and _plain(value)}


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)
