"""Answers that outlast the process: :class:`StoredResults` keeps them in Zarr, and :func:`open_study` reads them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image
from zarr.abc.store import Store
from zarr.storage import LocalStore

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError, DamagedError, NonFiniteError
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.files import explained, understood
from t2iprobe.core.scope import Scope
from t2iprobe.core.scoring import Scores
from t2iprobe.core.store import keys
from t2iprobe.core.study import arrays
from t2iprobe.core.trials import Trial

if TYPE_CHECKING:
    from t2iprobe.core.sweep import TrialResult

PARTS = ("steps", "branches", "rows", "tokens", "heads")  # of a scope
Answer = tuple["TrialResult", tuple[Trial, ...]]  # for one pair, with its trials


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
        """See :class:`~t2iprobe.core.trial_runner.ResultCache` and :meth:`images`."""
        return next(self.images([label], pair))

    def images(self, labels: Sequence[str], pair: int) -> Iterator[Image.Image | None]:
        """The pictures of trials on a pair; ``None`` for one that is not done or has no picture.

        Those that lie in one file are read together; no more are in memory.

        Raises:
            DamagedError: one is not what was written.
        """
        rows = [None if self.scores(label, pair) is None else self._rows[label] for label in labels]
        if {*rows} <= {None} or not ("images" in self._open or arrays.has(self._root, "images")):
            yield from [None] * len(labels)
            return
        array = arrays.pictures(self._array("images"), len(self.pairs))
        together = (array.shards or array.chunks)[0]
        for file, listed in itertools.groupby(rows, lambda row: None if row is None else row // together):
            if file is None:
                yield from (None for _ in listed)
                continue
            wanted = [row for row in listed if row is not None]
            first = min(wanted)
            found = arrays.read(array, (slice(first, max(wanted) + 1), pair))
            key = arrays.file_of(array, (first, pair))
            if not found.any() and not keys.exists(array.store, key):
                raise DamagedError(f"chunk {key} of {keys.name_of(array.store)} is missing; restore a copy of it")
            yield from (Image.fromarray(found[row - first]) for row in wanted)


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
            if known != trial and trial_as_json(known) != trial_as_json(trial):
                raise ConfigError(
                    f"the study has a trial {trial.label!r} that patches something else ({known} there, {trial} now)"
                )

    def _commit(self, batch: Sequence[Answer]) -> None:
        store, done = self._root.store, self.done
        pictures = [self._write_images(measured, trials, done[:, measured.pair]) for measured, trials in batch]
        keys.put(store, {key: file for files in pictures for key, file in files.items()})
        answers = [
            (self._rows[trial.label], measured.pair, measured.scores[trial.label])
            for measured, trials in batch
            for trial in trials
        ]
        rows, pairs = (np.array([answer[axis] for answer in answers]) for axis in (0, 1))
        new = {name: np.array([scores[name] for *_, scores in answers], np.float32) for name in self.names}
        files = [arrays.score_files(self._array(n), self._known[n], rows, pairs, new[n]) for n in self.names]
        ranking, *others = files
        keys.put(store, {key: file for one in others for key, file in one.items()})
        keys.put(store, ranking)
        for name, values in new.items():
            self._known[name][rows, pairs] = values

    def _write_images(self, measured: TrialResult, trials: Sequence[Trial], done: NDArray[np.bool_]) -> dict[str, Any]:
        """Write pictures that share files with others; gives the files of all the others, which are whole."""
        labels = [trial.label for trial in trials if trial.label in measured.images]
        shown = {self._rows[label]: measured.images[label] for label in labels}
        if not shown:
            return {}
        if "images" not in self._open and not arrays.has(self._root, "images"):
            shape = np.asarray(shown[self._rows[labels[0]]]).shape
            arrays.add_images(self._root, len(self.trials), len(self.pairs), shape, len(shown))
            keys.publish(self._root)
        array = self._array("images")
        files, left = arrays.picture_files(array, measured.pair, shown, np.flatnonzero(done).tolist())
        rows = np.array(left, int)
        for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if left else ():  # runs without gaps
            array[part[0] : part[-1] + 1, measured.pair] = np.stack([np.asarray(shown[row]) for row in part.tolist()])
        return files

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
