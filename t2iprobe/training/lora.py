"""One LoRA (Hu et al., arXiv 2106.09685) on chosen modules of a denoiser, by peft: :class:`Lora`.

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
from diffusers.utils import logging
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.training.targets import check_rank

NAME = "default"  # of the adapter inside peft
PLAIN = (True, "gaussian", "orthogonal", "eva")  # inits that leave the base weights alone
#: module path and matrix of a LoRA weight, as peft, diffusers and kohya's converted files name them
KEY = re.compile(r"(?P<path>.+?)\.(?:lora_(?P<peft>[AB])|lora\.(?P<old>down|up))\.weight")
State = dict[str, Tensor]


class Lora:
    """A LoRA that is attached to a model's denoiser.

    Args:
        model: whose denoiser has it.
        modules: paths of the adapted modules below the denoiser.
        config: peft's.
        kept: base weights that the initialisation changed, by module.
        trainable: parameters of the denoiser that required gradients before.
    """

    def __init__(
        self,
        model: Model,
        modules: Sequence[str],
        config: LoraConfig,
        kept: Mapping[str, Tensor],
        trainable: Sequence[str],
    ) -> None:
        self.model, self.modules, self.config = model, tuple(modules), config
        self._kept, self._trainable = dict(kept), frozenset(trainable)

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
                denoiser has a LoRA already.
        """
        denoiser: Any = model.denoiser
        check_free(denoiser)
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
        trainable = [name for name, one in denoiser.named_parameters() if one.requires_grad]
        kept = {} if init in PLAIN else {path: _weight(denoiser, path).detach().clone() for path in modules}
        lora = cls(model, modules, config, kept, trainable)
        with torch.random.fork_rng(devices=[]), _inits(init):
            torch.default_generator.manual_seed(seed)
            denoiser.add_adapter(config, NAME)
        cast_training_params(denoiser)
        return lora

    @classmethod
    def load(cls, model: Model, ref: str | Path) -> Lora:
        """Put a saved LoRA on the model: a folder, a file or a hub id, as ``pipeline.load_lora_weights`` takes it.

        Raises:
            ConfigError: it cannot be read, it is of another model, or the denoiser has a LoRA already.
        """
        denoiser: Any = model.denoiser
        check_free(denoiser)
        state = read(model, ref)
        trainable = [name for name, one in denoiser.named_parameters() if one.requires_grad]
        with _quiet():
            model.pipeline.load_lora_weights(_reference(ref), adapter_name=NAME)
        lora = cls(model, paths(state), denoiser.peft_config[NAME], {}, trainable)
        for parameter in lora.parameters():
            parameter.requires_grad_(True)
        cast_training_params(denoiser)
        return lora

    @property
    def denoiser(self) -> Any:
        """The module that has it."""
        return self.model.denoiser

    @property
    def scale(self) -> float:
        """What the product of the matrices is multiplied with."""
        return float(self.config.lora_alpha / self.config.r)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its matrices: ``<path>.lora_A.<name>.weight`` and B."""
        for name, parameter in self.denoiser.named_parameters():
            if f".lora_A.{NAME}." in name or f".lora_B.{NAME}." in name:
                yield name, parameter

    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [parameter for _, parameter in self.named_parameters()]

    def matrices(self, path: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A (rank, in) and B (out, rank) of one module."""
        module = self.denoiser.get_submodule(path)
        return module.lora_A[NAME].weight, module.lora_B[NAME].weight

    def delta(self, path: str) -> Tensor:
        """What it adds to the weight of one module: scale * B A, with gradients."""
        first, second = self.matrices(path)
        return self.scale * second @ first

    def state(self) -> State:
        """A copy of the matrices, float32 on the CPU: ``<path>.lora_A.weight`` and B."""
        found = get_peft_model_state_dict(self.denoiser, adapter_name=NAME)
        return {name: value.detach().float().cpu().clone() for name, value in found.items()}

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
        self.denoiser.disable_lora()
        try:
            yield
        finally:
            self.denoiser.enable_lora()

    def save(self, folder: Path) -> Path:
        """Write it as diffusers does, whole or not at all; ``pipeline.load_lora_weights(folder)`` reads it.

        Raises:
            ConfigError: the pipeline's class takes no LoRA.
        """
        kind, component = type(self.model.pipeline), self.model.adapter.denoiser
        if not hasattr(kind, "save_lora_weights"):
            raise ConfigError(f"{kind.__name__} has no save_lora_weights, so diffusers could not load what is saved")
        settings = {key: sorted(v) if isinstance(v, set) else v for key, v in self.config.to_dict().items()}
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        named = {f"{component}_lora_layers": self.state(), f"{component}_lora_adapter_metadata": settings}
        kind.save_lora_weights(part, **named)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
        return folder

    def detach(self) -> None:
        """Take it off: the base model again, and what required gradients before does so again."""
        self.denoiser.delete_adapters(NAME)
        self.denoiser.unload_lora()
        with torch.no_grad():
            for path, weight in self._kept.items():
                _weight(self.denoiser, path).copy_(weight)
        for name, parameter in self.denoiser.named_parameters():
            parameter.requires_grad_(name in self._trainable)


