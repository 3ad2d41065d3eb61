"""Trajectories on disk, in an activation store: units are whole or absent, and read one step at a time.

::

    activations/sample               how the pictures were made
    activations/invert-<arm>         from the pictures to the latents
    activations/reconstruct-<arm>    from the latents back

each with the entries ``noise`` and ``clean`` (the ends) and, where trajectories are kept, ``state`` and ``output`` by
sampling step: step 0 starts at the noise, whichever direction the trajectory took.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.cache import Key
from t2iprobe.core.contracts.adapter import Branch
from t2iprobe.core.contracts.inverter import Trajectory
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.store import keys, verify
from t2iprobe.core.store.labels import runs
from t2iprobe.core.store.layout import Layout, SiteLayout
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.store.writer import ActivationWriter

Array = NDArray[np.float32]
MAP = ("channel", "y", "x")
#: entries by name; the ends are the same at every step
ENTRIES = {
    "noise": SiteLayout("noise", MAP, True),
    "clean": SiteLayout("clean", MAP, True),
    "state": SiteLayout("state", MAP),
    "output": SiteLayout("output", MAP),
}
CLEAN = ("clean",)
ENDS = ("noise", "clean")
ALL = tuple(ENTRIES)
SAMPLE = "sample"


def phase(kind: str, arm: str) -> str:
    """The name of an arm's trajectory in the store, in a form that a Zarr group can have."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', arm).strip('-')}"


class TrajectoryWriter:
    """Writes trajectories unit by unit; a unit that is already there is not written again.

    Args:
        where: the run folder's store.
        prompts, seeds: one of each per row.
        steps: number of sampling steps.
        batch: number of rows in a unit.
    """

    def __init__(self, where: Path, prompts: Sequence[str], seeds: Sequence[int], steps: int, batch: int) -> None:
        self._where, self._steps = where, steps
        self._rows = (tuple(prompts), tuple(seeds))
        self._batch = batch
        self._writers: dict[str, ActivationWriter] = {}

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def has(self, name: str, unit: int, entries: Sequence[str] = ALL) -> bool:
        """Whether a unit of a trajectory is committed."""
        return unit in self._writer(name, entries).committed

    def write(self, name: str, unit: int, walk: Trajectory, entries: Sequence[str] = ALL) -> None:
        """Commit a unit of a trajectory.

        Args:
            name: name of the trajectory.
            unit: number of the batch.
            walk: the batch's rows of the trajectory.
            entries: what to keep of it, the same for every unit.
        """
        writer = self._writer(name, entries)
        with writer.unit(unit) as rows:
            listed = list(rows)
            for entry, step, value in _parts(walk, entries):
                writer.add(Key(entry, step, Branch.COND), listed, value)

    def _writer(self, name: str, entries: Sequence[str]) -> ActivationWriter:
        if name not in self._writers:
            kept = tuple(ENTRIES[entry] for entry in entries)
            layout = Layout(kept, *self._rows, tuple(range(self._steps)), batch=self._batch)
            self._writers[name] = ActivationWriter(self._where, name, layout)
            if self._writers[name].todo:
                verify.sweep_up(self._where, name)
        return self._writers[name]


def _parts(walk: Trajectory, entries: Sequence[str]) -> Iterator[tuple[str, int, Tensor]]:
    """The values of each entry, step by step."""
    for entry in entries:
        if entry in ENDS:
            yield entry, 0, walk.noise if entry == "noise" else walk.clean
            continue
        values = walk.states if entry == "state" else walk.outputs
        yield from ((entry, step, values[step]) for step in range(len(walk.outputs)))


class TrajectoryStore:
    """Reads what :class:`TrajectoryWriter` wrote.

    Args:
        where: run folder, or its store.
        rows: the rows to read, in order; default all.
    """

    def __init__(self, where: Path, rows: Sequence[int] | None = None) -> None:
        self._where = where
        self._known = runs(keys.open_root(where))
        self._stores: dict[str, ActivationStore] = {}
        self._rows = None if rows is None else list(rows)

    @property
    def walks(self) -> list[str]:
        """The names of the trajectories in the store."""
        return list(self._known)

    def noise(self, name: str) -> Array:
        """(row, ...): the end at pure noise, which for an inversion is the latent."""
        return self._read(name, "noise", 0)

    def clean(self, name: str) -> Array:
        """(row, ...): the end at the picture."""
        return self._read(name, "clean", 0)

    def between(self, name: str) -> bool:
        """Whether the states and outputs of the trajectory are kept."""
        return "state" in self._store(name).sites

    def state(self, name: str, step: int) -> Array:
        """(row, ...): the state at one level, the last one being the picture."""
        last = step == len(self._store(name).layout.steps)
        return self.clean(name) if last else self._read(name, "state", step)

    def output(self, name: str, step: int) -> Array:
        """(row, ...): the prediction of one step."""
        return self._read(name, "output", step)

    def walk(self, name: str, rows: Sequence[int]) -> Trajectory:
        """Some rows as a trajectory; the number of calls is no longer known."""
        store = self._store(name)
        states = store.select("state", rows=rows)
        ends = store.fetch("clean", 0, Branch.COND, rows)
        return Trajectory(torch.cat([states, ends[None]]), store.select("output", rows=rows), 0)

    def _read(self, name: str, entry: str, step: int) -> Array:
        store = self._store(name)
        found = store.fetch(entry, step, Branch.COND, range(store.rows) if self._rows is None else self._rows)
        values: Array = found.float().numpy()
        return values

    def _store(self, name: str) -> ActivationStore:
        if name not in self._stores:
            if name not in self._known:
                raise ConfigError(f"{self._where} holds no walk {name!r}; there are {', '.join(self._known) or 'none'}")
            self._stores[name] = ActivationStore(self._where, name)
        return self._stores[name]
