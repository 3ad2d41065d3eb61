"""The sweep over single layers as others write it, on the same pipeline: one layer's text keys and values at a time.

    OMP_NUM_THREADS=1 python benchmarks/peers.py [--models tiny-sd3,tiny-sdxl] [--steps 5] [--rounds 5]

`sd-1.5` and `sd3-width` (two blocks) are as wide as the published models, with random weights. Every way makes the same
pictures, a source prompt with each layer patched in turn, from a target prompt with the same noise; the largest
difference of a pixel is printed. CPU seconds are the shortest of the rounds, in which all take turns; ratios to
`t2iprobe` within a round, their median. Lines are those of the function that does it, without its docstring.

pyvene 0.1.8 and attention-map-diffusers 1.0.0 are not among them: pyvene intervenes in one call of a model, not in a
pipeline's loop over steps, and attention-map-diffusers reads maps and patches nothing.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import full_size
import torch
import with_nnsight
from gpu_clock import difference
from PIL.Image import Image

import t2iprobe
from t2iprobe.core.measuring import peak
from t2iprobe.core.model import Model

SOURCE, TARGET = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
SIDES = {"sd-1.5": 128, "sd3-width": 128}  # pixels; the cost of a step hardly depends on hooks


@dataclass
class Task:
    """A model, and what every way needs to know of it."""

    model: Model
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        layers = range(self.model.n_layers)
        self.modules = {layer: [site.module for site in self.model.text_sites(layer)] for layer in layers}
        self.branches = self.model.guided(self.settings)

    def arguments(self, prompts: list[str]) -> dict[str, Any]:
        """Arguments of the pipeline's call, with fresh generators of seed 0."""
        generation = self.model.generation(prompts, 0, **self.settings)
        return dict(self.model.arguments(generation, range(len(prompts))))


@torch.no_grad()
def hooks_one_by_one(task: Task) -> list[Image]:
    """A run of the target that keeps its activations, then a run for each layer: what most scripts do."""
    pipeline, denoiser = task.model.pipeline, task.model.denoiser
    kept: dict[str, list[torch.Tensor]] = {path: [] for paths in task.modules.values() for path in paths}
    keep = [
        denoiser.get_submodule(path).register_forward_hook(
            lambda module, args, output, values=values: values.append(output)
        )
        for path, values in kept.items()
    ]
    pipeline(**task.arguments([TARGET]))
    for handle in keep:
        handle.remove()
    images = []
    for paths in task.modules.values():
        steps = {path: iter(kept[path]) for path in paths}
        handles = [
            denoiser.get_submodule(path).register_forward_hook(lambda module, args, output, step=step: next(step))
            for path, step in steps.items()
        ]
        images += pipeline(**task.arguments([SOURCE])).images
        for handle in handles:
            handle.remove()
    return images


@torch.no_grad()
def hooks_in_a_batch(task: Task) -> list[Image]:
    """A row for each layer and one for the target, in one run."""
    count = len(task.modules) + 1

    def swap(row: int) -> Callable[..., torch.Tensor]:
        def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[row::count] = output[count - 1 :: count]
            return output

        return hook

    handles = [
        task.model.denoiser.get_submodule(path).register_forward_hook(swap(row))
        for row, paths in task.modules.items()
        for path in paths
    ]
    try:
        return list(task.model.pipeline(**task.arguments([SOURCE] * (count - 1) + [TARGET])).images[:-1])
    finally:
        for handle in handles:
            handle.remove()


def nnsight(task: Task) -> list[Image]:
    """The batch with nnsight."""
    arguments = task.arguments([SOURCE] * len(task.modules) + [TARGET])
    steps = task.model.calls(task.settings)
    denoiser = task.model.adapter.denoiser
    return with_nnsight.patched(task.model.pipeline, denoiser, task.modules, arguments, steps, task.branches)[:-1]


def with_t2iprobe(task: Task) -> list[Image]:
    """The batch with `Model.run`; where donors need no row there is none."""
    last = task.model.n_layers
    edits = [t2iprobe.patch({layer: last}, task.model.text_sites(layer)) for layer in range(last)]
    generation = task.model.generation([SOURCE] * last + [TARGET], 0, **task.settings)
    return list(task.model.run(generation, interventions=edits, rows=range(last)).images)


WAYS: dict[str, Callable[[Task], list[Image]]] = {
    "hooks, one by one": hooks_one_by_one,
    "hooks, in a batch": hooks_in_a_batch,
    "nnsight, in a batch": nnsight,
    "t2iprobe": with_t2iprobe,
}


def lines(function: Callable[..., Any]) -> int:
    """Lines of code of a function, without its docstring; nnsight's is in a file of its own."""
    function = with_nnsight.patched if function is nnsight else function
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    body = tree.body[0].body[1:]  # type: ignore[attr-defined]
    return sum(len(ast.unparse(node).splitlines()) for node in body)


def task_of(name: str, steps: int) -> Task:
    """A bundled model by name, or one of full size with random weights."""
    if name not in SIDES:
        return Task(t2iprobe.load(name), {"num_steps": steps})
    build = {"sd-1.5": full_size.sd, "sd3-width": lambda: full_size.sd3(short=True, num_layers=2)}[name]
    with full_size.placed("cpu", torch.float32):
        pipeline = build()
    model = t2iprobe.load(pipeline)
    return Task(model, {"num_steps": steps, "height": SIDES[name], "width": SIDES[name]})


def compared(task: Task, rounds: int) -> Mapping[str, tuple[float, float, float, int]]:
    """Seconds, ratio, bytes at the peak and the largest difference of a pixel, by way."""
    ways = {name: way for name, way in WAYS.items() if way is not nnsight or importlib.util.find_spec("nnsight")}
    images = {name: way(task) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            before = time.process_time()
            way(task)
            times[name].append(time.process_time() - before)
    found = {}
    for name, way in ways.items():
        with peak(torch.device("cpu")) as memory:
            way(task)
        ratio = statistics.median(one / own for one, own in zip(times[name], times["t2iprobe"], strict=True))
        far = difference(images[name], images["t2iprobe"])
        found[name] = min(times[name]), ratio, float(memory.bytes or 0), far
    return found


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny-sd3,tiny-sdxl")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # all are built first: nnsight changes builtins when it first traces, and parts of diffusers no longer import then
    tasks = {name: task_of(name, options.steps) for name in options.models.split(",")}
    for name, task in tasks.items():
        task.model.pipeline.set_progress_bar_config(disable=True)
        print(f"{name}: {task.model.n_layers} layers, {options.steps} steps")
        for way, (seconds, ratio, size, far) in compared(task, options.rounds).items():
            print(
                f"  {way:20} {seconds:7.2f} s {ratio:6.2f} {size / 1e6:8.0f} MB  {lines(WAYS[way]):3} lines"
                f"  largest difference {far} of 255"
            )


if __name__ == "__main__":
    main()
