"""Peak of main memory while a full-size checkpoint is loaded in bfloat16 and draws a picture, against its weights.

    python benchmarks/loading.py [--models sd-1.5,sd3-width] [--side 256] [--steps 2]

Each pipeline is made from the published configuration with zeros for weights, saved, and loaded and run by a process of
its own through `t2iprobe.load`. `sd3-width` is SD3 medium as wide as it is, with two blocks, and one layer in each of
its large text encoders. Memory is what the process occupies, pages of the files that it reads included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import torch

import t2iprobe
from t2iprobe.core.measuring import peak
from t2iprobe.registry.no_bars import no_bars

MODELS: dict[str, Callable[[], Any]] = {
    "sd-1.5": full_size.sd,
    "sd3-width": lambda: full_size.sd3(short=True, num_layers=2),
}


def save(name: str, folder: Path) -> None:
    """Save a pipeline of zeros in bfloat16."""
    with full_size.placed("meta", torch.bfloat16):
        pipeline = MODELS[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to_empty(device="cpu")
            with torch.no_grad():
                for tensor in (*part.parameters(), *part.buffers()):
                    tensor.zero_()
    with no_bars():
        pipeline.save_pretrained(folder)


def measure(folder: str, side: int, steps: int) -> dict[str, float]:
    """Bytes at the peak beyond what the process held before, of loading and of both, and the seconds of loading."""
    cpu = torch.device("cpu")
    with peak(cpu) as both:
        began = time.perf_counter()
        with peak(cpu) as loading:
            model = t2iprobe.load(folder, dtype="bfloat16", device="cpu")
        seconds = time.perf_counter() - began
        model.run("a cat", num_steps=steps, guidance=1.0, height=side, width=side)
    assert loading.bytes is not None and both.bytes is not None, "read from /proc, which only Linux has"
    return {"weights": model.weight_bytes, "loading": loading.bytes, "both": both.bytes, "seconds": seconds}


def in_a_process(folder: Path, side: int, steps: int) -> dict[str, float]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--side", str(side), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Peak memory of loading and running full-size checkpoints on a CPU.")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--folder", help="measure this pipeline in this process, and print JSON")
    asked = parser.parse_args()
    if asked.folder:
        print(json.dumps(measure(asked.folder, asked.side, asked.steps)))
        return
    print(
        "| model | weights, GB | peak loading, GB | peak with a picture, GB | seconds to load |\n|---|---|---|---|---|"
    )
    for name in asked.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            save(name, Path(folder))
            found = in_a_process(Path(folder), asked.side, asked.steps)
        sizes = " | ".join(f"{found[one] / 1e9:.2f}" for one in ("weights", "loading", "both"))
        print(f"| {name}, {asked.side}² | {sizes} | {found['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
