"""A fine-tuning on disk: manifest, losses, looks with their pictures, and the LoRA.

manifest.json      what was asked for, on what it ran, the counts, the result
losses.jsonl       a line a step
looks.jsonl        a line a look: step, scores, and the scores of single pictures
samples/           a sheet a look: the base model's pictures above the tuned ones
checkpoint.pt      until it is finished: where an interrupted training goes on
lora/              pytorch_lora_weights.safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from t2iprobe.core.runs import runfolder
from t2iprobe.plugins.finetune.monitor import Look
from t2iprobe.training.trainer import CHECKPOINT

CELL, GAP, MOST = 96, 4, 16  # pixels a picture and between them; pictures in a row


@dataclass(frozen=True)
class FinetuneRecord:
    """The folder of a training.

    Args:
        path: the folder.
        manifest: written whenever it changes.
    """

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], **facts: Any) -> FinetuneRecord:
        """A new folder, or the one of the same training that was interrupted or finished.

        Raises:
            RunExistsError: the folder holds something else.
        """
        found = runfolder.existing(path, settings)
        if found is not None:
            record = cls(path, found)
            if not record.finished:
                record.write(state=runfolder.RUNNING)
            return record
        runfolder.make(path)
        manifest = {
            "kind": "finetune",
            "settings": dict(settings),
            **facts,
            "versions": runfolder.versions(),
            "state": runfolder.RUNNING,
            "started": runfolder.now(),
        }
        record = cls(path, manifest)
        record.write()
        return record

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.manifest.get("state") == runfolder.FINISHED)

    def write(self, **changes: Any) -> None:
        """Keep the manifest, with changes."""
        self.manifest.update(plain(changes))
        runfolder.write_manifest(self.path, self.manifest)

    def loss(self, step: int, value: float) -> None:
        """A step was taken; lines of steps that a checkpoint does not know are written again."""
        with (self.path / "losses.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "loss": value}) + "\n")

    def losses(self) -> list[float]:
        """The loss of every step."""
        found = {line["step"]: line["loss"] for line in _lines(self.path / "losses.jsonl")}
        return [float(found[step]) for step in sorted(found)]

    def look(self, step: int, look: Look, base: Sequence[Image.Image], learn: int) -> None:
        """Keep a look and its sheet."""
        line = {"step": step, "scores": dict(look.scores), "each": {k: list(v) for k, v in look.each.items()}}
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        sheet(look.images, base, learn).save(folder / f"step-{step:06d}.png")
        with (self.path / "looks.jsonl").open("a") as file:
            file.write(json.dumps(plain(line)) + "\n")

    def looks(self) -> dict[int, dict[str, Any]]:
        """Looks by step."""
        return {line["step"]: line for line in _lines(self.path / "looks.jsonl")}

    def finish(self, **result: Any) -> None:
        """Nothing is left to do, and the checkpoint has no use."""
        self.write(state=runfolder.FINISHED, ended=runfolder.now(), **result)
        (self.path / CHECKPOINT).unlink(missing_ok=True)


def sheet(images: Sequence[Image.Image], base: Sequence[Image.Image], learn: int) -> Image.Image:
    """What is learnt, base above tuned, and below it what is kept, likewise."""
    rows = [base[:learn], images[:learn], base[learn:], images[learn:]]
    wide = min(MOST, max(len(row) for row in rows))
    side = CELL + GAP
    found = Image.new("RGB", (wide * side + GAP, 4 * side + 3 * GAP), "white")
    for number, row in enumerate(rows):
        for place, image in enumerate(row[:wide]):
            small = image.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST if image.width < CELL else None)
            found.paste(small, (GAP + place * side, GAP + number * side + 2 * GAP * (number > 1)))
    return found


def plain(value: Any) -> Any:
    """For JSON: what is not a number is null."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last one of a killed run may be cut off."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
