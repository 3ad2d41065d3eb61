"""What `benchmarks/gpu.py` measures on one full-size model; every function returns a row of plain values."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import full_size
import torch
import with_nnsight
from gpu_clock import collect, difference, memory, timed

from t2iprobe.core.errors import ModelError
from t2iprobe.core.interventions import patch
from t2iprobe.core.load_options import Offload
from t2iprobe.core.model import Model, Run
from t2iprobe.core.pairs import Pair
from t2iprobe.core.placement import Demand, choose, demand_of, free_bytes
from t2iprobe.core.store import capture
from t2iprobe.core.sweep import Renderer, TrialBatch
from t2iprobe.core.trials import Space, source
from t2iprobe.registry.placing import apply

SOURCE, TARGET = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
BATCHES = (1, 2, 4, 8, 16)
SIDES = (1024, 1536, 2048, 3072, 4096)
SMALL_CARD = 24 << 30  # bytes that an out-of-memory run may take, beside what the weights take beyond it

Settings = dict[str, Any]
Row = dict[str, Any]


def demand(name: str, dtype: torch.dtype, without: Sequence[str]) -> Demand:
    """What a model needs on a device, from its configuration."""
    pipeline, model = full_size.built(name, "meta", dtype, without), full_size.MODELS[name]
    adapter = model.adapter()
    return demand_of(pipeline, adapter.drawing(pipeline, (model.side, model.side)))


def built(name: str, device: str, dtype: torch.dtype, without: Sequence[str], made: list[Model]) -> Row:
    """The model, appended to ``made``, where `--offload auto` would put it, and what that takes."""
    needs = demand(name, dtype, without)
    offload = choose(needs, free_bytes(torch.device(device)))
    with timed() as spent, memory() as peak:
        pipeline = full_size.built(name, device if offload == "none" else "cpu", dtype, without)
        apply(pipeline, offload, torch.device(device))
    made.append(Model(pipeline, full_size.MODELS[name].adapter(), ref=name))
    return {
        "seconds": spent[0],
        "offload": offload,
        "weights, GB": {part: size / 1e9 for part, size in needs.components.items()},
        "a picture, estimated GB": needs.activations / 1e9,
        "peak GB": peak[0],
        "layers": made[0].n_layers,
    }


def tiny(name: str, device: str, dtype: torch.dtype, made: list[Model]) -> Row:
    """A tiny model of the family, appended to ``made``."""
    adapter = full_size.MODELS[name].adapter
    made.append(Model(adapter.tiny().to(device, dtype), adapter(), ref=name))
    return {"layers": made[0].n_layers}


def pictures(model: Model, rows: int, settings: Settings) -> Row:
    """Seconds a picture of bare diffusers and of `Model.run`: without hooks, one layer read, every layer read."""
    generation = model.generation([SOURCE] * rows, range(rows), **settings)
    model.run(model.generation([SOURCE] * rows, 0, **settings | {"num_steps": 2}))  # warms up
    with timed() as bare, memory() as peak, torch.no_grad():
        images = model.pipeline(**model.arguments(generation, range(rows))).images
    with timed() as run:
        again = model.run(generation)
    with timed() as read:
        model.run(generation, cache=model.text_sites(0))
    with timed() as read_all:
        model.run(generation, cache=_all(model))
    model.denoiser.to(memory_format=torch.channels_last)
    with timed() as channels_last:
        model.run(generation)
    model.denoiser.to(memory_format=torch.contiguous_format)
    return {
        "bare diffusers": bare[0] / rows,
        "Model.run": run[0] / rows,
        "reading one layer's keys and values": read[0] / rows,
        "reading every layer's": read_all[0] / rows,
        "Model.run, channels last": channels_last[0] / rows,
        "equal pictures": difference(again.images, images) == 0,
        "peak GB": peak[0],
    }


def patching(model: Model, rows: int, settings: Settings) -> Row:
    """Seconds a patched picture, another layer in each of ``rows``; the donor's own row or cache counts apart."""
    layers = list(range(min(rows, model.n_layers)))
    sites = [model.text_sites(layer) for layer in layers]
    donor = model.generation(TARGET, 0, **settings)
    alone = model.generation([SOURCE] * len(layers), 0, **settings)
    beside = model.generation([SOURCE] * len(layers) + [TARGET], 0, **settings)
    with timed() as lock, memory() as lock_peak:
        swaps = [patch({layer: len(layers)}, sites[layer]) for layer in layers]
        first = model.run(beside, interventions=swaps)
    with timed() as keep:
        cache = model.run(donor, cache=[site for one in sites for site in one.names]).cache
    with timed() as cached:
        swaps = [patch(cache, sites[layer], rows={layer: 0}) for layer in layers]
        second = model.run(alone, interventions=swaps)
    return {
        "lock-step, donor row included": lock[0] / len(layers),
        "lock-step peak GB": lock_peak[0],
        "from a cache": cached[0] / len(layers),
        "making the cache": keep[0],
        "cache MB": cache.nbytes / 1e6,
        "largest difference of the two, of 255": difference(first.images[: len(layers)], second.images),
    }


