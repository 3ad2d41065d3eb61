"""A finished inversion, read from its folder without a model: :class:`Inverted`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.runs import runfolder
from t2iprobe.core.study.stored_results import RecordedResults, open_study
from t2iprobe.plugins.inversion.sources import Source
from t2iprobe.plugins.inversion.trajectory_store import SAMPLE, Array, TrajectoryStore, phase

Scores = NDArray[np.float32]
KIND = "inversion"


class Inverted:
    """The contents of a run of ``t2iprobe invert run``.

    Args:
        path: the run's folder.
        rows: how many of the finished rows to read; ``None`` for all.
    """

    def __init__(self, path: str | Path, rows: int | None = None) -> None:
        self.path = Path(path)
        self.manifest = runfolder.read_manifest(self.path)
        if self.manifest.get("kind") != KIND:
            raise ConfigError(f"{path} is no inversion; `t2iprobe invert run --out FOLDER` makes one")
        self._recorded: RecordedResults = open_study(self.path / runfolder.STORE, self.manifest["scores"])
        known = [label for label in self.arms if self._recorded.row(label) is not None]
        done = np.all([self._recorded.done[self._row(label)] for label in known], axis=0) if known else np.zeros(0)
        self.rows: list[int] = [int(row) for row in np.flatnonzero(done)][:rows]
        if len(known) != len(self.arms) or not self.rows:
            raise ConfigError(f"{path} has no finished rows of every method yet; start the same run again")
        self._store = TrajectoryStore(self.path, self.rows)

    def __repr__(self) -> str:
        return (
            f"Inverted({self.path}, {', '.join(self.arms)}, {len(self.rows)} rows of {len(self.settings['prompts'])})"
        )

    def part(self, rows: Sequence[int]) -> Inverted:
        """The same run with only some of its rows, given by their position among these rows."""
        found = copy.copy(self)
        for kept in ("noise", "clean"):
            found.__dict__.pop(kept, None)
        found.rows = [self.rows[row] for row in rows]
        found._store = TrajectoryStore(self.path, found.rows)
        return found

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decided the result."""
        found: Mapping[str, Any] = self.manifest["settings"]
        return found

    @property
    def arms(self) -> list[str]:
        """The labels of the methods."""
        return list(self.settings["arms"])

    @property
    def sampled(self) -> bool:
        """Whether the model made the pictures, so that their true noise is known."""
        return self.settings["pictures"] is None and self.settings["clean"] is None

    @property
    def steps(self) -> int:
        """The number of sampling steps."""
        return int(self.settings["num_steps"])

    @property
    def trajectory(self) -> bool:
        """Whether states and predictions were kept."""
        return bool(self.settings["trajectory"])

    @property
    def prompts(self) -> list[str]:
        """One a row."""
        return [self.settings["prompts"][row] for row in self.rows]

    @property
    def seeds(self) -> list[int]:
        """One a row."""
        return [self.settings["seeds"][row] for row in self.rows]

    @cached_property
    def noise(self) -> Array:
        """(row, ...): the noise that the pictures were made from, or noise drawn to stand beside given pictures."""
        return self._store.noise(SAMPLE)

    @cached_property
    def clean(self) -> Array:
        """(row, ...): the pictures in the space in which the model denoises."""
        return self._store.clean(SAMPLE)

    def latent(self, arm: str) -> Array:
        """(row, ...): the latents that a method found."""
        return self._store.noise(phase("invert", self.arm(arm)))

    def rebuilt(self, arm: str) -> Array:
        """(row, ...): what sampling from a method's latents gave."""
        return self._store.clean(phase("reconstruct", self.arm(arm)))

    def state(self, arm: str | None, step: int) -> Array:
        """(row, ...): the state at a level of the inversion by ``arm``, or of the sampling if it is ``None``."""
        return self._store.state(self._walk(arm), step)

    def output(self, arm: str | None, step: int) -> Array:
        """(row, ...): the prediction at a step of the inversion by ``arm``, or of the sampling if it is ``None``."""
        return self._store.output(self._walk(arm), step)

    def score(self, name: str, arm: str) -> Scores:
        """A score, (row,)."""
        values: Scores = self._recorded.column(name)[self._row(arm)][self.rows]
        return values

    @property
    def score_names(self) -> list[str]:
        """The names of the scores."""
        return list(self._recorded.names)

    def picture(self, label: str, row: int) -> Image.Image:
        """The picture of a finished row: that of ``source``, or a method's reconstruction."""
        found = self._recorded.image(label, self.rows[row])
        assert found is not None
        return found

    def pictures(self, label: str) -> NDArray[np.uint8]:
        """(row, y, x, 3): the pictures of all rows."""
        return np.stack([np.asarray(self.picture(label, row)) for row in range(len(self.rows))])

    def arm(self, label: str) -> str:
        """The label, after checking it.

        Raises:
            ConfigError: there is no such method in the run.
        """
        choice(f"method of {self.path}", label, dict.fromkeys(self.arms))
        return label

    def source(self) -> Source:
        """The prompts and seeds of the finished rows."""
        return Source(tuple(self.prompts), tuple(self.seeds))

    def _walk(self, arm: str | None) -> str:
        return SAMPLE if arm is None else phase("invert", self.arm(arm))

    def _row(self, label: str) -> int:
        found = self._recorded.row(label)
        assert found is not None
        return found
