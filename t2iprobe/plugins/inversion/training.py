"""Noise and pictures while a model is trained (E7): the same noise through a series of checkpoints.

There are three protocols. P1 compares each checkpoint's pictures from the fixed noise with those of the last. In P2
each checkpoint inverts its own pictures. In P3 each checkpoint inverts the last one's pictures, and both it and the
last one reconstruct them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis import alignment, assignment, geometry
from t2iprobe.plugins.inversion.analyze import AnalysisSettings, excess
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.sampling import Pixels

INDEX = "model_index.json"
OTHER = "_of_another"  # suffix for the value that a number has with another noise of the same prompt
NEIGHBOURS, RANK = 50, 10  # as in the paper
NEAREST = 0.1  # largest share of rows that count as neighbours: with 50 of 51, any two sets share all
SETTLED = 0.1  # share of the way from the first to the last value: a curve is flat once it stays this near its end

Numbers = NDArray[Any]
Embed = Callable[[Pixels], Numbers]


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline folder that a training saved.

    Args:
        step: training step; its position in the list if its name has no number.
        path: folder of the pipeline.
    """

    step: int
    path: Path


def series(folder: Path) -> list[Checkpoint]:
    """The checkpoints in a folder, in order of their steps.

    Args:
        folder: a folder with one pipeline folder per checkpoint, named by its step (``500``, ``step-500``,
            ``checkpoint_500``), or a training's folder that has such a folder as ``checkpoints/``.

    Raises:
        ConfigError: there are fewer than two, two have the same step, or one is not a pipeline.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"--checkpoints {folder} is no folder; `t2iprobe organisms train NAME --checkpoints 300` makes one"
        )
    place = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    found: dict[int, Checkpoint] = {}
    for inner in sorted(path for path in place.iterdir() if path.is_dir()):
        number = re.search(r"(\d+)$", inner.name)
        if number is None:
            continue
        pipeline = inner if (inner / INDEX).is_file() else inner / "pipeline"
        if not (pipeline / INDEX).is_file():
            raise ConfigError(
                f"the checkpoint {inner} has no {INDEX}, so it is no pipeline folder (not written whole?)"
            )
        if int(number[1]) in found:
            raise ConfigError(f"{inner} and {found[int(number[1])].path} are both of step {number[1]}")
        found[int(number[1])] = Checkpoint(int(number[1]), pipeline)
    if len(found) < 2:
        raise ConfigError(
            f"{place} has {len(found)} checkpoints, named by their step; at least 2 are needed "
            "(`t2iprobe organisms train NAME --checkpoints 300 --out FOLDER` keeps some)"
        )
    return [found[step] for step in sorted(found)]


def aligned(pictures: Pixels, last: Pixels, embed: Embed | None = None) -> dict[str, float]:
    """P1: how alike two sets of pictures from the same noise are."""
    first, second = (_unit(one) for one in (pictures, last))
    rank, near = min(RANK, len(first) - 1), neighbours(len(first))
    found = {
        "cka": _or_nan(alignment.cka, first, second),
        "svcca": _or_nan(alignment.svcca, first, second, rank),
        "knn": _or_nan(alignment.knn_overlap, first, second, near),
        "ssim": float(np.mean([similarity(one, other) for one, other in zip(pictures, last, strict=True)])),
        "psnr": psnr(pictures, last),
        "l2": float(np.linalg.norm(first - second, axis=1).mean()),
    }
    if embed is not None:
        found["embedding"] = float(alignment.embedding_cosine(embed(pictures), embed(last)).mean())
    return found


def neighbours(rows: int) -> int:
    """How many neighbours are looked at: the paper's 50, but no more than a tenth of the rows."""
    return max(1, min(NEIGHBOURS, int(NEAREST * (rows - 1))))


