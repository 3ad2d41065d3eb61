"""Puts a training's checkpoints through the three protocols; it can be resumed and holds few models in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from t2iprobe.cli.commandline import quoted
from t2iprobe.cli.console import notes
from t2iprobe.core.model import Model
from t2iprobe.core.names import counted
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.engine import RunDefinition, RunSession
from t2iprobe.core.runs.files import write
from t2iprobe.core.runs.provenance import portable
from t2iprobe.plugins.inversion import plan, plots, session
from t2iprobe.plugins.inversion.analysis.jackknife import Rows, half_width, jackknife, left_out
from t2iprobe.plugins.inversion.analyze import AnalysisSettings, Numbers, plain_values
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import InvertOptions, InvertTrainingOptions
from t2iprobe.plugins.inversion.resample import LevelSampler
from t2iprobe.plugins.inversion.training import (
    OTHER,
    Checkpoint,
    Curves,
    Embed,
    aligned,
    another,
    embedder,
    final_pictures,
    last_of_itself,
    neighbours,
    own_pictures,
    pooled,
    saturation,
    series,
)
from t2iprobe.report.figures import grid
from t2iprobe.sampling import Pixels

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

OWN, FINAL, REBUILT = "own", "final", "rebuilt-by-last.npy"
SHOWN, COLUMNS = 6, 12  # most rows and checkpoints on the picture sheet
LEFT_OUT, FEWEST = 8, 3  # groups of prompts that are left out in turn; fewest rows that must remain


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

    def own(self) -> list[Inverted]:
        """Every checkpoint's finished inversion of its own pictures."""
        return [Inverted(self.folder(checkpoint, OWN)) for checkpoint in self.checkpoints]

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints."""
        return [checkpoint.step for checkpoint in self.checkpoints]


def trainings_of(asked: InvertTrainingOptions, path: Path) -> list[Training]:
    """The trainings whose checkpoints are in the folders of ``checkpoints``; ``path`` is the run folder."""
    names = [f"{number}-{folder.name}" for number, folder in enumerate(asked.checkpoints)]
    folders = zip(names, asked.checkpoints, strict=True)
    return [Training(name, series(folder), path / name) for name, folder in folders]


def planned(asked: InvertTrainingOptions, plugins: Plugins) -> dict[str, Any]:
    """What all trainings take, as measured on the last checkpoint of the last one."""
    parts = []
    for training in trainings_of(asked, Path()):
        own = asked.each(training.checkpoints[-1].path)
        model = session.loaded(own, plugins)
        question = session.question_of(own, model, plugins)
        study = session.study_of(own, question, model, plugins)
        final = replace(study, question=replace(question, clean=(torch.empty(0), "of the last checkpoint")))
        count = len(training.checkpoints)
        parts += [
            plan.of_study(f"{training.name}: own pictures", study, count),
            plan.of_study(f"{training.name}: the last one's pictures", final, count),
            plan.of_pictures(f"{training.name}: sampled by the last one", count * question.rows, question),
        ]
    return plan.of_parts(parts, study)


def measure(training: Training, asked: InvertTrainingOptions, plugins: Plugins) -> None:
    """Sample, invert and reconstruct with every checkpoint; the last goes first because all others get its pictures."""
    clean: tuple[torch.Tensor, str] | None = None
    for checkpoint in reversed(training.checkpoints):
        notes.print(f"{training.name}: step {checkpoint.step}")
        own = asked.each(checkpoint.path)
        model = session.loaded(own, plugins)

        run = _inverted(own, model, plugins, training.folder(checkpoint, OWN), "sampling")
        if clean is None:
            clean = torch.from_numpy(run.clean), f"step {checkpoint.step} of {training.name}"
            sampler = LevelSampler(model, run, 1.0, asked.batch_size)
        folder, title = training.folder(checkpoint, FINAL), "inverting the last one's pictures"
        _rebuild(training.folder(checkpoint, REBUILT), _inverted(own, model, plugins, folder, title, clean), sampler)


def _inverted(
    asked: InvertOptions,
    model: Model,
    plugins: Plugins,
    path: Path,
    title: str,
    clean: tuple[torch.Tensor, str] | None = None,
) -> Inverted:
    question = session.question_of(asked, model, plugins, clean=clean)
    return session.run_study(asked, session.study_of(asked, question, model, plugins), path, title)


def _rebuild(path: Path, run: Inverted, sampler: LevelSampler) -> None:
    """Keep the pictures that the last checkpoint makes from latents that another one found."""
    if path.exists():
        return
    raw = io.BytesIO()
    np.save(raw, sampler.pictures(run.latent(run.arms[0]), run.prompts))
    write(path, raw.getvalue())


def curves(training: Training, options: AnalysisSettings, embed: Embed | None = None) -> Curves:
    """Every number of the three protocols, as a curve with one value per checkpoint."""
    last, end = (Inverted(training.folder(training.checkpoints[-1], what)) for what in (OWN, FINAL))
    finished, arm = last.pictures("source"), last.arms[0]
    others = finished[another(last.prompts)]
    found: dict[str, list[float | None]] = {}
    for checkpoint in training.checkpoints:
        own, final = (Inverted(training.folder(checkpoint, what)) for what in (OWN, FINAL))
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
                found.setdefault(f"{protocol}.{name}", []).append(plain_values(value))
    return found


def chances(training: Training, options: AnalysisSettings) -> Curves:
    """How far a P2 curve may be from its end by chance, all checkpoints at once: half of 95 % intervals over prompts.

    All checkpoints have the same noise, so a curve's differences from its end vary less than its values. Empty if there
    are too few pictures.
    """
    runs = training.own()
    if any(len(kept) < FEWEST for kept in left_out(runs[0].prompts, LEFT_OUT)):
        return {}
    names = list(own_pictures(runs[0], runs[0].arms[0], options))

    def off(rows: Rows) -> Numbers:
        found = [own_pictures(run.part(rows.tolist()), run.arms[0], options) for run in runs]
        table = np.array([[numbers[name] for numbers in found] for name in names])
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
    run = Inverted(first.folder(first.checkpoints[-1], OWN))
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


def sheet(training: Training) -> Image.Image:
    """Pictures from the same noise through the training."""
    runs, count = training.own(), len(training.checkpoints)
    shown = np.linspace(0, count - 1, min(count, COLUMNS)).astype(int).tolist()
    rows = [
        (runs[0].prompts[row], [runs[column].picture("source", row) for column in shown])
        for row in range(min(SHOWN, len(runs[0].rows)))
    ]
    return grid([f"step {training.steps[column]}" for column in shown], rows, cell=80)


def run(asked: InvertTrainingOptions, path: Path, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Put every training through the protocols, in ``path``; what is complete is not measured again."""
    trainings = trainings_of(asked, path)
    embed = None if asked.embedder is None else embedder(asked.embedder)
    settings = {
        "command": "invert training",
        "trainings": {training.name: training.steps for training in trainings},
        **asked.model_dump(mode="json", include={"limit", "distinct", "seed", "num_steps", "method"}),
        "prompts": portable(str(asked.prompts or asked.prompt_set or "")),
    }

    def work(current: RunSession) -> dict[str, Any]:
        current.begin(0, len(trainings))
        for training in trainings:
            current.check()
            measure(training, asked, plugins)
            current.done()
        found = answer(trainings, AnalysisSettings(groups=asked.groups), embed)
        found |= {"embedder": asked.embedder, "sentence": sentence(found)}
        drawn = {"training": plots.training_plot(found), "training-pictures": sheet(trainings[0])}
        session.keep(path, "training", found, drawn)
        return {}

    facts = {"model": trainings[0].name, "command": quoted(portable(list(command)))}
    definition = RunDefinition("training", settings, work, facts, unit="training", disposable=False)
    return session.sweep(path, definition, "training")


def sentence(found: dict[str, Any]) -> str:
    """The answer in one sentence: what settles when."""
    names = {
        "p1.ssim": "SSIM to the last pictures", "p1.cka": "CKA", "p2.angle_latent": "the angle at the latent",
        "p2.image_to_noise_l2": "assignment",
    }  # fmt: skip
    parts = [f"{what} {_settling(found['saturation'].get(name), found['steps'])}" for name, what in names.items()]
    return f"Through {found['steps'][-1]} steps and {counted(found['rows'], 'picture')}: {', '.join(parts)}."


def _settling(settled: int | None, steps: Sequence[int]) -> str:
    if settled is None:
        return "has too few values to tell"
    if settled == steps[0]:
        return f"is flat from the first checkpoint (step {settled})"
    return "changes until the end" if settled == steps[-1] else f"is flat from step {settled}"
