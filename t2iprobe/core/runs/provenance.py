"""What a run ran on: weights, versions, repository. Nothing in it names a host, a user or an absolute path."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.placement import stored

if TYPE_CHECKING:
    from torch import Tensor

    from t2iprobe.core.model import Model

PACKAGES = ("t2iprobe", "torch", "diffusers", "transformers", "peft", "zarr", "numpy")
SAMPLES = 64  # how many values of a tensor are hashed
_COMMAND = ContextVar("command", default="")


def facts(model: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a model and how it generates; those in ``"decides"`` decide the result."""
    upscaler = model.upscaler
    parts = [one for one in (model.pipeline, upscaler) if one is not None]
    generation = {**model.defaults, **{key: value for key, value in settings.items() if value is not None}}
    decides = {
        "weights": digest(parts),
        "adapter": model.adapter.name,
        "scheduler": _scheduler(model.pipeline.scheduler),
        **({"loras": portable(list(model.loras))} if model.loras else {}),
        "dtype": str(next(model.denoiser.parameters()).dtype).removeprefix("torch."),
        "generation": {**generation, "num_steps": model.steps(settings.get("num_steps"), settings.get("options"))},
    }
    return {
        "decides": decides,
        "model": portable(model.ref),
        **({} if upscaler is None else {"upscaler": portable(str(upscaler.name_or_path))}),
        "pipeline": type(model.pipeline).__name__,
        "device": str(model.device),  # offloaded weights are elsewhere
        **({"placement": str(model.placement)} if model.placement is not None else {}),
    }


@contextmanager
def commanded(command: str) -> Iterator[None]:
    """Note in the manifests of the runs within a ``with`` block which command makes them."""
    before = _COMMAND.set(command)
    try:
        yield
    finally:
        _COMMAND.reset(before)


def command() -> dict[str, str]:
    """The command that makes the run, by its key in manifests; nothing if it is made from Python."""
    return {"command": text} if (text := _COMMAND.get()) else {}


def versions() -> dict[str, str]:
    """The versions of the packages that decide a result."""
    return {name: _version(name) for name in PACKAGES}


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _scheduler(scheduler: Any) -> dict[str, Any]:
    """The class and the configuration of a scheduler, without what depends on the version."""
    config = json.loads(scheduler.to_json_string(), parse_constant=str) if hasattr(scheduler, "to_json_string") else {}
    named = {key: value for key, value in config.items() if not key.startswith("_")}
    return {"class": type(scheduler).__name__, **named}


def digest(pipelines: Iterable[Any]) -> str:
    """A hash of all weights: names, shapes, dtypes, and 64 values of every tensor, evenly spaced.

    It takes a fraction of a second for ten gigabytes, and also works for models that were built or changed in memory. A
    training step changes nearly every value, and so the hash; a single changed weight may go unnoticed.
    """
    found = hashlib.sha256()
    for name, tensor in _tensors(pipelines):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        for inner in stored(tensor):
            found.update(_sample(inner))
    return "sampled-sha256:" + found.hexdigest()


def _tensors(pipelines: Iterable[Any]) -> Iterator[tuple[str, Tensor]]:
    from torch import nn

    for number, pipeline in enumerate(pipelines):
        for name, part in sorted(pipeline.components.items()):
            if isinstance(part, nn.Module):
                for inner, tensor in part.state_dict().items():
                    yield f"{number}.{name}.{inner}", tensor


def _sample(tensor: Tensor) -> bytes:
    import torch

    if tensor.is_meta or not tensor.numel():  # offloaded to disk: name and shape have to suffice
        return b""
    flat = tensor.detach().reshape(-1)
    chosen = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel()), dtype=torch.float64).long()
    return flat[chosen.to(flat.device)].cpu().contiguous().view(torch.uint8).numpy().tobytes()


def repository(folder: Path | None = None) -> dict[str, Any] | None:
    """The commit of the current git repository, and whether files differ from it; ``None`` outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.strip(), "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path | None, *arguments: str) -> str | None:
    unlocked = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # reading the state must not write the repository's index
    try:
        ran = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=20, env=unlocked
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None


def portable(value: Any) -> Any:
    """The value without absolute paths: those in the home folder start with ``~``, others are made relative."""
    if isinstance(value, Mapping):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [portable(inner) for inner in value]
    if not isinstance(value, str | Path) or not Path(value).is_absolute():
        return str(value) if isinstance(value, Path) else value
    path = Path(value)
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return os.path.relpath(path)
