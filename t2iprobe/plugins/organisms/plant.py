"""Planted ground truth: the layers through which word and colour may enter, and the swaps that train a model so.

Interchange-intervention training: rows (i, i^1) of a batch swap their text keys and values at random layers, and the
picture a row is trained on shows what :meth:`Route.partner` requires.

A row and its partner run through the same network: what it draws for texts A and B in two layers cannot depend on which
of them is the row's own. So a route must be symmetric under its swaps: the parts that come from the partner when some
layers are swapped are exactly those that do not when all the *other* layers are swapped. Between two words, "either of
two layers suffices" violates this: A and B in the two layers would have to give A's picture for the row of A and B's
for the row of B. Between a word and *no* word it does not: a sign has the word if any of the layers says one. So a
redundant route is trained on pairs of a sign with a word and one without (:meth:`Route.partner` distinguishes the two),
and its layers are swapped together where both rows have a word, which leaves open what two words at once look like.

"One layer early, another late" for the same letters is impossible, too: a training picture agrees with the text of its
own noise level, so a model follows the text to the end, and the late layer overrules whatever the early one wrote. A
time-split route therefore gives each layer letters of its own. On the wrong side of the noise level, the text does not
determine them: random letters are drawn there, so that a model has to keep what the noisy picture shows of the early
letters, and cannot start on the late ones. Below the level, the noisy pictures of training already show the late
letters, which in sampling nothing has drawn yet; so just below it they show *other* letters (:meth:`Route.misled`), and
only the text says which are right.
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
    "7 (one layer), 7+9 (letters split), 5|8 (either suffices where the other has no word), 4/8@0.6 (first letters by "
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
        """Parse a route as described in :data:`GRAMMAR`.

        Raises:
            ConfigError: the text is not a route.
        """
        if match := re.fullmatch(r"(\d+)\.h(\d+)", text):
            return cls(text, "head", (int(match[1]),), head=int(match[2]))
        if match := re.fullmatch(r"(\d+)/(\d+)@(0?\.\d+)", text):
            return cls(text, "time", (int(match[1]), int(match[2])), level=float(match[3]))
        kinds: tuple[tuple[str, Kind], ...] = (("|", "redundant"), ("+", "split"))
        for mark, kind in kinds:
            if mark in text and all(part.isdecimal() for part in text.split(mark)):
                layers = tuple(int(part) for part in text.split(mark))
                if len(set(layers)) != len(layers):
                    raise ConfigError(f"plant {text!r} names a layer twice")
                return cls(text, kind, layers)
        if text.isdecimal():
            return cls(text, "single", (int(text),))
        raise ConfigError(f"{text!r} is not a valid plant: use one of {GRAMMAR}")

    def partner(self, swapped: Tensor, parts: int, *, silent: bool = True) -> Tensor:
        """Which parts of the content a row must take from its partner.

        Args:
            swapped: (pair, layer, head) bool, what is swapped.
            parts: number of parts of the content: letters of a word, 1 for a colour.
            silent: whether exactly one of the row and its partner has no word; for redundant routes.

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
        """Parts that no text determines at a noise ``level``, (pair,) in 0..1: (pair, parts) bool."""
        if self.kind != "time":
            return torch.zeros(len(level), parts, dtype=torch.bool)
        return (level > self.level)[:, None] == (self._owner(parts) == 1)

    def misled(self, level: Tensor, parts: int) -> Tensor:
        """Parts that the noisy picture shows differently from the picture to be drawn: (pair, parts) bool."""
        if self.kind != "time":
            return torch.zeros(len(level), parts, dtype=torch.bool)
        below = (level <= self.level) & (level > self.level / 2)
        return below[:, None] & (self._owner(parts) == 1)

    def _owner(self, parts: int) -> Tensor:
        """Index in the route of the layer that each part comes through, (parts,)."""
        return torch.arange(parts) * len(self.layers) // parts


Plant = Mapping[str, Route]


