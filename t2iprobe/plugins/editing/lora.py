"""Localized editing of a fine-tuned model: a LoRA is loaded, the found layers are patched, the LoRA is taken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from t2iprobe.core.editor import Edited, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.editing.patching import Localized

ADAPTER = "t2iprobe"
#: parts of a LoRA key behind the module's path, and the axis of the module's weight that they must fit
FACTORS = {".lora_A.": 1, ".lora_B.": 0, ".lora.down.": 1, ".lora.up.": 0}


@dataclass(frozen=True)
class LocalizedLora(Localized):
    """The paper's "Ours LoRA": :class:`Localized` on the model with a LoRA, compared with *that* model's pictures.

    Args:
        branches: as of ``localized``.
        lora: folder of the LoRA, as diffusers saves it.
        scale: of the LoRA.
    """

    name: ClassVar[str] = "localized+lora"
    summary: ClassVar[str] = "a LoRA is loaded (--lora), then the found layers get the target's text"
    pictures: ClassVar[int] = 3
    own_sources: ClassVar[bool] = True
    lora: str = ""
    scale: float = 1.0

    def check(self, model: Model, layers: Sequence[int]) -> None:
        """Refuse a LoRA that is not there or does not fit the model."""
        if not self.lora:
            raise ConfigError(f"{self.name} needs a LoRA: --lora FOLDER, as diffusers saves it")
        check_fits(model, _read(model, Path(self.lora)), self.lora)

    def edit(self, task: EditTask) -> Edited:
        """See :class:`~t2iprobe.core.editor.Editor`."""
        rows = [
            (number, text) for number, pair in enumerate(task.pairs) for text in (pair.source, pair.target, pair.source)
        ]
        wanted = [row for row in range(len(rows)) if row % 3 != 1]
        with loaded(task.model, Path(self.lora), self.scale):
            run = task.run(rows, [self.patch(task, width=3)], wanted=wanted)
        return Edited.of(run, images=run.images[::2], sources=run.images[1::2])


@contextmanager
def loaded(model: Model, folder: Path, scale: float = 1.0) -> Iterator[None]:
    """The LoRA in ``folder`` on, for the length of a ``with``; then the weights are what they were, to the bit.

    Raises:
        ConfigError: it is not there, does not fit, or the pipeline has LoRAs already.
    """
    pipeline = model.pipeline
    state = _read(model, folder)
    check_fits(model, state, str(folder))
    if any(pipeline.get_list_adapters().values()):
        raise ConfigError("the pipeline has a LoRA already; take it off (unload_lora_weights) or edit with that one")
    try:
        pipeline.load_lora_weights(dict(state), adapter_name=ADAPTER)
        pipeline.set_adapters(ADAPTER, scale)
        yield
    finally:
        pipeline.unload_lora_weights()


def _read(model: Model, folder: Path) -> Mapping[str, Tensor]:
    """The LoRA's weights by the names that diffusers gives them."""
    pipeline = model.pipeline
    if not hasattr(pipeline, "lora_state_dict"):
        raise ConfigError(f"{type(pipeline).__name__} loads no LoRA")
    if not any(folder.glob("*.safetensors")) and not (folder.is_file() and folder.suffix == ".safetensors"):
        raise ConfigError(f"--lora {folder}: no .safetensors there; give the folder that the training saved")
    try:
        found: Any = pipeline.lora_state_dict(str(folder))
    except Exception as error:  # whatever a broken file makes the readers raise
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"--lora {folder} cannot be read ({type(error).__name__}: {reason})") from error
    state: Mapping[str, Tensor] = found[0] if isinstance(found, tuple) else found
    return state


def check_fits(model: Model, state: Mapping[str, Tensor], name: str) -> None:
    """Refuse a LoRA of another model: diffusers would load what fits and say nothing of the rest.

    Raises:
        ConfigError: a module that is not there, of another shape, or nothing for the denoiser.
    """
    parts = {key: part for key, part in model.pipeline.components.items() if isinstance(part, nn.Module)}
    seen = 0
    for key, tensor in state.items():
        factor = next((factor for factor in FACTORS if factor in key), None)
        component, _, rest = key.partition(".")
        if factor is None or component not in parts:
            continue
        path = rest.partition(factor)[0]
        _check_shape(parts[component], path, tensor, FACTORS[factor], f"{name} is a LoRA of another model")
        seen += component == model.adapter.denoiser
    if not seen:
        raise ConfigError(f"{name} holds nothing for the {model.adapter.denoiser} of {model.ref or 'this model'}")


def _check_shape(part: nn.Module, path: str, tensor: Tensor, axis: int, said: str) -> None:
    try:
        weight = part.get_submodule(path).get_parameter("weight")
    except AttributeError:
        raise ConfigError(f"{said}: this one has no module {path}") from None
    own, given = weight.shape[axis], tensor.shape[axis]
    if weight.ndim == 2 and own != given:
        raise ConfigError(f"{said}: {path} has {own} {'inputs' if axis else 'outputs'} here and {given} there")
