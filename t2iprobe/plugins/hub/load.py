"""Loads a pipeline from a folder or the hub, and turns errors of diffusers and the hub into advice."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

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

from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ModelError
from t2iprobe.core.options import INDEX, LoadOptions
from t2iprobe.registry import folders
from t2iprobe.registry.no_bars import no_bars

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: suffixes of a component's weights in diffusers and transformers, whole or in shards
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
)


def load(ref: str, options: LoadOptions) -> Pipeline | None:
    """The pipeline in the folder or hub repository ``ref``; ``None`` if it looks like neither.

    Raises:
        ModelError: it looks like one, but cannot be loaded.
        ConfigError: the device or dtype of ``options`` is not available.
    """
    source = _source(ref)
    if source is None:
        return None
    device, dtype = options.torch_device(), options.torch_dtype()
    left_out = dict.fromkeys(options.without)
    variant = variant_of(Path(source)) if Path(source).is_dir() else None
    if variant is not None:
        into = str(dtype).removeprefix("torch.")
        warnings.warn(f"{ref} has weights only as the variant {variant}: loading those, as {into}", stacklevel=2)
    try:
        # loading from the hub may take minutes, where a progress bar is welcome
        with no_bars() if Path(source).is_dir() else nullcontext():
            if Path(source).is_dir():
                folders.check_sizes(Path(source))
            pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype, variant=variant, **left_out)
            folders.check_whole(Path(source), pipeline)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_explain(ref, error)) from error
    return pipeline.to(device)


def _source(ref: str) -> str | None:
    """What to pass to diffusers for ``ref``: a checked folder or a hub id."""
    folder = Path(ref).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise ModelError(f"{ref} is a folder, but not a pipeline: it has no {INDEX} ({_contents(folder)})")
        return str(folder)
    if folder.is_file():
        raise ModelError(f"{ref} is a file; a pipeline is a folder with {INDEX}, as save_pretrained writes it")
    if ref.startswith((".", "/", "~")):
        raise ModelError(f"no such folder: {ref}")
    return ref if HUB_ID.fullmatch(ref) else None


def variant_of(folder: Path) -> str | None:
    """The variant (``fp16``) of a folder in which some component has no plain weights, else ``None``.

    Raises:
        ModelError: such components do not share a variant.
    """
    only: list[set[str]] = []
    for part in folder.iterdir():
        found = [match["variant"] for file in part.glob("*") if (match := WEIGHTS.fullmatch(file.name))]
        if found and None not in found:
            only.append(set(found))
    if not only:
        return None
    common = sorted(set.intersection(*only))
    if not common:
        raise ModelError(
            f"{folder} has no plain weights, and its components have different variants: "
            f"{', '.join(sorted(set.union(*only)))}; save it in one of them"
        )
    return common[0]


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return "it has " + ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "it is empty"


#: causes of an error, in the order in which they are looked for, with what to do
ADVICE: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((GatedRepoError,), "{ref} is gated: accept its licence on the hub page, then log in with `hf auth login`"),
    (
        (RepositoryNotFoundError,),
        "the hub has no model {ref}, or it is private: check the name, or log in with `hf auth login`",
    ),
    ((RemoteEntryNotFoundError,), "the hub's {ref} is not a diffusers pipeline, it lacks a file: {error}"),
    (
        (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError, TimeoutError),
        "the hub cannot be reached and {ref} is not in the local cache: give a local folder with {index} instead "
        "({error})",
    ),
    ((SafetensorError,), "the weights of {ref} are corrupt; copy or download them again: {error}"),
)


def _explain(ref: str, error: Exception) -> str:
    """What went wrong with ``ref``, and what to do."""
    line = " ".join(str(error).split())[:300]
    for kinds, advice in ADVICE:
        if any(isinstance(cause, kinds) for cause in _causes(error)):
            return advice.format(ref=ref, error=line, index=INDEX)
    return f"{ref} cannot be loaded: {type(error).__name__}: {line}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
