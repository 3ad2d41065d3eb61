"""Loads a pipeline from a folder, a single file or the hub; errors of diffusers and the hub become advice."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.hub_advice import explained
from t2iprobe.core.load_options import INDEX, LoadOptions
from t2iprobe.core.measuring import available
from t2iprobe.core.placement import choose, free_bytes
from t2iprobe.plugins.hub import files, quantization, single_file, structure
from t2iprobe.registry import folders
from t2iprobe.registry.no_bars import no_bars

if TYPE_CHECKING:
    import torch

    from t2iprobe.core.contracts.adapter import Adapter

    Adapters = Mapping[str, type[Adapter]]


@dataclass(frozen=True)
class PipelineFiles:
    """The files of a pipeline before it is loaded.

    Args:
        index: contents of ``model_index.json``.
        names: its files as ``component/file``.
        folder: where it is, if it is on this machine.
    """

    index: dict[str, Any]
    names: list[str]
    folder: Path | None = None


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILE = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)/(?P<file>[\w./-]+\.(?:safetensors|gguf))")


def load(ref: str, options: LoadOptions, adapters: Adapters) -> Pipeline | None:
    """The pipeline in the folder, file or hub repository ``ref``, in main memory; ``None`` if it looks like neither.

    Args:
        ref: the reference to load.
        options: how to load it.
        adapters: adapters by the pipeline classes that they serve.

    Raises:
        ModelError: it looks like one, but cannot be loaded.
        ConfigError: the device or dtype of ``options`` is not available, or options do not go together.
    """
    options.torch_device(), options.torch_dtype()  # refused before anything is fetched
    file, hub = Path(ref).expanduser(), HUB_FILE.fullmatch(ref)
    if not (file.exists() or hub or HUB_ID.fullmatch(ref)):
        if ref.startswith((".", "/", "~")):
            raise ModelError(f"no such folder or file: {ref}")
        return None
    try:
        if hub and not file.exists():
            file = Path(hf_hub_download(hub["id"], hub["file"], revision=options.revision))
        if file.is_file():
            return _single_file(file, options, adapters)
        return _folder(file if file.is_dir() else ref, ref, options, adapters)
    except (ModelError, ConfigError):
        raise
    except Exception as error:
        raise ModelError(explained(ref, error)) from error


def _folder(
    source: Path | str, ref: str, options: LoadOptions, adapters: Adapters, loaded: Mapping[str, Any] | None = None
) -> Pipeline:
    """The pipeline of a folder, or of a hub repository by its id; what is ``loaded`` already is not read there."""
    found = _pipeline_files(source, options)
    _check_installed(found.index)
    if not options.weights:
        return _structure(found, ref, options, adapters)
    if not any(map(files.is_weights, found.names)):
        again = f"run `hf download {ref}`" if isinstance(source, str) else "copy the whole folder"
        raise ModelError(f"{ref} has {INDEX}, but no file of weights; {again}")
    index, adapter = found.index, adapters.get(str(found.index["_class_name"]))
    dtype = options.torch_dtype(adapter.half if adapter else "float32")
    try:
        variant = files.variant_of(found.names, _name(dtype), options.variant)
    except ModelError as error:
        raise ModelError(f"{ref}: {error}") from None
    if variant and _name(dtype) == "float32" and not options.variant:
        warnings.warn(f"{ref} has weights only as the variant {variant}: loading those, as float32", stacklevel=2)
    components: dict[str, Any] = {**dict.fromkeys(left_out(index, options.without)), **(loaded or {})}
    folder = found.folder or _downloaded(ref, files.chosen(found.names, variant, components), options)
    if options.quantize is None:
        _check_memory(ref, folder, variant, dtype, options, components)
    quantized = quantization.config(options.quantize, index, adapter, dtype) if options.quantize else None
    folders.check_sizes(folder, components)
    with no_bars():
        pipeline = DiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            variant=variant,
            device_map=options.device_map,
            quantization_config=quantized,
            **components,
        )
    folders.check_whole(folder, pipeline, components)
    return pipeline


def _structure(pipeline_files: PipelineFiles, ref: str, options: LoadOptions, adapters: Adapters) -> Pipeline:
    """The pipeline with its networks on the meta device, in the precision of their weights, by configurations alone."""
    adapter = adapters.get(str(pipeline_files.index["_class_name"]))
    dtype = options.torch_dtype(adapter.half if adapter else "float32")
    small = [name for name in pipeline_files.names if name.count("/") <= 1 and name.endswith(files.AUXILIARY)]
    folder = pipeline_files.folder or _downloaded(ref, small, options)
    without = left_out(pipeline_files.index, options.without)
    folders.check_sizes(folder, without)
    with no_bars():
        networks = structure.networks(folder, pipeline_files.index, dtype, without)
        return DiffusionPipeline.from_pretrained(folder, **networks)


def _single_file(path: Path, options: LoadOptions, adapters: Adapters) -> Pipeline:
    """The pipeline of a file, which takes what is not in it from another folder or repository."""
    if options.device_map is not None or (options.quantize and path.suffix != single_file.GGUF):
        raise ConfigError("a device map and quantising are for folders and hub ids, not for a single file")
    config = options.config or single_file.configuration(path)
    plain = replace(options, config=None, variant=None, revision=None, subfolder=None)
    source = Path(config).expanduser() if Path(config).expanduser().is_dir() else config
    try:
        index = _pipeline_files(source, plain).index
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path} needs the configuration (config) of {config}: {explained(config, error)}") from error
    adapter = adapters.get(str(index["_class_name"]))
    if adapter is None:
        raise ModelError(f"{path} belongs to a {index['_class_name']}, which no adapter serves")
    if not options.weights:
        return _folder(source, config, plain, adapters)
    dtype = options.torch_dtype(adapter.half)
    without = left_out(index, options.without)
    with no_bars():
        whole = single_file.whole(path, index, str(config), dtype, without)
        if whole is not None:
            return whole
        denoiser = single_file.denoiser(path, index, adapter, str(config), dtype)
    return _folder(source, config, replace(plain, without=without), adapters, {adapter.denoiser: denoiser})


def left_out(index: Mapping[str, Any], without: tuple[str, ...]) -> tuple[str, ...]:
    """The components to leave out; a text encoder takes its tokenizer with it.

    Raises:
        ConfigError: the pipeline has no such component.
    """
    kind = getattr(diffusers, str(index["_class_name"]), object)
    known = sorted({*structure.listed(index), *signature(kind).parameters})
    wrong = next((name for name in without if name not in known), None)
    if wrong is not None:
        raise ConfigError(f"the pipeline has no component {wrong!r} to leave out; it has {', '.join(known)}")
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in without if name.startswith("text_encoder")]
    return tuple(dict.fromkeys([*without, *(name for name in tokenizers if name in known)]))


def _pipeline_files(place: Path | str, options: LoadOptions) -> PipelineFiles:
    """The files of a folder, or of a hub repository by its id; those in the cache if the hub cannot be reached.

    Raises:
        ModelError: the folder is not a pipeline.
        LocalEntryNotFoundError: the hub cannot be reached, and the cache has no pipeline of that name.
    """
    inside = f"{options.subfolder}/" if options.subfolder else ""
    if isinstance(place, Path):
        if not (place / inside / INDEX).is_file():
            has = _contents(place / inside)
            raise ModelError(f"{place} is a folder, but not a pipeline: it has no {inside}{INDEX} ({has})")
        return _read(place / inside)
    try:
        listed = HfApi().model_info(place, revision=options.revision).siblings or ()
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:  # each release of the hub's client has its own
        try:
            cached = hf_hub_download(place, inside + INDEX, revision=options.revision, local_files_only=True)
        except LocalEntryNotFoundError:
            raise LocalEntryNotFoundError(str(error)) from error
        return _read(Path(cached).parent)
    names = [one.rfilename.removeprefix(inside) for one in listed if one.rfilename.startswith(inside)]
    index = Path(hf_hub_download(place, inside + INDEX, revision=options.revision))
    return PipelineFiles(json.loads(index.read_text()), names)


def _read(folder: Path) -> PipelineFiles:
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return PipelineFiles(json.loads((folder / INDEX).read_text()), names, folder)


def _check_installed(index: Mapping[str, Any]) -> None:
    """Refuse a pipeline whose class diffusers has only where another package is installed.

    Raises:
        ConfigError: that package is not.
    """
    kind = str(index["_class_name"])
    needs = getattr(getattr(diffusers, kind, None), "_backends", ())
    if absent := [name for name in needs if find_spec(name) is None]:
        raise ConfigError(f"diffusers needs more packages for {kind}: pip install {' '.join(absent)}")


def _downloaded(repository: str, names: list[str], options: LoadOptions) -> Path:
    """The folder of a pipeline in a repository, with these files."""
    inside = f"{options.subfolder}/" if options.subfolder else ""
    wanted = [inside + name for name in names]
    return Path(snapshot_download(repository, revision=options.revision, allow_patterns=wanted)) / inside


def _check_memory(
    ref: str, folder: Path, variant: str | None, dtype: torch.dtype, options: LoadOptions, without: Iterable[str]
) -> None:
    """Refuse what fits neither the device nor the main memory, before anything is read.

    Raises:
        ModelError: the weights do not fit.
    """
    needs = files.demand(folder, variant, dtype.itemsize, without)
    if needs is None or options.device_map is not None:
        return
    choose(needs, free_bytes(options.torch_device()), options.offload)
    free = available()
    if free is not None and needs.weights > free:
        raise ModelError(
            f"{ref} has {needs.weights / 1e9:.1f} GB of weights as {_name(dtype)}, and {free / 1e9:.1f} GB of main "
            "memory are free: load it in half precision, quantised, without a component such as text_encoder_3, or "
            "straight onto the GPU with the device map cuda"
        )


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return "it has " + ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "it is empty"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
