"""Writes activations while a run computes them: :class:`ActivationWriter`.

Background threads compress and write; the memory for waiting values and incomplete shards is bounded, whatever the
number of steps and sites. A unit (one batch of rows) counts only once its mark is written, which happens last.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key, by_branch, send
from t2iprobe.core.errors import RunExistsError, StoreError, T2IProbeError
from t2iprobe.core.runs.files import explained
from t2iprobe.core.store import codecs, keys, labels
from t2iprobe.core.store.buffers import Buffers
from t2iprobe.core.store.layout import (
    ACTIVATIONS,
    COMMITTED,
    LABELS,
    Layout,
    SiteLayout,
    array_name,
    check_run,
    grid,
    node,
)
from t2iprobe.core.store.shards import Packer
from t2iprobe.core.store.worker import Worker

MEMORY = 128 << 20
WRITERS = 2  # threads; one of them is usually waiting for the system


@dataclass
class _Item:
    """One queued activation: rows of the store from ``first`` on."""

    key: Key
    position: int
    first: int
    value: Tensor
    copied: Any = None  # the CUDA event after which ``value`` is valid


@dataclass
class _Target:
    """An array that is being written."""

    array: zarr.Array[Any]
    steps: int  # per shard; 1 for a static site
    static: bool
    written: NDArray[np.bool_]  # (step, row of the unit)


class ActivationWriter:
    """Streams activations of one run into a store; ``Model.run(…, into=writer)`` within :meth:`unit`.

    Args:
        where: the store; created if it does not exist.
        run: name of the run in it.
        layout: contents of the run. An existing run is continued with its own batch and codec.
        memory: most bytes in use: a quarter for waiting values, a quarter for reusable buffers, half for shards that
            are being assembled.

    Raises:
        RunExistsError: the store has a run of this name with other contents, which the message names.
        StoreError: the store cannot be written.
    """

    def __init__(self, where: keys.Where, run: str, layout: Layout, *, memory: int = MEMORY) -> None:
        self._path = f"{ACTIVATIONS}/{check_run(run)}"
        codecs.check_round_bits(layout.round_bits)
        self._memory = memory
        self._name = str(keys.place(where))
        with explained(self._name):
            self._root = zarr.open_group(keys.place(where), mode="a", use_consolidated=False)
            captured = self._settle(run, layout)
            self.layout, self._marks = captured.layout, captured.group[COMMITTED]
            self._labels = labels.read(self._root, self._path)
            self._labelled: set[str] = set()  # groups of sites
            self.committed = {unit for unit, done in enumerate(captured.committed) if done}
        self._entries = {entry.name: entry for entry in self.layout.entries}
        self._position = {step: index for index, step in enumerate(self.layout.steps)}
        self._rows: range = range(0)
        self._targets: dict[str, _Target] = {}
        self._published = 0  # of them, shown to readers
        self._parts: dict[tuple[str, int, int, int], dict[int, _Item]] = {}  # shards put together, by step
        self._packer = Packer(self.layout.codec)
        self._buffers = Buffers(memory // 4)
        self._lock = threading.Lock()  # of targets and parts
        self._worker: Worker[_Item] = Worker(self._work, memory // 4, WRITERS)

    def __enter__(self) -> ActivationWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the background threads."""
        self._worker.close()
        self._packer.close()

    @property
    def static(self) -> frozenset[str]:
        """See :class:`~t2iprobe.core.cache.ActivationStream`."""
        return self.layout.static

    @property
    def todo(self) -> list[int]:
        """Units that are not committed."""
        return [unit for unit in range(self.layout.units) if unit not in self.committed]

    @contextmanager
    def unit(self, number: int) -> Iterator[range]:
        """Yield the rows of one unit to be run, and commit them at the end.

        Raises:
            StoreError: they cannot be written, or some of them are missing.
        """
        self._rows = self.layout.unit_rows(number)
        for target in self._targets.values():
            target.written[:] = False
        try:
            yield self._rows
            with explained(self._name):
                self._worker.wait()
                self._finish()
                if len(self._targets) > self._published:  # readers see the arrays before the unit counts
                    keys.publish(self._root)
                    self._published = len(self._targets)
                self._marks[number] = 1
        finally:
            with suppress(T2IProbeError, OSError):
                self._worker.abandon()
            self._parts.clear()
            self._rows = range(0)
        self.committed.add(number)

    def add(self, keys: Sequence[Key], rows: Sequence[int], value: Tensor) -> None:
        """See :class:`~t2iprobe.core.cache.Sink`."""
        for key, own in zip(keys, by_branch(value, keys), strict=True):
            self._add(key, rows, own)

    def _add(self, key: Key, rows: Sequence[int], value: Tensor) -> None:
        """Queue an activation if it belongs to the layout."""
        entry = self._entries.get(key.site)
        if entry is None or not self._takes(entry, key):
            return
        position = 0 if entry.static else self._position[key.step]
        for begin, end in _runs(rows, self._rows):
            item = _Item(key, position, rows[begin], *self._to_host(codecs.storable(value[begin:end])))
            with explained(self._name):
                self._worker.put(item, item.value.nbytes)

    def _takes(self, entry: SiteLayout, key: Key) -> bool:
        if not self.layout.has(key.branch):
            return False
        if entry.static:
            return key.step == self.layout.steps[0] and not key.evaluation
        return key.step in self._position

    def _to_host(self, value: Tensor) -> tuple[Tensor, Any]:
        """A copy on the CPU and the event to wait for; the CUDA stream is not blocked."""
        value = value.detach()
        host = self._buffers.take(value)
        return host, send(value, host)

    def discard(self, rows: Sequence[int]) -> None:
        """See :class:`~t2iprobe.core.cache.ActivationStream`; shards already written will be overwritten."""
        with explained(self._name):
            self._worker.wait()
        self._parts.clear()

    # the background threads

    def _work(self, item: _Item) -> None:
        if item.copied is not None:
            item.copied.synchronize()
        with self._lock:
            target = self._target(item)
            items = self._together(target, item)
        if items:
            self._write(target, items[0].position, items)

    def _together(self, target: _Target, item: _Item) -> list[_Item]:
        """All items of a shard, once ``item`` completes it."""
        if target.steps == 1:
            return [item]
        begin = item.position - item.position % target.steps
        where = (target.array.path, begin, item.first, len(item.value))
        part = self._parts.setdefault(where, {})
        part[item.position] = item
        whole = len(part) == min(target.steps, len(self.layout.steps) - begin)
        return _in_order(self._parts.pop(where)) if whole else []

    def _write(self, target: _Target, position: int, items: Sequence[_Item]) -> None:
        """Write consecutive steps of the same rows, or the value of a static site."""
        first, rows = items[0].first, len(items[0].value)
        local = first - self._rows[0]
        bits = self.layout.round_bits
        values = [codecs.rounded(codecs.to_numpy(item.value), item.value.dtype, bits) for item in items]
        self._packer.write(target.array, (first,) if target.static else (position, first), values)
        steps = slice(None) if target.static else slice(position, position + len(items))
        target.written[steps, local : local + rows] = True
        for item in items:
            self._buffers.give(item.value)

    def _target(self, item: _Item) -> _Target:
        name = array_name(item.key.branch, item.key.evaluation)
        path = f"{self._path}/{node(item.key.site)}/{name}"
        if path not in self._targets:
            entry = self._entries[item.key.site]
            dtype = str(item.value.dtype).removeprefix("torch.")
            self._targets[path] = self._open(path, entry, codecs.to_numpy(item.value), dtype)
        return self._targets[path]

    def _open(self, path: str, entry: SiteLayout, value: NDArray[Any], dtype: str) -> _Target:
        """The array at ``path``, created if it does not exist."""
        layout = self.layout
        group = path.rpartition("/")[0]
        if group not in self._labelled and f"{group}/{LABELS[-1]}" not in self._root:
            labels.copy(self._root, self._labels, group, static=entry.static)
        self._labelled.add(group)
        found: Any = self._root.get(path)
        if found is None:
            plan = grid(layout, entry, value.shape[1:], value[0].nbytes, 2 * len(layout.entries), self._memory // 2)
            shape = (layout.rows, *value.shape[1:])
            found = self._root.create_array(
                path,
                shape=shape if entry.static else (len(layout.steps), *shape),
                chunks=plan.chunk,
                shards=plan.shard,
                dtype=value.dtype,
                fill_value=codecs.DTYPES[getattr(torch, dtype)][1],
                compressors=layout.codec.compressors(value.dtype.itemsize),
                dimension_names=(*(() if entry.static else ("step",)), "batch", *entry.axes),
                chunk_key_encoding=keys.FLAT,
                attributes={"dtype": dtype, "coordinates": labels.COORDINATES},
            )
        found = found.with_config({"write_empty_chunks": True})
        self._check(found, value, dtype, path)
        steps, a_shard = (1, 1) if entry.static else (len(layout.steps), (found.shards or found.chunks)[0])
        return _Target(found, a_shard, entry.static, np.zeros((steps, layout.batch), np.bool_))

    def _check(self, array: zarr.Array[Any], value: NDArray[Any], dtype: str, path: str) -> None:
        """Check that new values have the dtype and shape of earlier ones."""
        axes = len(value.shape) - 1
        old = (array.attrs["dtype"], array.shape[len(array.shape) - axes :])
        if old != (dtype, value.shape[1:]):
            new = (dtype, value.shape[1:])
            raise RunExistsError(f"{path} in {self._name} has rows of dtype and shape {old}, the new ones have {new}")

    # the main thread

    def _finish(self) -> None:
        """Write the incomplete shards of the unit, and check that the unit is complete."""
        for (path, *_), part in self._parts.items():
            target = self._targets[path]
            for item in _in_order(part):
                self._write(target, item.position, [item])
        rows = len(self._rows)
        sites = {path.rpartition("/")[0].rpartition("/")[2] for path in self._targets}
        absent = [entry.name for entry in self.layout.entries if node(entry.name) not in sites]
        if absent:
            raise StoreError(f"{', '.join(absent[:3])} did not arrive; name these sites in cache=… of the run")
        for path, target in self._targets.items():
            whole: NDArray[np.bool_] = np.all(target.written[:, :rows], axis=1)
            name = path.rpartition("/")[2]
            if "-" in name or name == Branch.SKIP:  # not every step has a further evaluation, or skips layers
                steps = [step for step, there in zip(self.layout.steps, whole, strict=True) if there]
                if target.array.attrs.get("steps") != steps:
                    target.array.attrs["steps"] = steps
            elif not whole.all():
                step = self.layout.steps[int(np.argmin(whole))]
                raise StoreError(f"{path.removeprefix(self._path + '/')} did not arrive at step {step} for every row")

    def _settle(self, run: str, layout: Layout) -> labels.Captured:
        """The existing run, or a new one with this layout."""
        #: whether the run was there before, perhaps with leftovers of an interruption
        self.continued = self._path in self._root and "t2iprobe" in self._root[self._path].attrs
        if not self.continued:
            labels.write(self._root, self._path, layout)
        captured = labels.Captured.read(self._root, run)
        if differing := captured.layout.differences(layout):
            raise RunExistsError(
                f"{self._name} already has other activations under this name ({'; '.join(differing)}); "
                "choose another place or name, or remove them with t2iprobe store rm --activations"
            )
        return captured


def _runs(rows: Sequence[int], wanted: range) -> Iterator[tuple[int, int]]:
    """Runs of consecutive ``rows`` that are in ``wanted``, as positions."""
    begin = None
    for i, row in enumerate((*rows, -1)):
        follows = begin is not None and row == rows[i - 1] + 1 and row in wanted
        if begin is not None and not follows:
            yield begin, i
            begin = None
        if begin is None and row in wanted:
            begin = i


def _in_order(part: dict[int, _Item]) -> list[_Item]:
    return [part[position] for position in sorted(part)]
