"""One LoRA (Hu et al., arXiv 2106.09685) on a model, new or saved, with peft and diffusers: :class:`Lora`.

The base weights are never changed for good; :meth:`Lora.detach` restores the base model bit by bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.runs.files import explained, write
from t2iprobe.training import peft_folder, saved
from t2iprobe.training.targets import check_rank

NAME = "default"  # name of the adapter in peft
PLAIN = (True, "gaussian", "orthogonal", "eva")  # initialisations that leave the base weights alone
OWN = re.compile(rf"\.lo\w+\.{NAME}(\.|$)")  # matches an adapter's parameter names: lora_A.default.weight
State = dict[str, Tensor]


class Lora:
    """A LoRA on a model's denoiser; a saved one may adapt text encoders, too.

    Args:
        model: the model it is attached to.
        before: parameters that required gradients before it was attached, by component.
        kept: base weights that the initialisation changed, by module.
    """

    def __init__(self, model: Model, before: Mapping[str, frozenset[str]], kept: Mapping[str, Tensor]) -> None:
        self.model, self._before, self._kept = model, dict(before), dict(kept)

    @classmethod
    def attach(
        cls,
        model: Model,
        modules: Sequence[str],
        *,
        rank: int = 4,
        alpha: float | None = None,
        init: bool | str = "gaussian",
        dropout: float = 0.0,
        seed: int = 0,
    ) -> Lora:
        """Attach a new LoRA to exactly these modules.

        Args:
            model: the base model; all its other parameters are frozen from now on.
            modules: module paths below the denoiser.
            rank: rank of the two matrices.
            alpha: scale times rank; default is the rank, that is, a scale of 1.
            init: peft's initialisation: ``gaussian``, ``True`` (Kaiming), ``olora``, ``pissa_niter_4``, ….
            dropout: dropout of the input during training.
            seed: random seed of the initialisation.

        Raises:
            ConfigError: no module is given, the rank exceeds a module's width, peft does not know the initialisation,
                or the model has a LoRA already.
        """
        denoiser: Any = model.denoiser
        check_free(model)
        if not modules:
            raise ConfigError("a LoRA needs at least one module to adapt")
        check_rank({path: denoiser.get_submodule(path) for path in modules}, rank)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank if alpha is None else alpha,
            init_lora_weights=init,
            lora_dropout=dropout,
            target_modules="|".join(map(re.escape, modules)),  # has to match the whole path
        )
        kept = {} if init in PLAIN else {path: _weight(denoiser, path).detach().clone() for path in modules}
        lora = cls(model, _learning(model), kept)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                if peft_folder.needed(model.pipeline, denoiser):
                    inject_adapter_in_model(config, denoiser, NAME)
                else:
                    denoiser.add_adapter(config, NAME)
            except (ValueError, KeyError, NotImplementedError, ImportError) as error:
                reason = " ".join(str(error).split())
                raise ConfigError(f"peft cannot initialise a LoRA with {init!r}: {reason}") from error
        return lora.learn(dropout)

    @classmethod
    def load(cls, model: Model, ref: str | Path, scale: float = 1.0) -> Lora:
        """Attach a saved LoRA for sampling; see :meth:`learn` to train it.

        Args:
            model: the model, which from now on draws as after ``pipeline.load_lora_weights(ref)``.
            ref: a file, a folder or a hub id.
            scale: factor on the whole LoRA, on top of its own scale (alpha / rank).

        Raises:
            ConfigError: it cannot be read, it belongs to another model, or the model has a LoRA already.
        """
        check_free(model)
        lora = cls(model, _learning(model), {})
        try:
            with torch.random.fork_rng(devices=[]):  # peft draws random weights that are overwritten
                saved.put_on(model, ref, NAME)
            if scale != 1:
                saved.weigh(model, {NAME: scale})
        except BaseException:
            lora.detach()
            raise
        return lora

    def learn(self, dropout: float = 0.0) -> Lora:
        """Make the denoiser's LoRA matrices trainable, in float32, and freeze everything else in the denoiser.

        Args:
            dropout: dropout of the input during training.
        """
        self.denoiser.requires_grad_(False)
        for _, layer in self._layers(self.denoiser):
            layer.set_adapter(NAME)  # peft knows which of its matrices are trainable
            layer.lora_dropout[NAME] = nn.Dropout(dropout) if dropout else nn.Identity()
        self.denoiser.peft_config[NAME].lora_dropout = dropout
        cast_training_params(self.denoiser)
        return self

    @property
    def denoiser(self) -> Any:
        """The module that is trained."""
        return self.model.denoiser

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the adapted modules below the denoiser."""
        return tuple(path for path, _ in self._layers(self.denoiser))

    def rank(self, path: str) -> int:
        """Rank of the matrices of one module."""
        return int(self._layer(path).r[NAME])

    def scale(self, path: str) -> float:
        """Factor on the product of the matrices of one module."""
        return float(self._layer(path).scaling[NAME])

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The LoRA's parameters in the denoiser: ``<path>.lora_A.<name>.weight``, B, and any others of a variant."""
        return ((name, one) for name, one in self.denoiser.named_parameters() if OWN.search(name))

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [parameter for _, parameter in self.named_parameters()]

    def matrices(self, path: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A (rank, in) and B (out, rank) of one module."""
        layer = self._layer(path)
        return layer.lora_A[NAME].weight, layer.lora_B[NAME].weight

    def delta(self, path: str) -> Tensor:
        """The change of the weight of one module: the module's scale times B A, with gradients.

        Raises:
            ConfigError: it is a DoRA, whose change is not such a product.
        """
        layer = self._layer(path)
        if layer.use_dora.get(NAME, False):
            raise ConfigError(f"the LoRA at {path} is a DoRA, whose weight change is not a product of two matrices")
        found: Tensor = layer.get_delta_weight(NAME)
        return found

    def state(self) -> State:
        """A copy of the LoRA in the denoiser, float32 on the CPU: ``<path>.lora_A.weight`` and B."""
        return _state(self.denoiser)

    def restore(self, state: State) -> None:
        """Replace the matrices by others of the same shapes.

        Raises:
            ConfigError: they belong to other modules or have another rank.
        """
        own = {name: tuple(value.shape) for name, value in self.state().items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        if own != given:
            raise ConfigError(_difference(own, given))
        with torch.no_grad():
            set_peft_model_state_dict(self.denoiser, dict(state), adapter_name=NAME)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model, inside a ``with`` block."""
        layers = [layer for part in _parts(self.model).values() for _, layer in self._layers(part)]
        learning = [one for layer in layers for one in layer.parameters() if one.requires_grad]
        for layer in layers:
            layer.enable_adapters(False)  # this clears requires_grad as well
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)
                layer.requires_grad_(False)
            for one in learning:
                one.requires_grad_(True)

    def save(self, folder: Path) -> Path:
        """Write the LoRA atomically in diffusers' format; ``pipeline.load_lora_weights(folder)`` reads it.

        In peft's where diffusers has none for the pipeline (:mod:`t2iprobe.training.peft_folder`).
        """
        kind: Any = type(self.model.pipeline)
        with explained(str(folder)):
            folder.parent.mkdir(parents=True, exist_ok=True)
        if peft_folder.needed(self.model.pipeline, self.denoiser):
            write(folder, lambda part: peft_folder.save(part, self.state(), self.denoiser.peft_config[NAME]))
            return folder
        named: dict[str, Any] = {}
        for component, part in _parts(self.model).items():
            if NAME in (getattr(part, "peft_config", None) or {}):
                named[f"{component}_lora_layers"] = _state(part)
                named[f"{component}_lora_adapter_metadata"] = _settings(part)
        write(folder, lambda part: kind.save_lora_weights(part, **named))
        return folder

    def detach(self) -> None:
        """Remove the LoRA: restores the base model, and which of its parameters require gradients."""
        pipeline: Any = self.model.pipeline
        if peft_folder.needed(pipeline, self.denoiser):
            peft_folder.remove(self.denoiser)
        else:
            pipeline.unload_lora_weights()
        with torch.no_grad():
            for path, weight in self._kept.items():
                _weight(self.denoiser, path).copy_(weight)
        for component, part in _parts(self.model).items():
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(name in self._before[component])

    @staticmethod
    def _layers(part: nn.Module) -> Iterator[tuple[str, Any]]:
        """peft's layers of a component, each with the path of its module."""
        return ((path, module) for path, module in part.named_modules() if isinstance(module, BaseTunerLayer))

    def _layer(self, path: str) -> Any:
        """peft's layer of one module.

        Raises:
            ConfigError: the module has none, or a layer of another kind.
        """
        found = self.denoiser.get_submodule(path)
        if not isinstance(found, LoraLayer):
            raise ConfigError(f"there is no LoRA on {path}")
        return found


