"""One LoRA (Hu et al., arXiv 2106.09685) on a model, new or saved, by peft and diffusers: :class:`Lora`.

The base weights stay what they are; :meth:`Lora.detach` gives the base model back bit by bit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.training import saved
from t2iprobe.training.targets import check_rank

NAME = "default"  # of the adapter inside peft
PLAIN = (True, "gaussian", "orthogonal", "eva")  # inits that leave the base weights alone
OWN = re.compile(rf"\.lo\w+\.{NAME}(\.|$)")  # in the name of an adapter's parameter: lora_A.default.weight
State = dict[str, Tensor]


class Lora:
    """A LoRA that is on a model: on its denoiser, and a saved one perhaps on text encoders, too.

    Args:
        model: has it.
        before: which parameters of the model required gradients without it.
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
        """Put a new LoRA on exactly these modules.

        Args:
            model: it is used as it is; nothing else in it learns from now on.
            modules: paths below the denoiser.
            rank: of the two matrices.
            alpha: scale times rank; the rank if not given, so the scale is 1.
            init: how peft starts it: ``gaussian``, ``True`` (Kaiming), ``olora``, ``pissa_niter_4``, ….
            dropout: share of the input that is dropped while training.
            seed: of the initialisation.

        Raises:
            ConfigError: no module, the rank is above a module's width, peft knows no such initialisation, or the
                model has a LoRA already.
        """
        denoiser: Any = model.denoiser
        check_free(model)
        if not hasattr(denoiser, "add_adapter"):
            raise ConfigError(f"{type(denoiser).__name__} takes no LoRA: diffusers gives it no add_adapter")
        if not modules:
            raise ConfigError("a LoRA needs at least one module to adapt")
        check_rank({path: denoiser.get_submodule(path) for path in modules}, rank)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank if alpha is None else alpha,
            init_lora_weights=init,
            lora_dropout=dropout,
            target_modules="|".join(map(re.escape, modules)),  # the whole path has to match
        )
        kept = {} if init in PLAIN else {path: _weight(denoiser, path).detach().clone() for path in modules}
        lora = cls(model, _learning(model), kept)
        with torch.random.fork_rng(devices=[]), _inits(init):
            torch.default_generator.manual_seed(seed)
            denoiser.add_adapter(config, NAME)
        return lora.learn(dropout)

    @classmethod
    def load(cls, model: Model, ref: str | Path, scale: float = 1.0) -> Lora:
        """Put a saved LoRA on the model, to be drawn with; see :meth:`learn`.

        Args:
            model: drawn with from now on as ``pipeline.load_lora_weights(ref)`` draws.
            ref: a file, a folder or a hub id.
            scale: of all of it, beside its own (alpha / rank).

        Raises:
            ConfigError: it cannot be read, it is of another model, or the model has a LoRA already.
        """
        check_free(model)
        lora = cls(model, _learning(model), {})
        try:
            with torch.random.fork_rng(devices=[]):  # peft draws what is overwritten
                saved.put_on(model, ref, NAME)
            if scale != 1:
                pipeline: Any = model.pipeline
                pipeline.set_adapters(NAME, scale)
        except BaseException:
            lora.detach()
            raise
        return lora

    def learn(self, dropout: float = 0.0) -> Lora:
        """From now on its matrices in the denoiser learn, in float32, and nothing else in there.

        Args:
            dropout: share of the input that is dropped while training.
        """
        self.denoiser.requires_grad_(False)
        for _, layer in self._layers(self.denoiser):
            layer.set_adapter(NAME)  # peft knows which of its matrices learn
            layer.lora_dropout[NAME] = nn.Dropout(dropout) if dropout else nn.Identity()
        self.denoiser.peft_config[NAME].lora_dropout = dropout
        cast_training_params(self.denoiser)
        return self

    @property
    def denoiser(self) -> Any:
        """The module that learns."""
        return self.model.denoiser

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the adapted modules below the denoiser."""
        return tuple(path for path, _ in self._layers(self.denoiser))

    def rank(self, path: str) -> int:
        """Of the matrices of one module."""
        return int(self._layer(path).r[NAME])

    def scale(self, path: str) -> float:
        """What the product of the matrices of one module is multiplied with."""
        return float(self._layer(path).scaling[NAME])

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is its own in the denoiser: ``<path>.lora_A.<name>.weight``, B, and what else a kind has."""
        return ((name, one) for name, one in self.denoiser.named_parameters() if OWN.search(name))

    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [parameter for _, parameter in self.named_parameters()]

    def matrices(self, path: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A (rank, in) and B (out, rank) of one module."""
        layer = self._layer(path)
        return layer.lora_A[NAME].weight, layer.lora_B[NAME].weight

    def delta(self, path: str) -> Tensor:
        """What it adds to the weight of one module: the module's scale times B A, with gradients.

        Raises:
            ConfigError: a DoRA, whose change is no such product.
        """
        layer = self._layer(path)
        if layer.use_dora.get(NAME, False):
            raise ConfigError(f"the LoRA at {path} is a DoRA, whose change of the weight is no product of two matrices")
        found: Tensor = layer.get_delta_weight(NAME)
        return found

    def state(self) -> State:
        """A copy of what it has in the denoiser, float32 on the CPU: ``<path>.lora_A.weight`` and B."""
        return _state(self.denoiser)

    def restore(self, state: State) -> None:
        """Take other matrices of the same shapes.

        Raises:
            ConfigError: they are of other modules or of another rank.
        """
        own = {name: tuple(value.shape) for name, value in self.state().items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        if own != given:
            raise ConfigError(_difference(own, given))
        with torch.no_grad():
            set_peft_model_state_dict(self.denoiser, dict(state), adapter_name=NAME)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model for the length of a ``with``."""
        layers = [layer for part in _parts(self.model).values() for _, layer in self._layers(part)]
        learning = [one for layer in layers for one in layer.parameters() if one.requires_grad]
        for layer in layers:
            layer.enable_adapters(False)  # which takes their gradients as well
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)
                layer.requires_grad_(False)
            for one in learning:
                one.requires_grad_(True)

    def save(self, folder: Path) -> Path:
        """Write it as diffusers does, whole or not at all; ``pipeline.load_lora_weights(folder)`` reads it.

        Raises:
            ConfigError: the pipeline's class takes no LoRA.
        """
        kind = type(self.model.pipeline)
        if not hasattr(kind, "save_lora_weights"):
            raise ConfigError(f"{kind.__name__} has no save_lora_weights, so diffusers could not load what is saved")
        named: dict[str, Any] = {}
        for component, part in _parts(self.model).items():
            if NAME in (getattr(part, "peft_config", None) or {}):
                named[f"{component}_lora_layers"] = _state(part)
                named[f"{component}_lora_adapter_metadata"] = _settings(part)
        new = folder.with_name(folder.name + ".part")
        shutil.rmtree(new, ignore_errors=True)
        kind.save_lora_weights(new, **named)
        shutil.rmtree(folder, ignore_errors=True)
        new.replace(folder)
        return folder

    def detach(self) -> None:
        """Take it off: the base model again, and what required gradients before does so again."""
        unload = getattr(self.model.pipeline, "unload_lora_weights", None) or self.denoiser.unload_lora
        unload()
        with torch.no_grad():
            for path, weight in self._kept.items():
                _weight(self.denoiser, path).copy_(weight)
        for component, part in _parts(self.model).items():
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(name in self._before[component])

    @staticmethod
    def _layers(part: nn.Module) -> Iterator[tuple[str, Any]]:
        """peft's layers of a part by the paths of the modules in them."""
        return ((path, module) for path, module in part.named_modules() if isinstance(module, BaseTunerLayer))

    def _layer(self, path: str) -> Any:
        """Of one module.

        Raises:
            ConfigError: it has none, or one of another kind.
        """
        found = self.denoiser.get_submodule(path)
        if not isinstance(found, LoraLayer):
            raise ConfigError(f"there is no LoRA on {path}")
        return found


