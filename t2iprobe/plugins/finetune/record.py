"""A fine-tuning on disk: manifest, losses, validations with their pictures, and the LoRA.

manifest.json      settings, facts about the model and the machine, counts, result
losses.jsonl       one line per step
validations.jsonl  one line per validation: step, scores, and the scores of single pictures
samples/           one sheet per validation: the base model's pictures above the tuned ones
checkpoint.pt      only until the training is finished: where an interrupted one resumes
lora/              pytorch_lora_weights.safetensors; for pipelines that diffusers loads no LoRA into, peft's files
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from t2iprobe.core.runs import lines
from t2iprobe.core.runs.checksums import keep
from t2iprobe.plugins.finetune.monitor import Validation
from t2iprobe.report.figures import grid

MOST = 16  # most pictures in a row of a sheet
LOSSES, VALIDATIONS = "losses.jsonl", "validations.jsonl"


@dataclass(frozen=True)
class FinetuneRecord:
    """What a training leaves in its folder, besides the manifest and the LoRA.

    Args:
        path: the folder.
    """

    path: Path

    def loss(self, step: int, value: float) -> None:
        """Record the loss of a step; steps after the last checkpoint are written again when it resumes.

        Raises:
            StoreError: the disk is full or gone.
        """
        lines.append(self.path / LOSSES, {"step": step, "loss": value})

    def losses(self) -> list[float]:
        """The loss of every step."""
        by_step = {line["step"]: line["loss"] for line in lines.read(self.path / LOSSES)}
        return [float(by_step[step]) for step in sorted(by_step)]

    def validation(self, step: int, validation: Validation, base: Sequence[Image.Image], learn: int) -> None:
        """Keep a validation and its sheet.

        Raises:
            StoreError: the disk is full or gone.
        """
        line = {"step": step, "scores": validation.scores, "each": validation.each}
        keep(self.path, {self.sheet_file(step): sheet(validation.images, base, learn)})
        lines.append(self.path / VALIDATIONS, plain(line))

    @staticmethod
    def sheet_file(step: int) -> str:
        """Where the sheet of a validation is kept, below the folder."""
        return f"samples/step-{step:06d}.png"

    def validations(self) -> dict[int, dict[str, Any]]:
        """The recorded validations, by step."""
        return {line["step"]: line for line in lines.read(self.path / VALIDATIONS)}


def sheet(images: Sequence[Image.Image], base: Sequence[Image.Image], learn: int) -> Image.Image:
    """The sheet of a validation: what is learnt, base above tuned, and below it what is kept, likewise."""
    rows = {
        "to learn:\nbase model": base[:learn], "to learn:\nwith the LoRA": images[:learn],
        "to keep:\nbase model": base[learn:], "to keep:\nwith the LoRA": images[learn:],
    }  # fmt: skip
    wide = min(MOST, max(map(len, rows.values())))
    blank = [Image.new("RGB", (1, 1), "white")] * wide
    return grid([""] * wide, [(label, [*row, *blank][:wide]) for label, row in rows.items()], label=110, head=0)


def plain(value: Any) -> Any:
    """Values for JSON: lists instead of tuples, paths as text, and null for what is not a number."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)