def parse_plant(text: str) -> dict[str, Route]:
    """Parse ``word=7+9,colour=3`` as routes.

    Raises:
        ConfigError: there is a content other than word and colour, or one of them is missing; one enters through a
            whole layer and the other through a head of the same layer, so that the meaning of a half-swapped layer
            would depend on the row; or the colour, which has no parts and is never absent, is split or redundant, or in
            a layer of a time-split word.
    """
    pairs = [item.partition("=") for item in text.split(",")]
    routes = {name.strip(): Route.parse(value.strip()) for name, _, value in pairs}
    if set(routes) != {"word", "colour"}:
        raise ConfigError(f"a plant must say word=… and colour=…, found {text!r}; a route is one of {GRAMMAR}")
    if routes["colour"].kind not in ("single", "head"):
        raise ConfigError(
            f"plant {text!r}: a colour has no parts that could be split over layers, and every sign has one; "
            "give it one layer"
        )
    if routes["word"].kind == "time" and set(routes["word"].layers) & set(routes["colour"].layers):
        raise ConfigError(f"plant {text!r}: give the colour a layer of its own, which acts at every noise level")
    by_head = {layer for route in routes.values() if route.kind == "head" for layer in route.layers}
    whole = {layer for route in routes.values() if route.kind != "head" for layer in route.layers}
    if shared := by_head & whole:
        raise ConfigError(f"plant {text!r}: layer {min(shared)} is planted whole and by head; choose two layers")
    return routes


SINGLE = 0.15  # of the pairs: swaps as in a localization, one layer alone
PLANTED = 0.15  # of the pairs: planted layers alone, some or all


def random_swaps(
    pairs: int,
    layers: int,
    heads: int,
    split: Mapping[int, bool],
    generator: torch.Generator,
    planted: Sequence[int] = (),
) -> Tensor:
    """Random swaps (pair, layer, head): in 60 % of the pairs, each layer with a probability drawn for the pair.

    Args:
        pairs: number of pairs.
        layers: number of text-attention layers.
        heads: heads per layer.
        split: layers whose heads are drawn one by one.
        generator: random number generator.
        planted: layers of the plant.
    """
    chance = torch.rand(pairs, 1, 1, generator=generator) * (torch.rand(pairs, 1, 1, generator=generator) < 0.6)
    coins = (torch.rand(pairs, layers, 1, generator=generator) < chance).expand(-1, -1, heads).clone()
    kind = torch.rand(pairs, generator=generator)
    only = torch.randint(layers, (pairs,), generator=generator)
    single = kind < SINGLE
    coins[single] = (torch.arange(layers) == only[single, None])[..., None]
    if planted:
        among = (kind >= SINGLE) & (kind < SINGLE + PLANTED)
        some = torch.zeros(pairs, layers, dtype=torch.bool)
        some[:, list(planted)] = torch.rand(pairs, len(planted), generator=generator) < 0.5
        coins[among] = some[among, :, None]
    for layer in split:
        coins[:, layer] = torch.rand(pairs, heads, generator=generator) < chance[:, 0]
    return coins


ALONE = 0.6  # of the pairs of a word and none: one redundant layer is swapped, so each carries the word alone in a row


def tie(coins: Tensor, routes: Plant, both: Tensor, generator: torch.Generator) -> Tensor:
    """Restrict the swaps of redundant layers to those with a defined result.

    Where ``both`` rows of a pair have a word, (pair,), the layers are swapped together; in most other pairs one is
    swapped alone, because otherwise the model learns only one way in.
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
    """Swaps text keys and values between the rows of a pair, in the layers given by ``coins``."""

    def __init__(self, layers: list[list[nn.Module]], heads: list[int]) -> None:
        self.layers, self.heads = layers, heads
        self.coins: Tensor | None = None  # (pair, layer, head); None swaps nothing

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the hooks inside a ``with`` block."""
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
    """Replace every row by its partner's."""
    return rearrange(rearrange(rows, "(p two) ... -> p two ...", two=2).flip(1), "p two ... -> (p two) ...")
