"""Puts a training's checkpoints through the three protocols; it can be resumed and holds few models in memory."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from t2iprobe.cli.console import notes
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.runs.files import write
from t2iprobe.core.runs.provenance import portable
from t2iprobe.plugins.inversion import plan, plots, session
from t2iprobe.plugins.inversion.analyze import AnalysisSettings, States
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import InvertTrainingOptions
from t2iprobe.plugins.inversion.resample import LevelSampler
from t2iprobe.plugins.inversion.training import (
    FINAL,
    OWN,
    REBUILT,
    Embed,
    Training,
    answer,
    sentence,
    series,
)
from t2iprobe.report.figures import grid
from t2iprobe.sampling import Pixels

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

SHOWN, COLUMNS = 6, 12  # most rows and checkpoints on the picture sheet


def trainings_of(options: InvertTrainingOptions, path: Path) -> list[Training]:
    """The trainings whose checkpoints are in the folders of ``checkpoints``; ``path`` is the run folder."""
    names = [f"{number}-{folder.name}" for number, folder in enumerate(options.checkpoints)]
    folders = zip(names, options.checkpoints, strict=True)
    return [Training(name, series(folder), path / name) for name, folder in folders]


def cost_plan(options: InvertTrainingOptions, plugins: Plugins) -> dict[str, Any]:
    """What all trainings take, as measured on the last checkpoint of the last one."""
    parts = []
    for training in trainings_of(options, Path()):
        own, count = options.each(training.checkpoints[training.steps[-1]]), len(training.checkpoints)
        model = session.loaded(own, plugins)
        study = session.study_of(own, model, plugins)
        question = study.question
        final = replace(study, question=replace(question, clean=(torch.empty(0), "of the last checkpoint")))
        parts += [
            plan.of_study(f"{training.name}: own pictures", study, count),
            plan.of_study(f"{training.name}: the last one's pictures", final, count),
            plan.of_pictures(f"{training.name}: sampled by the last one", count * question.rows, question),
        ]
    return plan.of_parts(parts, study)


def measure(training: Training, options: InvertTrainingOptions, plugins: Plugins) -> None:
    """Sample, invert and reconstruct with every checkpoint; the last goes first because all others get its pictures."""
    clean: tuple[torch.Tensor, str] | None = None
    for step, pipeline in reversed(training.checkpoints.items()):
        notes.print(f"{training.name}: step {step}")
        own = options.each(pipeline)
        model = session.loaded(own, plugins)
        study = session.study_of(own, model, plugins)
        run = session.run_study(study, training.folder(step, OWN), "sampling")
        if clean is None:
            clean = torch.from_numpy(run.clean), f"step {step} of {training.name}"
            sampler = LevelSampler(model, run, 1.0, options.batch_size)
        study = session.study_of(own, model, plugins, clean=clean)
        final = session.run_study(study, training.folder(step, FINAL), "inverting the last checkpoint's pictures")
        _rebuild(training.folder(step, REBUILT), final, sampler)


def _rebuild(path: Path, run: Inverted, sampler: LevelSampler) -> None:
    """Keep the pictures that the last checkpoint makes from latents that another one found."""
    if path.exists():
        return
    raw = io.BytesIO()
    np.save(raw, sampler.pictures(run.latent(run.arms[0]), run.prompts))
    write(path, raw.getvalue())


def sheet(training: Training) -> Image.Image:
    """Pictures from the same noise through the training."""
    runs, count = training.own(), len(training.checkpoints)
    shown = np.linspace(0, count - 1, min(count, COLUMNS)).astype(int).tolist()
    rows = [
        (runs[0].prompts[row], [runs[column].picture("source", row) for column in shown])
        for row in range(min(SHOWN, len(runs[0].rows)))
    ]
    return grid([f"step {training.steps[column]}" for column in shown], rows, cell=80)


def run(options: InvertTrainingOptions, path: Path, plugins: Plugins) -> dict[str, Any]:
    """Put every training through the protocols, in ``path``; what is complete is not measured again."""
    trainings = trainings_of(options, path)
    embed = None if options.embedder is None else embedder(options.embedder)
    settings = {
        "command": "invert training",
        "trainings": {training.name: training.steps for training in trainings},
        **options.model_dump(mode="json", include={"limit", "distinct", "seed", "num_steps", "method"}),
        "prompts": portable(str(options.prompts or options.prompt_set or "")),
    }
    facts = {"model": trainings[0].name}

    def finished() -> tuple[dict[str, Any], dict[str, Image.Image]]:
        numbers = answer(trainings, AnalysisSettings(groups=options.groups), embed)
        drawn = {"training": plots.training_plot(numbers), "training-pictures": sheet(trainings[0])}
        return numbers | {"embedder": options.embedder, "sentence": sentence(numbers)}, drawn

    parts = [partial(measure, training, options, plugins) for training in trainings]
    return session.sweep(path, "training", "training", settings, facts, parts, finished, plugins)


def embedder(ref: str) -> Embed:
    """Features of an image model that transformers can load (DINO, CLIP, a classifier): the CLS token, or CLIP's own.

    Args:
        ref: local folder or hub id, such as ``facebook/dino-vits16``.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    from transformers import AutoImageProcessor, AutoModel

    try:
        model = AutoModel.from_pretrained(ref).eval()
        processor = AutoImageProcessor.from_pretrained(ref, use_fast=False)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"the embedder {ref} cannot be loaded: {str(error).splitlines()[0]}") from None

    def embed(pictures: Pixels) -> States:
        with torch.no_grad():
            inputs = processor(images=list(pictures), return_tensors="pt")
            if hasattr(model, "get_image_features"):
                features = model.get_image_features(**inputs)
                return np.asarray(getattr(features, "pooler_output", features))
            return np.asarray(model(**inputs).last_hidden_state[:, 0])

    return embed
