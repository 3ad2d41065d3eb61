"""From a question to its study, looked up and checked as far as possible without a model: :func:`planned_study`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2iprobe.core.contracts.localizer import Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_pairs
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.study.question import Question
from t2iprobe.core.study.study import StudyRunner

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


def concept_of(pairs: Sequence[Pair]) -> str:
    """The concept of the pairs.

    Raises:
        ConfigError: there are no pairs, or they are of several concepts.
    """
    found = sorted({pair.concept for pair in pairs})
    if len(found) != 1:
        raise ConfigError(f"a study needs pairs of one concept, found {', '.join(found) or 'no pairs'}")
    return found[0]


def judge(
    pairs: Sequence[Pair], plugins: Plugins, reader: str, metrics: Sequence[str] | None
) -> tuple[Scorer, tuple[int, ...]]:
    """The scorer of the pairs, and the numbers of the pairs that it cannot judge, which are set aside.

    Raises:
        ConfigError: a name is not known, the reader cannot read the pairs, or the ranking score can judge none of them.
    """
    scorer = plugins.scorer(concept_of(pairs), reader, metrics)
    check_pairs(scorer, pairs, plugins.readers())
    return scorer, blind(scorer, pairs)


def blind(scorer: Scorer, pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Numbers of the pairs that score the same however well they are drawn.

    Raises:
        ConfigError: all of them do.
    """
    found = tuple(number for number, pair in enumerate(pairs) if scorer.blind(pair))
    if found and len(found) == len(pairs):
        one, score = pairs[0], scorer.metrics[0].name
        raise ConfigError(
            f"{score} cannot tell source from target: perfect pictures of {one.source_word!r} and {one.target_word!r} "
            f"score the same to {one.target_word!r}, and so in all {len(pairs)} pairs; take other words, or rank by a "
            "metric that tells them apart, such as ocr_distance"
        )
    return found


def tail(count: int, held_out: int, set_aside: Sequence[int] = ()) -> tuple[int, ...]:
    """The last pairs of those that are not set aside, which are held out.

    Raises:
        ConfigError: none is left to search on.
    """
    asked = [number for number in range(count) if number not in set_aside]
    if held_out >= len(asked):
        raise ConfigError(
            f"{held_out} of {len(asked)} pairs are to be held out, which leaves none to search on; give more pairs or "
            "a smaller held_out"
        )
    return tuple(asked[len(asked) - held_out :])


@dataclass(frozen=True)
class ContextRecipe:
    """How to make the context of a study; it can be sent to another machine and called there.

    Args:
        question: what is asked.
        pairs: the pairs of the question.
        installed: makes plugins where none are given.
    """

    question: Question
    pairs: tuple[Pair, ...]
    installed: Callable[[], Plugins]

    def __call__(self, plugins: Plugins | None = None) -> StudyContext:
        """Load the model, and what reads its pictures."""
        question, plugins = self.question, plugins or self.installed()
        scorer = plugins.scorer(concept_of(self.pairs), question.reader, question.metrics(plugins.concepts()))
        model = plugins.load(question.model, upscaler=question.upscaler, **question.loading)
        return StudyContext.of(model, self.pairs, scorer, question.sampling, question.batch_size)


@dataclass(frozen=True)
class PlannedStudy:
    """A question, looked up and checked as far as that goes without the model.

    Args:
        question: what is asked.
        plugins: where names were looked up.
        pairs: the pairs of the question.
        localizer: the localizer of the question.
        set_aside: numbers of the pairs that are not asked.
        command: the command as it was typed, word by word; empty if there was none.
    """

    question: Question
    plugins: Plugins
    pairs: tuple[Pair, ...]
    localizer: Localizer
    set_aside: tuple[int, ...] = ()
    command: Sequence[str] = ()

    @property
    def recipe(self) -> ContextRecipe:
        """Makes the context of the study."""
        return ContextRecipe(self.question, self.pairs, type(self.plugins))

    @property
    def arguments(self) -> dict[str, Any]:
        """The question and the command, for the manifest."""
        return {"question": self.question.kept} | ({"command": list(self.command)} if self.command else {})

    def on(self, context: StudyContext) -> StudyRunner:
        """The study in a context."""
        question = self.question
        return StudyRunner(
            context,
            self.pairs,
            self.localizer,
            tail(len(self.pairs), question.held_out, self.set_aside),
            question.budget,
            question.seed,
            self.arguments,
            self.plugins.versions(),
            question.store,
            self.set_aside,
        )


def planned_study(question: Question, plugins: Plugins, command: Sequence[str] = ()) -> PlannedStudy:
    """The study that a question asks for.

    Raises:
        ConfigError: a name in it is not known, or the pairs cannot be had.
    """
    localizer = plugins.localizer(question.method, **question.set)
    pairs = question.read_pairs(question.model, plugins)
    _, aside = judge(pairs, plugins, question.reader, question.metrics(plugins.concepts()))
    tail(len(pairs), question.held_out, aside)
    return PlannedStudy(question, plugins, tuple(pairs), localizer, aside, command)
