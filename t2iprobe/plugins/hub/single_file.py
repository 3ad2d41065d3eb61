"""Checkpoints in one file: a complete pipeline as from civitai, or a denoiser alone, also as GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    fetch_diffusers_config,
    load_single_file_checkpoint,
)

from t2iprobe.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch

    from t2iprobe.core.contracts.adapter import Adapter, Pipeline

GGUF = ".gguf"


def configuration(path: Path) -> str:
    """The hub id of the configuration that diffusers takes for a file, by the names of its weights.

    Raises:
        ConfigError: the file has a denoiser whose configuration cannot be inferred.
        ModelError: it is not a file of weights.
    """
    if path.suffix == GGUF:
        raise ConfigError(
            f"{path} has only a denoiser; name the folder or hub id that has the rest of the pipeline: config=REF"
        )
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is a file, but neither .safetensors nor .gguf; a pipeline is a folder or such a file")
    return str(fetch_diffusers_config(load_single_file_checkpoint(str(path)))["pretrained_model_name_or_path"])


def whole(
    path: Path, index: Mapping[str, Any], config: str, dtype: torch.dtype, without: tuple[str, ...]
) -> Pipeline | None:
    """The pipeline of a file; ``None`` if the file lacks components, as one with the denoiser alone does.

    Raises:
        ModelError: the file has a component, but not all of its weights.
    """
    kind = getattr(diffusers, str(index["_class_name"]))
    if path.suffix == GGUF or not hasattr(kind, "from_single_file"):
        return None
    try:
        pipeline = kind.from_single_file(str(path), config=config, dtype=dtype, **dict.fromkeys(without))
    except SingleFileComponentError:
        return None
    except NotImplementedError as error:  # torch's, for a weight that was never read
        raise ModelError(_incomplete(path, config)) from error
    parts = {name: part for name, part in pipeline.components.items() if hasattr(part, "named_parameters")}
    for name, part in parts.items():
        lacking = next((key for key, parameter in part.named_parameters() if parameter.is_meta), None)
        if lacking is not None:
            raise ModelError(f"{_incomplete(path, config)}; the first is {name}.{lacking}")
    return pipeline


def _incomplete(path: Path, config: str) -> str:
    return (
        f"{path} lacks weights that the configuration of {config} has: the file is incomplete, or it belongs to "
        "another model; name the folder or hub id of that one with config=REF"
    )


def denoiser(
    path: Path, index: Mapping[str, Any], adapter: type[Adapter], config: str, dtype: torch.dtype
) -> torch.nn.Module:
    """The denoiser of a file.

    Raises:
        ConfigError: diffusers reads no single files of this class; or it is GGUF, and the package that reads it is not
            installed.
    """
    named = str(index[adapter.denoiser][1])
    if named not in SINGLE_FILE_LOADABLE_CLASSES:
        raise ConfigError(
            f"diffusers reads no single file of a {named}: put {path.name} into a folder of the whole pipeline, as "
            f"{adapter.denoiser}/diffusion_pytorch_model.safetensors, and give that"
        )
    more: dict[str, Any] = {}
    if path.suffix == GGUF:
        if find_spec("gguf") is None:
            raise ConfigError(f"{path.name} is read with a package that is not installed: pip install gguf")
        more["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    kind = getattr(diffusers, named)
    return kind.from_single_file(str(path), config=config, subfolder=adapter.denoiser, dtype=dtype, **more)
