"""What patching costs on a GPU, on full-size models with random weights (they cost what the real ones cost).

    python benchmarks/gpu.py [--models sd3-medium,flux.1-dev] [--steps 8] [--rows 4] [--budget 480] [--out DIR]
    python benchmarks/gpu.py --tiny            # tiny models, also on the CPU: whether the script itself runs

For each model: seconds to build, memory, seconds a picture of bare diffusers, of the same through `Model.run`, and of
three ways to patch the text keys and values of one layer a picture: from a row of the same batch (lock-step), from a
cache of those layers, and as the localization paper does it (all layers cached, a run a layer). Then how seconds a
picture fall with the batch, how fast activations reach the disk, and what running out of memory costs. At last every
family's tiny pipeline in float16 and bfloat16 against float32.

Results are written as JSON and Markdown after every measurement, so a run that is cut off keeps what it has.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import full_size
import numpy as np
import torch
import transformers
from PIL.Image import Image

from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model, Run
from t2iprobe.core.store import capture

SOURCE, TARGET = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
BATCHES = (1, 2, 4, 8, 16)
SAMPLERS: tuple[tuple[type[Adapter], type[Any], dict[str, Any]], ...] = (
    (SD, diffusers.EulerAncestralDiscreteScheduler, {}),
    (SD, diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    (SD3, diffusers.FlowMatchLCMScheduler, {}),
    (Flux, diffusers.FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
)
SMALL_CARD = 24 << 30  # bytes that an out-of-memory run may take, beside what the weights take beyond it


@dataclass
class Bench:
    """The measurements of one call.

    Args:
        device: torch device.
        dtype: of the weights.
        rows: pictures at once.
        steps: denoising steps.
        budget: seconds after which no further measurement begins.
        out: folder of the results.
    """

    device: str
    dtype: torch.dtype
    rows: int
    steps: int
    budget: float
    out: Path
    began: float = field(default_factory=time.perf_counter)
    results: dict[str, Any] = field(default_factory=dict)

    def measure(self, section: str, name: str, ask: Callable[[], Any]) -> None:
        """Ask, keep the answer or the error, and write everything down; nothing once the budget is spent."""
        if time.perf_counter() - self.began > self.budget:
            self.results.setdefault("left out, no time", []).append(f"{section}: {name}")
            return
        try:
            found = ask()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        self.results.setdefault(section, {})[name] = found
        print(f"{time.perf_counter() - self.began:6.1f} s  {section}: {name}: {json.dumps(found)}", flush=True)
        self.write()

    def write(self) -> None:
        """JSON and Markdown."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps(self.results, indent=1) + "\n")
        (self.out / "gpu.md").write_text("\n\n".join(_markdown(*one) for one in self.results.items()) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure patching on full-size models with random weights.")
    parser.add_argument("--models", default=",".join(full_size.MODELS), help="which, comma-separated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--steps", type=int, default=8, help="denoising steps; costs are a picture of that many")
    parser.add_argument("--rows", type=int, default=4, help="pictures at once")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which nothing new begins")
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), help="folder of the results")
    parser.add_argument("--tiny", action="store_true", help="tiny models: whether the script itself runs")
    asked = parser.parse_args()
    bench = Bench(asked.device, getattr(torch, asked.dtype), asked.rows, asked.steps, asked.budget, asked.out)
    bench.results["machine"] = machine(asked.device)
    diffusers.utils.logging.set_verbosity_error()  # half precision on the CPU, on purpose
    for name in asked.models.split(","):
        one_model(bench, name, asked.tiny)
    for adapter in dict.fromkeys(model.adapter for model in full_size.MODELS.values()):
        bench.measure("precision", adapter.name, functools.partial(precision, adapter, bench.device))
    for adapter, scheduler, changes in SAMPLERS:
        name = f"{adapter.name}, {scheduler.__name__}"
        bench.measure("noise", name, functools.partial(noise, adapter, scheduler, bench.device, **changes))
    print((bench.out / "gpu.md").read_text())


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    card = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    versions = {one.__name__: one.__version__ for one in (torch, diffusers, transformers)}
    return {"card": card, **versions}


