"""Every plant is one that a network can have: no two situations that look the same to it ask for different pictures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.sign_pictures import WORD_LENGTH
from t2iprobe.plugins.organisms import check
from t2iprobe.plugins.organisms.plant import Route, parse_plant

LAYERS, HEADS = 6, 2
PLANTS = [
    "word=2,colour=4",
    "word=2+4,colour=3",
    "word=1+2+3+4,colour=5",
    "word=1|3,colour=2",
    "word=0|1|4,colour=5",
    "word=1/4@0.6,colour=2",
    "word=2.h1,colour=4",
    "word=2.h1,colour=2.h0",
    "word=3,colour=3",
    "word=1|3,colour=3",
]


def situations(route: Route, coins: Tensor, level: float, parts: int) -> Iterator[tuple[object, tuple[int, ...]]]:
    """What both rows of a pair see, and whose parts they must show; row 0 is called 0, its partner 1.

    Where the route is redundant, row 0 is the one without a word.
    """
    unread = route.unread(torch.tensor([level]), parts)[0]
    for row in (0, 1):
        taken = route.partner(coins, parts, silent=not row)[0]
        seen = tuple((coins[0] ^ bool(row)).flatten().int().tolist())  # whose text is in each layer and head
        shown = tuple(torch.where(unread, -1, taken.int() ^ row).tolist())  # what no text decides is not asked for
        yield (seen, level), shown


def tosses(by_head: set[int], planted: set[int]) -> Iterator[Tensor]:
    """Every pattern of swaps in the planted layers; all others are swapped together, or not at all."""
    places = [(layer, head) for layer in sorted(planted) for head in (range(HEADS) if layer in by_head else [None])]
    for others, *bits in product((False, True), repeat=1 + len(places)):
        coins = torch.full((1, LAYERS, HEADS), others)
        for (layer, head), bit in zip(places, bits, strict=True):
            coins[0, layer, slice(None) if head is None else head] = bit
        yield coins


def contradictions(plant: str) -> int:
    """Situations that ask for two pictures."""
    routes = parse_plant(plant)
    by_head = {one.layers[0] for one in routes.values() if one.kind == "head"}
    planted = {layer for one in routes.values() for layer in one.layers}
    wanted: dict[object, set[object]] = {}
    for coins, level in product(tosses(by_head, planted), (0.2, 0.9)):
        for content, parts in (("word", WORD_LENGTH), ("colour", 1)):
            for seen, shown in situations(routes[content], coins, level, parts):
                wanted.setdefault((content, seen), set()).add(shown)
    return sum(len(shown) > 1 for shown in wanted.values())


@pytest.mark.parametrize("plant", PLANTS)
def test_no_situation_asks_for_two_pictures(plant: str) -> None:
    assert contradictions(plant) == 0


def test_what_changes_only_where_all_are_swapped_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The redundancy that cannot be had: the enumeration sees it."""

    def every(self: Route, swapped: Tensor, parts: int, *, silent: bool = True) -> Tensor:
        return swapped[:, list(self.layers)].all(-1).all(-1, keepdim=True).expand(-1, parts)

    monkeypatch.setattr(Route, "partner", every)
    assert contradictions("word=1|3,colour=2") > 0


def test_of_two_layers_only_one_can_decide() -> None:
    """All ways in which two layers could decide: those that ask for no two pictures follow one of them alone."""
    sane = []
    for answers in product((0, 1), repeat=4):  # whose content is shown for texts 00, 01, 10, 11, seen from row 0
        taken = dict(zip(product((0, 1), repeat=2), answers, strict=True))
        own, both = taken[0, 0] == 0, taken[1, 1] == 1
        turned = all(taken[a, b] != taken[1 - a, 1 - b] for a, b in taken)
        if own and both and turned:
            sane.append(taken)
    assert [[one[a, b] for a, b in one] for one in sane] == [[0, 0, 1, 1], [0, 1, 0, 1]]


@pytest.mark.parametrize("text", ["word=3,colour=1+2", "word=3,colour=1/2@.5", "word=3,colour=1|2"])
def test_a_colour_is_not_split(text: str) -> None:
    with pytest.raises(ConfigError, match="no parts"):
        parse_plant(text)


def test_the_colour_acts_at_every_level() -> None:
    with pytest.raises(ConfigError, match="a layer of its own"):
        parse_plant("word=4/8@0.6,colour=8")


@pytest.mark.parametrize("text", ["5|5", "5+8+5"])
def test_a_layer_is_named_once(text: str) -> None:
    with pytest.raises(ConfigError, match="names a layer twice"):
        Route.parse(text)


@pytest.mark.parametrize("text", ["word=2.h1,colour=2", "word=1+2,colour=2.h0", "word=2+3,colour=3.h1"])
def test_a_layer_is_not_planted_whole_and_by_head(text: str) -> None:
    with pytest.raises(ConfigError, match="whole and by head"):
        parse_plant(text)


def test_each_redundant_layer_is_checked_alone_and_left_out() -> None:
    asked = {one.label: one for one in check.planted_patches(parse_plant("word=1|3,colour=2"), [2] * LAYERS)}
    moved = {label for label, one in asked.items() if one.partner["word"] == (True,) * WORD_LENGTH}
    assert moved == {"1", "3", "1+3", "without 1+3"}
    assert {label for label, one in asked.items() if one.direction == "into_target"} == {
        "without 1", "without 3", "without 1+3"
    }  # fmt: skip
