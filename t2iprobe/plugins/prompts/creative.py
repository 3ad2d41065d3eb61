"""The set ``creative``: many templates, so that a finding does not depend on a single sentence.

The templates were written for this project in the style of GlyphControl's CreativeBench; none is taken from it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from t2iprobe.core.contracts.prompt_set import PromptSet
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.pairs import Pair
from t2iprobe.plugins.prompts.pairing import another, phrases
from t2iprobe.plugins.prompts.words import WORDS

Templates = Literal["same", "different"]
TEMPLATES = (
    'A neon sign over a jazz club glows with "{}".',
    'The word "{}" is carved into an old oak door.',
    'A chalkboard outside a bakery with "{}" in large letters.',
    'A lighthouse keeper holds up a flag with "{}" on it.',
    'A vintage postage stamp printed with "{}".',
    'A birthday cake with "{}" written in icing.',
    'A skateboard deck painted with "{}".',
    'A hot-air balloon carries the text "{}" above the hills.',
    'A wooden crate at the harbour is stamped "{}".',
    'A hedgehog in a raincoat carries a banner with "{}".',
    'Footprints in fresh snow spell "{}".',
    'A library card with "{}" typed in the middle.',
    'A ceramic mug with "{}" around its side.',
    'A subway tunnel where the tiles spell "{}".',
    'A knitted scarf with "{}" in bright wool.',
    'A scarecrow in a wheat field wears a board with "{}".',
    'A theatre curtain embroidered with "{}".',
    'A tin robot whose chest display shows "{}".',
    'A jar of jam with a label that has "{}" on it.',
    'A mountain hut with "{}" above its entrance.',
    'A racing bicycle with "{}" on its frame.',
    'A museum plaque engraved with "{}".',
    'A paper lantern with "{}" brushed in ink.',
    'A fishing boat named "{}" rests on the beach.',
    'A doormat that greets visitors with "{}".',
    'A street musician\'s guitar case with "{}" painted on the lid.',
    'A parrot sits on a perch under a plate with "{}".',
    'A typewriter has just written "{}" on yellow paper.',
    'A bronze coin with "{}" along its edge.',
    'A greenhouse window fogged over, with "{}" drawn by a finger.',
    'A garden gate with wrought-iron letters "{}".',
    'A circus tent with "{}" over the ticket booth.',
    'An ice sculpture of the letters "{}" in a town square.',
    'A cereal box with "{}" in cheerful type.',
    'A matchbox whose cover shows "{}".',
    'An astronaut plants a flag with "{}" on the moon.',
    'A row of pebbles on a river bank forms "{}".',
    'An embroidered patch with "{}" on a denim jacket.',
    'A wax seal on an envelope pressed with "{}".',
    'A tractor with "{}" across its bonnet stands in the rain.',
)


class Creative(PromptSet):
    """Forty sentences with a sign, a cake, a boat or a stamp, and everyday words.

    Args:
        words: number of words in a text.
        templates: ``same`` for both prompts of a pair, or ``different``, which separates layers of the text from layers
            of the scene.
        seeds: random seeds (initial noises) per pair; ``limit`` counts every one.
    """

    name: ClassVar[str] = "creative"

    def __init__(self, *, words: int = 1, templates: Templates = "same", seeds: int = 1) -> None:
        super().__init__(seeds)
        self.words = words
        self.templates = one_of("templates", templates, ("same", "different"))

    def all_pairs(self, seed: int, concept: str) -> list[Pair]:
        """See :class:`~t2iprobe.core.contracts.prompt_set.PromptSet`."""
        texts = phrases(WORDS, seed, self.words)
        chosen = dealt(TEMPLATES, [one for one, _ in texts], seed)
        return [text_pair(chosen[one], one, other, seed, self.templates, TEMPLATES) for one, other in texts]


def one_of(option: str, value: str, known: Sequence[str]) -> str:
    """``value``, if it is one of ``known``.

    Raises:
        ConfigError: it is not.
    """
    if value not in known:
        raise ConfigError(f"no {option} {value!r}{near(str(value), known)}")
    return value


def dealt(templates: Sequence[str], texts: Sequence[str], seed: int) -> Mapping[str, str]:
    """A template for every text; all templates are used about equally often."""
    deck = sorted(set(templates))
    random.Random(f"{seed}:templates").shuffle(deck)
    return {text: deck[place % len(deck)] for place, text in enumerate(texts)}


def text_pair(template: str, one: str, other: str, seed: int, mode: str, templates: Sequence[str]) -> Pair:
    """Two prompts with these texts, from one template or (``mode`` is ``different``) from two."""
    second = template if mode == "same" else another(templates, template, f"{seed}:{one}")
    return Pair(template.replace("{}", one), second.replace("{}", other), seed, one, other)
