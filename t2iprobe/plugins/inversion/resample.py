"""Pictures sampled from changed states: what interpolation and editing have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.contracts.inverter import Stepwise
from t2iprobe.core.contracts.metric import score_of
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.runs import provenance
from t2iprobe.plugins.inversion.analysis.intervals import Between, Rows, spanned
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.run import OnRows, in_parts
from t2iprobe.plugins.inversion.trajectory_store import Array
from t2iprobe.sampling import Guided, Pixels, decoded, model_denoiser, used_schedule

#: how well each picture shows the word that its prompt asks for
Reading = Callable[[Pixels, Sequence[str]], list[float]]


@dataclass
class LevelSampler:
    """Samples with DDIM or Euler on the levels of a run, whichever method found the states.

    Args:
        model: the run's model.
        run: the finished inversion.
        guidance: guidance scale of sampling; default the run's.
        batch_size: rows that are sampled at once; default as many as fit.
        on_rows: called with the number of rows of each denoiser call.
    """

    model: Model
    run: Inverted
    guidance: float | None = None
    batch_size: int | None = None
    on_rows: OnRows = lambda rows: None

    def __post_init__(self) -> None:
        check_model(self.model, self.run)
        settings = self.run.settings
        size = {side: value for side, value in settings["generation"].items() if side in ("height", "width")}
        self.schedule = used_schedule(self.model, self.run.steps, size)
        self.scale: float = settings["guidance"] if self.guidance is None else self.guidance
        # many calls in turn have the same prompts, whose embeddings are kept until the next
        self._denoiser = lru_cache(maxsize=1)(self._prompted)

    def _prompted(self, prompts: tuple[str, ...]) -> Guided:
        return model_denoiser(self.model, prompts, self.scale, self.on_rows)

    def pictures(self, states: Array, prompts: Sequence[str]) -> Pixels:
        """Pictures (row, y, x, 3) sampled from noise or latents, each with its prompt."""

        def make(part: slice) -> Pixels:
            noise = torch.from_numpy(np.ascontiguousarray(states[part], np.float32))
            denoiser = self._denoiser(tuple(prompts[part]))
            with torch.no_grad():
                sampled = Stepwise().sample(denoiser, self.schedule, noise.to(self.model.device))
            return decoded(self.model, sampled.clean)

        size = self.model.at_once(self.run.settings["generation"], self.batch_size).rows
        return np.concatenate(in_parts(self.model.room, ("resample", *states.shape[1:]), len(states), make, size))


def check_model(model: Model, run: Inverted) -> None:
    """Refuse a model that is not the run's.

    Raises:
        ConfigError: the weights differ.
    """
    weights = provenance.facts(model, {"num_steps": run.steps})["decides"]["weights"]
    if weights != run.settings["weights"]:
        raise ConfigError(
            f"{run.path} was made with other weights ({run.manifest.get('model') or 'unknown'}) than those of "
            f"{model.ref or 'this model'}; name the model of the run"
        )


def gaps(pictures: Pixels) -> NDArray[np.float64]:
    """The mean absolute difference between any two pictures, (row, row), in 0..1."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32) / 255
    return np.stack([np.abs(flat - picture).mean(1, dtype=np.float64) for picture in flat])


def pairwise(pictures: Pixels) -> float:
    """How different pictures are: the mean absolute difference between two of them, in 0..1."""
    return _mean_gap(gaps(pictures))


def _mean_gap(table: NDArray[np.float64]) -> float:
    """The mean of :func:`gaps` over all pairs."""
    count = len(table)
    return float(table.sum() / (count * (count - 1))) if count > 1 else float("nan")


def more_diverse(pictures: Pixels, others: Pixels, prompts: Sequence[Hashable]) -> Between:
    """How much more diverse pictures are than others of the same rows, with a 95 % interval over prompts."""
    first, second = gaps(pictures), gaps(others)

    def difference(rows: Rows) -> float:
        pairs = np.ix_(rows, rows)
        return _mean_gap(first[pairs]) - _mean_gap(second[pairs])

    return spanned(difference, prompts)


def similar(pictures: Pixels, others: Pixels, metrics: Sequence[Any]) -> dict[str, list[float]]:
    """Each metric's scores of pictures against others, picture by picture."""
    pairs = [tuple(map(Image.fromarray, pair)) for pair in zip(pictures, others, strict=True)]
    return {metric.name: [score_of(metric, *pair) for pair in pairs] for metric in metrics}
