"""Studies by name: :class:`Study` for Python, and :func:`planned` for what a study file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2iprobe.core.contracts.localizer import Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_pairs
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.study import study
from t2iprobe.core.study.context import StudyCallbacks, StudyContext
from t2iprobe.core.study.question import Question
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.results import Result

PAIRS = 8  # of a prompt set, where nobody says


class Study(study.StudyRunner):
    """A question about a model, and the pairs to ask it of; see :meth:`run`.

    Args:
        model: what :func:`t2iprobe.load` gives.
        pairs: what :func:`t2iprobe.prompt_set` gives.
        localizer: chooses the trials; a name, or what :meth:`Plugins.localizer` gives.
        metrics: by name; default those of the pairs' concept. The first that judges the concept ranks.
        settings: of the generation (``num_steps``, ``guidance``, ``height``, ``width``).
        held_out: numbers of the pairs to confirm on, or how many of the last ones.
        budget: most rows through the denoiser.
        seed: of the localizer's own chance.
        batch_size: most pictures at once; out of memory halves it.
        reader: OCR engine.
        store: URL of the store, where it is not to lie in the run folder.
        plugins: where names are looked up; default all that are installed.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[Pair],
        localizer: str | Localizer = "exhaustive",
        *,
        metrics: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        held_out: int | Sequence[int] = 0,
        budget: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        reader: str = "rapidocr",
        store: str | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        plugins = plugins or Plugins()
        chooses = plugins.localizer(localizer) if isinstance(localizer, str) else localizer
        judge = plugins.scorer(_concept(pairs), reader, metrics)
        check_pairs(judge, pairs, plugins.readers())
        aside = blind(judge, pairs)
        held = tail(len(pairs), held_out, aside) if isinstance(held_out, int) else tuple(held_out)
        bench = StudyContext.of(model, pairs, judge, settings, batch_size)
        held = tuple(number for number in held if number not in aside)
        super().__init__(bench, pairs, chooses, held, budget, seed, {}, versions(plugins), store, aside)

    def run(self, path: str | Path, callbacks: StudyCallbacks | None = None) -> Result:
        """Run it in a folder, go on with it there, or find it finished; see :meth:`t2iprobe.core.study.Study.run`."""
        return Result.open(super().run(path, callbacks).path)


def _concept(pairs: Sequence[Pair]) -> str:
    found = sorted({pair.concept for pair in pairs})
    if len(found) != 1:
        raise ConfigError(f"a study needs pairs of one concept, found {', '.join(found) or 'no pairs'}")
    return found[0]


def tail(count: int, held_out: int, set_aside: Sequence[int] = ()) -> tuple[int, ...]:
    """The last pairs of those that are not set aside, which are held out.

    Raises:
        ConfigError: none is left to search on.
    """
    asked = [number for number in range(count) if number not in set_aside]
    if held_out >= len(asked):
        raise ConfigError(f"{held_out} of {len(asked)} pairs are to be held out, which leaves none to search on")
    return tuple(asked[len(asked) - held_out :])


def blind(scorer: Scorer, pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Numbers of the pairs that the ranking score cannot tell, however well they are drawn; they are set aside.

    Raises:
        ConfigError: it can tell none of them.
    """
    found = tuple(number for number, pair in enumerate(pairs) if scorer.blind(pair))
    if found and len(found) == len(pairs):
        one, score = pairs[0], scorer.metrics[0].name
        raise ConfigError(
            f"{score} cannot tell source from target: perfect pictures of {one.source_word!r} and {one.target_word!r} "
            f"score the same to {one.target_word!r}, and so in all {len(pairs)} pairs; take other words, or let a "
            "metric rank that tells them, such as --rank ocr_distance"
        )
    return found


def versions(plugins: Plugins) -> dict[str, str]:
    """Of the plugins in use."""
    return {row.name: row.version for row in plugins.listing() if row.status == "ok"}


@dataclass(frozen=True)
class ContextRecipe:
    """How to make a bench; a value that can be sent to another machine and called there.

    Args:
        question: what is asked.
        pairs: what it is asked of.
    """

    question: Question
    pairs: tuple[Pair, ...]

    def __call__(self, plugins: Plugins | None = None) -> StudyContext:
        """Load the model and what reads its pictures; from all plugins that are installed where none are given."""
        asked, plugins = self.question, plugins or Plugins()
        judge = plugins.scorer(_concept(self.pairs), asked.reader, asked.metrics(plugins.concepts()))
        model = plugins.load(asked.model, upscaler=asked.upscaler, device=asked.device, dtype=asked.dtype)
        return StudyContext.of(model, self.pairs, judge, asked.sampling, asked.batch_size)


@dataclass(frozen=True)
class PlannedStudy:
    """A question, looked up and checked as far as that goes without the model.

    Args:
        question: what is asked.
        pairs: its pairs.
        localizer: its localizer.
        plugins: versions by name.
        set_aside: numbers of the pairs that are not asked.
        command: that asked for it, word by word; empty where none did.
    """

    question: Question
    pairs: tuple[Pair, ...]
    localizer: Localizer
    plugins: Mapping[str, str]
    set_aside: tuple[int, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def recipe(self) -> ContextRecipe:
        """Makes the bench."""
        return ContextRecipe(self.question, self.pairs)

    @property
    def arguments(self) -> dict[str, Any]:
        """The question and the command, for the manifest."""
        return {"question": self.question.kept} | ({"command": list(self.command)} if self.command else {})

    def on(self, bench: StudyContext) -> study.StudyRunner:
        """The study on a bench."""
        held_out = tail(len(self.pairs), self.question.held_out, self.set_aside)
        return study.StudyRunner(
            bench,
            self.pairs,
            self.localizer,
            held_out,
            self.question.budget,
            self.question.seed,
            self.arguments,
            self.plugins,
            self.question.store,
            self.set_aside,
        )


def planned(question: Question, plugins: Plugins | None = None) -> PlannedStudy:
    """What a question asks for.

    Raises:
        ConfigError: a name in it is not known, or the pairs cannot be had.
    """
    plugins = plugins or Plugins()
    chooses = plugins.localizer(question.method, **question.set)
    pairs = question.read_pairs(question.model, plugins, PAIRS)
    judge = plugins.scorer(_concept(pairs), question.reader, question.metrics(plugins.concepts()))
    check_pairs(judge, pairs, plugins.readers())
    aside = blind(judge, pairs)
    tail(len(pairs), question.held_out, aside)
    return PlannedStudy(question, tuple(pairs), chooses, versions(plugins), aside)
