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

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.runs.checksums import check
from t2iprobe.plugins.inversion.analysis import alignment, assignment, geometry
from t2iprobe.plugins.inversion.analysis.intervals import Rows, half_width, jackknife, left_out
from t2iprobe.plugins.inversion.analyze import AnalysisSettings, States, excess, plain_values
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.sampling import Pixels

OWN, FINAL, REBUILT = "own", "final", "rebuilt-by-last.npy"
LEFT_OUT, FEWEST = 8, 3  # groups of prompts that are left out in turn; fewest rows that must remain
INDEX = "model_index.json"
OTHER = "_of_another"  # suffix for the value that a number has with another noise of the same prompt
NEIGHBOURS, RANK = 50, 10  # as in the paper
NEAREST = 0.1  # largest share of rows that count as neighbours: with 50 of 51, any two sets share all
SETTLED = 0.1  # share of a curve's range: a curve is flat once it stays this near its last value
ANGLES = ("angle_noise", "angle_image", "angle_latent")
SIDES = ("image_latent", "noise_latent", "noise_image")

Curves = Mapping[str, Sequence[float | None]]  # one value per checkpoint, by name
Embed = Callable[[Pixels], States]


@dataclass
class Training:
    """One training's checkpoints.

    Args:
        name: name of the training, such as its seed.
        checkpoints: the pipeline folders that the training saved, by their step, in order.
        out: folder that its runs go to.
    """

    name: str
    checkpoints: dict[int, Path]
    out: Path

    def folder(self, step: int, what: str) -> Path:
        """The folder of one run."""
        return self.out / f"{step:08d}" / what

    def own(self) -> list[Inverted]:
        """Every checkpoint's finished inversion of its own pictures."""
        return [Inverted(self.folder(step, OWN)) for step in self.steps]

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints."""
        return list(self.checkpoints)


def series(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by their step and in order.

    Args:
        folder: a folder with one pipeline folder per checkpoint, named by its step (``500``, ``step-500``,
            ``checkpoint_500``), or a training's folder that has such a folder as ``checkpoints/``.

    Raises:
        ConfigError: there are fewer than two, two have the same step, or one is not a pipeline.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is not a folder of checkpoints; `t2iprobe organisms train NAME --checkpoints 300` makes one"
        )
    place = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    pipelines: dict[int, Path] = {}
    for inner in sorted(path for path in place.iterdir() if path.is_dir()):
        number = re.search(r"(\d+)$", inner.name)
        if number is None:
            continue
        pipeline = inner if (inner / INDEX).is_file() else inner / "pipeline"
        if not (pipeline / INDEX).is_file():
            raise ConfigError(
                f"the checkpoint {inner} has no {INDEX}, so it is not a whole pipeline; save it again, or remove it"
            )
        step = int(number[1])
        if step in pipelines:
            raise ConfigError(f"{inner} and {pipelines[step]} are both from step {step}; rename or remove one")
        pipelines[step] = pipeline
    if len(pipelines) < 2:
        raise ConfigError(
            f"{place} has {len(pipelines)} checkpoints, named by their step; at least 2 are needed "
            "(`t2iprobe organisms train NAME --checkpoints 300 --out FOLDER` saves some)"
        )
    return dict(sorted(pipelines.items()))


def aligned(pictures: Pixels, last: Pixels, embed: Embed | None = None) -> dict[str, float]:
    """P1: how alike two sets of pictures from the same noise are."""
    first, second = _unit(pictures), _unit(last)
    numbers = {
        "cka": _or_nan(alignment.cka, first, second),
        "svcca": _or_nan(alignment.svcca, first, second, min(RANK, len(first) - 1)),
        "knn": _or_nan(alignment.knn_overlap, first, second, neighbours(len(first))),
        "ssim": similarity(pictures, last),
        "psnr": psnr(pictures, last),
        "l2": _distance(first, second),
    }
    if embed is not None:
        numbers["embedding"] = float(alignment.embedding_cosine(embed(pictures), embed(last)).mean())
    return numbers


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
    others = list(range(len(prompts)))
    for rows in (*(rows for rows in listed.values() if len(rows) > 1), alone):
        for place, row in enumerate(rows):
            others[row] = rows[(place + 1) % len(rows)]
    return others


def triangles(noise: States, image: States, latent: States) -> dict[str, float]:
    """E3 in the form that the training's plots use: the angles of mean cosines, and mean sides."""
    try:
        triangle = geometry.triangle(noise, image, latent)
    except ConfigError:  # an untrained model may leave a corner where it is, so that two corners coincide
        return dict.fromkeys((*ANGLES, *SIDES), math.nan)
    return dict(zip((*ANGLES, *SIDES), [*triangle.angles.tolist(), *triangle.lengths.mean(0).tolist()], strict=True))


