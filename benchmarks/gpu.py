"""What patching costs on a GPU, on full-size models with random weights (they cost what the real ones cost).

    python benchmarks/gpu.py [--models sd3-medium,flux.1-dev] [--steps 8] [--rows 4] [--budget 480] [--out DIR]
    python benchmarks/gpu.py --quick           # two small models, two steps: a first look, also on a small card
    python benchmarks/gpu.py --tiny            # tiny models, also on the CPU: whether the script itself runs

For each model: where `--offload auto` puts it, and its memory; seconds a picture of bare diffusers, of the same through
`Model.run`, and of five ways to patch the text keys and values of one layer a picture: from a row of the same batch
(lock-step), from a cache of those layers, as `t2iprobe patch` does it, as the localization paper does it (all layers
cached, a run a layer), and lock-step with nnsight, if it is installed. Then seconds a picture by batch and by
offloading, the largest picture that fits, how fast activations reach the disk, and what running out of memory costs.
Before all that, every family's tiny pipeline in float16 and bfloat16 against float32, and samplers that draw noise.

Results are written as JSON and Markdown after every measurement, so a run that is cut off keeps what it has.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import full_size
import gpu_measures as measures
import torch
import transformers
from gpu_clock import collect, difference
from gpu_measures import SOURCE, TARGET
from PIL.Image import Image

from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.load_options import Offload
from t2iprobe.core.model import Model

QUICK = ("sd-1.5", "sd3-medium")
OFFLOADS: tuple[Offload, ...] = ("model", "group")  # the last one stays
SAMPLERS: tuple[tuple[type[Adapter], type[Any], dict[str, Any]], ...] = (
    (SD, diffusers.EulerAncestralDiscreteScheduler, {}),
    (SD, diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    (SD3, diffusers.FlowMatchLCMScheduler, {}),
    (Flux, diffusers.FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
)


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
        tiny: whether models are tiny ones.
        without: components that are left out, where a model can do without.
    """

    device: str
    dtype: torch.dtype
    rows: int
    steps: int
    budget: float
    out: Path
    tiny: bool = False
    without: tuple[str, ...] = ()
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
    parser.add_argument("--models", help="which, comma-separated; default all, or two with --quick")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--steps", type=int, help="denoising steps; costs are a picture of that many; default 8")
    parser.add_argument("--rows", type=int, default=4, help="pictures at once")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which nothing new begins")
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="two models, two steps, SD3 without T5")
    parser.add_argument("--without-t5", action="store_true", help="SD3 without T5; FLUX and IF need theirs")
    parser.add_argument("--tiny", action="store_true", help="tiny models: whether the script itself runs")
    options = parser.parse_args()
    bench = Bench(
        options.device,
        getattr(torch, options.dtype),
        options.rows,
        options.steps or (2 if options.quick else 8),
        options.budget,
        options.out,
        options.tiny,
        ("text_encoder_3",) if options.quick or options.without_t5 else (),
    )
    bench.results["machine"] = machine(options.device)
    diffusers.utils.logging.set_verbosity_error()  # half precision on the CPU, on purpose
    for adapter in dict.fromkeys(model.adapter for model in full_size.MODELS.values()):
        bench.measure("precision", adapter.name, functools.partial(precision, adapter, bench.device))
    for adapter, scheduler, changes in SAMPLERS:
        name = f"{adapter.name}, {scheduler.__name__}"
        bench.measure("noise", name, functools.partial(noise, adapter, scheduler, bench.device, **changes))
    for name in (options.models or ",".join(QUICK if options.quick else full_size.MODELS)).split(","):
        one_model(bench, name)
    print((bench.out / "gpu.md").read_text())


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    card = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    versions = {one.__name__: one.__version__ for one in (torch, diffusers, transformers)}
    return {"card": card, **versions}


def one_model(bench: Bench, name: str) -> None:
    """All measurements of one model, which is gone from the device afterwards."""
    made: list[Model] = []
    if bench.tiny:
        bench.measure(name, "build", lambda: measures.tiny(name, bench.device, bench.dtype, made))
    else:
        bench.measure(name, "build", lambda: measures.built(name, bench.device, bench.dtype, bench.without, made))
    if made:
        model, settings = made[0], {"num_steps": bench.steps, **_size(name, bench.tiny)}
        for what in (measures.pictures, measures.patching, measures.command, measures.paper, measures.nnsight):
            bench.measure(name, what.__name__, functools.partial(what, model, bench.rows, settings))
        bench.measure(name, "batches", lambda: measures.batches(model, settings))
        bench.measure(name, "captured", lambda: measures.captured(model, bench.rows, settings))
        if bench.device.startswith("cuda"):
            _only_on_a_gpu(bench, name, model, settings)
    made.clear()
    collect()


def _only_on_a_gpu(bench: Bench, name: str, model: Model, settings: dict[str, Any]) -> None:
    bench.measure(name, "out of memory", lambda: measures.out_of_memory(model, settings))
    if full_size.MODELS[name].side > 64:  # IF's pictures have one size
        bench.measure(name, "largest picture", lambda: measures.largest(model, settings))
    if bench.results[name]["build"].get("offload", "none") == "none":
        for offload in OFFLOADS:
            ask = functools.partial(measures.offloaded, model, bench.device, offload, settings)
            bench.measure(name, f"offload {offload}", ask)


def _size(name: str, tiny: bool) -> dict[str, Any]:
    model = full_size.MODELS[name]
    return {"guidance": model.guidance} | ({} if tiny else {"height": model.side, "width": model.side})


def precision(adapter: type[Adapter], device: str) -> dict[str, Any]:
    """The tiny pipeline's picture in half precisions, and on the CPU, against float32 on the device; of 255."""
    reference = _tiny(adapter, device, torch.float32)
    return {
        "cpu float32": difference(_tiny(adapter, "cpu", torch.float32), reference),
        "float16": difference(_tiny(adapter, device, torch.float16), reference),
        "bfloat16": difference(_tiny(adapter, device, torch.bfloat16), reference),
    }


def noise(adapter: type[Adapter], scheduler: type[Any], device: str, **changes: Any) -> dict[str, Any]:
    """A sampler that draws noise: how far rows of equal seeds, and two equal runs, lie apart; of 255."""
    model = Model(adapter.tiny().to(device), adapter())
    model.pipeline.scheduler = scheduler.from_config(model.pipeline.scheduler.config, **changes)
    generation = model.generation([SOURCE] * 3, [3, 3, 4], num_steps=4)
    first, again = model.run(generation).images, model.run(generation).images
    return {
        "equal seeds": difference(first[:1], first[1:2]),
        "equal runs": difference(first, again),
        "other seed": difference(first[:1], first[2:]),
    }


def _tiny(adapter: type[Adapter], device: str, dtype: torch.dtype) -> list[Image]:
    model = Model(adapter.tiny().to(device, dtype), adapter())
    return model.run(model.generation([SOURCE, TARGET], 0, num_steps=3)).images


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
