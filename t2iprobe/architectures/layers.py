"""Sites of text attention, found by :mod:`~t2iprobe.architectures.probing` on one pipeline and placed on any other.

A recording of a tiny pipeline gives templates (``transformer_blocks.*.attn``); the modules of the model that match them
give its layers, so nothing of a full-size model has to run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any

from torch import Tensor, nn

from t2iprobe.architectures.probing import Attention, Projection, Recording
from t2iprobe.architectures.unet import pattern_site
from t2iprobe.core.sites import Axis, In, Out, Site, Stream

HEADS = ("heads", "num_heads", "n_heads", "num_attention_heads")
KEY_HEADS = ("num_key_value_heads", "kv_heads", "num_kv_heads", "n_kv_heads", "key_heads")


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of attention.

    Args:
        example: an attention of this kind.
        beside: an attention of image tokens only in the same block, if there is one.
    """

    example: Attention
    beside: Attention | None = None

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the paths of such attentions."""
        return re.compile(re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.(\\d+)", re.escape(self.example.module)))

    def moved(self, path: str) -> Template:
        """The same at another path: the numbers in the paths of its modules change with it."""
        numbers = self.pattern.fullmatch(path)
        assert numbers is not None
        return Template(_moved(self.example, numbers), self.beside and _moved(self.beside, numbers))

    @property
    def seen(self) -> int:
        """How many modules of it are known; a last block may lack some."""
        return len(self.example.sources) + len(self.example.result)


def _moved(attention: Attention, numbers: re.Match[str]) -> Attention:
    """The same attention, with these numbers in the part of a path that its modules have in common."""

    def move(old: str) -> str:
        found = iter(numbers.groups())
        parts, prefix = [], True
        for part, before in zip(old.split("."), chain(attention.module.split("."), repeat("")), strict=False):
            prefix = prefix and part == before
            parts.append(next(found) if prefix and part.isdigit() else part)
        return ".".join(parts)

    sources = tuple(replace(source, module=move(source.module)) for source in attention.sources)
    result = tuple((move(module), tokens) for module, tokens in attention.result)
    return replace(attention, module=move(attention.module), sources=sources, result=result)


def templates(recording: Recording) -> list[Template]:
    """Each kind of attention in which image tokens read text, in the order in which they run first."""
    found: dict[str, Template] = {}
    for attention in recording.attentions:
        if not attention.reads_text:
            continue
        block = attention.module.rpartition(".")[0]
        beside = [
            one
            for one in recording.attentions
            if one.keys == "image" and one.module.rpartition(".")[0] == block and block
        ]
        template = Template(attention, beside[0] if beside else None)
        known = found.get(template.pattern.pattern)
        if known is None or template.seen > known.seen:
            found[template.pattern.pattern] = template
    return list(found.values())


def attention_layers(denoiser: nn.Module, recording: Recording) -> Iterator[Template]:
    """The text-attention layers of a denoiser in forward order.

    Of attentions that differ only in their number, as Kandinsky 3's in a block, some may have been seen to read none.
    """
    reading = {one.module for one in recording.attentions if one.reads_text}
    others = {one.module for one in recording.attentions} - reading
    paths = [path for path, _ in denoiser.named_modules() if path not in others]
    for template in templates(recording):
        for path in paths:
            if template.pattern.fullmatch(path):
                yield template.moved(path)


def layer_sites(present: Mapping[str, nn.Module], index: int, layer: Template) -> Iterator[Site]:
    """Sites of one layer in the order in which they run: its mask, queries, keys and values, and their result.

    Args:
        present: the denoiser's modules by path.
        index: number of the layer.
        layer: the layer.
    """
    name = f"blocks.{index}"
    attention, beside = layer.example, layer.beside
    kind = "cross_attn" if attention.keys == "text" else "joint_attn"
    own = [*_masks(name, kind, attention), *_sites(present, attention, name, kind)]
    if beside is None or beside.module not in present:  # only some of SD3.5's blocks have one
        yield from own
        return
    others = list(_sites(present, beside, name, "self_attn"))
    yield from others + own if beside.sources[0].order < attention.sources[0].order else own + others


def _masks(name: str, kind: str, attention: Attention) -> Iterator[Site]:
    """The mask of an attention, if it has one; if its keys are text and image tokens, the part for the text."""
    for argument, axes in attention.masks[:1]:
        of_all = attention.keys.endswith("first") and "encoder" not in argument
        middle: list[Axis] = ["query"] * (axes - 2)
        stream: Stream = "text" if of_all else "all"
        yield Site(
            f"{name}.{kind}.mask", attention.module, In(argument), (*middle, "token"), stream=stream, optional=True
        )


def _sites(present: Mapping[str, nn.Module], attention: Attention, name: str, kind: str) -> Iterator[Site]:
    """Queries of the image, keys and values of the text under ``kind``, of the image under ``self_attn``."""
    module = present[attention.module]
    heads = key_heads = _number(module, HEADS, attention.heads)
    if attention.key_heads != attention.heads:  # several queries share keys and values
        key_heads = _number(module, KEY_HEADS, attention.key_heads)
    carries = (f"{name}.{kind}.mask",) if attention.masks else ()
    for source in sorted(attention.sources, key=lambda one: (one.order, one.first)):
        if source.module not in present or source.tokens == "mixed":
            continue
        shared = source.tokens.endswith("first")
        for stream in _streams(source):
            of_text = source.part != "q" and stream == "text"
            owner = "self_attn" if source.part != "q" and stream == "image" else kind
            yield Site(
                f"{name}.{owner}.{source.part}",
                source.module,
                Out(),
                heads=heads if source.part == "q" else key_heads,
                stream=stream if shared else "all",
                channels=_channels(source, present[source.module]),
                static=source.static,
                carries=carries if of_text else (),
            )
    yield from _patterns(attention, name, kind, heads)
    for path, tokens in attention.result:
        if tokens != "text" and tokens != "mixed" and path in present:
            stream = "all" if tokens == "image" else "image"
            yield Site(f"{name}.{kind}.z", path, In("input"), heads=heads, stream=stream)


def _patterns(attention: Attention, name: str, kind: str, heads: int) -> Iterator[Site]:
    """How image tokens attend to the text and, in the same softmax, to each other."""
    queries: Stream = "image" if attention.queries.endswith("first") else "all"
    parts: list[tuple[str, Stream]] = [(kind, "all")]
    if attention.keys.endswith("first"):
        parts = [(kind, "text"), ("self_attn", "image")]
    for part, keys in parts:
        yield pattern_site(f"{name}.{part}", attention.module, heads, queries, keys, attention.number)


def _streams(source: Projection) -> list[Stream]:
    """Whose tokens a projection has sites for; queries of text tokens are none, the last block's are never used."""
    whose: list[Stream] = ["image", "text"] if source.tokens.endswith("first") else [source.tokens]  # type: ignore[list-item]
    return [stream for stream in whose if stream == "image" or source.part != "q"]