def own_pictures(run: Inverted, arm: str, options: AnalysisSettings) -> dict[str, float]:
    """P2: a checkpoint's own pictures, and what its inversion makes of them."""
    latent = run.latent(arm)
    numbers = triangles(run.noise, run.clean, latent)
    for measure in ("l2", "pearson"):
        shares = assignment.assignment(run.noise, run.clean, measure, options.groups or 1)
        numbers[f"noise_to_image_{measure}"] = shares.noise_to_image
        numbers[f"image_to_noise_{measure}"] = shares.image_to_noise
    numbers["excess"] = excess(run, latent, options)
    return numbers | {name: float(np.nanmean(run.score(name, arm))) for name in ("noise_error", "reconstruction")}


def final_pictures(run: Inverted, last: Inverted, arm: str, noise: States, rebuilt: Pixels) -> dict[str, float]:
    """P3: the last checkpoint's pictures, inverted by another checkpoint.

    Args:
        run: a checkpoint's inversion of the last one's pictures.
        last: the last checkpoint's inversion of them.
        arm: the method.
        noise: the noise that the pictures were made from.
        rebuilt: pictures that the last checkpoint made from the latents.
    """
    latent, end = run.latent(arm), last.latent(arm)
    numbers = triangles(noise, run.clean, latent)
    for suffix, target in (("", end), (OTHER, end[another(run.prompts)])):
        numbers |= {
            f"latent_cka{suffix}": _or_nan(alignment.cka, latent, target),
            f"latent_knn{suffix}": _or_nan(alignment.knn_overlap, latent, target, neighbours(len(latent))),
            f"latent_correlation{suffix}": _correlation(latent, target),
        }
    numbers["latent_l2"] = _distance(latent, end)
    source = run.pictures("source")
    for name, pictures in (("itself", run.pictures(arm)), ("last", rebuilt)):
        numbers |= {f"ssim_by_{name}": similarity(pictures, source), f"psnr_by_{name}": psnr(pictures, source)}
    return numbers


def similarity(pictures: Pixels, others: Pixels) -> float:
    """Structural similarity (Wang et al. 2004), averaged over channels and pictures."""
    from skimage.metrics import structural_similarity

    side = min(11, *pictures.shape[1:3])
    options = {"win_size": side - 1 + side % 2, "channel_axis": -1, "data_range": 255}
    pairs = zip(pictures, others, strict=True)
    return float(np.mean([float(structural_similarity(*pair, **options)) for pair in pairs]))