def check_free(model: Model) -> None:
    """Refuse a model that already has a LoRA.

    Raises:
        ConfigError: it has one.
    """
    found = {name for part in _parts(model).values() for name in getattr(part, "peft_config", None) or ()}
    if found:
        raise ConfigError(
            f"the model already has a LoRA ({', '.join(sorted(found))}): fuse and unload it, or load the model without "
            "one"
        )


def _parts(model: Model) -> dict[str, nn.Module]:
    """The pipeline's modules by name."""
    return {name: part for name, part in model.pipeline.components.items() if isinstance(part, nn.Module)}


def _learning(model: Model) -> dict[str, frozenset[str]]:
    """Names of the parameters that require gradients, by component."""
    return {
        component: frozenset(name for name, one in part.named_parameters() if one.requires_grad)
        for component, part in _parts(model).items()
    }


def _state(part: nn.Module) -> State:
    """A copy of the adapter in one component of the pipeline."""
    found = get_peft_model_state_dict(part, adapter_name=NAME)
    return {name: value.detach().float().cpu().clone() for name, value in found.items()}


def _settings(part: Any) -> dict[str, Any]:
    """peft's settings of the adapter in one component, in serialisable form."""
    settings = part.peft_config[NAME].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}


def _difference(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """How the shapes of two states differ, as a sentence."""
    if set(own) != set(given):
        odd = min(set(own) ^ set(given))
        who = "it does not adapt" if odd in own else "only the LoRA adapts"
        return f"the LoRA does not match the modules of this scope: {who} {odd.rpartition('.lora_')[0]}"
    name = next(name for name in own if own[name] != given[name])
    return f"the LoRA has another rank: {name} is {given[name]} in the file and {own[name]} here"


def _weight(denoiser: nn.Module, path: str) -> nn.Parameter:
    return denoiser.get_submodule(path).get_parameter("weight")
