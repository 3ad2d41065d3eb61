"""Names for activations: :class:`Site` is one of them, :class:`Sites` are all of a model's in forward order.

Nothing here touches a model; the engine looks up a site's module at every run.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, overload

from t2iprobe.core.errors import SiteError
from t2iprobe.core.html import table

PARTS = ("resid", "ada", "self_attn", "cross_attn", "joint_attn", "dual_attn", "mlp", "text", "text_ada", "text_mlp")
MODULATION = tuple(f"{part}_{what}" for part in ("attn", "mlp", "dual_attn") for what in ("shift", "scale", "gate"))
PORTS = ("in", "out", "text", "q", "k", "v", "z", "pattern", "mask", "hidden", *MODULATION)
NAME = re.compile(
    rf"(?:[a-z_]+\.)?blocks\.\d+\.(?:{'|'.join(PARTS)})\.(?:{'|'.join(PORTS)})"
    r"|(?:[a-z_]+\.)?(?:text|text_mask|text_ids|pooled)(?:_(?:[2-9]|[1-9]\d))?|(?:[a-z_]+\.)?(?:latents|prediction)"
    r"|resnets\.\d+\.(?:in|time|out)|skips\.\d+|mid|time"
)

Axis = Literal["token", "channel", "y", "x", "query", "head"]
Stream = Literal["all", "text", "image"]


@dataclass(frozen=True, slots=True)
class Port:
    """Where an activation is read and written at a module: an argument by name, (an element of) the result, or the
    softmax weights of an attention that it computes.
    """

    side: Literal["in", "out", "weights"]
    key: str | int | None = None
    attention: int = 0


def In(name: str) -> Port:
    """The argument ``name`` of the module's ``forward``."""
    return Port("in", name)


def Out(index: int | None = None) -> Port:
    """The module's result, or its element ``index`` if the result is a tuple."""
    return Port("out", index)


def Weights(queries: Stream = "all", attention: int = 0) -> Port:
    """The softmax weights of an attention that the module computes.

    Args:
        queries: whose queries, if text and image tokens share one sequence.
        attention: which of the module's attentions in a call, counted from 0.
    """
    return Port("weights", queries, attention)


@dataclass(frozen=True, slots=True)
class Site:
    """One named activation.

    Args:
        name: ``[component.]blocks.<i>.<part>.<port>``, or ``text`` / ``text_mask`` / ``text_ids`` / ``pooled`` for
            inputs that occur once (``text_2`` for a second one), and ``latents`` / ``prediction`` for the denoiser's
            main input and output; ``time``, and of a U-Net ``resnets.<i>.<port>``, ``skips.<i>`` and ``mid``.
        module: path of the module below the denoiser.
        port: which argument or result of the module.
        axes: names of the axes after the row axis.
        heads: number of heads, if there are any: they lie one after the other in the channel axis, in ``z`` as well,
            or have an axis of their own, in ``pattern``.
        stream: the part of the token axis that belongs to the site, if text and image tokens share one sequence; where
            the text stands is the adapter's to say (:meth:`Adapter.text_spans`).
        channels: first and last channel of the site, the last one excluded, if one projection makes several.
        optional: whether a call may come without this argument; it is left as it is then.
        carries: names of sites that say what this one's tokens mean, such as a mask; they are read and patched with it.
        static: whether the value is the same at every denoising step of an unedited run, as for the text keys of a
            U-Net; a store then keeps it once.
    """

    name: str
    module: str
    port: Port
    axes: tuple[Axis, ...] = ("token", "channel")
    heads: int | None = None
    stream: Stream = "all"
    static: bool = False
    channels: tuple[int, int] | None = None
    optional: bool = False
    carries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SiteError(
                f"site name {self.name!r} does not follow [component.]blocks.<i>.<part>.<port>: "
                f"parts {', '.join(PARTS)}; ports {', '.join(PORTS)}"
            )

    @property
    def layer(self) -> int | None:
        """The block number in the name; ``None`` for a site outside the blocks."""
        found = re.search(r"blocks\.(\d+)\.", self.name)
        return int(found[1]) if found else None

    @property
    def carried(self) -> bool:
        """Whether it is a mask or positions of tokens: it is patched, but nothing else can be done to it."""
        return self.kind.endswith(".mask") or self.name.split(".")[-1].startswith(("text_mask", "text_ids"))

    @property
    def is_pattern(self) -> bool:
        """Whether it is an attention pattern, which costs time and memory, and so has to be asked for by name."""
        return self.port.side == "weights"

    @property
    def queries(self) -> Stream:
        """Whose queries a pattern has, of those of the attention."""
        return cast(Stream, self.port.key)

    @property
    def kind(self) -> str:
        """``part.port``: the kind of site, without its block."""
        return ".".join([part for part in self.name.split(".") if not part.isdecimal()][-2:])


