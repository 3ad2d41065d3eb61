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

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.files import understood
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.study.stored_results import open_study
from t2iprobe.plugins.inversion.trajectory_store import SAMPLE, Array, phase

Scores = NDArray[np.float32]
KIND = "inversion"
TYPES = {"num_steps": int, "arms": list, "trajectory": bool, "prompts": list, "seeds": list, "guidance": int | float}


class Inverted:
    """The contents of a run of ``t2iprobe invert run``.

    Args:
        path: the run's folder.
        rows: how many of the finished rows to read; ``None`` for all.

    Attributes:
        path: the run's folder.
        manifest: its manifest.
        settings: the settings that decided the result.
        arms: the labels of the methods.
        steps: number of sampling steps.
        trajectory: whether states and predictions were kept.
        sampled: whether the model made the pictures, so that their true noise is known.
        score_names: names of the scores.
        rows: numbers of the finished rows that are read.

    Raises:
        ConfigError: the folder is not an inversion, or has no row yet that every method has finished.
    """

    def __init__(self, path: str | Path, rows: int | None = None) -> None:
        self.path = Path(path)
        self.manifest = runfolder.read_manifest(self.path)
        if self.manifest.get("kind") != KIND:
            raise ConfigError(f"{path} is not an inversion; `t2iprobe invert run --out FOLDER` makes one")
        with understood(str(self.path / runfolder.MANIFEST)):
            self._open(self.manifest["settings"], path, rows)

    def _open(self, settings: Mapping[str, Any], path: str | Path, rows: int | None) -> None:
        for name, right in TYPES.items():
            if not isinstance(settings[name], right):
                raise TypeError(f"{name} is {settings[name]!r:.40}")
        self.settings, self.steps = settings, int(settings["num_steps"])
        self.arms: list[str] = list(settings["arms"])
        self.trajectory = bool(settings["trajectory"])
        self.sampled: bool = settings["pictures"] is None and settings["clean"] is None
        self._stores: dict[str, ActivationStore] = {}
        self._recorded = open_study(self.path / runfolder.STORE, self.manifest["scores"])
        self.score_names = list(self._recorded.names)
        numbers = [self._recorded.row(arm) for arm in self.arms]
        done = self._recorded.done[[number for number in numbers if number is not None]].all(0)
        self.rows: list[int] = np.flatnonzero(done)[:rows].tolist()
        if None in numbers or not self.rows:
            raise ConfigError(f"{path} has no row yet that every method has finished; start the same run again")

    def __repr__(self) -> str:
        rows = f"{len(self.rows)} rows of {len(self.settings['prompts'])}"
        return f"Inverted({self.path}, {', '.join(self.arms)}, {rows})"

    def part(self, rows: Sequence[int]) -> Inverted:
        """The same run with only some of its rows, given by their position among these rows."""
        part = copy.copy(self)
        for cached in ("noise", "clean"):
            part.__dict__.pop(cached, None)
        part.rows = [self.rows[row] for row in rows]
        return part

    @property
    def prompts(self) -> list[str]:
        """One per row."""
        return [self.settings["prompts"][row] for row in self.rows]

    @property
    def seeds(self) -> list[int]:
        """One per row."""
        return [self.settings["seeds"][row] for row in self.rows]

    @cached_property
    def noise(self) -> Array:
        """(row, ...): the noise that the pictures were made from, or other noise where pictures were given."""
        return self._read(SAMPLE, "noise")

    @cached_property
    def clean(self) -> Array:
        """(row, ...): the pictures in the space in which the model denoises."""
        return self._read(SAMPLE, "clean")

    def latent(self, arm: str) -> Array:
        """(row, ...): the latents that a method found."""
        return self._read(phase("invert", self.arm(arm)), "noise")

    def rebuilt(self, arm: str) -> Array:
        """(row, ...): the reconstructions, sampled from a method's latents."""
        return self._read(phase("reconstruct", self.arm(arm)), "clean")

    def state(self, arm: str | None, step: int) -> Array:
        """(row, ...): the state at a level of the inversion by ``arm``, or of the sampling if it is ``None``."""
        name = SAMPLE if arm is None else phase("invert", self.arm(arm))
        return self._read(name, "clean") if step == self.steps else self._read(name, "state", step)

    def output(self, arm: str | None, step: int) -> Array:
        """(row, ...): the prediction at a step of the inversion by ``arm``, or of the sampling if it is ``None``."""
        return self._read(SAMPLE if arm is None else phase("invert", self.arm(arm)), "output", step)

    def score(self, name: str, arm: str) -> Scores:
        """A score, (row,)."""
        values: Scores = self._recorded.column(name)[self._recorded.row(arm)][self.rows]
        return values

    def picture(self, label: str, row: int) -> Image.Image:
        """The picture of a finished row: that of ``source``, or a method's reconstruction."""
        picture = self._recorded.image(label, self.rows[row])
        assert picture is not None
        return picture

    def pictures(self, label: str) -> NDArray[np.uint8]:
        """(row, y, x, 3): the pictures of all rows."""
        return np.stack([np.asarray(self.picture(label, row)) for row in range(len(self.rows))])

    def arm(self, label: str) -> str:
        """The label, after checking it.

        Raises:
            ConfigError: there is no such method in the run.
        """
        return choice(f"method of {self.path}", label, {arm: arm for arm in self.arms})

    def chosen(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The labels, after checking them; all of the run's if none is given."""
        return tuple(map(self.arm, labels)) or tuple(self.arms)

    def _read(self, name: str, entry: str, step: int = 0) -> Array:
        if name not in self._stores:
            self._stores[name] = ActivationStore(self.path, name)
        values: Array = self._stores[name].fetch(entry, step, Branch.COND, self.rows).float().numpy()
        return values
