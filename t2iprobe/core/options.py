"""How a pipeline is loaded: :class:`LoadOptions`; models that plugins ship: :class:`Embedded`.

Plain values only, so that every layer can pass them on; torch is imported when a device or dtype is resolved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t2iprobe.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Device and precision of the weights; ``None`` leaves the choice to the loader.

    Args:
        device: a torch device (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``).
        dtype: a torch floating-point dtype by name (``"float32"``, ``"float16"``, ``"bfloat16"``).
        without: components to leave out, such as a text encoder that another pipeline already has.
    """

    device: str | None = None
    dtype: str | None = None
    without: tuple[str, ...] = ()

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

    def torch_dtype(self) -> torch.dtype:
        """The requested dtype, else float32.

        Raises:
            ConfigError: there is no such dtype.
        """
        import torch

        dtype = getattr(torch, (self.dtype or "float32").removeprefix("torch."), None)
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
