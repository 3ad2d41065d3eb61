"""Puts a training's checkpoints through the three protocols; it can be resumed and holds few models in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from t2iprobe.cli.console import notes
from t2iprobe.core.model import Model
from t2iprobe.core.names import counted
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.engine import RunDefinition, RunSession
from t2iprobe.core.runs.files import write
from t2iprobe.core.runs.provenance import portable
from t2iprobe.plugins.inversion import curves as curves_of
from t2iprobe.plugins.inversion.analysis.jackknife import Rows, half_width, jackknife, left_out
from t2iprobe.plugins.inversion.analyze import AnalysisSettings
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import InvertOptions
from t2iprobe.plugins.inversion.resample import LevelSampler
from t2iprobe.plugins.inversion.session import (
    keep,
    loaded,
    question_of,
    run_study,
    study_of,
    sweep,
)
from t2iprobe.plugins.inversion.training import (
    OTHER,
    Checkpoint,
    Embed,
    Numbers,
    aligned,
    another,
    final_pictures,
    listed,
    neighbours,
    own_pictures,
    pooled,
    saturation,
)
from t2iprobe.report.figures import grid
from t2iprobe.sampling import Pixels

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

OWN, FINAL, REBUILT = "own", "final", "rebuilt-by-last.npy"
SHOWN = 6
LEFT_OUT, FEWEST = 8, 3  # groups of prompts that are left out in turn; fewest rows that must remain
Curves = dict[str, list[float | None]]


@dataclass
class Training:
    """One training's checkpoints.

    Args:
        name: name of the training, such as its seed.
        checkpoints: its checkpoints, in order.
        out: folder that its runs go to.
    """

    name: str
    checkpoints: Sequence[Checkpoint]
    out: Path

    def folder(self, checkpoint: Checkpoint, what: str) -> Path:
        """The folder of one run."""
        return self.out / f"{checkpoint.step:08d}" / what

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints."""
        return [one.step for one in self.checkpoints]

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint, where the training ends."""
        return self.checkpoints[-1]


def measure(training: Training, asked: InvertOptions, plugins: Plugins, say: Callable[[str], None]) -> None:
    """Sample, invert and reconstruct with every checkpoint; the last goes first because all others get its pictures."""
    asked = _of(training.last, asked)
    last = loaded(asked, plugins)
    finished = _own(training, training.last, last, asked, plugins)
    clean = torch.from_numpy(finished.clean)
    sampler = LevelSampler(last, finished, 1.0, asked.batch_size)
    for checkpoint in reversed(training.checkpoints):
        say(f"{training.name}: step {checkpoint.step}")
        model = last if checkpoint is training.last else _loaded(checkpoint, asked, plugins)
        _own(training, checkpoint, model, asked, plugins)
        run = _final(training, checkpoint, model, clean, asked, plugins)
        _rebuild(training.folder(checkpoint, REBUILT), run, sampler)


def _loaded(checkpoint: Checkpoint, asked: InvertOptions, plugins: Plugins) -> Model:
    return loaded(_of(checkpoint, asked), plugins)


def _of(checkpoint: Checkpoint, asked: InvertOptions) -> InvertOptions:
    """The same options for a checkpoint."""
    return asked.model_copy(update={"model": str(checkpoint.path), "arch": None})


def _own(training: Training, checkpoint: Checkpoint, model: Model, asked: InvertOptions, plugins: Plugins) -> Inverted:
    question = question_of(asked, model, plugins)
    return run_study(asked, study_of(asked, question, model, plugins), training.folder(checkpoint, OWN), "sampling")


def _final(
    training: Training,
    checkpoint: Checkpoint,
    model: Model,
    clean: torch.Tensor,
    asked: InvertOptions,
    plugins: Plugins,
) -> Inverted:
    question = question_of(asked, model, plugins, clean=(clean, f"step {training.last.step} of {training.name}"))
    study = study_of(asked, question, model, plugins)
    return run_study(asked, study, training.folder(checkpoint, FINAL), "inverting the last's")


def _rebuild(path: Path, run: Inverted, sampler: LevelSampler) -> None:
    """Keep the pictures that the last checkpoint makes from latents that another one found."""
    if path.exists():
        return
    pictures = sampler.pictures(run.latent(run.arms[0]), run.prompts)
    raw = io.BytesIO()
    np.save(raw, pictures)
    write(path, raw.getvalue())


def curves(training: Training, options: AnalysisSettings, embed: Embed | None = None) -> Curves:
    """Every number of the three protocols, as a curve with one value per checkpoint."""
    last, end = (Inverted(training.folder(training.last, what)) for what in (OWN, FINAL))
    finished = last.pictures("source")
    others = finished[another(last.prompts)]
    found: dict[str, list[float | None]] = {}
    for checkpoint in training.checkpoints:
        own, final = (Inverted(training.folder(checkpoint, what)) for what in (OWN, FINAL))
        arm = own.arms[0]
        rebuilt: Pixels = np.load(check(training.folder(checkpoint, REBUILT)))
        pictures = own.pictures("source")
        apart = {f"{name}{OTHER}": value for name, value in aligned(pictures, others, embed).items()}
        numbers = {
            "p1": aligned(pictures, finished, embed) | apart,
            "p2": own_pictures(own, arm, options),
            "p3": final_pictures(final, end, arm, last.noise, rebuilt),
        }
        for protocol, values in numbers.items():
            for name, value in values.items():
                found.setdefault(f"{protocol}.{name}", []).append(float(value) if np.isfinite(value) else None)
    return found


def chances(training: Training, options: AnalysisSettings) -> Curves:
    """How far a P2 curve may be from its end by chance, all checkpoints at once: half of 95 % intervals over prompts.

    All checkpoints have the same noise, so a curve's differences from its end vary less than its values. Empty if there
    are too few pictures.
    """
    runs = [Inverted(training.folder(one, OWN)) for one in training.checkpoints]
    if any(len(kept) < FEWEST for kept in left_out(runs[0].prompts, LEFT_OUT)):
        return {}
    names = list(own_pictures(runs[0], runs[0].arms[0], options))

    def off(rows: Rows) -> Numbers:
        found = [own_pictures(run.part(rows.tolist()), run.arms[0], options) for run in runs]
        table = np.array([[one[name] for one in found] for name in names])
        return table - table[:, -1:]

    _, error, count = jackknife(off, runs[0].prompts, LEFT_OUT)
    half = half_width(error, count, max(1, len(runs) - 1))
    return {f"p2.{name}": listed(one) for name, one in zip(names, half, strict=True)}


def answer(trainings: Sequence[Training], options: AnalysisSettings, embed: Embed | None = None) -> dict[str, Any]:
    """The curves of every training, the pooled curves, and the step at which each saturates.

    The last checkpoint's agreement with itself says nothing, so the curves of P1, and those that compare latents with
    the last checkpoint's, end one checkpoint earlier.
    """
    each = {one.name: curves(one, options, embed) for one in trainings}
    known = chances(trainings[0], options) if len(trainings) == 1 else {}
    steps = trainings[0].steps
    together = pooled(list(each.values())) if all(one.steps == steps for one in trainings) else {}
    settled = {}
    for name, values in (together or pooled([each[trainings[0].name]])).items():
        count = len(steps) - name.startswith(("p1.", "p3.latent"))
        chance = known.get(name, [None] * len(steps))
        settled[name] = saturation(steps[:count], values["mean"][:count], chance[:count])
    first = Inverted(trainings[0].folder(trainings[0].last, OWN))
    return {
        "trainings": {one.name: one.steps for one in trainings},
        "steps": steps,
        "rows": len(first.rows),
        "num_steps": first.steps,
        "method": first.arms[0],
        "chance_knn": neighbours(len(first.rows)) / max(1, len(first.rows) - 1),
        "chance_assignment": 1 / len(first.rows),
        "curves": each,
        "pooled": together,
        "saturation": settled,
        "chances": known,
    }


def sheet(training: Training) -> Image.Image:
    """Pictures from the same noise through the training."""
    runs = [Inverted(training.folder(one, OWN)) for one in training.checkpoints]
    shown = runs if len(runs) <= 12 else [runs[i] for i in np.linspace(0, len(runs) - 1, 12).astype(int)]
    steps = training.steps if len(runs) <= 12 else [training.steps[runs.index(one)] for one in shown]
    rows = [
        (shown[0].prompts[row], [run.picture("source", row) for run in shown])
        for row in range(min(SHOWN, len(shown[0].rows)))
    ]
    return grid([f"step {step}" for step in steps], rows, cell=80)


def run(
    trainings: Sequence[Training],
    asked: InvertOptions,
    path: Path,
    groups: int | None,
    embed: Embed | None,
    embedder: str | None,
    plugins: Plugins,
) -> dict[str, Any]:
    """Put every training through the protocols, in ``path``; what is complete is not measured again.

    Args:
        trainings: the trainings whose checkpoints are used.
        asked: how to sample and invert; each checkpoint in turn is the model.
        path: run folder.
        groups: number of groups for assignments.
        embed: computes features of pictures.
        embedder: the name of ``embed``.
        plugins: the session's plugins.
    """
    settings = {
        "command": "invert training",
        "trainings": {one.name: one.steps for one in trainings},
        "limit": asked.limit,
        "distinct": asked.distinct,
        "seed": asked.seed,
        "num_steps": asked.num_steps,
        "method": list(asked.method),
        "prompts": portable(str(asked.prompts or asked.prompt_set or "")),
    }
    shown = " ".join(f"--checkpoints {portable(one.checkpoints[0].path.parent)}" for one in trainings)
    sizes = f"--limit {asked.limit} --num-steps {asked.num_steps}"
    command = f"t2iprobe invert training {shown} {sizes} --out {portable(path)}"

    def work(session: RunSession) -> dict[str, Any]:
        session.begin(0, len(trainings))
        for one in trainings:
            session.check()
            measure(one, asked, plugins, lambda text: notes.print(text, highlight=False))
            session.done()
        found = answer(trainings, AnalysisSettings(groups=groups), embed)
        found |= {"embedder": embedder, "sentence": sentence(found)}
        drawn = {"training": curves_of.training_plot(found), "training-pictures": sheet(trainings[0])}
        keep(path, "training", found, drawn)
        return {}

    facts = {"model": trainings[0].name, "command": command}
    return sweep(path, RunDefinition("training", settings, work, facts, unit="training", disposable=False), "training")


def sentence(found: dict[str, Any]) -> str:
    """The answer in one sentence: what settles when."""
    names = {
        "p1.ssim": "SSIM to the last pictures", "p1.cka": "CKA", "p2.angle_latent": "the angle at the latent",
        "p2.image_to_noise_l2": "assignment",
    }  # fmt: skip
    told = [f"{what} {_told(found['saturation'].get(name), found['steps'])}" for name, what in names.items()]
    return f"Through {found['steps'][-1]} steps and {counted(found['rows'], 'picture')}: {', '.join(told)}."


def _told(settled: int | None, steps: Sequence[int]) -> str:
    if settled is None:
        return "cannot be told"
    if settled == steps[0]:
        return f"is flat from the first checkpoint (step {settled})"
    return "moves to the end" if settled == steps[-1] else f"is flat from step {settled}"
