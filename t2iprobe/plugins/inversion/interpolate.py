"""Pictures between two others: latents compared with true noise as end points (E11)."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.contracts.metric import Aggregate
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis import geometry
from t2iprobe.plugins.inversion.analysis.intervals import over
from t2iprobe.plugins.inversion.analyze import TRUE
from t2iprobe.plugins.inversion.options import InterpolateOptions
from t2iprobe.plugins.inversion.resample import LevelSampler, Reading, more_diverse, pairwise, similar
from t2iprobe.plugins.inversion.trajectory_store import Array
from t2iprobe.report.figures import grid, wrapped
from t2iprobe.sampling import Pixels

COMPONENTS = 16  # how many of the pictures' principal components the Fréchet distance uses
SWAPS = 499  # random swaps that are drawn to judge a difference of two such distances


def pictures(options: InterpolateOptions, prompts: Sequence[str], arms: Sequence[str]) -> int:
    """How many pictures are made for a run with these prompts, between latents of these methods.

    Raises:
        ConfigError: no prompt has two rows.
    """
    return len(couples(prompts, options.limit)) * options.points * (1 + len(arms))


def couples(prompts: Sequence[str], count: int) -> list[tuple[int, int]]:
    """Disjoint pairs of rows with the same prompt, taking the prompts in turn.

    Raises:
        ConfigError: no prompt has two rows.
    """
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    by_prompt = (zip(same[::2], same[1::2], strict=False) for same in rows.values())
    pairs = [pair for turn in itertools.zip_longest(*by_prompt) for pair in turn if pair is not None]
    if not pairs:
        raise ConfigError(
            "interpolation needs two pictures with the same prompt, and every picture of this run has its own; "
            "run `t2iprobe invert run` with --distinct below --limit / 2"
        )
    return pairs[:count]


def between(first: Array, second: Array, share: float, way: str) -> Array:
    """The states between two sets: by ``slerp`` or ``lerp`` of whole vectors, or by ``lerp-norm``.

    The last keeps the length between those of the ends.
    """
    if way == "slerp":
        return geometry.slerp(first, second, share).astype(np.float32)
    return geometry.lerp(first, second, share, keep_norm=way == "lerp-norm").astype(np.float32)


def interpolate(
    sampler: LevelSampler,
    options: InterpolateOptions,
    arms: Sequence[str],
    metrics: Sequence[Any],
    read: Reading | None = None,
    aggregates: Sequence[Aggregate] = (),
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Numbers for each point of the path, and sheets of pictures.

    Args:
        sampler: makes the pictures.
        options: how to interpolate.
        arms: methods whose latents are used.
        metrics: metrics that compare two pictures.
        read: reads the words in the pictures.
        aggregates: metrics that compare two sets of pictures.
    """
    run, shares = sampler.run, np.linspace(0, 1, options.points).tolist()
    pairs = couples(run.prompts, options.limit)
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    prompts, own = [run.prompts[row] for row in first], run.pictures("source")
    images, frechet = list(map(Image.fromarray, own)), Frechet(own)
    ends = {TRUE: run.noise, **{arm: run.latent(arm) for arm in arms}}
    made = {
        what: [
            sampler.pictures(between(states[first], states[second], share, options.way), prompts) for share in shares
        ]
        for what, states in ends.items()
    }
    legible = {
        what: [None if read is None else np.array(read(pixels, prompts)) for pixels in along]
        for what, along in made.items()
    }
    rows = []
    for what, along in made.items():
        points = zip(shares, [None, *along[:-1]], along, made[TRUE], legible[what], legible[TRUE], strict=True)
        for share, last, pixels, noise, shown, shown_by_noise in points:
            row: dict[str, Any] = {
                "what": what,
                "share": share,
                "frechet": frechet.to(pixels),
                "diversity": pairwise(pixels),
                "contrast": float(pixels.reshape(len(pixels), -1).std(1).mean() / 255),
                "step": None if last is None else float(np.abs(pixels - last.astype(np.float32)).mean() / 255),
            }
            morph = (1 - share) * own[first] + share * own[second]
            for end, others in (("noise", noise), ("morph", morph.round().astype(np.uint8))):
                scores = similar(pixels, others, metrics)
                row |= {f"{name}_to_{end}": float(np.mean(values)) for name, values in scores.items()}
            if shown is not None:
                row["read"] = float(shown.mean())
            if what != TRUE:
                row["diversity_beside_noise"] = more_diverse(pixels, noise, prompts)
                row["frechet_beside_noise"] = frechet.beside(pixels, noise, prompts)
                if shown is not None:
                    row["read_beside_noise"] = over(shown - shown_by_noise, prompts)
            row |= {metric.name: metric.score(list(map(Image.fromarray, pixels)), images) for metric in aggregates}
            rows.append(row)
    numbers = {
        "pairs": len(pairs),
        "way": options.way,
        "methods": list(arms),
        "rows": rows,
        "reference": {"diversity": pairwise(own[: len(pairs)]), "pictures": len(own)},
    }
    return numbers, {"interpolate-pictures": _sheet(made, shares, prompts)}


