"""The shape of a store: names, attributes, chunks and shards.

::

    activations/<run>/committed          one mark per unit, written when the whole unit is
    activations/<run>/{step,prompt,seed} labels
        activations/<run>/<site>/<branch>    (step, batch, axes of the site); without step if the site is static

A unit is one batch of rows at all captured steps. Chunks never cross units, so units can be written independently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError, StoreError
from t2iprobe.core.store.codecs import Codec

FORMAT = 1
ACTIVATIONS = "activations"
COMMITTED = "committed"
FILES = "c."  # prefix of their names
LABELS = ("step", "prompt", "seed")
CHUNK = 256 << 10  # bytes per chunk, unless a row is larger
SHARD = 4 << 20  # most bytes per file, unless one step of a batch is larger
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class SiteLayout:
    """A stored site."""

    name: str
    axes: tuple[str, ...]
    static: bool = False


@dataclass(frozen=True)
class Layout:
    """Contents of one captured run, fixed before it starts.

    Args:
        entries: the sites.
        prompts: one per row.
        seeds: one per row.
        steps: captured denoising steps.
        branches: captured branches of guidance; ``None`` for all.
        batch: rows per unit.
        codec: compression of chunks.
        round_bits: mantissa bits that are kept; ``None`` for all.
    """

    entries: tuple[SiteLayout, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    branches: tuple[str, ...] | None = None
    batch: int = 8
    codec: Codec = field(default_factory=Codec)
    round_bits: int | None = None

    @property
    def rows(self) -> int:
        """Number of rows of the generation."""
        return len(self.prompts)

    @property
    def units(self) -> int:
        """Number of batches."""
        return -(-self.rows // self.batch)

    @property
    def static(self) -> frozenset[str]:
        """Names of the sites that are stored once."""
        return frozenset(entry.name for entry in self.entries if entry.static)

    def has(self, branch: Branch) -> bool:
        """Whether a branch of guidance is captured."""
        return self.branches is None or str(branch) in self.branches

    def unit_rows(self, unit: int) -> range:
        """Rows of one batch."""
        return range(unit * self.batch, min((unit + 1) * self.batch, self.rows))

    def attributes(self) -> dict[str, Any]:
        """Attributes of the run's group: what the labels do not hold."""
        sites = {entry.name: {"axes": entry.axes, "static": entry.static} for entry in self.entries}
        kept = {name: getattr(self, name) for name in ("rows", "batch", "branches", "round_bits")}
        return {"format": FORMAT, "sites": sites, "codec": self.codec.as_json(), **kept}

    @classmethod
    def read(cls, attributes: dict[str, Any], **labels: Any) -> Layout:
        """The inverse of :meth:`attributes`; ``labels`` are the prompts, seeds and steps.

        Raises:
            StoreError: it was written by a later version.
        """
        if (found := attributes.get("format")) != FORMAT:
            raise StoreError(f"the store has format {found}, this t2iprobe reads {FORMAT}; update it")
        sites, branches = attributes["sites"].items(), attributes["branches"]
        return cls(
            tuple(SiteLayout(name, tuple(site["axes"]), site["static"]) for name, site in sites),
            branches=None if branches is None else tuple(branches),
            batch=attributes["batch"],
            codec=Codec(**attributes["codec"]),
            round_bits=attributes["round_bits"],
            **labels,
        )

    def differences(self, other: Layout) -> list[str]:
        """Differences in contents from ``other``, as text; batches and compression may differ."""
        names = {"entries": "sites"} | {name: name for name in ("prompts", "seeds", "steps", "branches", "round_bits")}
        pairs = [(name, getattr(self, field), getattr(other, field)) for field, name in names.items()]
        return [f"{name}: {_short(old)} there, {_short(new)} now" for name, old, new in pairs if old != new]


def _short(value: Any) -> str:
    listed = [getattr(item, "name", item) for item in value] if isinstance(value, tuple) else value
    text = repr(listed)
    return text if len(text) <= 60 else f"{text[:50]}… ({len(value)})"


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """Chunks of one array.

    Args:
        steps: steps per shard.
        chunk: shape of a unit of compression and checksum.
        shard: shape of a file; ``None`` if a file is one chunk.
    """

    steps: int
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None


def grid(
    layout: Layout, entry: SiteLayout, rest: tuple[int, ...], row_bytes: int, arrays: int, memory: int
) -> ChunkGrid:
    """Chunks for an array whose rows have the shape ``rest``.

    Shards are assembled in memory, for every array at once; ``memory`` limits them together.
    """
    rows = next(n for n in range(layout.batch, 0, -1) if layout.batch % n == 0 and (n * row_bytes <= CHUNK or n == 1))
    step_bytes = max(1, layout.batch * row_bytes)
    steps = max(1, min(len(layout.steps), SHARD // step_bytes, memory // arrays // step_bytes))
    chunk, shard = (rows, *rest), (layout.batch, *rest)
    if entry.static:
        steps = 1
    else:
        chunk, shard = (1, *chunk), (steps, *shard)
    return ChunkGrid(steps, chunk, None if shard == chunk else shard)


def check_run(name: str) -> str:
    """A run name that is also a valid name of a Zarr group.

    Raises:
        ConfigError: it is not.
    """
    if not RUN.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a run: letters, digits, '.', '_' and '-', a letter or digit first")
    return name


def node(site: str) -> str:
    """Name of a site's group. Zarr reserves names that begin with ``__``; no site name contains ``%``."""
    return f"%{site}" if site.startswith("__") else site


def array_name(branch: Branch | str, evaluation: int) -> str:
    """Name of a branch's array; further evaluations of a second-order scheduler have arrays of their own."""
    return str(branch) if not evaluation else f"{branch}-{evaluation}"
