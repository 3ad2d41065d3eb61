"""Answers that outlast the process: :class:`StoredResults` keeps them in Zarr, and :func:`open_study` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image
from zarr.abc.store import Store
from zarr.storage import LocalStore

from t2iprobe.core.contracts.adapter import Branch
from t2iprobe.core.errors import ConfigError, DamagedError, NonFiniteError
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.files import explained, understood
from t2iprobe.core.scope import Scope
from t2iprobe.core.scoring import Scores
from t2iprobe.core.store import keys
from t2iprobe.core.study import arrays
from t2iprobe.core.sweep import TrialResult
from t2iprobe.core.trials import Trial

PARTS = ("steps", "branches", "rows", "tokens", "heads")  # of a scope
Answer = tuple[TrialResult, tuple[Trial, ...]]  # for one pair, with its trials


class RecordedResults:
    """The contents of a store, for reading. Scores are in memory; pictures stay on the disk until they are read.

    Args:
        root: root group of the store.
        names: names of the scores, the ranking one first.

    Raises:
        DamagedError: a chunk of labels or scores is not what was written.
    """

    def __init__(self, root: zarr.Group, names: Sequence[str]) -> None:
        self._root, self.names = root, list(names)
        defined = arrays.member(root, "trial").attrs.get("trials", []) if "trial" in root else []
        self.trials = [trial_from_json(found) for found in defined]  # type: ignore[union-attr,arg-type]
        self._rows = {trial.label: row for row, trial in enumerate(self.trials)}
        self.pairs = [str(label) for label in arrays.read_all(arrays.member(root, "pair"))]
        self._open: dict[str, arrays.Array] = {}
        self._known: dict[str, Scores] = {name: self._load(name) for name in self.names}

    def _array(self, path: str) -> arrays.Array:
        """An array, opened once, because opening reads its metadata and takes longer than a small write."""
        if path not in self._open:
            self._open[path] = arrays.member(self._root, path)
        return self._open[path]

    def _load(self, name: str) -> Scores:
        """One score, (trial, pair); a killed process may have left fewer rows than there are trials."""
        known = np.full((len(self.trials), len(self.pairs)), np.nan, np.float32)
        found = arrays.read_scores(arrays.member(self._root, name), *known.shape)
        known[: len(found)] = found
        return known

    @property
    def done(self) -> NDArray[np.bool_]:
        """(trial, pair) whether an answer is committed; the ranking score is written last."""
        return ~np.isnan(self._known[self.names[0]])

    @property
    def pictures(self) -> int:
        """Number of pictures: one per answer, unless the evaluator makes none."""
        return int(self.done.sum()) if arrays.has(self._root, "images") else 0

    def row(self, label: str) -> int | None:
        """Row of a trial; ``None`` if it has none."""
        return self._rows.get(label)

    def column(self, name: str) -> Scores:
        """One score of all trials, (trial, pair); NaN where it is not done."""
        return np.where(self.done, self._known[name], np.float32(np.nan))

    def scores(self, label: str, pair: int) -> dict[str, float] | None:
        """See :class:`~t2iprobe.core.trial_runner.ResultCache`."""
        row = self._rows.get(label)
        if row is None or np.isnan(self._known[self.names[0]][row, pair]):
            return None
        return {name: float(self._known[name][row, pair]) for name in self.names}

    def image(self, label: str, pair: int) -> Image.Image | None:
        """See :class:`~t2iprobe.core.trial_runner.ResultCache`; ``None`` if it is not done or has no picture.

        Raises:
            DamagedError: it is not what was written.
        """
        if self.scores(label, pair) is None or not ("images" in self._open or arrays.has(self._root, "images")):
            return None
        array, row = arrays.pictures(self._array("images"), len(self.pairs)), self._rows[label]
        found = arrays.read(array, (row, pair))
        key = arrays.file_of(array, (row, pair))
        if not found.any() and not keys.exists(array.store, key):
            raise DamagedError(f"chunk {key} of {keys.name_of(array.store)} is missing; restore a copy of it")
        return Image.fromarray(np.asarray(found, np.uint8))


class StoredResults(RecordedResults):
    """Keeps answers in a store; only one process may do so at a time.

    An answer counts once its ranking score is there, which is written last, after the pictures and the other scores.
    The answers of a batch are written together when the last of them is in. So a run that resumes after being killed
    forms the same batches as one that was never killed.

    Args:
        where: the store, created if need be: a folder, a URL that fsspec knows, or one of Zarr's own stores.
        pairs: a label for each.
        names: of the scores, the ranking one first.
        question: what the study asks, in any form; a store with answers to another question is refused.

    Raises:
        RunExistsError: the store has answers to another question.
        StoreError: it cannot be written.
    """

    def __init__(
        self, where: Path | str | Store, pairs: Sequence[str], names: Sequence[str], question: str = ""
    ) -> None:
        self._name = str(where)
        self._pending: list[Answer] = []
        with explained(self._name):
            root = arrays.create(keys.place(where), pairs, names, question)
            _sweep_up(root.store)
            super().__init__(root, names)
            arrays.grow(root, [trial_as_json(trial) for trial in self.trials])

    def put(self, measured: TrialResult, trials: Sequence[Trial]) -> None:
        """See :class:`~t2iprobe.core.trial_runner.ResultCache`.

        Raises:
            StoreError: the disk is full or gone; what was committed stays.
            NonFiniteError: the ranking score is not a number, which on disk would mean "not done".
        """
        self._check(measured, trials)
        with explained(self._name):
            self._place(trials)
            self._pending.append((measured, tuple(trials)))
            if not measured.more:
                batch, self._pending = self._pending, []
                self._commit(batch)

    def _check(self, measured: TrialResult, trials: Sequence[Trial]) -> None:
        for trial in trials:
            value = measured.scores[trial.label][self.names[0]]
            if not np.isfinite(value):
                raise NonFiniteError(
                    f"{self.names[0]} of trial {trial.label!r}, pair {measured.pair}, is {value}; a ranking score has "
                    "to be a number, choose another metric"
                )

    def _place(self, trials: Sequence[Trial]) -> None:
        """Give new trials a row."""
        new = [trial for trial in trials if trial.label not in self._rows]
        if new:
            grown = [*self.trials, *new]
            arrays.grow(self._root, [trial_as_json(trial) for trial in grown])
            self._open.clear()
            self._rows |= {trial.label: row for row, trial in enumerate(new, len(self.trials))}
            self.trials += new
            empty = np.full((len(new), len(self.pairs)), np.nan, np.float32)
            self._known = {name: np.concatenate([known, empty]) for name, known in self._known.items()}
        for trial in trials:
            known = self.trials[self._rows[trial.label]]
            if trial_as_json(known) != trial_as_json(trial):
                raise ConfigError(
                    f"the study has a trial {trial.label!r} that patches something else ({known} there, {trial} now)"
                )

    def _commit(self, batch: Sequence[Answer]) -> None:
        for measured, trials in batch:
            self._write_images(measured, trials)
        rows = _span(self._rows[trial.label] for _, trials in batch for trial in trials)
        pairs = _span(measured.pair for measured, _ in batch)
        blocks = {name: self._block(name, batch, rows, pairs) for name in self.names}
        for name in reversed(self.names):
            self._array(name)[rows, pairs] = blocks[name]
        for name, block in blocks.items():
            self._known[name][rows, pairs] = block

    def _block(self, name: str, batch: Sequence[Answer], rows: slice, pairs: slice) -> Scores:
        """The known values of a rectangle with the new answers added, so that one write stores all or nothing."""
        block = self._known[name][rows, pairs].copy()
        for measured, trials in batch:
            for trial in trials:
                place = self._rows[trial.label] - rows.start, measured.pair - pairs.start
                block[place] = measured.scores[trial.label][name]
        return block

    def _write_images(self, measured: TrialResult, trials: Sequence[Trial]) -> None:
        labels = [trial.label for trial in trials if trial.label in measured.images]
        shown = {self._rows[label]: np.asarray(measured.images[label]) for label in labels}
        if shown and "images" not in self._open and not arrays.has(self._root, "images"):
            shape = next(iter(shown.values())).shape
            arrays.add_images(self._root, len(self.trials), len(self.pairs), shape, len(shown))
            keys.publish(self._root)
        rows = np.array(sorted(shown), int)
        for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if shown else ():  # runs without gaps
            pictures = np.stack([shown[row] for row in part.tolist()])
            self._array("images")[part[0] : part[-1] + 1, measured.pair] = pictures

    def memo(self, key: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """See :class:`~t2iprobe.core.trial_runner.ResultCache`."""
        name = quote(key, safe="")
        path = f"memo/{name}"
        if path in self._root and arrays.member(self._root, path).attrs.get("done"):
            return np.asarray(arrays.read_all(arrays.member(self._root, path)))
        value = np.asarray(compute())
        with explained(self._name):
            array = self._root.create_array(
                path,
                data=value,
                compressors=arrays.compressors(),
                dimension_names=tuple(f"{name}.{axis}" for axis in range(value.ndim)),
                overwrite=True,
                config={"write_empty_chunks": True},
            )
            array.attrs["done"] = True  # set after the values, to mark that they are complete
        return value


def _span(numbers: Iterable[int]) -> slice:
    """The slice from the first to the last."""
    listed = list(numbers)
    return slice(min(listed), max(listed) + 1)


def _sweep_up(store: Store) -> None:
    """Remove half-written files: Zarr writes next to the target and renames, so a killed process leaves such files."""
    if isinstance(store, LocalStore):
        for left in store.root.rglob("*.partial"):
            left.unlink(missing_ok=True)


def open_study(where: Path | str | Store, names: Sequence[str] | None = None) -> RecordedResults:
    """The answers in a store, for reading, even while the study is still running.

    Raises:
        ConfigError: there is none.
        DamagedError: labels or scores are not what was written.
    """
    if isinstance(where, Path):
        for file in [*where.glob("zarr.json"), *where.glob("*/zarr.json")]:
            check(file)
    root = keys.open_root(where)
    with understood(f"the metadata of {where}"):
        known = arrays.score_names(root)
        if not known:
            raise ConfigError(f"{where} holds no scores; only a study has some, such as a run of `t2iprobe patch`")
        return RecordedResults(root, names or known)


def trial_as_json(trial: Trial) -> dict[str, Any]:
    """Everything that defines a trial, because a label alone does not say what was patched."""
    scope = {part: getattr(trial.scope, part) for part in PARTS}
    return {
        "label": trial.label,
        "sites": list(trial.sites),
        "layers": list(trial.layers),
        "direction": trial.direction,
        "scope": {part: None if values is None else sorted(values) for part, values in scope.items()},
        "num_steps": trial.num_steps,
    }


def trial_from_json(found: Mapping[str, Any]) -> Trial:
    """The inverse of :func:`trial_as_json`."""
    scope = {part: None if values is None else tuple(values) for part, values in found["scope"].items()}
    if scope["branches"] is not None:
        scope["branches"] = tuple(map(Branch, scope["branches"]))
    return Trial(
        found["label"],
        tuple(found["sites"]),
        tuple(found["layers"]),
        found["direction"],
        Scope(**scope),
        found["num_steps"],
    )
