"""Activations of a run, in memory: :class:`ActivationCache`."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import SiteError
from t2iprobe.core.html import table
from t2iprobe.core.names import counted, near

ARRIVING = 256_000_000  #: bytes of page-locked memory that copies from a GPU may take before they are waited for


class Key(NamedTuple):
    """Address of one activation; second-order schedulers evaluate the denoiser twice a step."""

    site: str
    step: int
    branch: Branch
    evaluation: int = 0


class Sink(Protocol):
    """Receives activations from the engine."""

    def add(self, keys: Sequence[Key], rows: Sequence[int], value: Tensor) -> None:
        """Keep activations of some rows.

        Args:
            keys: their addresses, one for each branch of guidance.
            rows: the rows of the generation.
            value: (branch and row, ...), the rows of the first branch first; may be overwritten after the call.
        """
        ...


class ActivationStream(Sink, Protocol):
    """A sink that keeps nothing in memory, such as a store's writer."""

    @property
    def static(self) -> frozenset[str]:
        """Sites that are stored at one step only, because they are the same at all steps."""
        ...

    def discard(self, rows: Sequence[int]) -> None:
        """Forget what a batch of ``rows`` has added: it ran out of memory and will be repeated in parts."""
        ...


class Activations(ABC):
    """Activations by the name of their site, like a dictionary; a donor for ``Model.run(patch=…)``.

    ``cache["blocks.6.joint_attn.k"]`` is (row, evaluation, branch, ...): these three axes, then the site's own
    (:attr:`Site.axes`). An evaluation is a denoising step, or with a second-order scheduler one of the two in a step
    (:meth:`evaluations`); the branches are those of guidance (:meth:`branches`). ``cache[name, step, branch]`` is
    (row, ...) of one step. A site that is the same at every step (:attr:`Site.static`) can be read at every step.
    """

    # not a Mapping: it would have equality, which tensors lack, and `patch` takes a mapping as {row: row of the batch}

    rows: int  #: rows of the generation

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """Names of the sites."""

    @abstractmethod
    def evaluations(self, site: str) -> tuple[tuple[int, int], ...]:
        """(step, evaluation within the step) of each entry along the second axis of ``cache[site]``."""

    @abstractmethod
    def branches(self, site: str) -> tuple[Branch, ...]:
        """Branch of each entry along the third axis of ``cache[site]``."""

    @abstractmethod
    def holds(self, key: Key) -> bool:
        """Whether there is such an activation."""

    @abstractmethod
    def fetch(self, site: str, step: int, branch: Branch, rows: Sequence[int], evaluation: int = 0) -> Tensor:
        """(row, ...) of ``rows``."""

    def keys(self) -> tuple[str, ...]:
        """Names of the sites, as :attr:`sites`."""
        return self.sites

    def values(self) -> Iterator[Tensor]:
        """Activations of each site, see the class."""
        return (self[name] for name in self.sites)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Each site's name with its activations, see the class."""
        return ((name, self[name]) for name in self.sites)

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: tuple[str, int, Branch]) -> Tensor: ...
    def __getitem__(self, key: str | tuple[str, int, Branch]) -> Tensor:
        """All rows: (row, evaluation, branch, ...) of a site, or (row, ...) of a site at a step and branch.

        Raises:
            SiteError: there is none; the message suggests similar names, or lists what there is. A site with a branch
                that is missing at some steps, as in skip-layer guidance, has to be read step by step.
        """
        if isinstance(key, str):
            return self._whole(key)
        if not isinstance(key, tuple) or len(key) != 3:
            raise SiteError(f"read activations as cache[name] or cache[name, step, branch], found [{key!r}]")
        return self.fetch(*key, rows=range(self.rows))

    def __contains__(self, key: object) -> bool:
        return self.holds(Key(*key)) if isinstance(key, tuple) else key in self.sites

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def _whole(self, site: str) -> Tensor:
        """(row, evaluation, branch, ...)."""
        if site not in self.sites:
            raise self._unknown(site)
        evaluations, branches, rows = self.evaluations(site), self.branches(site), range(self.rows)
        for (step, evaluation), branch in itertools.product(evaluations, branches):
            if not self.holds(Key(site, step, branch, evaluation)):
                raise SiteError(
                    f"{site} has no branch {branch} at step {step}, so its steps do not form one tensor; "
                    f"read them one by one: [{site!r}, step, branch]"
                )
        moments = [
            torch.stack([self.fetch(site, step, branch, rows, evaluation) for branch in branches], 1)
            for step, evaluation in evaluations
        ]
        return torch.stack(moments, 1)

    def _unknown(self, site: str) -> SiteError:
        if not self.sites:
            return SiteError(f"no activations were kept; name the sites to keep: run(…, cache={site!r})")
        return SiteError(f"{site} is not among the kept activations{near(site, self.sites)}")


