"""Where the weights of a pipeline wait while they are not used: :func:`choose`, a pure function of numbers of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.load_options import Offload

if TYPE_CHECKING:
    import torch

#: fraction of the free memory that is planned with; the allocator loses some to fragments
USABLE = 0.95
IN_WORDS: dict[Offload, str] = {
    "none": "everything on {device}",
    "model": "one component at a time on {device}, the others in main memory (--offload model)",
    "group": "one layer at a time on {device}, while the next one is copied there (--offload group)",
    "sequential": "one layer at a time on {device} (--offload sequential)",
}


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes that a pipeline needs.

    Args:
        components: bytes of the weights of each component.
        drawing: bytes beyond the weights for one picture, by the component that works on it; the others read text, in
            little memory.
        layer: bytes of the largest layer.
    """

    components: Mapping[str, int]
    drawing: Mapping[str, int]
    layer: int

    @property
    def activations(self) -> int:
        """Bytes beyond the weights for one picture."""
        return max(self.drawing.values(), default=0)

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(self.components.values())

    def together(self, free: int | None) -> tuple[str, ...]:
        """The components that work on pictures, if ``free`` bytes hold them all at once with a picture."""
        taken = sum(self.components.get(name, 0) for name in self.drawing) + self.activations
        return tuple(self.drawing) if free is not None and taken <= free * USABLE else ()

    def in_tiles(self) -> Demand:
        """The same, with pictures decoded in tiles of half a side."""
        return replace(self, drawing={**self.drawing, "vae": self.drawing["vae"] // 4})

    def needs(self, offload: Offload) -> int:
        """Bytes on the device under this kind of offloading."""
        if offload == "none":
            return self.weights + self.activations
        if offload == "model":
            return max((size + self.drawing.get(name, 0) for name, size in self.components.items()), default=0)
        resident = self.components.get("vae", 0)
        return self.activations + resident + (2 if offload == "group" else 1) * self.layer


@dataclass(frozen=True, slots=True)
class Placement:
    """What was chosen, and the numbers it was chosen by.

    Args:
        device: where the pipeline runs.
        precision: of the denoiser, in words.
        offload: what is kept on the device.
        demand: bytes that the pipeline needs.
        free: bytes that were free on the device before; ``None`` if that is not known.
        device_map: how diffusers spread the components, in place of ``offload``.
        compiled: whether the denoiser's blocks are compiled.
        tiles: whether pictures are decoded in overlapping tiles, because a whole one does not fit.
        lower: ways that keep less on the device, for when the estimate was too low; none if one was asked for.
    """

    device: str
    precision: str
    offload: Offload
    demand: Demand
    free: int | None = None
    device_map: str | None = None
    lower: tuple[Offload, ...] = ()
    compiled: bool = False
    tiles: bool = False

    def check_gradients(self) -> None:
        """Refuse to compute gradients where a layer's weights leave the device once it has run.

        Raises:
            ConfigError: they do.
        """
        if self.offload in ("group", "sequential"):
            raise ConfigError(
                f"gradients need all weights of the denoiser on {self.device}, which holds one layer at a time "
                f"(offload {self.offload}): take a smaller resolution, another device, or a method without gradients"
            )

    def __str__(self) -> str:
        """The choice in words."""
        spread = f"spread over the devices ({self.device_map})"
        kept = spread if self.device_map else IN_WORDS[self.offload].format(device=self.device)
        needs = f"{_gb(self.demand.weights)} of weights and about {_gb(self.demand.activations)} a picture"
        free = "" if self.free is None else f", {_gb(self.free)} free"
        tiles = ", decoding in overlapping tiles, which changes a picture a little" if self.tiles else ""
        return f"{self.precision}{', compiled blocks' if self.compiled else ''}, {kept}{tiles}; {needs}{free}"


def every_way(whole: bool) -> tuple[Offload, ...]:
    """What ``auto`` chooses from, the fastest first; without single layers where components move only as a whole."""
    return ("none", "model") if whole else ("none", "model", "group")


def choose(demand: Demand, free: int | None, offload: Offload = "auto", *, whole: bool = False) -> Offload:
    """What to keep on the device: what was asked for, else the fastest way that fits.

    Args:
        demand: bytes that the pipeline needs.
        free: free bytes of the device; ``None`` if that is not known, and then everything is put there.
        offload: what was asked for.
        whole: whether components are moved only as a whole, because weights are quantised, say.

    Raises:
        ModelError: no way fits, or not the one that was asked for.
    """
    if free is None:
        return "none" if offload == "auto" else offload
    ways = every_way(whole) if offload == "auto" else (offload,)
    fitting = next((way for way in ways if demand.needs(way) <= free * USABLE), None)
    if fitting is None:
        needs = ", ".join(f"{_gb(demand.needs(way))} with offload {way}" for way in ways)
        advice = "a smaller resolution" if len(ways) > 1 else "offload auto, or quantised weights"
        raise ModelError(
            f"the model does not fit: it needs {needs}, and {_gb(free)} of the device are free "
            f"({_gb(demand.weights)} of weights, about {_gb(demand.activations)} for one picture); take {advice}"
        )
    return fitting


def demand_of(pipeline: Any, drawing: Mapping[str, int]) -> Demand:
    """What a pipeline needs, given the bytes for one picture by component."""
    sizes = {name: [tensor.nbytes for tensor in tensors] for name, tensors in _tensors(pipeline).items()}
    layer = max((max(each, default=0) for each in sizes.values()), default=0)
    return Demand({name: sum(each) for name, each in sizes.items()}, drawing, layer)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, or ``None`` for other devices."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def held_bytes(pipeline: Any, device: torch.device) -> int:
    """Bytes of the pipeline's weights that are on a device already."""
    tensors = [tensor for part in _tensors(pipeline).values() for tensor in part]
    return sum(tensor.nbytes for tensor in tensors if tensor.device.type == device.type)


def stored(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that hold the numbers of one that torchao has quantised; of any other, itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    return [inner for name in tensor.__tensor_flatten__()[0] for inner in stored(getattr(tensor, name))]


def _tensors(pipeline: Any) -> dict[str, list[torch.Tensor]]:
    """Parameters and buffers of each component."""
    parts = {name: part for name, part in pipeline.components.items() if hasattr(part, "parameters")}
    return {
        name: [inner for tensor in (*part.parameters(), *part.buffers()) for inner in stored(tensor)]
        for name, part in parts.items()
    }


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
