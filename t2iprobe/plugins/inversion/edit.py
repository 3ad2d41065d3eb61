"""Samples latents again under another prompt, and varies them, to see what can still be changed (E12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analyze import OTHER, TRUE, other_noise
from t2iprobe.plugins.inversion.ledits import edited
from t2iprobe.plugins.inversion.paired import Between, over
from t2iprobe.plugins.inversion.resample import LevelSampler, WordJudge, more_diverse, pairwise, similar
from t2iprobe.plugins.inversion.trajectory_store import Array
from t2iprobe.report.figures import grid, wrapped
from t2iprobe.sampling import Pixels

LEDITS = "ledits++"


@dataclass(frozen=True)
class Edit:
    """How to edit.

    Args:
        arms: methods whose latents are edited.
        targets: the new prompts, one per row that is edited.
        variations: how many variations are made of each of the first ``varied`` latents, under its own prompt.
        varied: how many latents are varied.
        mix: a in sqrt(1 - a) x + sqrt(a) n.
        seed: seed of n.
        ledits: edit with LEDITS++ too.
    """

    arms: tuple[str, ...]
    targets: tuple[str, ...]
    variations: int = 8
    varied: int = 8
    mix: float = 0.1
    seed: int = 0
    ledits: bool = False

    @property
    def pictures(self) -> int:
        """How many pictures are made, not counting those of LEDITS++."""
        count = len(self.targets)
        varied = min(self.varied, count) * self.variations if self.variations > 1 else 0
        return (2 + len(self.arms)) * (count + varied)


def deranged(prompts: Sequence[str], rows: int) -> tuple[str, ...]:
    """For each of the first rows, the next prompt that differs from its own.

    Raises:
        ConfigError: there is only one prompt.
    """
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < 2:
        raise ConfigError("every picture of this run has the same prompt; give other ones with --prompt or --prompts")
    after = {one: distinct[(number + 1) % len(distinct)] for number, one in enumerate(distinct)}
    return tuple(after[prompt] for prompt in prompts[:rows])


def edit(
    sampler: LevelSampler, question: Edit, metrics: Sequence[Any], judge: WordJudge | None = None
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Numbers by starting point: each method's latents, true noise, and noise that has nothing to do with the pictures.

    Args:
        sampler: makes the pictures.
        question: what to edit.
        metrics: metrics that compare two pictures, or a picture with its (new) prompt.
        judge: reads the words in the pictures.
    """
    run, count = sampler.run, len(question.targets)
    own, prompts = run.pictures("source")[:count], run.prompts[:count]
    starts = {
        TRUE: run.noise,
        **{arm: run.latent(arm) for arm in question.arms},
        OTHER: other_noise(run, question.seed),
    }
    made = {what: sampler.pictures(states[:count], question.targets) for what, states in starts.items()}
    if question.ledits:
        made[LEDITS] = edited(sampler.model, own, prompts, question.targets, run.steps, question.seed)
    scored = {what: _scored(pictures, own, question.targets, metrics, judge) for what, pictures in made.items()}
    comparing = [metric for metric in metrics if metric.needs != "prompt"]
    rows = []
    for what, pictures in made.items():
        row: dict[str, Any] = {"what": what} | {name: over(values, prompts) for name, values in scored[what].items()}
        for name, values in similar(pictures, made[TRUE], comparing).items():
            row[f"{name}_to_noise"] = over(np.array(values), prompts)
        row["diversity"] = pairwise(pictures)
        if what != TRUE:
            gaps = {name: over(values - scored[TRUE][name], prompts) for name, values in scored[what].items()}
            row["beside_noise"] = gaps | {"diversity": more_diverse(pictures, made[TRUE], prompts)}
        if question.variations > 1 and what in starts:
            row["variations"] = _varied(sampler, question, starts[what])
        rows.append(row)
    found = {
        "rows_of_pictures": count,
        "methods": list(question.arms),
        "guidance": sampler.scale,
        "mix": question.mix,
        "variations": question.variations,
        "source_diversity": pairwise(own),
        "rows": rows,
    }
    return found, {"edit-pictures": _sheet(run.prompts, question.targets, own, made)}


def _scored(
    pictures: Pixels, own: Pixels, targets: Sequence[str], metrics: Sequence[Any], judge: WordJudge | None
) -> dict[str, Array]:
    """Every score, (row,), by name: against the picture before the edit, and against the new prompt."""
    scores: dict[str, list[float]] = {}
    images, originals = list(map(Image.fromarray, pictures)), list(map(Image.fromarray, own))
    for metric in sorted(metrics, key=lambda metric: metric.needs == "prompt"):
        suffix, references = ("target", targets) if metric.needs == "prompt" else ("source", originals)
        scores[f"{metric.name}_to_{suffix}"] = list(map(metric.score, images, references))
    if judge is not None:
        scores["read"] = judge.scores(pictures, targets)
    return {name: np.array(values) for name, values in scores.items()}


def _varied(sampler: LevelSampler, question: Edit, states: Array) -> Between | None:
    """How much the variations of one picture differ, as a mean with an interval over prompts."""
    rng, spreads = np.random.default_rng([question.seed, 2]), []
    for row in range(min(question.varied, len(question.targets))):
        fresh = rng.standard_normal((question.variations, *states.shape[1:]))
        mixed = np.sqrt(1 - question.mix) * states[row] + np.sqrt(question.mix) * fresh
        prompts = [sampler.run.prompts[row]] * question.variations
        spreads.append(pairwise(sampler.pictures(mixed.astype(np.float32), prompts)))
    return over(np.array(spreads), sampler.run.prompts[: len(spreads)])


def _sheet(
    prompts: Sequence[str], targets: Sequence[str], own: Any, made: dict[str, Any], count: int = 8
) -> Image.Image:
    rows = []
    for row in range(min(count, len(targets))):
        label = wrapped(prompts[row]) + "\n→ " + wrapped(targets[row])
        rows.append(
            (label, [Image.fromarray(own[row]), *(Image.fromarray(pictures[row]) for pictures in made.values())])
        )
    return grid(["image", *(f"from\n{what}" for what in made)], rows)
