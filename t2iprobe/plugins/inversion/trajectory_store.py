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
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key
from t2iprobe.core.contracts.inverter import Trajectory
from t2iprobe.core.store import verify
from t2iprobe.core.store.layout import Layout, SiteLayout
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.store.writer import ActivationWriter

Array = NDArray[np.float32]
CLEAN = ("clean",)
ENDS = ("noise", "clean")
ALL = ("noise", "clean", "state", "output")
SAMPLE = "sample"


def phase(kind: str, arm: str) -> str:
    """The name of an arm's trajectory in the store, in a form that a Zarr group can have."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', arm).strip('-')}"


class TrajectoryWriter(ExitStack):
    """Writes trajectories unit by unit, within a ``with`` block.

    Args:
        where: the run folder's store.
        prompts, seeds: one of each per row.
        steps: number of sampling steps.
        batch: number of rows in a unit.
    """

    def __init__(self, where: Path, prompts: Sequence[str], seeds: Sequence[int], steps: int, batch: int) -> None:
        super().__init__()
        self._where, self._steps, self._batch = where, steps, batch
        self._rows = (tuple(prompts), tuple(seeds))
        self._writers: dict[str, ActivationWriter] = {}

    def has(self, name: str, unit: int, entries: Sequence[str] = ALL) -> bool:
        """Whether a unit of a trajectory is committed."""
        return unit in self._writer(name, entries).committed

    def write(self, name: str, unit: int, trajectory: Trajectory, entries: Sequence[str] = ALL) -> None:
        """Commit a unit of a trajectory; one that is committed already is not written again.

        Args:
            name: name of the trajectory.
            unit: number of the batch.
            trajectory: the batch's rows.
            entries: which entries to keep, the same for every unit.
        """
        writer = self._writer(name, entries)
        with writer.unit(unit) as rows:
            for entry, step, value in _values(trajectory, entries):
                writer.add([Key(entry, step, Branch.COND)], list(rows), value)

    def _writer(self, name: str, entries: Sequence[str]) -> ActivationWriter:
        if name not in self._writers:
            # the ends are the same at every step
            sites = tuple(SiteLayout(entry, ("channel", "y", "x"), entry in ENDS) for entry in entries)
            layout = Layout(sites, *self._rows, tuple(range(self._steps)), batch=self._batch)
            writer = self._writers[name] = ActivationWriter(self._where, name, layout)
            self.callback(writer.close)
            if writer.continued and writer.todo:
                verify.sweep_up(self._where, name)
        return self._writers[name]


def _values(trajectory: Trajectory, entries: Sequence[str]) -> Iterator[tuple[str, int, Tensor]]:
    """The values of each entry, step by step."""
    for entry in entries:
        if entry in ENDS:
            yield entry, 0, getattr(trajectory, entry)
        else:
            values = trajectory.states if entry == "state" else trajectory.outputs
            yield from ((entry, step, values[step]) for step in range(len(trajectory.outputs)))


def stored_trajectory(where: Path, name: str, rows: Sequence[int]) -> Trajectory:
    """Some rows of a stored trajectory; the number of model calls is not stored."""
    store = ActivationStore(where, name)
    ends = store.fetch("clean", 0, Branch.COND, rows)
    states = torch.cat([store.select("state", rows=rows), ends[None]])
    return Trajectory(states, store.select("output", rows=rows), 0)
