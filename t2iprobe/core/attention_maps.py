"""Attention maps of a word: where in the picture it is read, layer by layer, head by head and step by step.

:func:`word_maps` draws pictures and keeps, of every layer's attention pattern, only what concerns the word, so that
memory grows with the image and not with the prompt. :meth:`WordMaps.combined` adds the maps up as DAAM does (Tang et
al., arXiv 2210.04885).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key, by_branch
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Generation, Model, OnStep
from t2iprobe.core.sites import Site
from t2iprobe.core.words import word_tokens

#: ``image``: weights of image tokens on the word's; ``text``: weights of the word's tokens on the image's, where both
#: streams attend; ``output``: cosine between what attention gives image tokens and what it gives the word's tokens
#: (after ConceptAttention, Helbling et al., arXiv 2502.04320, with the prompt's own word as the concept)
Way = Literal["image", "text", "output"]
KINDS: dict[Way, tuple[str, ...]] = {
    "image": ("cross_attn.pattern", "joint_attn.pattern"),
    "text": ("text.pattern",),
    "output": ("joint_attn.z", "text.z"),
}


@dataclass(frozen=True, slots=True)
class WordMaps:
    """Maps of a word in each row of a generation.

    Args:
        word: the word.
        way: see :data:`Way`.
        maps: layer -> (row, step, head, y, x), float32; layers may differ in resolution.
        images: one per row.
    """

    word: str
    way: Way
    maps: dict[int, Tensor]
    images: list[Image]

    def combined(
        self,
        size: tuple[int, int] | None = None,
        *,
        layers: Collection[int] | None = None,
        heads: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
    ) -> Tensor:
        """(row, y, x), the mean over layers, heads and steps of the maps, each enlarged by bicubic interpolation.

        Args:
            size: height and width; default the picture's.
            layers, heads, steps: only these; default all.

        Raises:
            ConfigError: there is no such layer.
        """
        size = size or self.images[0].size[::-1]
        chosen = list(self.maps) if layers is None else list(layers)
        if missing := [layer for layer in chosen if layer not in self.maps]:
            raise ConfigError(f"no map of layer {missing[0]}; there are {', '.join(map(str, self.maps))}")
        parts = [_chosen(self.maps[layer], steps, heads).mean((1, 2)) for layer in chosen]
        large = [functional.interpolate(part[:, None], size, mode="bicubic")[:, 0] for part in parts]
        return torch.stack(large).mean(0)

    def entropy(self) -> dict[int, Tensor]:
        """Layer -> (row, step, head), entropy of a map as a distribution over the picture, in nats over the largest
        possible one: 0 if the word is read in one place, 1 if everywhere alike.
        """
        found = {}
        for layer, maps in self.maps.items():
            flat = maps.clamp(min=0).flatten(-2)
            shares = flat / flat.sum(-1, keepdim=True).clamp(min=1e-12)
            found[layer] = -torch.xlogy(shares, shares).sum(-1) / math.log(max(2, flat.shape[-1]))
        return found


def _chosen(maps: Tensor, steps: Sequence[int] | None, heads: Sequence[int] | None) -> Tensor:
    maps = maps if steps is None else maps[:, list(steps)]
    return maps if heads is None else maps[:, :, list(heads)]


def ways(model: Model) -> tuple[Way, ...]:
    """The kinds of map that a model's attention has."""
    return tuple(way for way in get_args(Way) if _sites(model, way))


def word_maps(
    model: Model,
    prompts: str | Sequence[str] | Generation,
    word: str,
    *,
    way: Way = "image",
    layers: Collection[int] | None = None,
    on_step: OnStep = lambda rows, step: None,
    **settings: Any,
) -> WordMaps:
    """Draw pictures and map a word of their prompts in every layer, head and step of the branch with the prompt.

    Args:
        model: the model.
        prompts: a prompt, a list of prompts that all have the word, or a generation.
        word: see :func:`t2iprobe.core.words.word_tokens`.
        way: what is mapped.
        layers: only these; default all that have such maps.
        on_step: progress callback.
        **settings: of :meth:`Model.generation`, such as ``seed`` and ``num_steps``.

    Raises:
        ConfigError: the word is not in a prompt, or the model has no such maps.
    """
    generation = prompts if isinstance(prompts, Generation) else model.generation(prompts, **settings)
    sites = [site for site in _sites(model, way) if layers is None or site.layer in layers]
    if not sites:
        raise ConfigError(
            f"{model.adapter.name} has no maps of this kind here; it has {', '.join(ways(model)) or 'none'}"
        )
    tokens = {prompt: word_tokens(model, prompt, word) for prompt in dict.fromkeys(generation.prompts)}
    sink = _Maps({site.name: site for site in sites}, [tokens[prompt] for prompt in generation.prompts])
    run = model.run(generation, cache=sites, into=sink, on_step=on_step)
    return WordMaps(word, way, sink.result(run.images[0].size[::-1]), run.images)


