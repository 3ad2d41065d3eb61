"""Put a saved LoRA on a model: diffusers loads it, after a check of what it is about to load.

So every file format that diffusers reads (its own, with or without peft's settings; kohya's) draws exactly as in
diffusers, scale and text-encoder parts included; and a file of another model is refused before anything changes.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
    set_weights_and_activate_adapters,
)
from huggingface_hub import constants, snapshot_download
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError, DamagedError
from t2iprobe.core.hub_advice import explained, failed_at_hub
from t2iprobe.core.model import Model
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.unsaid import unsaid
from t2iprobe.training import peft_folder

State = Mapping[str, Tensor]
#: suffixes of weight names behind their module's path
MARKS = (".lora_", ".lokr_")
#: a warning for every component of a pipeline that the LoRA does not adapt, and its loggers
EXPECTED = "No LoRA keys associated to", "diffusers.loaders.peft", "diffusers.loaders.lora_base"


def put_on(model: Model, ref: str | Path, name: str) -> None:
    """Load a LoRA like ``pipeline.load_lora_weights``; peft's own format where the pipeline has no such method.

    Args:
        model: model that gets the LoRA.
        ref: a file, a folder or a hub id.
        name: name of the adapter in peft.

    Raises:
        ConfigError: it cannot be read, or belongs to another model; the LoRA may then be partly loaded.
        DamagedError: a file is not what a run has written.
    """
    pipeline = model.pipeline
    try:
        place = _place(ref)
        if peft_folder.needed(pipeline, model.denoiser):
            component = model.adapter.denoiser
            peft_folder.put(
                model.denoiser, place, name, lambda state: _check_fits(model, ref, _below(component, state))
            )
            return
        with _unsaid(), _looking(pipeline, lambda state: _check_fits(model, ref, state)):
            pipeline.load_lora_weights(place, adapter_name=name)
    except (ConfigError, DamagedError):
        raise
    except Exception as error:  # a broken file can make the readers raise anything
        if failed_at_hub(error):
            raise ConfigError(f"the LoRA cannot be fetched: {explained(str(ref), error)}") from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(f"no LoRA can be read from {ref} ({reason})") from error


def weigh(model: Model, weights: Mapping[str, float]) -> None:
    """Set factors on LoRAs, by their names in peft; others are switched off."""
    pipeline: Any = model.pipeline
    if peft_folder.needed(pipeline, model.denoiser):
        set_weights_and_activate_adapters(model.denoiser, list(weights), list(weights.values()))
    else:
        pipeline.set_adapters(list(weights), list(weights.values()))


def _place(ref: str | Path) -> str:
    """The reference that is passed to diffusers.

    Raises:
        ConfigError: the folder holds no LoRA, or several.
        LocalEntryNotFoundError: the hub may not be asked, and the cache lacks it.
        DamagedError: a file in it is not what a run has written.
    """
    path = Path(ref).expanduser()
    if constants.HF_HUB_OFFLINE and not path.exists():  # diffusers would ask the hub which file it is
        path = Path(snapshot_download(str(ref), local_files_only=True))
    for file in path.glob("*") if path.is_dir() else [path]:
        check(file)  # where it is of a run
    if not path.is_dir():
        return str(path) if path.exists() else str(ref)
    found = sorted(one.name for one in path.glob("*.safetensors"))
    if not found and not any(path.glob("*.bin")):
        raise ConfigError(f"no LoRA can be read from {ref}: there is no .safetensors file in this folder")
    if len(found) > 1 and LORA_WEIGHT_NAME_SAFE not in found:
        raise ConfigError(f"{ref} holds several LoRAs ({', '.join(found[:4])}); give the path of one file")
    return str(path)


def digest(ref: str | Path) -> str | None:
    """A hash of the files of a saved LoRA; ``None`` for a hub id."""
    path, found = Path(ref).expanduser(), hashlib.sha256()
    files = [file for file in (path, *sorted(path.glob("*"))) if file.is_file()]
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest() if files else None


@contextmanager
def _looking(pipeline: Any, look: Callable[[State], None]) -> Iterator[None]:
    """Pass to ``look`` what diffusers has read and renamed, before it is loaded.

    Reading the file a second time would need the arguments that each pipeline reads its files with.
    """
    read = pipeline.lora_state_dict

    def shown(*args: Any, **options: Any) -> Any:
        found = read(*args, **options)
        look(found[0] if isinstance(found, tuple) else found)
        return found

    pipeline.lora_state_dict = shown
    try:
        yield
    finally:
        del pipeline.lora_state_dict


def _check_fits(model: Model, ref: str | Path, state: State) -> None:
    """Refuse a LoRA of another model: diffusers would load what fits and silently drop the rest."""
    pipeline: Any = model.pipeline
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    loadable = getattr(pipeline, "_lora_loadable_modules", (model.adapter.denoiser,))
    known = {part: own for part, own in parts.items() if part in loadable}
    if not known:
        raise ConfigError(
            f"{ref} is a LoRA of another model: none of it fits the {model.adapter.denoiser} or a text encoder of "
            f"{_named(model)} (its first weight is {next(iter(state), 'missing')})"
        )
    if left := sorted(set(parts) - set(known)):
        warnings.warn(f"diffusers drops what {ref} has for {', '.join(left)}", stacklevel=2)
    for part, own in known.items():
        _check_part(model, ref, part, own)


def _below(component: str, state: State) -> State:
    return {f"{component}.{key}": value for key, value in state.items()}


def _check_part(model: Model, ref: str | Path, name: str, state: State) -> None:
    """Check that each module that the LoRA adapts exists and has the same width."""
    other = f"{ref} is a LoRA of a model other than {_named(model)}"
    part = getattr(model.pipeline, name)
    if part is None:
        raise ConfigError(f"{other}: it adapts the {name}, which was not loaded")
    weights = _peft_names(part, state, name == model.adapter.denoiser)
    if unknown := [key for key in weights if _path(key) is None]:
        warnings.warn(
            f"diffusers drops {len(unknown)} weights of {ref} whose names it does not know in the {name}, such as "
            f"{unknown[0]}",
            stacklevel=2,
        )
    for path in dict.fromkeys(found for found in map(_path, weights) if found):
        try:
            module: Any = part.get_submodule(path)
        except AttributeError:
            raise ConfigError(f"{other}: there is no module {path} in the {name}") from None
        first, second = (weights.get(f"{path}.lora_{letter}.weight") for letter in "AB")
        if (first is None) != (second is None):
            raise ConfigError(f"{ref} is damaged: one of the two matrices of {path} is missing")
        if first is not None and second is not None:
            given, own = (first.shape[1], second.shape[0]), _widths(module)
            if own and given != own:
                raise ConfigError(
                    f"{other}: at {path} it maps {given[0]} to {given[1]} channels, and the model {own[0]} to {own[1]}"
                )


def _peft_names(part: nn.Module, state: State, denoiser: bool) -> State:
    """The weights under the names that diffusers will give them."""
    if denoiser:
        named: State = state if "lora_A" in next(iter(state)) else convert_unet_state_dict_to_peft(dict(state))
        return named
    found = convert_state_dict_to_peft(convert_state_dict_to_diffusers(dict(state)))
    flat = "" if hasattr(part, "text_model") else "text_model."
    return {key.removeprefix(flat): value for key, value in found.items()}


def _path(key: str) -> str | None:
    """The module of a weight; ``None`` if the weight is not a LoRA's."""
    return next((key.partition(mark)[0] for mark in MARKS if mark in key), None)


def _widths(module: Any) -> tuple[int, int] | None:
    """Input and output channels of a linear layer or convolution; the shape of quantized weights would not tell."""
    for names in (("in_features", "out_features"), ("in_channels", "out_channels")):
        if hasattr(module, names[0]):
            return int(getattr(module, names[0])), int(getattr(module, names[1]))
    return None


def _named(model: Model) -> str:
    return model.ref or type(model.pipeline).__name__


@contextmanager
def _unsaid() -> Iterator[None]:
    """Silence two warnings: that a component has no LoRA weights (most have none), and that there is another LoRA."""
    with unsaid(*EXPECTED), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        yield
