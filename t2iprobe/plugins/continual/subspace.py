"""peft's orthogonal subspace fine-tuning (OSF, arXiv 2504.07097) with the interface of a LoRA: :class:`Osf`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model

NAME = "default"


class Osf:
    """Trainable singular directions of a model's weights.

    Args:
        model: the model whose denoiser has them.
        modules: paths of the modules below the denoiser.
        trainable: parameters of the denoiser that required gradients before.
    """

    def __init__(self, model: Model, modules: Sequence[str], trainable: Sequence[str]) -> None:
        self.model, self.modules, self._trainable = model, tuple(modules), frozenset(trainable)

    @classmethod
    def attach(cls, model: Model, modules: Sequence[str], *, rank: int) -> Osf:
        """Let the ``rank`` least singular directions of each module's weight learn.

        Raises:
            ConfigError: the installed peft has no OSF.
        """
        try:
            from peft import OSFConfig, inject_adapter_in_model
        except ImportError:
            raise ConfigError("osf needs peft 0.18 or later: pip install -U peft") from None
        denoiser: Any = model.denoiser
        trainable = [name for name, one in denoiser.named_parameters() if one.requires_grad]
        sides = {path: min(denoiser.get_submodule(path).weight.shape) for path in modules}
        config = OSFConfig(
            target_modules="|".join(map(re.escape, modules)),
            effective_rank=max(sides.values()) - rank,
            rank_pattern={f"^{re.escape(path)}$": side - rank for path, side in sides.items()},
        )
        inject_adapter_in_model(config, denoiser, NAME)
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(".osf_svd_params." in name)
        return cls(model, modules, trainable)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that learn."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same parameters by name: ``<path>.osf_svd_params.<name>.U_low`` and so on."""
        return (
            (name, parameter)
            for name, parameter in self.model.denoiser.named_parameters()
            if ".osf_svd_params." in name
        )

    def delta(self, path: str) -> Tensor:
        """What was added to a module's weight, with gradients."""
        layer: Any = self.model.denoiser.get_submodule(path)
        return layer.get_delta_weight(NAME)

    def state(self) -> dict[str, Tensor]:
        """A copy of the parameters that learn."""
        return {name: parameter.detach().float().cpu().clone() for name, parameter in self.named_parameters()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the parameters that learn to other values."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(state[name])

    def detach(self) -> None:
        """Restore plain layers, with the weights they had before."""
        for path in self.modules:
            parent, _, name = path.rpartition(".")
            layer: Any = self.model.denoiser.get_submodule(path)
            layer._detach_hooks()
            setattr(self.model.denoiser.get_submodule(parent), name, layer.get_base_layer())
        denoiser: Any = self.model.denoiser
        denoiser.__dict__.pop("peft_config", None)
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(name in self._trainable)