def another(prompts: Sequence[str]) -> list[int]:
    """For each row, another row of its prompt; rows that are alone with their prompt are exchanged among themselves.

    The value that a number has for two noises of one prompt is the baseline below which it means nothing: pictures of a
    prompt are alike, and features of few rows are always aligned.
    """
    listed: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        listed.setdefault(prompt, []).append(row)
    alone = [rows[0] for rows in listed.values() if len(rows) == 1]
    found = list(range(len(prompts)))
    for rows in (*(rows for rows in listed.values() if len(rows) > 1), alone):
        for place, row in enumerate(rows):
            found[row] = rows[(place + 1) % len(rows)]
    return found


def triangles(noise: Numbers, image: Numbers, latent: Numbers) -> dict[str, float]:
    """E3 in the form that the training's plots use: the angles of mean cosines, and mean sides."""
    try:
        found = geometry.triangle(noise, image, latent)
    except ConfigError:  # an untrained model may leave a corner where it is, so that two corners coincide
        return dict.fromkeys((*ANGLES, *SIDES), math.nan)
    angles = dict(zip(ANGLES, found.angles.tolist(), strict=True))
    return angles | dict(zip(SIDES, found.lengths.mean(0).tolist(), strict=True))


ANGLES = ("angle_noise", "angle_image", "angle_latent")
SIDES = ("image_latent", "noise_latent", "noise_image")


def own_pictures(run: Inverted, arm: str, options: AnalysisSettings) -> dict[str, float]:
    """P2: a checkpoint's own pictures, and what its inversion makes of them."""
    groups = options.groups or 1
    found = triangles(run.noise, run.clean, run.latent(arm))
    for measure in ("l2", "pearson"):
        one = assignment.assignment(run.noise, run.clean, measure, groups)
        found[f"noise_to_image_{measure}"] = one.noise_to_image
        found[f"image_to_noise_{measure}"] = one.image_to_noise
    found["excess"] = excess(run, run.latent(arm), options)
    found["noise_error"] = float(np.nanmean(run.score("noise_error", arm)))
    found["reconstruction"] = float(np.nanmean(run.score("reconstruction", arm)))
    return found


def final_pictures(run: Inverted, last: Inverted, arm: str, noise: Numbers, rebuilt: Pixels | None) -> dict[str, float]:
    """P3: the last checkpoint's pictures, inverted by another checkpoint.

    Args:
        run: a checkpoint's inversion of the last one's pictures.
        last: the last checkpoint's inversion of them.
        arm: the method.
        noise: the noise that the pictures were made from.
        rebuilt: pictures that the last checkpoint made from the latents.
    """
    latent, end = run.latent(arm), last.latent(arm)
    near, other = neighbours(len(latent)), end[another(run.prompts)]
    own, source = run.pictures(arm), run.pictures("source")
    found = triangles(noise, run.clean, latent)
    found |= {
        "latent_cka": _or_nan(alignment.cka, latent, end),
        "latent_knn": _or_nan(alignment.knn_overlap, latent, end, near),
        "latent_correlation": _correlation(latent, end),
        f"latent_cka{OTHER}": _or_nan(alignment.cka, latent, other),
        f"latent_knn{OTHER}": _or_nan(alignment.knn_overlap, latent, other, near),
        f"latent_correlation{OTHER}": _correlation(latent, other),
        "latent_l2": float(np.linalg.norm((latent - end).reshape(len(end), -1), axis=1).mean()),
        "ssim_by_itself": float(np.mean([similarity(one, other) for one, other in zip(own, source, strict=True)])),
        "psnr_by_itself": psnr(own, source),
    }
    if rebuilt is not None:
        pairs = zip(rebuilt, source, strict=True)
        found["ssim_by_last"] = float(np.mean([similarity(one, other) for one, other in pairs]))
        found["psnr_by_last"] = psnr(rebuilt, source)
    return found


def similarity(picture: Pixels, other: Pixels) -> float:
    """Structural similarity of two pictures (Wang et al. 2004), averaged over channels."""
    from skimage.metrics import structural_similarity

    side = min(11, picture.shape[0], picture.shape[1])
    options = {"win_size": side - 1 + side % 2, "channel_axis": -1, "data_range": 255}
    return float(structural_similarity(picture, other, **options))


