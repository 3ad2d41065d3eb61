"""Sites of text attention, found by :mod:`~t2iprobe.architectures.probing` on one pipeline and placed on any other.

A recording of a tiny pipeline gives templates (``transformer_blocks.*.attn``); the modules of the model that match them
give its layers, so nothing of a full-size model has to run.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any

from torch import Tensor, nn

from t2iprobe.architectures.probing import Attention, Block, Projection, Recording, Tokens
from t2iprobe.architectures.unet import pattern_site
from t2iprobe.core.sites import Axis, In, Out, Site, Stream

HEADS = ("heads", "num_heads", "n_heads", "num_attention_heads")
STREAMS: tuple[tuple[Stream, str], ...] = (("image", "resid"), ("text", "text"))  # and what sites of each are called


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of attention.

    Args:
        example: an attention of this kind.
        beside: an attention of image tokens only in the same block, if there is one.
        block: the block around it, if it computes no other attention to the text.
    """

    example: Attention
    beside: Attention | None = None
    block: Block | None = None

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the paths of such attentions."""
        return re.compile(re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.(\\d+)", re.escape(self.example.module)))

    def moved(self, path: str) -> Template:
        """The same at another path: the numbers in the paths of its modules change with it."""
        numbers = self.pattern.fullmatch(path)
        assert numbers is not None
        move = functools.partial(_moved_path, self.example.module, numbers.groups())
        beside = self.beside and _moved(self.beside, move)
        return Template(_moved(self.example, move), beside, self.block and _moved_block(self.block, move))

    @property
    def seen(self) -> int:
        """How many modules of it are known; a last block may lack some."""
        return len(self.example.sources) + len(self.example.result)


def _moved_path(example: str, numbers: Sequence[str], old: str) -> str:
    """A path with these numbers in the part that it has in common with the example's."""
    found = iter(numbers)
    parts, prefix = [], True
    for part, before in zip(old.split("."), chain(example.split("."), repeat("")), strict=False):
        prefix = prefix and part == before
        parts.append(next(found) if prefix and part.isdigit() else part)
    return ".".join(parts)


def _moved(attention: Attention, move: Callable[[str], str]) -> Attention:
    sources = tuple(replace(source, module=move(source.module)) for source in attention.sources)
    result = tuple((move(module), tokens) for module, tokens in attention.result)
    return replace(attention, module=move(attention.module), sources=sources, result=result)


def _moved_block(block: Block, move: Callable[[str], str]) -> Block:
    narrowing = tuple((move(module), order, tokens) for module, order, tokens in block.narrowing)
    return replace(block, module=move(block.module), narrowing=narrowing)


def block_of(recording: Recording, attention: Attention) -> Block | None:
    """The innermost block around an attention; ``None`` if there is none or if other attention to the text is in it."""
    around = [one for one in recording.blocks if f"{attention.module}.".startswith(f"{one.module}.")]
    if not around:
        return None
    block = max(around, key=lambda one: len(one.module))
    readers = {one.module for one in recording.attentions if one.reads_text}
    inside = [path for path in readers if f"{path}.".startswith(f"{block.module}.")]
    return block if len(inside) == 1 else None


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
        template = Template(attention, beside[0] if beside else None, block_of(recording, attention))
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


def layer_sites(present: Mapping[str, nn.Module], index: int, layer: Template, *, last: bool) -> Iterator[Site]:
    """Sites of one layer in the order in which they run: its block's around those of its attention.

    Args:
        present: the denoiser's modules by path.
        index: number of the layer.
        layer: the layer.
        last: whether it is the last one, whose text tokens nothing reads.
    """
    name, block = f"blocks.{index}", layer.block
    if block is None:
        yield from _attention(present, name, layer)
        return
    ends = list(_ends(name, block, last=last))
    yield from (site for site in ends if site.port.side == "in")
    starts = min(source.order for source in layer.example.sources)
    mlp = _mlp(present, name, layer, block, last=last)
    yield from (site for order, site in mlp if order < starts)
    yield from _attention(present, name, layer)
    yield from (site for order, site in mlp if order >= starts)
    yield from (site for site in ends if site.port.side == "out")


def _ends(name: str, block: Block, *, last: bool) -> Iterator[Site]:
    """The streams of image and text tokens before and after a block that gives back as many as it gets."""
    for stream, part in STREAMS:
        inputs = [(In(key), tokens) for key, tokens in block.inputs if _has(tokens, stream)]
        outputs = [(Out(key), tokens) for key, tokens in block.outputs if _has(tokens, stream)]
        if not inputs or not outputs:
            continue
        for port, tokens in inputs[0], outputs[0]:
            if not (last and stream == "text" and port.side == "out"):
                yield Site(f"{name}.{part}.{port.side}", block.module, port, stream=_shared(tokens, stream))


def _mlp(
    present: Mapping[str, nn.Module], name: str, layer: Template, block: Block, *, last: bool
) -> list[tuple[int, Site]]:
    """What the MLPs of a block have hidden, and what they give, with when they run; one for both streams has none."""
    found: list[tuple[int, Site]] = []
    attentions = [one for one in (layer.example, layer.beside) if one is not None]
    projections = {source.module for attention in attentions for source in attention.sources}
    narrowing = [one for one in block.narrowing if one[0] in present and one[0] not in projections]
    times = Counter(path for path, *_ in narrowing)
    for stream, part in STREAMS:
        own = [one for one in narrowing if _has(one[2], stream) and times[one[0]] == 1]
        given = any(_has(tokens, stream) for _, tokens in block.outputs)
        if not own or not given or (last and stream == "text"):
            continue
        path, order, tokens = own[-1]
        mlp = f"{name}.{'text_mlp' if part == 'text' else 'mlp'}"
        shared = _shared(tokens, stream)
        found.append((order, Site(f"{mlp}.hidden", path, In("input"), stream=shared)))
        found.append((order, Site(f"{mlp}.out", path, Out(), stream=shared)))
    return sorted(found, key=lambda one: (one[0], one[1].port.side))


def _shared(tokens: Tokens, stream: Stream) -> Stream:
    """A site's stream, ``all`` where the other one has a sequence of its own."""
    return stream if tokens.endswith("first") else "all"


def _has(tokens: Tokens, stream: str) -> bool:
    """Whether image or text tokens are among these."""
    return tokens == stream or tokens.endswith("first")


def _attention(present: Mapping[str, nn.Module], name: str, layer: Template) -> Iterator[Site]:
    """Sites of the layer's attention: its mask, queries, keys and values, and their result."""
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
    heads = _number(module, HEADS, attention.heads)
    each = max(_width(source, present) for source in attention.sources if source.part == "q") // heads
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
                heads=_width(source, present) // each,  # several queries may share a key
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


def _width(source: Projection, present: Mapping[str, Any]) -> int:
    """Channels of a projection."""
    module = present.get(source.module)
    if module is None:
        return 0
    first, last = _channels(source, module) or (0, int(module.out_features))
    return last - first


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