def psnr(pictures: Pixels, others: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, averaged over pictures; capped at that of an error of half an 8-bit step."""
    errors = np.maximum(_flat((pictures.astype(np.float64) - others) ** 2).mean(1), 0.25)
    return float((10 * np.log10(255**2 / errors)).mean())


def _flat(values: States) -> States:
    return values.reshape(len(values), -1)


def _distance(values: States, others: States) -> float:
    """The mean L2 distance of whole rows."""
    return float(np.linalg.norm(_flat(values - others), axis=1).mean())


def _unit(pictures: Pixels) -> States:
    """The rows as (row, number), scaled to 0..1 over the whole set, as the authors do."""
    flat = _flat(pictures).astype(np.float64)
    low, high = flat.min(), flat.max()
    return (flat - low) / ((high - low) or 1)


def _correlation(values: States, others: States) -> float:
    """The mean Pearson correlation of whole rows."""
    centred = (rows - rows.mean(1, keepdims=True) for rows in map(_flat, (values, others)))
    return float(alignment.embedding_cosine(*centred).mean())


def _or_nan(function: Callable[..., float], *arguments: Any) -> float:
    """The number, or NaN: an early checkpoint may make one picture from every noise, which leaves nothing to align."""
    try:
        return function(*arguments)
    except ConfigError:
        return math.nan


def saturation(
    steps: Sequence[int], values: Sequence[float | None], chance: Sequence[float | None] | None = None
) -> int | None:
    """The first step from which a curve stays near its last value: within a share of its range, or within chance.

    Args:
        steps: steps of the checkpoints.
        values: values of the curve; unknown ones are left out.
        chance: how far each value may be from the last by chance, where that is known.

    Returns:
        The step; ``None`` if fewer than two values are known.
    """
    curve = np.array(values, np.float64)
    known = np.flatnonzero(np.isfinite(curve))
    if len(known) < 2:
        return None
    allowed = np.nan_to_num(np.array(chance or [0.0] * len(steps), np.float64))
    off = np.abs(curve - curve[known[-1]]) > np.maximum(SETTLED * np.ptp(curve[known]), allowed)
    late = np.flatnonzero(off[known])  # comparisons with NaN are false
    return steps[known[late[-1] + 1 if len(late) else 0]]


def last_of_itself(name: str) -> bool:
    """Whether the last value of a curve compares the last checkpoint with itself, which says nothing."""
    return name.startswith(("p1.", "p3.latent"))


def pooled(curves: Sequence[Curves]) -> dict[str, Curves]:
    """The curves of several trainings as mean and sample standard deviation (none for one training), by name."""
    means: dict[str, Curves] = {}
    for name in curves[0]:
        table = np.array([each[name] for each in curves], np.float64)
        spread = table.std(0, ddof=1) if len(table) > 1 else np.full(table.shape[1], math.nan)
        means[name] = {"mean": plain_values(table.mean(0)), "std": plain_values(spread)}
    return means


def curves_of(numbers: Mapping[str, Any]) -> Mapping[str, Curves]:
    """The pooled curves of an answer; if trainings have different steps, those of the first one."""
    return numbers["pooled"] or pooled([next(iter(numbers["curves"].values()))])


def curves(training: Training, options: AnalysisSettings, embed: Embed | None = None) -> Curves:
    """Every number of the three protocols, as a curve with one value per checkpoint."""
    last, end = (Inverted(training.folder(training.steps[-1], what)) for what in (OWN, FINAL))
    finished, arm = last.pictures("source"), last.arms[0]
    others = finished[another(last.prompts)]
    lists: dict[str, list[float | None]] = {}
    for step in training.steps:
        own, final = (Inverted(training.folder(step, what)) for what in (OWN, FINAL))
        rebuilt: Pixels = np.load(check(training.folder(step, REBUILT)))
        pictures = own.pictures("source")
        baseline = {f"{name}{OTHER}": value for name, value in aligned(pictures, others, embed).items()}
        numbers = {
            "p1": aligned(pictures, finished, embed) | baseline,
            "p2": own_pictures(own, arm, options),
            "p3": final_pictures(final, end, arm, last.noise, rebuilt),
        }
        for protocol, values in numbers.items():
            for name, value in values.items():
                lists.setdefault(f"{protocol}.{name}", []).append(plain_values(value))
    return lists


def chances(training: Training, options: AnalysisSettings) -> Curves:
    """How far a P2 curve may be from its end by chance, all checkpoints at once: half of 95 % intervals over prompts.

    All checkpoints have the same noise, so a curve's differences from its end vary less than its values. Empty if there
    are too few pictures.
    """
    runs = training.own()
    if any(len(kept) < FEWEST for kept in left_out(runs[0].prompts, LEFT_OUT)):
        return {}
    names = list(own_pictures(runs[0], runs[0].arms[0], options))

    def off(rows: Rows) -> States:
        each = [own_pictures(run.part(rows.tolist()), run.arms[0], options) for run in runs]
        table = np.array([[numbers[name] for numbers in each] for name in names])
        return table - table[:, -1:]

    _, error, count = jackknife(off, runs[0].prompts, LEFT_OUT)
    half = half_width(error, count, max(1, len(runs) - 1))
    return {f"p2.{name}": plain_values(widths) for name, widths in zip(names, half, strict=True)}


def answer(trainings: Sequence[Training], options: AnalysisSettings, embed: Embed | None = None) -> dict[str, Any]:
    """The curves of every training, the pooled curves, and the step at which each saturates.

    The last checkpoint's agreement with itself says nothing, so the curves of P1, and those that compare latents with
    the last checkpoint's, end one checkpoint earlier.
    """
    first = trainings[0]
    each = {training.name: curves(training, options, embed) for training in trainings}
    known = chances(first, options) if len(trainings) == 1 else {}
    steps = first.steps
    together = pooled(list(each.values())) if all(training.steps == steps for training in trainings) else {}
    settled = {}
    for name, values in (together or pooled([each[first.name]])).items():
        count = len(steps) - last_of_itself(name)
        chance = known.get(name, [None] * len(steps))
        settled[name] = saturation(steps[:count], values["mean"][:count], chance[:count])
    run = Inverted(first.folder(steps[-1], OWN))
    return {
        "trainings": {training.name: training.steps for training in trainings},
        "steps": steps,
        "rows": len(run.rows),
        "num_steps": run.steps,
        "method": run.arms[0],
        "chance_knn": neighbours(len(run.rows)) / max(1, len(run.rows) - 1),
        "chance_assignment": 1 / len(run.rows),
        "curves": each,
        "pooled": together,
        "saturation": settled,
        "chances": known,
    }


def sentence(numbers: dict[str, Any]) -> str:
    """The answer in one sentence: what settles when."""
    names = {
        "p1.ssim": "SSIM to the last pictures", "p1.cka": "CKA", "p2.angle_latent": "the angle at the latent",
        "p2.image_to_noise_l2": "assignment",
    }  # fmt: skip
    parts = [f"{what} {_settling(numbers['saturation'].get(name), numbers['steps'])}" for name, what in names.items()]
    return f"Through {numbers['steps'][-1]} steps and {counted(numbers['rows'], 'picture')}: {', '.join(parts)}."


def _settling(settled: int | None, steps: Sequence[int]) -> str:
    if settled is None:
        return "has too few values"
    if settled == steps[0]:
        return f"is flat from the first checkpoint (step {settled})"
    return "changes until the end" if settled == steps[-1] else f"is flat from step {settled}"