def psnr(pictures: Pixels, others: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, averaged over pictures; capped at that of an error of half an 8-bit step."""
    gaps = (pictures.astype(np.float64) - others) ** 2
    errors = np.maximum(gaps.reshape(len(gaps), -1).mean(1), 0.25)
    return float((10 * np.log10(255**2 / errors)).mean())


def _unit(pictures: Pixels) -> Numbers:
    """The rows as (row, number), scaled to 0..1 over the whole set, as the authors do."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    low, high = flat.min(), flat.max()
    return (flat - low) / ((high - low) or 1)


def _correlation(values: Numbers, others: Numbers) -> float:
    """The mean Pearson correlation of whole rows."""
    first, second = (
        one.reshape(len(one), -1) - one.reshape(len(one), -1).mean(1, keepdims=True) for one in (values, others)
    )
    return float(alignment.embedding_cosine(first, second).mean())


def _or_nan(function: Callable[..., float], *arguments: Any) -> float:
    """The number, or NaN: an early checkpoint may make one picture from every noise, which leaves nothing to align."""
    try:
        return function(*arguments)
    except ConfigError:
        return math.nan


def saturation(
    steps: Sequence[int],
    values: Sequence[float | None],
    chance: Sequence[float | None] | None = None,
    settled: float = SETTLED,
) -> int | None:
    """The first step from which a curve stays near its end: within a share of its whole way, or within chance.

    Args:
        steps: steps of the checkpoints.
        values: values of the curve; the last is its end.
        chance: how far each value may be from the end by chance, where that is known.
        settled: the share.

    Returns:
        The step; ``None`` if the curve has fewer than two values, or does not go anywhere.
    """
    chances = [one if one is not None and one == one else 0.0 for one in chance or [0.0] * len(steps)]
    every = zip(steps, values, chances, strict=True)
    known = [(step, value, most) for step, value, most in every if value is not None and value == value]
    if len(known) < 2:
        return None
    end = known[-1][1]
    way = max(value for _, value, _ in known) - min(value for _, value, _ in known)
    late = [number for number, (_, value, most) in enumerate(known) if abs(value - end) > max(settled * way, most)]
    return known[late[-1] + 1][0] if late else known[0][0]


def pooled(curves: Sequence[Mapping[str, Sequence[float | None]]]) -> dict[str, dict[str, list[float | None]]]:
    """The curves of several trainings as mean and sample standard deviation (none for one training), by name."""
    found = {}
    for name in curves[0]:
        table = np.array([[math.nan if value is None else value for value in one[name]] for one in curves])
        spread = table.std(0, ddof=1) if len(table) > 1 else np.full(table.shape[1], math.nan)
        found[name] = {"mean": listed(table.mean(0)), "std": listed(spread)}
    return found


def listed(values: Numbers) -> list[float | None]:
    """The values for JSON, which has no NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]


def embedder(ref: str) -> Embed:
    """Features of an image model that transformers can load (DINO, CLIP, a classifier): the CLS token, or CLIP's own.

    Args:
        ref: local folder or hub id, such as ``facebook/dino-vits16``.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    from transformers import AutoImageProcessor, AutoModel

    try:
        model, processor = (
            AutoModel.from_pretrained(ref).eval(),
            AutoImageProcessor.from_pretrained(ref, use_fast=False),
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"--embedder {ref} cannot be loaded: {str(error).splitlines()[0]}") from None

    def embed(pictures: Pixels) -> Numbers:
        with torch.no_grad():
            inputs = processor(images=list(pictures), return_tensors="pt")
            if hasattr(model, "get_image_features"):
                found = model.get_image_features(**inputs)
                return np.asarray(getattr(found, "pooler_output", found))
            return np.asarray(model(**inputs).last_hidden_state[:, 0])

    return embed
