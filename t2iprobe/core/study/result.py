"""What a study found, read from its folder without a model: :class:`StudyResult`."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from t2iprobe.core.contracts.localizer import Finding
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.pairs import Pair
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.files import understood
from t2iprobe.core.scoring import Bounds, Scale, Scored, Scores
from t2iprobe.core.statistics import Interval, interval
from t2iprobe.core.study.stored_results import RecordedResults, open_study
from t2iprobe.core.trials import Trial, source, target

if TYPE_CHECKING:
    from t2iprobe.core.model import Model


@dataclass(frozen=True, slots=True)
class Ranked:
    """A trial and its score.

    Args:
        trial: what was patched.
        score: mean over pairs with its 95 % interval over clusters of pairs; the interval is for this trial alone.
        pairs: number of pairs.
        clusters: number of different prompts among these pairs.
    """

    trial: Trial
    score: Interval
    pairs: int
    clusters: int


class Ranking(tuple[Ranked, ...]):
    """Trials in the order of their scores. It says which scored best, not which certainly have an effect."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites of all the trials, each once: what :func:`~t2iprobe.core.interventions.patch` takes."""
        return tuple(dict.fromkeys(name for one in self for name in one.trial.sites))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of all the trials, in order of rank."""
        return tuple(dict.fromkeys(layer for one in self for layer in one.trial.layers))


class StudyResult:
    """The data of a study, finished or under way; what Python users hold, :class:`~t2iprobe.Result`, also draws it.

    Args:
        path: folder of the study.
        manifest: see ``manifest.json``.
        recorded: answers of the study.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], recorded: RecordedResults) -> None:
        self.path, self.manifest, self._recorded = path, manifest, recorded

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The study in a folder.

        Raises:
            ConfigError: there is none, or it was killed before it had measured anything.
            DamagedError: a chunk of its scores is not what was written.
        """
        folder = Path(path)
        manifest = runfolder.read_manifest(folder)
        recorded = open_study(manifest.get("store") or folder / runfolder.STORE, manifest.get("scores"))
        found = cls(folder, manifest, recorded)
        with understood(str(folder / runfolder.MANIFEST)):
            found._check()
        return found

    def _check(self) -> None:
        """Read everything in the manifest that is read later, and compare it with the answers."""
        _ = self.finding, self.scale
        pairs = [Pair(*one) for one in self.manifest["settings"]["pairs"]]
        if not isinstance(self.manifest["settings"].get("localizer", {"name": ""})["name"], str):
            raise TypeError("the name of the method is no text")
        held_out = self.manifest["settings"].get("held_out") or ()
        if len(pairs) != len(self.pairs) or not all(0 <= one < len(pairs) for one in held_out):
            raise ValueError(f"{len(pairs)} pairs, where {len(self.pairs)} were measured")

    def __repr__(self) -> str:
        return f"Result({self.path}, {self.manifest.get('state', '')}, {self.answers} answers)"

    @property
    def finding(self) -> Finding | None:
        """What the localizer says; ``None`` until the study is done."""
        return finding_from_json(self.manifest["finding"]) if self.manifest.get("finding") else None

    @property
    def trials(self) -> list[Trial]:
        """All trials of the study; they are the rows of the scores."""
        return self._recorded.trials

    @property
    def pairs(self) -> list[str]:
        """Labels of the pairs; they are the columns of the scores."""
        return self._recorded.pairs

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Arrays (trial, pair) by the name of the score; NaN where a trial was not measured on a pair."""
        return {name: self._recorded.column(name) for name in self._recorded.names}

    @property
    def rank(self) -> str:
        """Name of the ranking score."""
        return self._recorded.names[0]

    @property
    def scale(self) -> Scale:
        """Scale of the ranking score."""
        return Scale.from_json(self.manifest["scale"])

    @property
    def answers(self) -> int:
        """Number of answers so far."""
        return int(self._recorded.done.sum())

    def ranked(self, k: int | None = None, by: str | None = None, *, lowest: bool | None = None) -> Ranking:
        """Trials in the order of a score, with 95 % intervals over the pairs on which each was measured.

        Something always ranks first: among layers that all do nothing, it is the luckiest. :attr:`finding` says which
        layers are certainly responsible.

        Args:
            k: how many to return; by default all.
            by: name of a score; ``ocr_f1`` means ``ocr_f1_target``. By default the ranking score.
            lowest: whether the lowest scores come first, as suits a similarity to the source's picture. This is the
                default for the ranking score if lower is nearer to the target.

        Raises:
            ConfigError: there is no such score.
        """
        name = self._score(by)
        column, bounds = self._recorded.column(name), self.scale.bounds if name == self.rank else None
        clusters = np.array(self.clusters)
        patched = [(row, trial) for row, trial in enumerate(self.trials) if trial.sites]
        known = [(trial, column[row]) for row, trial in patched if np.isfinite(column[row]).any()]
        down = name == self.rank and self.scale.direction == "lower" if lowest is None else lowest
        ordered = sorted(known, key=lambda one: _mean(one[1]) * (1 if down else -1))
        return Ranking(_ranked(trial, row, clusters, bounds) for trial, row in ordered[:k])

    def scored(self, trials: Sequence[Trial]) -> Scored:
        """Scores of the unpatched source and target and of some trials, on the pairs with results for all of them."""
        steps = trials[0].num_steps if trials else None
        labels = [one.label for one in (source(steps), target(steps), *trials)]
        found = {name: np.stack([self._of(name, label) for label in labels]) for name in self.scores}
        done = np.all([np.isfinite(values).all(0) for values in found.values()], axis=0)
        names = list(self.scores)
        return Scored(
            {name: values[:, done] for name, values in found.items()},
            names[0],
            names[1],
            self.scale,
            np.array(self.clusters)[done].tolist(),
        )

    def alike(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """The trials in groups that were measured on the same pairs, so that :meth:`scored` leaves none out."""
        groups: dict[tuple[int | None, bytes], list[Trial]] = {}
        for trial in trials:
            done = np.all([np.isfinite(self._of(name, trial.label)) for name in self.scores], axis=0)
            groups.setdefault((trial.num_steps, done.tobytes()), []).append(trial)
        return list(groups.values())

    def _of(self, name: str, label: str) -> Scores:
        """(pair,) one score of a trial; NaN where it was not measured."""
        row = self._recorded.row(label)
        return np.full(len(self.pairs), np.nan, np.float32) if row is None else self.scores[name][row]

    def unpatched(self) -> tuple[Interval, Interval] | None:
        """Scores of the unpatched source and target against the target, with 95 % intervals over clusters.

        ``None`` if no pair was asked yet.
        """
        scored = self.scored([])
        if not scored.clusters:
            return None
        low, high = scored.clustered(scored.rank)
        return interval(low, bounds=self.scale.bounds), interval(high, bounds=self.scale.bounds)

    @cached_property
    def clusters(self) -> list[int]:
        """For each pair, the number of its prompts: pairs with the same prompts are one observation."""
        prompts = [tuple(pair[:2]) for pair in self.manifest["settings"]["pairs"]]
        first: dict[tuple[Any, ...], int] = {}
        return [first.setdefault(one, number) for number, one in enumerate(prompts)]

    def _score(self, by: str | None) -> str:
        names = self._recorded.names
        if by is None:
            return self.rank
        if by not in names and f"{by}_target" not in names:
            raise ConfigError(f"no score {by!r} in {self.path}{near(by, names)}")
        return by if by in names else f"{by}_target"

    def measured(self, trial: Trial) -> list[int]:
        """Numbers of the pairs on which a trial was measured."""
        return np.flatnonzero(np.isfinite(self._of(self.rank, trial.label))).tolist()

    def images(self, trial: str | Trial, pair: int) -> Image | None:
        """The picture of a trial; ``None`` if it was not made.

        Raises:
            ConfigError: no such trial or pair.
            DamagedError: it is not what was written.
        """
        return next(self.pictures([trial if isinstance(trial, str) else trial.label], pair))

    def pictures(self, labels: Sequence[str], pair: int) -> Iterator[Image | None]:
        """The pictures of several trials on a pair, as :meth:`images`; faster than one by one.

        Raises:
            ConfigError: no such trial or pair.
            DamagedError: one is not what was written.
        """
        if wrong := next((label for label in labels if self._recorded.row(label) is None), None):
            raise ConfigError(f"no trial {wrong!r} in {self.path}{near(wrong, [one.label for one in self.trials])}")
        if not 0 <= pair < len(self.pairs):
            raise ConfigError(f"no pair {pair} in {self.path}; it has {len(self.pairs)}, numbered from 0")
        return self._recorded.images(labels, pair)


def _mean(row: Scores) -> float:
    """The mean as :func:`interval` gives it, over the pairs that are done."""
    return float(row[np.isfinite(row)].astype(np.float64)[:, None].mean(axis=0)[0])


def _ranked(trial: Trial, row: Scores, clusters: NDArray[np.int_], bounds: Bounds | None) -> Ranked:
    known = np.isfinite(row)
    own = clusters[known].tolist()
    return Ranked(trial, interval(row[known], own, bounds=bounds), len(own), len(set(own)))


def layers_found(run: Path, model: Model) -> tuple[int, ...]:
    """The layers that a finished localization found.

    Args:
        run: its folder.
        model: the model whose layers they are to be.

    Raises:
        ConfigError: the run belongs to another architecture, is not finished, or found nothing.
    """
    manifest = runfolder.read_manifest(run)
    settings = manifest["settings"]
    with understood(str(run / runfolder.MANIFEST)):
        layers = tuple(map(operator.index, manifest["finding"]["layers"])) if manifest.get("finding") else None
    adapter = manifest.get("adapter") or settings.get("adapter")
    if adapter != model.adapter.name:
        raise ConfigError(f"{run} is about a model of architecture {adapter}, this one is {model.adapter.name}")
    if layers is None and "localizer" not in settings:
        raise ConfigError(f"{run} is not a localization; give a run of `t2iprobe localize`, or name the layers")
    if layers is None:
        raise ConfigError(f"{run} is not finished; resume it with `t2iprobe study resume {run}`")
    if not layers:
        raise ConfigError(f"{run} found no layer that stands out; name the layers instead")
    if not 0 <= min(layers) <= max(layers) < model.n_layers:
        raise ConfigError(
            f"{run} found layer {max(layers)}, but {model.ref or 'this model'} has the layers "
            f"0-{model.n_layers - 1}: it is about another model"
        )
    return layers


def finding_as_json(finding: Finding) -> dict[str, Any]:
    """The finding with ``null`` for a layer that was not looked at, because JSON has no NaN."""
    cleaned: dict[str, Any] = json.loads(json.dumps(_without_nan(asdict(finding)), default=_plain))
    return cleaned


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """A NumPy value as Python's own type."""
    return _without_nan(value.tolist()) if isinstance(value, np.ndarray | np.generic) else str(value)


def finding_from_json(found: Mapping[str, Any]) -> Finding:
    """The inverse of :func:`finding_as_json`."""
    return Finding(
        tuple(map(operator.index, found["layers"])),
        tuple(math.nan if value is None else float(value) for value in found["ranking"]),
        str(found["sentence"]),
        None if found["response"] is None else Interval.of(found["response"]),
        found["details"],
    )
