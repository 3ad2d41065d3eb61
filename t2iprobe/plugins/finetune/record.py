"""A fine-tuning on disk: manifest, losses, looks with their pictures, and the LoRA.

manifest.json      settings, facts about the model and the machine, counts, result
losses.jsonl       one line per step
looks.jsonl        one line per validation: step, scores, and the scores of single pictures
samples/           one sheet per validation: the base model's pictures above the tuned ones
checkpoint.pt      only until the training is finished: where an interrupted one resumes
lora/              pytorch_lora_weights.safetensors
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
from t2iprobe.plugins.finetune.monitor import Look

CELL, GAP, MOST = 96, 4, 16  # pixels per picture and between pictures; most pictures in a row
LOSSES, LOOKS = "losses.jsonl", "looks.jsonl"


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
        found = {line["step"]: line["loss"] for line in lines.read(self.path / LOSSES)}
        return [float(found[step]) for step in sorted(found)]

    def look(self, step: int, look: Look, base: Sequence[Image.Image], learn: int) -> None:
        """Keep a look and its sheet.

        Raises:
            StoreError: the disk is full or gone.
        """
        line = {"step": step, "scores": dict(look.scores), "each": {k: list(v) for k, v in look.each.items()}}
        keep(self.path, {f"samples/step-{step:06d}.png": sheet(look.images, base, learn)})
        lines.append(self.path / LOOKS, plain(line))

    def looks(self) -> dict[int, dict[str, Any]]:
        """The recorded looks by step."""
        return {line["step"]: line for line in lines.read(self.path / LOOKS)}


def sheet(images: Sequence[Image.Image], base: Sequence[Image.Image], learn: int) -> Image.Image:
    """The sheet of a look: what is learnt, base above tuned, and below it what is kept, likewise."""
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
    """Values for JSON: lists instead of tuples, paths as text, and null for what is not a number."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)
