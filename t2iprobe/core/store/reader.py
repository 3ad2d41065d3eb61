"""Reads activations from a store: :class:`ActivationStore`, a drop-in replacement of an ``ActivationCache``.

Only the requested chunks are read, and each is checked against its checksum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Activations, Key
from t2iprobe.core.errors import ConfigError, SiteError
from t2iprobe.core.store import codecs, keys, regions
from t2iprobe.core.store.labels import Captured, runs
from t2iprobe.core.store.layout import array_name


class ActivationStore(Activations):
    """Activations of a captured run, read as described in :class:`~t2iprobe.core.cache.Activations`.

    ``rows``, ``prompts`` and ``seeds`` are those of the generation, ``layout`` is all that was to be captured.

    Args:
        where: run folder, ``.zarr`` folder, URL that fsspec knows, or a Zarr store object.
        run: name of the captured run, if there are several.

    Raises:
        ConfigError: there is no store, or no such run in it.
    """

    def __init__(self, where: keys.Where, run: str | None = None) -> None:
        root = keys.open_root(where)
        self.run = _chosen(runs(root), run, root)
        captured = Captured.read(root, self.run)
        self.layout, self._committed, self._captured = captured.layout, captured.committed, captured
        self.rows, self.prompts, self.seeds = self.layout.rows, self.layout.prompts, self.layout.seeds
        self._entries = {entry.name: entry for entry in self.layout.entries}
        self._position = {step: index for index, step in enumerate(self.layout.steps)}
        self._arrays: dict[tuple[str, str], zarr.Array[Any] | None] = {}

    def __repr__(self) -> str:
        done = f"{sum(self._committed)} of {len(self._committed)} batches"
        return f"ActivationStore({self.run}: {len(self.sites)} sites, {len(self.layout.steps)} steps, {done})"

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in forward order."""
        return tuple(self._entries)

    @property
    def missing(self) -> tuple[int, ...]:
        """Rows that an interrupted capture has not finished."""
        return tuple(row for row in range(self.rows) if not self._committed[row // self.layout.batch])

    def steps(self, site: str) -> tuple[int, ...]:
        """Steps at which ``site`` can be read."""
        return self.layout.steps if site in self._entries else ()

    def fetch(self, site: str, step: int, branch: Branch, rows: Sequence[int], evaluation: int = 0) -> Tensor:
        """(row, ...) for ``rows``.

        Raises:
            SiteError: this activation was not captured, or not yet; the message lists what was.
            DamagedError: a chunk differs from what was written.
        """
        return self.select(site, steps=(step,), branch=branch, rows=rows, evaluation=evaluation)[0]

    def select(
        self,
        site: str,
        *,
        steps: Iterable[int] | None = None,
        branch: Branch = Branch.COND,
        rows: Iterable[int] | None = None,
        tokens: Iterable[int] | None = None,
        evaluation: int = 0,
    ) -> Tensor:
        """(step, row, ...) of the selection, where ``None`` means all; raises the same errors as :meth:`fetch`."""
        wanted = list(self.layout.steps if steps is None else steps)
        array = self._find(site, wanted, branch, evaluation)
        picked = list(range(self.rows) if rows is None else rows)
        self._check_rows(site, picked)
        found = self._read(array, site, wanted, picked)
        value = codecs.to_tensor(found, str(array.attrs["dtype"]))
        return value if tokens is None else self._tokens(value, site, list(tokens))

    def rows_of(self, prompt: str) -> tuple[int, ...]:
        """Rows generated from a prompt.

        Raises:
            ConfigError: there is none.
        """
        rows = tuple(row for row, text in enumerate(self.prompts) if text == prompt)
        if not rows:
            raise ConfigError(f"no row was generated from {prompt!r}; there are {len(set(self.prompts))} other prompts")
        return rows

    def evaluations(self, site: str) -> tuple[tuple[int, int], ...]:
        """See :class:`~t2iprobe.core.cache.Activations`."""
        branches = self.branches(site)
        return tuple(
            (step, evaluation)
            for step in self.steps(site)
            for evaluation in range(self._most(site))
            if any(self.holds(Key(site, step, branch, evaluation)) for branch in branches)
        )

    def branches(self, site: str) -> tuple[Branch, ...]:
        """See :class:`~t2iprobe.core.cache.Activations`."""
        return tuple(branch for branch in Branch if self._array(site, branch, 0) is not None)

    def holds(self, key: Key) -> bool:
        """See :class:`~t2iprobe.core.cache.Activations`."""
        entry, array = self._entries.get(key.site), self._array(key.site, key.branch, key.evaluation)
        if entry is None or array is None:
            return False
        if entry.static:
            return True  # the same at every step and evaluation
        steps: Any = array.attrs.get("steps", self.layout.steps)
        return key.step in self._position and key.step in steps

    def _most(self, site: str) -> int:
        """Largest number of evaluations kept per step; 1 for a site that is the same at every step."""
        further = itertools.count(1)
        static = self._entries[site].static
        return 1 if static else next(n for n in further if not any(self._array(site, one, n) for one in Branch))

    def _array(self, site: str, branch: Branch, evaluation: int) -> zarr.Array[Any] | None:
        entry = self._entries.get(site)
        if entry is None:
            return None
        name = array_name(branch, 0 if entry.static else evaluation)
        if (site, name) not in self._arrays:
            self._arrays[site, name] = self._captured.array(entry, name)
        return self._arrays[site, name]

    def _find(self, site: str, steps: Sequence[int], branch: Branch, evaluation: int) -> zarr.Array[Any]:
        array = self._array(site, branch, evaluation)
        absent = [step for step in steps if not self.holds(Key(site, step, branch, evaluation))]
        if array is None or absent:
            held = f"steps {_listed(self.layout.steps)}" if site in self._entries else f"sites {_listed(self.sites)}"
            when = f"step {absent[0]}" + (f", evaluation {evaluation + 1}" if evaluation else "")
            raise SiteError(f"{site} at {when}, branch {branch}, is not in the store; it holds {held}")
        return array

    def _check_rows(self, site: str, rows: Sequence[int]) -> None:
        wrong = [row for row in rows if not 0 <= row < self.rows]
        if wrong:
            raise SiteError(f"rows {wrong} of {site} are not in the store, which has {self.rows}")
        absent = [row for row in rows if not self._committed[row // self.layout.batch]]
        if absent:
            raise SiteError(
                f"rows {_listed(absent)} of {site} are not captured yet; start the same capture again to finish it"
            )

    def _read(self, array: zarr.Array[Any], site: str, steps: Sequence[int], rows: Sequence[int]) -> Any:
        """(step, row, ...): each row is read once, then put in the requested order."""
        distinct, back = np.unique(np.asarray(rows, int), return_inverse=True)
        if self._entries[site].static:
            values = regions.read(array, distinct.tolist())
            return np.broadcast_to(values[back], (len(steps), len(rows), *values.shape[1:])).copy()
        positions, order = np.unique([self._position[step] for step in steps], return_inverse=True)
        values = regions.read(array, positions.tolist(), distinct.tolist())
        return np.ascontiguousarray(values[order][:, back])

    def _tokens(self, value: Tensor, site: str, tokens: list[int]) -> Tensor:
        axes = self._entries[site].axes
        if "token" not in axes:
            raise SiteError(f"{site} has no token axis (it has {', '.join(axes)}), so no tokens to select")
        axis = 2 + axes.index("token")
        wrong = [token for token in tokens if not 0 <= token < value.shape[axis]]
        if wrong:
            raise SiteError(f"{site} has no token {wrong[0]}; there are {value.shape[axis]}, numbered from 0")
        return value.index_select(axis, torch.tensor(tokens, dtype=torch.long))


def _chosen(known: Sequence[str], run: str | None, root: zarr.Group) -> str:
    name = keys.name_of(root.store)
    if not known:
        raise ConfigError(f"{name} holds no activations; t2iprobe capture adds some")
    if run is None and len(known) > 1:
        raise ConfigError(f"{name} holds several captured runs ({', '.join(known)}); name one")
    if run is not None and run not in known:
        raise ConfigError(f"{name} has no captured run {run!r}; there are {', '.join(known)}")
    return run or known[0]


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return shown if len(values) <= 8 else f"{shown}, … ({len(values)})"
