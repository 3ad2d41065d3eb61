"""Loads a pipeline from a folder or the hub, and turns what diffusers and the hub raise into what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError

from t2iprobe.core.adapter import Pipeline
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.options import LoadOptions

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
INDEX = "model_index.json"


def load(ref: str, options: LoadOptions) -> Pipeline | None:
    """The pipeline in the folder or hub repository ``ref``; ``None`` if it looks like neither.

    Raises:
        ModelError: it looks like one, but cannot be loaded.
        ConfigError: the device or dtype of ``options`` is not to be had.
    """
    source = _source(ref)
    if source is None:
        return None
    device, dtype = _device(options.device), _dtype(options.dtype)
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype)
    except Exception as error:
        raise ModelError(_explain(ref, error)) from error
    return pipeline.to(device)


def _source(ref: str) -> str | None:
    """What diffusers is to be given for ``ref``: a checked folder or a hub id."""
    folder = Path(ref).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise ModelError(f"{ref} is a folder that is no pipeline: it has no {INDEX} ({_contents(folder)})")
        return str(folder)
    if folder.is_file():
        raise ModelError(f"{ref} is a file; a pipeline is a folder with {INDEX}, as save_pretrained writes it")
    if ref.startswith((".", "/", "~")):
        raise ModelError(f"no such folder: {ref}")
    return ref if HUB_ID.fullmatch(ref) else None


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return "it holds " + ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "it is empty"


def _device(name: str | None) -> torch.device:
    """The device that was asked for, or else the first GPU, or else the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no such device: {name!r}; use cpu, cuda, cuda:<n> or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{name} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} GPUs")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"{name} was asked for, but this torch has no usable MPS device")
    return device


def _dtype(name: str | None) -> torch.dtype:
    """The dtype of that name; float32 if none was asked for."""
    dtype = getattr(torch, (name or "float32").removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"no such dtype: {name!r}; use float32, float16 or bfloat16")
    return dtype


def _explain(ref: str, error: Exception) -> str:
    """What went wrong with ``ref``, and what to do."""
    causes = tuple(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if caused_by(GatedRepoError):
        return f"{ref} is gated: accept its licence on the hub page, then log in with `hf auth login`"
    if caused_by(RepositoryNotFoundError):
        return f"the hub has no model {ref}, or it is private: check the name, or log in with `hf auth login`"
    if caused_by(RemoteEntryNotFoundError):
        return f"the hub's {ref} is no diffusers pipeline, it lacks a file: {_line(error)}"
    if caused_by(OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError, TimeoutError):
        return (
            f"the hub cannot be reached and {ref} is not in the local cache: "
            f"give a local folder with {INDEX} instead ({_line(error)})"
        )
    if caused_by(SafetensorError):
        return f"the weights of {ref} are corrupt, copy or download them again: {_line(error)}"
    return f"{ref} cannot be loaded: {type(error).__name__}: {_line(error)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: Exception) -> str:
    """The beginning of an error's text, on one line."""
    return " ".join(str(error).split())[:300]