def one_model(bench: Bench, name: str, tiny: bool) -> None:
    """All measurements of one model, which is gone from the device afterwards."""
    made: list[Model] = []
    bench.measure(name, "build", lambda: build(bench, name, tiny, made))
    if made:
        model, settings = made[0], {"num_steps": bench.steps, **_size(name, tiny)}
        bench.measure(name, "pictures", lambda: pictures(model, bench.rows, settings))
        bench.measure(name, "patching", lambda: patching(model, bench.rows, settings))
        bench.measure(name, "batches", lambda: batches(model, settings))
        bench.measure(name, "capture", lambda: captured(model, bench.rows, settings))
        if bench.device.startswith("cuda"):
            bench.measure(name, "out of memory", lambda: out_of_memory(model, settings))
    made.clear()
    _collect()


def _size(name: str, tiny: bool) -> dict[str, Any]:
    model = full_size.MODELS[name]
    return {"guidance": model.guidance} | ({} if tiny else {"height": model.side, "width": model.side})


def build(bench: Bench, name: str, tiny: bool, made: list[Model]) -> dict[str, Any]:
    """The model, appended to ``made``, and the memory of its parts in GB."""
    adapter = full_size.MODELS[name].adapter
    with timed() as spent:
        if tiny:
            pipeline = adapter.tiny().to(bench.device, bench.dtype)
        else:
            pipeline = full_size.built(name, bench.device, bench.dtype)
    made.append(Model(pipeline, adapter(), ref=name))
    parts = {key: part for key, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    sizes = {key: round(sum(p.nbytes for p in part.parameters()) / 1e9, 2) for key, part in parts.items()}
    return {"seconds": spent[0], "GB": sizes, "layers": made[0].n_layers}


def pictures(model: Model, rows: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds a picture of bare diffusers and of `Model.run`, with no hook but the clock's and with one site read."""
    generation = model.generation([SOURCE] * rows, range(rows), **settings)
    model.run(model.generation([SOURCE] * rows, 0, **settings | {"num_steps": 2}))  # warms up
    with timed() as bare, memory() as peak, torch.no_grad():
        images = model.pipeline(**model.arguments(generation, range(rows))).images
    with timed() as run:
        again = model.run(generation)
    with timed() as read:
        model.run(generation, cache=model.text_sites(0))
    return {
        "bare diffusers": bare[0] / rows,
        "Model.run": run[0] / rows,
        "reading one layer's keys and values": read[0] / rows,
        "equal pictures": _equal(again.images, images),
        "peak GB": peak[0],
    }


def patching(model: Model, rows: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds a patched picture: another layer in each of ``rows`` pictures."""
    layers = list(range(min(rows, model.n_layers)))
    sites = [model.text_sites(layer) for layer in layers]
    donor = model.generation(TARGET, 0, **settings)
    alone = model.generation([SOURCE] * len(layers), 0, **settings)
    beside = model.generation([SOURCE] * len(layers) + [TARGET], 0, **settings)
    with timed() as lock, memory() as lock_peak:
        swaps = [patch({layer: len(layers)}, sites[layer]) for layer in layers]
        first = model.run(beside, interventions=swaps)
    with timed() as keep:
        names = [site for one in sites for site in one.names]
        cache = model.run(donor, cache=names).cache
    with timed() as cached:
        swaps = [patch(cache, sites[layer], rows={layer: 0}) for layer in layers]
        second = model.run(alone, interventions=swaps)
    return {
        "lock-step, donor row included": lock[0] / len(layers),
        "lock-step peak GB": lock_peak[0],
        "from a cache": cached[0] / len(layers),
        "making the cache": keep[0],
        "cache MB": cache.nbytes / 1e6,
        "largest difference of the two, of 255": _difference(first.images[: len(layers)], second.images),
        **paper(model, layers, settings),
    }


def paper(model: Model, layers: Sequence[int], settings: dict[str, Any]) -> dict[str, Any]:
    """The localization paper's way: keys and values of all layers cached, then a run of one picture a layer."""
    everything = [site for layer in range(model.n_layers) for site in model.text_sites(layer).names]
    with timed() as keep:
        cache = model.run(model.generation(TARGET, 0, **settings), cache=everything).cache
    with timed() as spent:
        for layer in layers:
            swap = patch(cache, model.text_sites(layer))
            model.run(model.generation(SOURCE, 0, **settings), interventions=[swap])
    return {
        "the paper's way": spent[0] / len(layers),
        "the paper's cache, seconds": keep[0],
        "the paper's cache, MB": cache.nbytes / 1e6,
    }


def batches(model: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds a picture by pictures at once, and the peak in GB."""
    found = {}
    for rows in BATCHES:
        with timed() as spent, memory() as peak:
            run = model.run(model.generation([SOURCE] * rows, range(rows), **settings))
        found[str(rows)] = [spent[0] / rows, peak[0]]
        if _rows_wasted(run, rows, model, settings):
            break
    return found


def captured(model: Model, rows: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Text keys and values of every layer to disk, in MB a second of the whole run."""
    generation = model.generation([SOURCE] * rows, range(rows), **settings)
    sites = [site for layer in range(model.n_layers) for site in model.text_sites(layer).names]
    layout = capture.layout_of(model, generation, sites, batch=rows, static=False)
    with tempfile.TemporaryDirectory() as folder:
        with timed() as spent:
            capture.capture(model, generation, layout, Path(folder) / "store")
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    with timed() as plain:
        model.run(generation)
    return {"MB": size / 1e6, "seconds": spent[0], "seconds without": plain[0], "MB a second": size / 1e6 / spent[0]}


def out_of_memory(model: Model, settings: dict[str, Any], rows: int = 32) -> dict[str, Any]:
    """``rows`` pictures at once on what a smaller card has: that it is halved for real, and what that costs."""
    settings = settings | {"num_steps": 2}
    generation = model.generation([SOURCE] * rows, range(rows), **settings)
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = max(SMALL_CARD, torch.cuda.memory_allocated() + (6 << 30))
    _collect()
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    try:
        with timed() as spent:
            run = model.run(generation)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {
        "allowed GB": allowed / 1e9,
        "seconds": spent[0],
        "rows, failed attempts included": run.denoiser_rows,
        "rows without": rows * model.evaluations(2) * model.guided(settings),
        "pictures": len(run.images),
    }


def _rows_wasted(run: Run, rows: int, model: Model, settings: dict[str, Any]) -> bool:
    return run.denoiser_rows > rows * model.evaluations(settings["num_steps"]) * model.guided(settings)


def precision(adapter: type[Adapter], device: str) -> dict[str, Any]:
    """The tiny pipeline's picture in half precisions, and on the CPU, against float32 on the device; of 255."""
    reference = _tiny(adapter, device, torch.float32)
    return {
        "cpu float32": _difference(_tiny(adapter, "cpu", torch.float32), reference),
        "float16": _difference(_tiny(adapter, device, torch.float16), reference),
        "bfloat16": _difference(_tiny(adapter, device, torch.bfloat16), reference),
    }


def noise(adapter: type[Adapter], scheduler: type[Any], device: str, **changes: Any) -> dict[str, Any]:
    """A sampler that draws noise: how far rows of equal seeds, and two equal runs, lie apart; of 255."""
    model = Model(adapter.tiny().to(device), adapter())
    model.pipeline.scheduler = scheduler.from_config(model.pipeline.scheduler.config, **changes)
    generation = model.generation([SOURCE] * 3, [3, 3, 4], num_steps=4)
    first, again = model.run(generation).images, model.run(generation).images
    return {
        "equal seeds": _difference(first[:1], first[1:2]),
        "equal runs": _difference(first, again),
        "other seed": _difference(first[:1], first[2:]),
    }


def _tiny(adapter: type[Adapter], device: str, dtype: torch.dtype) -> list[Image]:
    model = Model(adapter.tiny().to(device, dtype), adapter())
    return model.run(model.generation([SOURCE, TARGET], 0, num_steps=3)).images


@contextmanager
def timed() -> Iterator[list[float]]:
    """Seconds of the block, work on the device included."""
    found: list[float] = []
    _wait()
    began = time.perf_counter()
    yield found
    _wait()
    found.append(time.perf_counter() - began)


@contextmanager
def memory() -> Iterator[list[float]]:
    """GB at the peak of the block, weights included; 0 where there is no GPU."""
    found: list[float] = []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield found
    found.append(torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _difference(images: Sequence[Image], others: Sequence[Image]) -> int:
    pairs = zip(images, others, strict=True)
    return max(int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs)


def _equal(images: Sequence[Image], others: Sequence[Image]) -> bool:
    return _difference(images, others) == 0


def _markdown(section: str, found: Any) -> str:
    """A section as a list; numbers to three digits."""
    if isinstance(found, list):
        return f"**{section}**\n\n" + "\n".join(f"* {one}" for one in found)
    return f"**{section}**\n\n" + "\n".join(f"* {name}: {_text(value)}" for name, value in found.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return " / ".join(map(_text, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