def command(model: Model, rows: int, settings: Settings) -> Row:
    """A patched picture as `t2iprobe patch` makes it: its batches, its choice of donors."""
    space = Space.of(model, settings["num_steps"])
    trials = tuple(space.trial([layer]) for layer in range(min(rows, space.layers)))
    batch = TrialBatch(0, (source(), *trials))
    renderer = Renderer(model, [Pair.from_prompts(SOURCE, TARGET)], settings)
    with timed() as spent:
        results = list(renderer.render([batch]))
    pictures = len(batch.trials)
    each = model.evaluations(settings["num_steps"]) * model.guided(settings)
    return {
        "seconds a picture": spent[0] / pictures,
        "rows a picture": sum(result.rows for result in results) / each / pictures,
    }


def paper(model: Model, rows: int, settings: Settings) -> Row:
    """The localization paper's way: keys and values of all layers cached, then a run of one picture a layer."""
    with timed() as keep:
        cache = model.run(model.generation(TARGET, 0, **settings), cache=_all(model)).cache
    layers = range(min(rows, model.n_layers))
    with timed() as spent:
        for layer in layers:
            swap = patch(cache, model.text_sites(layer))
            model.run(model.generation(SOURCE, 0, **settings), interventions=[swap])
    return {"seconds a picture": spent[0] / len(layers), "making the cache": keep[0], "cache MB": cache.nbytes / 1e6}


def nnsight(model: Model, rows: int, settings: Settings) -> Row:
    """The lock-step patch written with nnsight, and whether its pictures are ours."""
    if importlib.util.find_spec("nnsight") is None:
        return {"left out": "nnsight is not installed"}
    layers = list(range(min(rows, model.n_layers)))
    generation = model.generation([SOURCE] * len(layers) + [TARGET], 0, **settings)
    modules = {layer: [site.module for site in model.text_sites(layer)] for layer in layers}
    arguments = model.arguments(generation, range(len(layers) + 1))
    steps = model.calls(settings)
    branches = model.guided(settings) * model.evaluations(settings["num_steps"]) // steps
    with timed() as spent:
        theirs = with_nnsight.patched(model.pipeline, model.adapter.denoiser, modules, arguments, steps, branches)
    swaps = [patch({layer: len(layers)}, model.text_sites(layer)) for layer in layers]
    ours = model.run(generation, interventions=swaps)
    return {
        "lock-step, donor row included": spent[0] / len(layers),
        "largest difference from ours, of 255": difference(ours.images, theirs),
    }


def batches(model: Model, settings: Settings) -> Row:
    """Seconds a picture by pictures at once, and the peak in GB."""
    found = {}
    for rows in BATCHES:
        with timed() as spent, memory() as peak:
            run = model.run(model.generation([SOURCE] * rows, range(rows), **settings))
        found[str(rows)] = [spent[0] / rows, peak[0]]
        if _wasted(run, rows, model, settings):
            break
    return found


def captured(model: Model, rows: int, settings: Settings) -> Row:
    """Text keys and values of every layer to disk, in MB a second of the whole run."""
    generation = model.generation([SOURCE] * rows, range(rows), **settings)
    layout = capture.layout_of(model, generation, _all(model), batch=rows, static=False)
    with tempfile.TemporaryDirectory() as folder:
        with timed() as spent:
            capture.capture(model, generation, layout, Path(folder) / "store")
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    with timed() as plain:
        model.run(generation)
    return {"MB": size / 1e6, "seconds": spent[0], "seconds without": plain[0], "MB a second": size / 1e6 / spent[0]}


def out_of_memory(model: Model, settings: Settings, rows: int = 32) -> Row:
    """``rows`` pictures at once on what a smaller card has: that it is halved for real, and what that costs."""
    settings = settings | {"num_steps": 2}
    generation = model.generation([SOURCE] * rows, range(rows), **settings)
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = max(SMALL_CARD, torch.cuda.memory_allocated() + (6 << 30))
    collect()
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


def largest(model: Model, settings: Settings) -> Row:
    """Peak GB and seconds of one picture of one step, by side, up to the first that does not fit."""
    found: Row = {}
    for side in SIDES:
        sized = settings | {"num_steps": 1, "height": side, "width": side}
        try:
            with timed() as spent, memory() as peak:
                model.run(model.generation(SOURCE, 0, **sized))
        except (torch.cuda.OutOfMemoryError, ModelError) as error:
            found[str(side)] = f"does not fit: {' '.join(str(error).split())[:100]}"
            break
        found[str(side)] = [spent[0], peak[0]]
        collect()
    return found


def offloaded(model: Model, device: str, offload: Offload, settings: Settings) -> Row:
    """Seconds a picture and peak GB with the weights kept in main memory; equal to the picture without."""
    before = model.run(model.generation(SOURCE, 0, **settings)).images
    model.pipeline.to("cpu")
    collect()
    apply(model.pipeline, offload, torch.device(device))
    with timed() as spent, memory() as peak:
        after = model.run(model.generation(SOURCE, 0, **settings)).images
    if offload == "model":  # group offloading cannot be taken back
        model.pipeline.remove_all_hooks()
        model.pipeline.to(device)
    return {"seconds a picture": spent[0], "peak GB": peak[0], "largest difference, of 255": difference(before, after)}


def _all(model: Model) -> list[str]:
    return [site for layer in range(model.n_layers) for site in model.text_sites(layer).names]


def _wasted(run: Run, rows: int, model: Model, settings: Settings) -> bool:
    return run.denoiser_rows > rows * model.evaluations(settings["num_steps"]) * model.guided(settings)
