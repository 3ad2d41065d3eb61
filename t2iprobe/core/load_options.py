"""How a pipeline is loaded: :class:`LoadOptions`; models that plugins ship: :class:`Embedded`.

Plain values only, so that every layer can pass them on; torch is imported when a device or dtype is resolved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from t2iprobe.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"
Offload = Literal["auto", "none", "model", "group", "sequential"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Which files become the weights, in which precision, and where they are kept; ``None`` leaves it to the loader.

    Args:
        device: a torch device (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``).
        dtype: a torch floating-point dtype by name (``"float32"``, ``"float16"``, ``"bfloat16"``).
        offload: what is kept on the device, see :func:`t2iprobe.core.placement.choose`.
        device_map: how diffusers spreads the components over several devices (``"balanced"``), in place of ``offload``.
        resolution: side of the pictures in pixels that memory is reserved for; default the model's own.
        variant: files to prefer, such as ``fp16``.
        revision: branch, tag or commit of a hub repository.
        subfolder: folder of the pipeline within the folder or repository.
        config: folder or hub id with the configuration, and with the components that a single file lacks.
        without: components to leave out, such as a text encoder.
        lora: LoRAs to load, ``REF`` or ``REF:WEIGHT``.
        scheduler: name of a diffusers scheduler in place of the checkpoint's.
        quantize: how to quantise the large components while loading, such as ``bnb-4bit``.
        compile: compile the denoiser's blocks, see :func:`t2iprobe.core.compiling.compile_blocks`.
        weights: whether to read weights; without, networks are built from their configurations on the meta device,
            with which sites and sizes can be found, but nothing drawn.
        check: whether an adapter that was found by probing is checked before it is used.
    """

    device: str | None = None
    dtype: str | None = None
    offload: Offload = "auto"
    device_map: str | None = None
    resolution: int | None = None
    variant: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    config: str | None = None
    without: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()
    scheduler: str | None = None
    quantize: str | None = None
    compile: bool = False
    weights: bool = True
    check: bool = True

    def torch_device(self) -> torch.device:
        """The requested device, else the first GPU, else the CPU.

        Raises:
            ConfigError: there is no such device on this machine.
        """
        import torch

        name = self.device
        if name is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"no such device: {name!r}; use cpu, cuda, cuda:<n> or mps") from error
        count = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ConfigError(f"{name} was requested, but torch {torch.__version__} sees {count} GPUs")
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise ConfigError(f"{name} was requested, but this torch has no usable MPS device")
        return device

    def torch_dtype(self, half: str = "float32") -> torch.dtype:
        """The requested dtype, else ``half`` on a CUDA device and float32 elsewhere.

        Args:
            half: precision that the weights have on a GPU by default; bfloat16 is float16 on a GPU that lacks it.

        Raises:
            ConfigError: there is no such dtype.
        """
        import torch

        name = self.dtype
        if name is None:
            name = half if self.torch_device().type == "cuda" else "float32"
            if name == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
                name = "float16"
        dtype = getattr(torch, name.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ConfigError(f"no such dtype: {self.dtype!r}; use float32, float16 or bfloat16")
        return dtype


@dataclass(frozen=True, slots=True)
class Embedded:
    """A model that a plugin ships; ``--arch`` alone selects the one of that architecture.

    Args:
        name: name to pass to ``load``.
        arch: name of its adapter.
        folder: folder of its pipeline, whether present or not.
        recipe: command that makes the weights if the installation lacks them; empty if there is none.
    """

    name: str
    arch: str
    folder: Path
    recipe: str = ""

    @property
    def present(self) -> bool:
        """Whether the weights are in this installation."""
        return (self.folder / INDEX).is_file()