def check_free(model: Model) -> None:
    """Refuse a model that a LoRA is on already.

    Raises:
        ConfigError: so it is.
    """
    found = {name for part in _parts(model).values() for name in getattr(part, "peft_config", None) or ()}
    if found:
        raise ConfigError(
            f"the model already has a LoRA ({', '.join(sorted(found))}): fuse it and unload it, or load the model "
            "without"
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
    """A copy of the adapter in one part of the pipeline."""
    found = get_peft_model_state_dict(part, adapter_name=NAME)
    return {name: value.detach().float().cpu().clone() for name, value in found.items()}


def _settings(part: Any) -> dict[str, Any]:
    """peft's settings of the adapter in one part, as they can be written down."""
    settings = part.peft_config[NAME].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}


def _difference(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """How the shapes of two states differ, in words."""
    if set(own) != set(given):
        odd = min(set(own) ^ set(given))
        who = "it does not adapt" if odd in own else "it adapts, and the scope does not,"
        return f"the LoRA is for other modules than this scope: {who} {odd.rpartition('.lora_')[0]}"
    name = next(name for name in own if own[name] != given[name])
    return f"the LoRA has another rank: {name} is {given[name]} there and {own[name]} here"


def _weight(denoiser: nn.Module, path: str) -> nn.Parameter:
    return denoiser.get_submodule(path).get_parameter("weight")


@contextmanager
def _inits(init: bool | str) -> Iterator[None]:
    """peft's refusals of an initialisation, as ours."""
    try:
        yield
    except (ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise ConfigError(f"peft cannot start a LoRA with init={init!r}: {' '.join(str(error).split())}") from error


__all__ = ["NAME", "Lora", "State", "check_free"]