def read(model: Model, ref: str | Path) -> State:
    """The matrices of a saved LoRA for this model's denoiser, by ``<path>.lora_A.weight`` and B, as they are saved.

    Raises:
        ConfigError: it cannot be read, or is of another model.
    """
    pipeline, component = model.pipeline, model.adapter.denoiser
    try:
        found = type(pipeline).lora_state_dict(_reference(ref))
    except Exception as error:
        raise ConfigError(f"no LoRA can be read from {ref}: {' '.join(str(error).split())[:200]}") from error
    state = found[0] if isinstance(found, tuple) else found
    own = {key.removeprefix(f"{component}."): value for key, value in state.items() if key.startswith(f"{component}.")}
    if not own:
        raise ConfigError(f"{ref} is a LoRA of another model: it has nothing for a {component}")
    matrices = {_peft_key(key): value for key, value in own.items()}
    for path in paths(matrices):
        _check_fits(model, ref, path, matrices)
    return matrices


def paths(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Modules that a state adapts."""
    found = (KEY.fullmatch(key) for key in state)
    return tuple(dict.fromkeys(match["path"] for match in found if match))


def check_free(denoiser: Any) -> None:
    """Refuse a denoiser that a LoRA is on already, or that takes none.

    Raises:
        ConfigError: so it is.
    """
    if getattr(denoiser, "peft_config", None):
        names = ", ".join(denoiser.peft_config)
        raise ConfigError(f"the model already has a LoRA ({names}): fuse it and unload it, or load the model without")
    if not hasattr(denoiser, "add_adapter"):
        raise ConfigError(f"{type(denoiser).__name__} takes no LoRA: diffusers gives it no add_adapter")


def _check_fits(model: Model, ref: str | Path, path: str, state: State) -> None:
    """Refuse a LoRA whose matrices do not fit the module."""
    other = f"{ref} is a LoRA of another model than {model.ref or type(model.pipeline).__name__}"
    try:
        module: Any = model.denoiser.get_submodule(path)
    except AttributeError:
        raise ConfigError(f"{other}: there is no module {path}") from None
    first, second = (state.get(f"{path}.lora_{letter}.weight") for letter in "AB")
    if first is None or second is None:
        raise ConfigError(f"{ref} is damaged: one of the two matrices of {path} is missing")
    found, own = (first.shape[1], second.shape[0]), (module.in_features, module.out_features)
    if found != own:
        raise ConfigError(f"{other}: at {path} it goes from {found[0]} to {found[1]} channels, the model {own}")


def _peft_key(key: str) -> str:
    match = KEY.fullmatch(key)
    if match is None:
        return key
    letter = match["peft"] or {"down": "A", "up": "B"}[match["old"]]
    return f"{match['path']}.lora_{letter}.weight"


def _difference(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """How the shapes of two states differ, in words."""
    if set(own) != set(given):
        odd = min(set(own) ^ set(given))
        who = "it does not adapt" if odd in own else "it adapts, and the scope does not,"
        return f"the LoRA is for other modules than this scope: {who} {odd.rpartition('.lora_')[0]}"
    name = next(name for name in own if own[name] != given[name])
    return f"the LoRA has another rank: {name} is {given[name]} there and {own[name]} here"


def _reference(ref: str | Path) -> str:
    path = Path(ref).expanduser()
    return str(path) if path.exists() else str(ref)


def _weight(denoiser: nn.Module, path: str) -> nn.Parameter:
    return denoiser.get_submodule(path).get_parameter("weight")


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers says of every text encoder that the LoRA has nothing for it; it never does here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _inits(init: bool | str) -> Iterator[None]:
    """peft's refusals of an initialisation, as ours."""
    try:
        yield
    except (ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise ConfigError(f"peft cannot start a LoRA with init={init!r}: {' '.join(str(error).split())}") from error


__all__ = ["NAME", "Lora", "State", "check_free", "paths", "read"]
