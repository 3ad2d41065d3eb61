"""The laws of a set of prompt pairs: :func:`prompt_set_conformance`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.normalised_text import same
from t2iprobe.core.pairs import Pair
from t2iprobe.testing.conformance import Laws, require, require_name

SEED = 3
NO_CONCEPT = "no-such-concept"


@dataclass(frozen=True)
class PromptSetCase:
    """A prompt set.

    Args:
        kind: its class.
        arguments, options: what it is built with.
    """

    kind: type[Any]
    arguments: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def concepts(self) -> Sequence[str]:
        """What the prompts of its pairs may differ in."""
        return getattr(self.kind, "concepts", ("text",))

    def pairs(self, limit: int | None = None, seed: int = SEED, concept: str = "") -> list[Pair]:
        """The pairs of a set that is made for it; those of its first concept unless another one is named."""
        made = self.kind(*self.arguments, **self.options)
        found: list[Pair] = made.pairs(limit=limit, seed=seed, concept=concept or self.concepts[0])
        return found


#: the laws of a prompt set; each is called with a :class:`PromptSetCase`
PROMPT_SET_LAWS = Laws()


def prompt_set_conformance(kind: type[Any], *arguments: str, **options: Any) -> type:
    """A pytest class with one method per law of a prompt set.

    Args:
        kind: the set's class.
        arguments, options: what it is built with: of ``csv:FILE`` the file is the argument.
    """
    return PROMPT_SET_LAWS.tests(kind.__name__, lambda: (PromptSetCase(kind, arguments, options),))


@PROMPT_SET_LAWS
def says_what_it_is(case: PromptSetCase) -> None:
    """It has a name; all that can be set beside one argument is optional and given by keyword."""
    require_name(case.kind, summary=False)
    settings = list(inspect.signature(case.kind).parameters.values())
    for number, setting in enumerate(settings):
        argument = number == 0 and setting.kind is setting.POSITIONAL_OR_KEYWORD
        optional = setting.default is not setting.empty and setting.kind is not setting.POSITIONAL_ONLY
        require(argument or optional, f"the setting {setting} must have a default and be given by keyword")


@PROMPT_SET_LAWS
def pairs_differ_in_the_concept(case: PromptSetCase) -> None:
    """For each of its concepts there are pairs, of two prompts that ask for different words."""
    for concept in case.concepts:
        pairs = case.pairs(concept=concept)
        require(isinstance(pairs, list) and bool(pairs), f"pairs() must be a list with pairs of {concept}")
        for pair in pairs:
            require(isinstance(pair, Pair), f"pairs() must give Pairs, found a {type(pair).__name__}")
            require(pair.concept == concept, f"{concept} was requested, found a pair of {pair.concept}")
            require(pair.source != pair.target, f"both prompts of a pair are {pair.source!r}")
            alike = same(pair.source_word, pair.target_word)
            require(not alike, f"both prompts of {pair.source!r} and {pair.target!r} ask for {pair.source_word!r}")


@PROMPT_SET_LAWS
def the_same_seed_gives_the_same_pairs(case: PromptSetCase) -> None:
    """A study that goes on asks for its pairs again: they follow from the options and the seed."""
    require(case.pairs() == case.pairs(), "the same seed gave other pairs the second time")


@PROMPT_SET_LAWS
def a_smaller_limit_gives_the_first_pairs(case: PromptSetCase) -> None:
    """Fewer pairs are the first of more, so that a study of more of them reuses what is known."""
    every = case.pairs()
    for limit in {1, len(every) // 2 or 1, len(every)}:
        require(case.pairs(limit) == every[:limit], f"limit={limit} gives other pairs than the first {limit} of all")


@PROMPT_SET_LAWS
def what_it_has_not_is_refused(case: PromptSetCase) -> None:
    """More pairs than there are, or pairs of another concept, end with a ``ConfigError`` that says so."""
    for asked in ({"limit": len(case.pairs()) + 1}, {"concept": NO_CONCEPT}):
        try:
            case.pairs(**asked)
        except ConfigError:
            continue
        raise AssertionError(f"pairs({asked}) must raise a ConfigError")