def by_branch(value: Tensor, keys: Sequence[Key]) -> tuple[Tensor, ...]:
    """The part of (branch and row, ...) that belongs to each key, (row, ...)."""
    return (value,) if len(keys) == 1 else value.chunk(len(keys))


def send(value: Tensor, host: Tensor) -> Any:
    """Copy ``value`` to ``host``, which is page-locked if ``value`` is on a GPU.

    Returns:
        From a GPU, the event of its arrival, for which nobody has waited; ``None`` if it is there.
    """
    if value.device.type != "cuda":
        host.copy_(value)
        return None
    host.copy_(value, non_blocking=True)
    arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrival.record(torch.cuda.current_stream(value.device))
    return arrival


class ActivationCache(Activations):
    """Activations of a run in memory, on the CPU; see :class:`Activations` for how to read them.

    A run in several batches adds its rows in parts; reading restores their order. From a GPU they are copied while it
    computes on, by way of page-locked memory.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._arrived: defaultdict[Key, list[tuple[tuple[int, ...], Tensor]]] = defaultdict(list)
        self._arriving: deque[tuple[Sequence[Key], tuple[int, ...], Tensor, Any]] = deque()
        self._bytes_arriving = 0

    @property
    def _parts(self) -> defaultdict[Key, list[tuple[tuple[int, ...], Tensor]]]:
        self._wait(0)
        return self._arrived

    def _wait(self, most: int) -> None:
        """Wait until at most so many bytes have not arrived, and leave the page-locked memory to the next ones."""
        while self._arriving and self._bytes_arriving > most:
            keys, rows, host, arrival = self._arriving.popleft()
            self._bytes_arriving -= host.nbytes
            arrival.synchronize()
            self._keep(keys, rows, host.clone())

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order in which they ran."""
        return tuple(dict.fromkeys(key.site for key in self._parts))

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(part.nbytes for parts in self._parts.values() for _, part in parts)

    def steps(self, site: str) -> tuple[int, ...]:
        """Steps at which ``site`` was kept."""
        return tuple(dict.fromkeys(key.step for key in self._parts if key.site == site))

    def evaluations(self, site: str) -> tuple[tuple[int, int], ...]:
        """See :class:`Activations`."""
        return tuple(dict.fromkeys((key.step, key.evaluation) for key in self._parts if key.site == site))

    def branches(self, site: str) -> tuple[Branch, ...]:
        """See :class:`Activations`."""
        return tuple(dict.fromkeys(key.branch for key in self._parts if key.site == site))

    def holds(self, key: Key) -> bool:
        """See :class:`Activations`."""
        return key in self._parts

    def add(self, keys: Sequence[Key], rows: Sequence[int], value: Tensor) -> None:
        """Keep one copy of ``value``, of which every branch has its part; see :class:`Sink`."""
        value, rows = value.detach(), tuple(rows)
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda")
        arrival = send(value, host)
        if arrival is None:
            self._keep(keys, rows, host)
            return
        self._arriving.append((keys, rows, host, arrival))
        self._bytes_arriving += host.nbytes
        self._wait(ARRIVING)

    def _keep(self, keys: Sequence[Key], rows: tuple[int, ...], host: Tensor) -> None:
        for key, part in zip(keys, by_branch(host, keys), strict=True):
            self._arrived[key].append((rows, part))

    def extend(self, other: ActivationCache) -> None:
        """Add the activations of another batch of the same generation."""
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
            if not steps:
                raise self._unknown(site)
            held = f"steps {steps[0]}-{steps[-1]} of branch {', '.join(self.branches(site))}"
            when = f"step {step}" + (f", evaluation {evaluation + 1}" if evaluation else "")
            raise SiteError(f"{site} at {when}, branch {branch}, is not in the cache; it holds {held}")
        where = {row: (part, i) for held_rows, part in parts for i, row in enumerate(held_rows)}
        missing = [row for row in rows if row not in where]
        if missing:
            raise SiteError(f"rows {missing} of {site} are not in the cache, which has {self.rows}")
        return torch.stack([where[row][0][where[row][1]] for row in rows])

    def __repr__(self) -> str:
        size = f"{self.nbytes / 1e6:.1f} MB"
        return f"ActivationCache({counted(len(self), 'site')}, {counted(self.rows, 'row')}, {size})"

    def _repr_html_(self) -> str:
        heads = ("site", "evaluations", "branches", "shape of a row")
        rows = [(name, len(self.evaluations(name)), ", ".join(self.branches(name)), self._shape(name)) for name in self]
        return f"<p>{self!r}</p>{table(heads, rows)}"

    def _shape(self, site: str) -> tuple[int, ...]:
        parts = next(parts for key, parts in self._parts.items() if key.site == site)
        return tuple(parts[0][1].shape[1:])
