"""LoRAs of pipelines that diffusers loads none into (PixArt, Hunyuan-DiT, …): folders in peft's own format.

``PeftModel.from_pretrained(pipeline.transformer, folder)`` reads one without this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers.utils import recurse_remove_peft_layers
from peft import PeftConfig, inject_adapter_in_model, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

State = Mapping[str, Tensor]
#: what peft puts before the path of every module
PREFIX = "base_model.model."


def needed(pipeline: Any, denoiser: Any) -> bool:
    """Whether diffusers loads no LoRA into such a pipeline."""
    return not (hasattr(pipeline, "load_lora_weights") and hasattr(denoiser, "add_adapter"))


def save(folder: Path, state: State, config: PeftConfig) -> None:
    """Write a LoRA.

    Args:
        folder: its folder, which is made.
        state: its weights: ``<path>.lora_A.weight`` and B.
        config: peft's settings.
    """
    folder.mkdir()
    save_file({PREFIX + key: value for key, value in state.items()}, folder / "adapter_model.safetensors")
    _plain(config).save_pretrained(str(folder))


def put(denoiser: Any, place: str, name: str, look: Callable[[State], None]) -> None:
    """Put a saved LoRA on a denoiser.

    Args:
        denoiser: the network.
        place: a folder or a hub id.
        name: name of the adapter in peft.
        look: gets the weights before anything changes, and may refuse them.
    """
    config = PeftConfig.from_pretrained(place)
    state = {key.removeprefix(PREFIX): value for key, value in load_peft_weights(place, "cpu").items()}
    look(state)
    inject_adapter_in_model(_plain(config), denoiser, name)
    set_peft_model_state_dict(denoiser, state, adapter_name=name)


def remove(denoiser: Any) -> None:
    """Take all LoRAs off a denoiser."""
    recurse_remove_peft_layers(denoiser)
    denoiser.__dict__.pop("peft_config", None)


def _plain(config: Any) -> Any:
    """The settings without an initialisation that would change the base weights."""
    return replace(config, init_lora_weights=True, inference_mode=True)