def _channels(source: Projection, module: Any) -> tuple[int, int] | None:
    """The channels of a projection in a wider or narrower model, counted in widths of the projection's input."""
    if (source.first, source.last) == (0, source.width):
        return None
    inputs = int(module.in_features)
    return source.first * inputs // source.inputs, source.last * inputs // source.inputs


def _number(module: nn.Module, names: Sequence[str], tiny: int) -> int:
    """An attribute of the attention that says how many heads there are."""
    owners: list[Any] = [module, getattr(module, "config", None)]
    found = [getattr(owner, name) for owner in owners for name in names if isinstance(getattr(owner, name, None), int)]
    return int(found[0]) if found else tiny


def entry_sites(recording: Recording) -> list[Site]:
    """What carries the prompt into the denoiser: tokens, masks, pooled vectors, in the order of its arguments."""
    counts: Counter[str] = Counter()
    found, length = [], 0
    for argument in recording.text:
        value = recording.arguments[argument]
        if not isinstance(value, Tensor):
            continue
        kind, axes = _entry(argument, value)
        counts[kind] += 1
        name = kind if counts[kind] == 1 else f"{kind}_{counts[kind]}"
        length += value.shape[1] if kind == "text" else 0
        stream: Stream = "text" if kind == "text_mask" and value.shape[1] > length else "all"
        optional = kind.startswith("text_")
        found.append(Site(name, "", In(argument), axes=axes, stream=stream, static=True, optional=optional))
    carries = tuple(site.name for site in found if site.carried)
    return [
        replace(site, carries=carries) if site.name.startswith("text") and not site.carried else site for site in found
    ]


def _entry(argument: str, value: Tensor) -> tuple[str, tuple[Axis, ...]]:
    if value.is_floating_point() and value.ndim >= 3:
        between: list[Axis] = ["query"] * (value.ndim - 3)
        return "text", ("token", *between, "channel")
    if value.ndim == 2:
        of_vector = value.is_floating_point() and "mask" not in argument
        return ("pooled", ("channel",)) if of_vector else ("text_mask", ("token",))
    rest: list[Axis] = ["channel"] * (value.ndim - 2)
    return "text_ids", ("token", *rest) if value.ndim > 1 else ()  # or a number for each row