def _sites(model: Model, way: Way) -> list[Site]:
    """The sites that maps are made of; a layer has all of them, or is left out."""
    found = [site for site in model.sites if site.kind in KINDS[way] and site.layer is not None]
    needed = 2 if way == "output" else 1
    counts = Counter(site.layer for site in found)
    return [site for site in found if counts[site.layer] >= needed]


@dataclass
class _Maps:
    """Takes activations as they are computed, and keeps what concerns the word.

    Args:
        sites: the sites by name.
        tokens: positions of the word's tokens, for each row.
    """

    sites: dict[str, Site]
    tokens: Sequence[tuple[int, ...]]
    static: frozenset[str] = frozenset()
    kept: dict[tuple[int, int], dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    halves: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def add(self, keys: Sequence[Key], rows: Sequence[int], value: Tensor) -> None:
        """See :class:`~t2iprobe.core.cache.Sink`."""
        for key, own in zip(keys, by_branch(value, keys), strict=True):
            self._add(key, rows, own)

    def _add(self, key: Key, rows: Sequence[int], value: Tensor) -> None:
        if key.branch is not Branch.COND or key.evaluation:
            return
        site = self.sites[key.site]
        assert site.layer is not None
        for row, own in zip(rows, value, strict=True):
            if site.is_pattern:
                self._keep(site.layer, key.step, row, _of_word(site, own, list(self.tokens[row])))
            else:
                self._join(site, key.step, row, own)

    def _join(self, site: Site, step: int, row: int, own: Tensor) -> None:
        """Keep the cosines once the results of both streams are there."""
        of_text = site.kind == "text.z"
        heads = rearrange(own.float(), "token (head channel) -> head token channel", head=site.heads)
        mine = heads[:, list(self.tokens[row])].mean(1, keepdim=True) if of_text else heads
        assert site.layer is not None
        other = self.halves.pop((row, step, site.layer), None)
        if other is None:
            self.halves[row, step, site.layer] = mine
        else:
            self._keep(site.layer, step, row, functional.cosine_similarity(mine, other, dim=-1))

    def _keep(self, layer: int, step: int, row: int, found: Tensor) -> None:
        self.kept[layer, step][row] = found.float().cpu()

    def discard(self, rows: Sequence[int]) -> None:
        """See :class:`~t2iprobe.core.cache.ActivationStream`."""
        for maps in self.kept.values():
            for row in rows:
                maps.pop(row, None)
        self.halves.clear()

    def result(self, picture: tuple[int, int]) -> dict[int, Tensor]:
        """Layer -> (row, step, head, y, x) for pictures of this height and width."""
        by_layer: dict[int, list[Tensor]] = defaultdict(list)
        for (layer, _), rows in sorted(self.kept.items()):
            by_layer[layer].append(torch.stack([rows[row] for row in sorted(rows)]))
        return {layer: _unfolded(torch.stack(steps, 1), picture) for layer, steps in by_layer.items()}


def _of_word(site: Site, weights: Tensor, tokens: list[int]) -> Tensor:
    """(head, image token) of a pattern (head, query, token): the word's weights together, or its mean query's."""
    axis = 1 if site.kind == "text.pattern" else 2
    if max(tokens) >= weights.shape[axis]:
        raise ConfigError(f"{site.name} has {weights.shape[axis]} tokens, the word's is number {max(tokens)}")
    return weights[:, tokens].mean(1) if axis == 1 else weights[:, :, tokens].sum(2)


def _unfolded(maps: Tensor, picture: tuple[int, int]) -> Tensor:
    """(..., token) as (..., y, x); tokens beyond the picture's are padding."""
    height, width = picture
    sides = [
        (height // cell, width // cell) for cell in range(1, min(picture) + 1) if not (height % cell or width % cell)
    ]
    y, x = next((y, x) for y, x in sides if y * x <= maps.shape[-1])
    return rearrange(maps[..., : y * x], "... (y x) -> ... y x", y=y)
