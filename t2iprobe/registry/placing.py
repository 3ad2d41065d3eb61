"""Puts a loaded pipeline onto its device as :mod:`t2iprobe.core.placement` says: :func:`place`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from t2iprobe.core.batch_room import release
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.load_options import LoadOptions, Offload
from t2iprobe.core.measuring import available
from t2iprobe.core.placement import Demand, Placement, choose, demand_of, every_way, free_bytes, held_bytes
from t2iprobe.registry.turns import take_turns

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter


def place(pipeline: Any, adapter: Adapter, options: LoadOptions, denoiser: torch.nn.Module) -> Placement:
    """Put a pipeline onto the device of ``options``, whole or with offloading.

    Raises:
        ModelError: it does not fit.
    """
    placed = planned(pipeline, adapter, options, denoiser)
    demand, offload, device = placed.demand, placed.offload, torch.device(placed.device)
    if placed.device_map is not None:
        return placed
    try:
        apply(pipeline, offload, device, demand.together(placed.free))
    except (RuntimeError, ValueError) as error:  # out of memory is a RuntimeError
        raise ModelError(_failed(demand, placed.free, offload, device, error)) from error
    return placed


def planned(pipeline: Any, adapter: Adapter, options: LoadOptions, denoiser: torch.nn.Module) -> Placement:
    """Where a pipeline would be put; its weights may be missing.

    Raises:
        ModelError: it does not fit.
    """
    device = options.torch_device()
    side = options.resolution
    try:
        drawing = adapter.drawing(pipeline, None if side is None else (side, side))
    except ModelError:  # nothing says how large its pictures are, and only a run without a size needs to know
        drawing = {}
    demand = demand_of(pipeline, drawing)
    dtype = _precision(denoiser, options)
    if options.device_map is not None:
        return Placement(str(device), dtype, "none", demand, device_map=options.device_map)
    free = free_bytes(device)
    if free is not None:  # what is there already, as bitsandbytes' weights are, needs no further room
        free += held_bytes(pipeline, device)
    quantized = getattr(denoiser, "hf_quantizer", None) is not None
    whole = quantized or not getattr(denoiser, "_supports_group_offloading", True)  # Hunyuan-DiT
    tiles = False
    try:
        offload = choose(demand, free, options.offload, whole=whole)
    except ModelError:
        if not hasattr(getattr(pipeline, "vae", None), "tile_latent_min_size") or "vae" not in drawing:
            raise
        demand, tiles = demand.in_tiles(), True
        offload = choose(demand, free, options.offload, whole=whole)
    ways = every_way(whole) if options.offload == "auto" and free is not None else (offload,)
    return Placement(str(device), dtype, offload, demand, free, lower=ways[ways.index(offload) + 1 :], tiles=tiles)


def check_offload(options: LoadOptions) -> None:
    """Refuse what cannot be done, before anything is loaded.

    Raises:
        ConfigError: offloading from a device that is the main memory, or together with a device map.
    """
    device = options.torch_device()
    if options.offload not in ("auto", "none") and device.type == "cpu":
        raise ConfigError(f"offload {options.offload} moves weights between main memory and a GPU; the device is a CPU")
    if options.offload != "auto" and options.device_map is not None:
        raise ConfigError(f"offload {options.offload} and device map {options.device_map}: give one of them")


def apply(pipeline: Any, offload: Offload, device: torch.device, together: Collection[str] = ()) -> None:
    """Do to a pipeline in main memory what ``offload`` means; hooks then move the weights at every run.

    Args:
        pipeline: the pipeline.
        offload: what is kept on the device.
        device: the device.
        together: components that are on the device at the same time under ``model``.
    """
    if offload == "model":
        take_turns(pipeline.components, device, together)
    elif offload in ("group", "sequential"):
        pipeline.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=offload == "group" and device.type == "cuda",
            # small, and SDXL's is cast to float32 for every picture, which a stream's pinned copies would not follow
            exclude_modules="vae",
        )
    else:
        pipeline.to(device, silence_dtype_warnings=True)  # float16 on a CPU runs nowadays


def step_down(pipeline: Any, placement: Placement) -> Placement | None:
    """Keep less of a pipeline on its device, for when an estimate was too low; ``None`` if there is no further way."""
    free = available()
    if not placement.lower or (free is not None and free < placement.demand.weights):
        return None
    pipeline.remove_all_hooks()
    pipeline.to("cpu", silence_dtype_warnings=True)
    release()
    offload, *lower = placement.lower
    apply(pipeline, offload, torch.device(placement.device))
    return replace(placement, offload=offload, lower=tuple(lower))


def _failed(demand: Demand, free: int | None, offload: Offload, device: torch.device, error: Exception) -> str:
    left = "" if free is None else f", of which {free / 1e9:.1f} GB were free"
    return (
        f"{demand.weights / 1e9:.1f} GB of weights could not be put on {device}{left} (offload {offload}): "
        f"{' '.join(str(error).split())[:200]}; free the device, or try offload model or sequential"
    )


def _precision(denoiser: torch.nn.Module, options: LoadOptions) -> str:
    dtype = next((p.dtype for p in denoiser.parameters() if p.is_floating_point()), torch.float32)
    quantized = "" if getattr(denoiser, "hf_quantizer", None) is None else f", quantised ({options.quantize or 'gguf'})"
    return str(dtype).removeprefix("torch.") + quantized