def _sheet(
    made: dict[str, list[Pixels]], shares: Sequence[float], prompts: Sequence[str], count: int = 4
) -> Image.Image:
    rows = [
        (f"{what}\n{wrapped(prompt)}", [Image.fromarray(pixels[pair]) for pixels in along])
        for pair, prompt in enumerate(prompts[:count])
        for what, along in made.items()
    ]
    return grid([f"{share:.2f}" for share in shares], rows)


class Frechet:
    """Fréchet distance of two sets of pictures, as normals in the principal components of the reference's pixels.

    It uses no network, so it is not an FID: it sees layout, colour and contrast, not what a picture shows.

    Args:
        reference: (row, y, x, 3).
        components: how many components of the reference are used.
    """

    def __init__(self, reference: Pixels, components: int = COMPONENTS) -> None:
        flat = self._flat(reference)
        self.centre = flat.mean(0)
        _, sizes, directions = np.linalg.svd(flat - self.centre, full_matrices=False)
        self.directions = directions[: min(components, len(flat) - 1)]
        #: along its own components the reference's covariance is diagonal
        self.deviations = sizes[: len(self.directions)] / (len(flat) - 1) ** 0.5

    def to(self, pictures: Pixels) -> float:
        """The distance of a set, at least 0. Small sets are biased upward, so compare only sets of the same size."""
        return float(self._distance(self._seen(pictures)))

    def beside(self, pictures: Pixels, others: Pixels, clusters: Sequence[Hashable]) -> tuple[float, float]:
        """How much further away one set is than another of the same rows, and how often chance alone would do as much.

        If it does not matter which set a picture is in, swapping pictures between the two, cluster by cluster, changes
        nothing: the chance is the share of random swaps with a difference at least as large.

        Args:
            pictures, others: the two sets; the same row of both is compared.
            clusters: a label for each row, the same for rows that do not vary independently.
        """
        first, second = self._seen(pictures), self._seen(others)
        number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
        drawn = np.random.default_rng(0).random((SWAPS, len(number))) < 0.5
        swapped = drawn[:, [number[label] for label in clusters], None]
        sets = (np.where(swapped, *pair) for pair in ((second, first), (first, second)))
        by_chance = np.subtract(*map(self._distance, sets))
        gap = float(self._distance(first) - self._distance(second))
        return gap, float((1 + (np.abs(by_chance) >= abs(gap) - 1e-12).sum()) / (1 + SWAPS))

    def _distance(self, seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance of sets (..., row, component), |m|^2 + tr(S + R - 2 (R^1/2 S R^1/2)^1/2).

        R is the reference's covariance.
        """
        mean = seen.mean(-2)
        centred = seen - mean[..., None, :]
        spread = np.swapaxes(centred, -1, -2) @ centred / (seen.shape[-2] - 1)
        inner = self.deviations[:, None] * spread * self.deviations
        roots = np.sqrt(np.linalg.eigvalsh(inner).clip(0)).sum(-1)
        traces = np.trace(spread, axis1=-2, axis2=-1) + (self.deviations**2).sum()
        return np.asarray((mean**2).sum(-1) + traces - 2 * roots)

    def _seen(self, pictures: Pixels) -> NDArray[np.float64]:
        """The pictures as (row, component), with the reference's mean at 0."""
        return np.asarray((self._flat(pictures) - self.centre) @ self.directions.T)

    @staticmethod
    def _flat(pictures: Pixels) -> Any:
        return pictures.reshape(len(pictures), -1).astype(np.float64) / 255