def _written(part: str, ports: Sequence[str]) -> str:
    """Kinds of one part as one pattern: ``joint_attn.{q,k,v}``."""
    if not part:
        return ", ".join(ports)
    return f"{part}.{ports[0]}" if len(ports) == 1 else f"{part}.{{{','.join(ports)}}}"


class Sites(Sequence[Site]):
    """Sites of a model in forward order, with unique names."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._by_name: dict[str, Site] = {}
        for site in sites:
            if site.name in self._by_name:
                other = self._by_name[site.name].module
                raise SiteError(f"two sites are named {site.name!r}: {other} and {site.module}")
            self._by_name[site.name] = site
        self._sites = tuple(self._by_name.values())

    @overload
    def __getitem__(self, index: int | str) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sites: ...
    def __getitem__(self, index: int | str | slice) -> Site | Sites:
        """A site by its place or by its name, or a part of the sites.

        Raises:
            SiteError: no site has this name; the message suggests similar names.
        """
        if isinstance(index, str):
            return self.named(index)
        return Sites(self._sites[index]) if isinstance(index, slice) else self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __contains__(self, item: object) -> bool:
        return item in self._by_name or item in self._sites

    def __repr__(self) -> str:
        ports: dict[tuple[str, int], list[str]] = {}
        for kind, count in self.kinds().items():
            part, _, port = kind.rpartition(".")
            ports.setdefault((part, count), []).append(port)
        kinds = [_written(part, names) + (f" × {count}" if count > 1 else "") for (part, count), names in ports.items()]
        return f"Sites({len(self)}: {', '.join(kinds)})"

    def _repr_html_(self) -> str:
        """A table with one line per kind: number of sites, first name, its module and axes."""
        first = {site.kind: site for site in reversed(self._sites)}
        rows = [
            (kind, count, first[kind].name, first[kind].module, "row, " + ", ".join(first[kind].axes))
            for kind, count in self.kinds().items()
        ]
        return table(("kind", "sites", "first site", "module", "axes"), rows)

    def kinds(self) -> Counter[str]:
        """How many sites there are of each kind, in forward order."""
        return Counter(site.kind for site in self._sites)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in forward order."""
        return tuple(self._by_name)

    def named(self, name: str) -> Site:
        """The site called ``name``.

        Raises:
            SiteError: there is none; the message suggests similar names.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise SiteError(f"no site {name!r}{self._near(name)}") from None

    def match(self, *patterns: str) -> Sites:
        """Sites whose names match any of the shell-style ``patterns``, and what they carry; ``{a,b}`` matches either.

        Attention patterns, which are large, match only what ends in ``pattern``: ``blocks.*.pattern``.

        Raises:
            SiteError: a pattern matches nothing; the message suggests similar sites.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            exact = [pattern] if pattern in self._by_name else []
            hits = exact or [name for alternative in _braces(pattern) for name in self._filtered(alternative)]
            if not hits:
                raise SiteError(f"no site matches {pattern!r}{self._near(pattern)}")
            chosen.update(hits)
            chosen.update(name for hit in hits for name in self._by_name[hit].carries)
        return Sites(site for site in self._sites if site.name in chosen)

    def _filtered(self, pattern: str) -> list[str]:
        found = fnmatch.filter(self.names, pattern)
        asked = pattern.endswith("pattern")
        return [name for name in found if asked or not self._by_name[name].is_pattern]

    def _near(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.5)
        kinds = sorted({site.kind for site in self._sites})
        return f"; near: {', '.join(near)}" if near else f"; there are blocks.<i>. with {', '.join(kinds)}"


def _braces(pattern: str) -> list[str]:
    """Expand ``a.{b,c}`` to ``a.b`` and ``a.c``."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    return [
        full
        for part in found[1].split(",")
        for full in _braces(pattern[: found.start()] + part + pattern[found.end() :])
    ]
