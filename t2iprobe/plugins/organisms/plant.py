"""The planted answer: through which layers the word and the colour may enter, and the swaps that train it.

Interchange-intervention training: rows (i, i^1) of a batch swap their text keys and values at random layers, and the
picture a row is trained on shows what :meth:`Route.partner` says it must.

A row and its partner are one network: what it draws for texts A and B in two layers cannot hang on which of them is the
row's own. So a route must turn around with its swaps: the parts that come from the partner where some layers are
swapped are those that do not where all the *others* are. Between two words "either of two layers suffices" does not: A
and B in them is A's picture for the row of A and B's for the row of B. Between a word and *no* word it does: a sign has
the word if any of the layers says one. So a redundant route is trained on pairs of a sign with a word and one without
(:meth:`Route.partner` tells the two apart), and its layers are swapped together where both rows have a word: what two
words at once would look like is not asked for.

Nor is "one layer early, another late" for the same letters: a picture in training agrees with the text of its own noise
level, so a model follows the text to the end, and the late layer overrules whatever the early one wrote. A time-split
route gives each layer letters of its own. On the wrong side of the level the text says nothing about them: any letters
stand there, so that a model has to keep what the noisy picture shows of the early ones, and cannot begin the late ones.
And since the noisy pictures of training show the late letters below the level already, which in sampling nothing has
drawn by then, they show *other* letters there just below it (:meth:`Route.misled`): only the text tells the right ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError

Kind = Literal["single", "split", "redundant", "time", "head"]
GRAMMAR = (
    "7 (one layer), 7+9 (letters split), 5|8 (either suffices where the other says no word), 4/8@0.6 (first letters by "
    "4 above a noise level, last letters by 8 below it), 7.h2 (one head)"
)


@dataclass(frozen=True, slots=True)
class Route:
    """How one content (the word, the colour) enters the picture."""

    text: str
    kind: Kind
    layers: tuple[int, ...]
    level: float = 0.0
    head: int = 0

    @classmethod
    def parse(cls, text: str) -> Route:
        """Read :data:`GRAMMAR`.

        Raises:
            ConfigError: the text is none of these.
        """
        if found := re.fullmatch(r"(\d+)\.h(\d+)", text):
            return cls(text, "head", (int(found[1]),), head=int(found[2]))
        if found := re.fullmatch(r"(\d+)/(\d+)@(0?\.\d+)", text):
            return cls(text, "time", (int(found[1]), int(found[2])), level=float(found[3]))
        kinds: tuple[tuple[str, Kind], ...] = (("|", "redundant"), ("+", "split"))
        for mark, kind in kinds:
            if mark in text and all(part.isdecimal() for part in text.split(mark)):
                layers = tuple(int(part) for part in text.split(mark))
                if len(set(layers)) != len(layers):
                    raise ConfigError(f"plant {text!r} names a layer twice")
                return cls(text, kind, layers)
        if text.isdecimal():
            return cls(text, "single", (int(text),))
        raise ConfigError(f"plant {text!r} is none of {GRAMMAR}")

    def partner(self, swapped: Tensor, parts: int, *, silent: bool = True) -> Tensor:
        """Which parts of the content a row must take from its partner.

        Args:
            swapped: (pair, layer, head) bool, what was swapped.
            parts: pieces of the content: letters of a word, 1 for a colour.
            silent: whether the row has no word and the partner has one, or the other way round; for redundant routes.

        Returns:
            (pair, parts) bool.
        """
        if self.kind == "head":
            return swapped[:, self.layers[0], self.head, None].expand(-1, parts)
        whole = swapped[:, list(self.layers)].all(-1)  # (pair, layer of the route)
        if self.kind in ("split", "time"):
            return whole[:, self._owner(parts)]
        if self.kind == "redundant":
            reached = whole.any(-1, keepdim=True) if silent else whole.all(-1, keepdim=True)
            return reached.expand(-1, parts)
        return whole[:, :1].expand(-1, parts)

    def unread(self, level: Tensor, parts: int) -> Tensor:
        """Which parts no text decides at a noise ``level``, (pair,) in 0..1: (pair, parts) bool."""
        if self.kind != "time":
            return torch.zeros(len(level), parts, dtype=torch.bool)
        return (level > self.level)[:, None] == (self._owner(parts) == 1)

    def misled(self, level: Tensor, parts: int) -> Tensor:
        """Of which parts the noisy picture shows others than are to be drawn: (pair, parts) bool, as :meth:`unread`."""
        if self.kind != "time":
            return torch.zeros(len(level), parts, dtype=torch.bool)
        below = (level <= self.level) & (level > self.level / 2)
        return below[:, None] & (self._owner(parts) == 1)

    def _owner(self, parts: int) -> Tensor:
        """Place in the route of the layer that each part comes through, (parts,)."""
        return torch.arange(parts) * len(self.layers) // parts


Plant = Mapping[str, Route]


def parse_plant(text: str) -> dict[str, Route]:
    """``word=7+9,colour=3`` as routes.

    Raises:
        ConfigError: another content than word and colour, one of them is missing, or one enters through a whole layer
            and the other through a head of it: what a half swapped layer means would hang on the row. Or the colour,
            which has no parts and is never left out, is split or redundant, or in a layer of a time-split word.
    """
    pairs = [item.partition("=") for item in text.split(",")]
    routes = {name.strip(): Route.parse(value.strip()) for name, _, value in pairs}
    if set(routes) != {"word", "colour"}:
        raise ConfigError(f"--plant must say word=… and colour=…, got {text!r}; a route is one of {GRAMMAR}")
    if routes["colour"].kind not in ("single", "head"):
        raise ConfigError(
            f"--plant {text!r}: a colour has no parts to come through two layers, and no sign is without; "
            "give it one layer"
        )
    if routes["word"].kind == "time" and set(routes["word"].layers) & set(routes["colour"].layers):
        raise ConfigError(f"--plant {text!r}: give the colour a layer of its own, which acts at every noise level")
    by_head = {layer for route in routes.values() if route.kind == "head" for layer in route.layers}
    whole = {layer for route in routes.values() if route.kind != "head" for layer in route.layers}
    if shared := by_head & whole:
        raise ConfigError(f"--plant {text!r}: layer {min(shared)} is planted whole and by head; choose two layers")
    return routes


ASKED = 0.15  # of the pairs: swaps as they are asked about at inference, one layer alone
PLANTED = 0.15  # of the pairs: planted layers alone, some or all


def random_swaps(
    pairs: int,
    layers: int,
    heads: int,
    split: Mapping[int, bool],
    generator: torch.Generator,
    planted: Sequence[int] = (),
) -> Tensor:
    """Coins (pair, layer, head): 60 % of the pairs swap, each layer with a chance drawn for the pair.

    Args:
        pairs: number of pairs.
        layers: number of text-attention layers.
        heads: heads a layer.
        split: layers whose heads are tossed one by one.
        generator: the source of chance.
        planted: layers of the plant.
    """
    chance = torch.rand(pairs, 1, 1, generator=generator) * (torch.rand(pairs, 1, 1, generator=generator) < 0.6)
    coins = (torch.rand(pairs, layers, 1, generator=generator) < chance).expand(-1, -1, heads).clone()
    kind = torch.rand(pairs, generator=generator)
    only = torch.randint(layers, (pairs,), generator=generator)
    single = kind < ASKED
    coins[single] = (torch.arange(layers) == only[single, None])[..., None]
    if planted:
        among = (kind >= ASKED) & (kind < ASKED + PLANTED)
        some = torch.zeros(pairs, layers, dtype=torch.bool)
        some[:, list(planted)] = torch.rand(pairs, len(planted), generator=generator) < 0.5
        coins[among] = some[among, :, None]
    for layer in split:
        coins[:, layer] = torch.rand(pairs, heads, generator=generator) < chance[:, 0]
    return coins


ALONE = 0.6  # of the pairs of a word and none: one redundant layer swapped, so that each has the word alone in one row


def tie(coins: Tensor, routes: Plant, both: Tensor, generator: torch.Generator) -> Tensor:
    """The coins of redundant layers as they can be asked for.

    Where ``both`` rows of a pair have a word, (pair,), they are swapped together; in most other pairs one is swapped
    alone: else the model learns one way in and leaves the other.
    """
    for route in routes.values():
        if route.kind == "redundant":
            first, *others = route.layers
            coins[:, others] = torch.where(both[:, None, None], coins[:, [first]], coins[:, others])
            alone = ~both & (torch.rand(len(both), generator=generator) < ALONE)
            one = torch.randint(len(route.layers), (len(both),), generator=generator)
            only = (torch.arange(len(route.layers)) == one[:, None])[..., None]
            chosen = list(route.layers)
            coins[:, chosen] = torch.where(alone[:, None, None], only, coins[:, chosen])
    return coins


class Swapper:
    """Swaps text keys and values between the rows of a pair, in the layers ``coins`` says."""

    def __init__(self, layers: list[list[nn.Module]], heads: list[int]) -> None:
        self.layers, self.heads = layers, heads
        self.coins: Tensor | None = None  # (pair, layer, head); None swaps nothing

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hooks on for the length of a ``with``."""
        handles = [
            module.register_forward_hook(partial(self._swap, index))
            for index, modules in enumerate(self.layers)
            for module in modules
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _swap(self, layer: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if self.coins is None:
            return output
        heads = self.heads[layer]
        mask = self.coins[:, layer, :heads].repeat_interleave(2, 0)
        if not mask.any():
            return output
        split = rearrange(output, "b t (h d) -> b t h d", h=heads)
        mixed = torch.where(mask[:, None, :, None], exchange(split), split)
        return rearrange(mixed, "b t h d -> b t (h d)")


def exchange(rows: Tensor) -> Tensor:
    """Every row replaced with its partner's."""
    return rearrange(rearrange(rows, "(p two) ... -> p two ...", two=2).flip(1), "p two ... -> (p two) ...")
