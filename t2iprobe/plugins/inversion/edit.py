"""Samples latents again under another prompt, and varies them, to see what can still be changed (E12)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from t2iprobe.core.contracts.metric import score_of
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.intervals import Between, over
from t2iprobe.plugins.inversion.analyze import OTHER, TRUE, other_noise
from t2iprobe.plugins.inversion.ledits import edited
from t2iprobe.plugins.inversion.options import InvertEditOptions
from t2iprobe.plugins.inversion.resample import LevelSampler, Reading, more_diverse, pairwise, similar
from t2iprobe.plugins.inversion.trajectory_store import Array
from t2iprobe.report.figures import grid, wrapped
from t2iprobe.sampling import Pixels

LEDITS = "ledits++"
VARIED = 8  # how many latents are varied, under their own prompts


def pictures(options: InvertEditOptions, count: int, arms: Sequence[str]) -> int:
    """How many pictures are made of ``count`` latents of each of these methods, not counting those of LEDITS++."""
    varied = min(VARIED, count) * options.variations if options.variations > 1 else 0
    return (2 + len(arms)) * (count + varied)


def deranged(prompts: Sequence[str], rows: int) -> tuple[str, ...]:
    """For each of the first rows, the next prompt that differs from its own.

    Raises:
        ConfigError: there is only one prompt.
    """
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < 2:
        raise ConfigError(
            "every picture of this run has the same prompt, so there is none to swap it with; give new prompts"
        )
    after = dict(zip(distinct, distinct[1:] + distinct[:1], strict=True))
    return tuple(after[prompt] for prompt in prompts[:rows])


def edit(
    sampler: LevelSampler,
    options: InvertEditOptions,
    arms: Sequence[str],
    targets: Sequence[str],
    metrics: Sequence[Any],
    read: Reading | None = None,
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Numbers by starting point: each method's latents, true noise, and noise that has nothing to do with the pictures.

    Args:
        sampler: makes the pictures.
        options: how to edit.
        arms: methods whose latents are edited.
        targets: the new prompts, one for each row that is edited.
        metrics: metrics that compare two pictures, or a picture with its (new) prompt.
        read: reads the words in the pictures.
    """
    run, count = sampler.run, len(targets)
    own, prompts = run.pictures("source")[:count], run.prompts[:count]
    starts = {TRUE: run.noise, **{arm: run.latent(arm) for arm in arms}, OTHER: other_noise(run, options.seed)}
    made = {what: sampler.pictures(states[:count], targets) for what, states in starts.items()}
    if options.ledits:
        made[LEDITS] = edited(sampler.model, own, prompts, targets, run.steps, options.seed)
    scored = {what: _scored(pixels, own, targets, metrics, read) for what, pixels in made.items()}
    comparing = [metric for metric in metrics if metric.needs != "prompt"]
    rows = []
    for what, pixels in made.items():
        row: dict[str, Any] = {"what": what} | {name: over(values, prompts) for name, values in scored[what].items()}
        for name, values in similar(pixels, made[TRUE], comparing).items():
            row[f"{name}_to_noise"] = over(np.array(values), prompts)
        row["diversity"] = pairwise(pixels)
        if what != TRUE:
            gaps = {name: over(values - scored[TRUE][name], prompts) for name, values in scored[what].items()}
            row["beside_noise"] = gaps | {"diversity": more_diverse(pixels, made[TRUE], prompts)}
        if options.variations > 1 and what in starts:
            row["variations"] = _varied(sampler, options, starts[what][:count])
        rows.append(row)
    numbers = {
        "rows_of_pictures": count,
        "methods": list(arms),
        "guidance": sampler.scale,
        "mix": options.mix,
        "variations": options.variations,
        "source_diversity": pairwise(own),
        "rows": rows,
    }
    return numbers, {"edit-pictures": _sheet(run.prompts, targets, own, made)}


def _scored(
    pixels: Pixels, own: Pixels, targets: Sequence[str], metrics: Sequence[Any], read: Reading | None
) -> dict[str, Array]:
    """Every score, (row,), by name: against the picture before the edit, and against the new prompt."""
    scores: dict[str, list[float]] = {}
    images, originals = list(map(Image.fromarray, pixels)), list(map(Image.fromarray, own))
    for metric in sorted(metrics, key=lambda metric: metric.needs == "prompt"):
        suffix, references = ("target", targets) if metric.needs == "prompt" else ("source", originals)
        scores[f"{metric.name}_to_{suffix}"] = list(map(partial(score_of, metric), images, references))
    if read is not None:
        scores["read"] = read(pixels, targets)
    return {name: np.array(values) for name, values in scores.items()}


def _varied(sampler: LevelSampler, options: InvertEditOptions, states: Array) -> Between | None:
    """How much the variations of one picture differ, as a mean with an interval over prompts."""
    rng, spreads, prompts = np.random.default_rng([options.seed, 2]), [], sampler.run.prompts
    for state, prompt in zip(states[:VARIED], prompts, strict=False):
        fresh = rng.standard_normal((options.variations, *state.shape))
        mixed = np.sqrt(1 - options.mix) * state + np.sqrt(options.mix) * fresh
        spreads.append(pairwise(sampler.pictures(mixed.astype(np.float32), [prompt] * options.variations)))
    return over(np.array(spreads), prompts[: len(spreads)])


def _sheet(
    prompts: Sequence[str], targets: Sequence[str], own: Pixels, made: dict[str, Pixels], count: int = 8
) -> Image.Image:
    columns = {"image": own, **{f"from\n{what}": pixels for what, pixels in made.items()}}
    rows = [
        (f"{wrapped(prompt)}\n→ {wrapped(target)}", [Image.fromarray(pixels[row]) for pixels in columns.values()])
        for row, (prompt, target) in enumerate(zip(prompts, targets[:count], strict=False))
    ]
    return grid(list(columns), rows)
