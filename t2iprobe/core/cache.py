"""Activations of a run, in memory: :class:`ActivationCache`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Branch
from t2iprobe.core.errors import SiteError


class Key(NamedTuple):
    """Address of one activation; second-order schedulers evaluate the denoiser twice a step."""

    site: str
    step: int
    branch: Branch
    evaluation: int = 0


class Sink(Protocol):
    """What the engine hands activations to."""

    def add(self, key: Key, rows: Sequence[int], value: Tensor) -> None:
        """Take (row, ...) of some rows; ``value`` may be written over once this returns."""
        ...


class ActivationStream(Sink, Protocol):
    """A sink that keeps nothing in memory, such as a store's writer."""

    @property
    def static(self) -> frozenset[str]:
        """Sites that it takes at one step only, because they are the same at all."""
        ...

    def discard(self, rows: Sequence[int]) -> None:
        """Forget what a batch of ``rows`` has added: it ran out of memory and comes again in parts."""
        ...


class ActivationCache:
    """Activations by site, step and branch; (row, ...) each, on the CPU.

    A run that was split into batches adds its rows in parts; reading puts them in order.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._parts: defaultdict[Key, list[tuple[tuple[int, ...], Tensor]]] = defaultdict(list)

    @property
    def rows(self) -> int:
        """Rows of the generation that was cached."""
        return self._rows

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites held, in the order they were seen."""
        return tuple(dict.fromkeys(key.site for key in self._parts))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for parts in self._parts.values() for _, part in parts)

    def steps(self, site: str) -> tuple[int, ...]:
        """Steps at which ``site`` was seen."""
        return tuple(dict.fromkeys(key.step for key in self._parts if key.site == site))

    def add(self, key: Key, rows: Sequence[int], value: Tensor) -> None:
        """Keep a copy of ``value`` (row, ...), whose rows are ``rows`` of the generation."""
        self._parts[key].append((tuple(rows), value.detach().to("cpu", copy=True)))

    def extend(self, other: ActivationCache) -> None:
        """Take over what another batch of the same generation has cached."""
        for key, parts in other._parts.items():
            self._parts[key].extend(parts)

    def fetch(self, site: str, step: int, branch: Branch, rows: Sequence[int], evaluation: int = 0) -> Tensor:
        """(row, ...) of ``rows``.

        Raises:
            SiteError: this activation was not cached; the message says what was.
        """
        parts = self._parts.get(Key(site, step, branch, evaluation))
        if parts is None:
            steps = self.steps(site)
            held = f"steps {steps[0]}-{steps[-1]}" if steps else f"sites {', '.join(self.sites) or 'none'}"
            when = f"step {step}" + (f", evaluation {evaluation + 1}" if evaluation else "")
            raise SiteError(f"{site} at {when}, branch {branch}, is not in the cache; it holds {held}")
        where = {row: (part, i) for held_rows, part in parts for i, row in enumerate(held_rows)}
        missing = [row for row in rows if row not in where]
        if missing:
            raise SiteError(f"rows {missing} of {site} are not in the cache, which has {self._rows}")
        return torch.stack([where[row][0][where[row][1]] for row in rows])

    def __getitem__(self, key: tuple[str, int, Branch]) -> Tensor:
        """(row, ...) of every row."""
        return self.fetch(*key, rows=range(self._rows))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and Key(*key) in self._parts

    def __len__(self) -> int:
        return len(self._parts)
