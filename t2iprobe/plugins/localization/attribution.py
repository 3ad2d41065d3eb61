"""Layers by gradients, all at once: :class:`Attribution`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.sites import Site
from t2iprobe.core.sweep import Cost
from t2iprobe.core.trials import Space
from t2iprobe.plugins.localization.conditioning import Call, recorded
from t2iprobe.plugins.localization.ranking import Ranking
from t2iprobe.plugins.localization.settings import at_least


@dataclass
class Attribution(Ranking):
    """Attribution patching: the first-order effect of patching every layer, from one backward pass a denoiser call.

    At every step of the source's run the denoiser is asked twice about the *same* latents, with the source's prompt and
    with the target's. What is watched needs no OCR: half the squared distance between the two predictions. Its gradient
    with respect to a layer's text keys and values, times (target's - source's), is what patching the layer there would
    take off it, to first order (Nanda 2023, "Attribution patching"; Syed et al., arXiv 2310.10348). Summed over steps
    and divided by the summed squared distance: 1 is a layer that, linearly, makes all of the difference. That is about
    4 T denoiser calls a pair (T to get the latents, T forward, T backward at about twice a forward), for any number of
    layers; the donor's values are those the target's prompt gives at the source's latents, not of the target's run.

    It misses what is not linear: saturated softmax, and layers that act only together. ``points`` > 1 averages the
    gradient along the way from the source's to the target's values, all layers together, which is integrated gradients
    (Hanna et al., arXiv 2403.17806) and adds up to the whole. The ``finalists`` are then patched exactly, each alone
    and all together, and a layer counts by that.

    Args:
        pairs: of the search, to take gradients on.
        finalists: layers to patch exactly.
        points: gradients a step.
    """

    name: ClassVar[str] = "attribution"
    summary: ClassVar[str] = "first-order attribution of all layers by gradients, finalists patched exactly"
    points: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, points=self.points)

    @property
    def key(self) -> str:
        """See :class:`~t2iprobe.plugins.localization.ranking.Ranking`."""
        return f"attribution {self.points} points"

    def cost(self, model: Model, settings: Mapping[str, Any]) -> Cost:
        """A run, and a forward and a backward pass, of two rows each, for every call and point."""
        calls = model.evaluations(settings.get("num_steps"))
        run = 2 * model.guided(settings.get("guidance"))
        return Cost(2, calls * (run + 6 * self.points), calls * (1 + 3 * self.points))

    def measured(self, model: Model, space: Space, pair: Pair, settings: Mapping[str, Any]) -> NDArray[np.float64]:
        """Attributions of the layers, (layer,)."""
        _, calls = recorded(model, model.generation([pair.source, pair.target], pair.seed, **settings))
        sites = [[model.sites.named(name) for name in names] for names in space.kv]
        return self._attributed(model, sites, calls)

    def _attributed(self, model: Model, sites: list[list[Site]], calls: list[Call]) -> NDArray[np.float64]:
        total, distance = np.zeros(len(sites)), 0.0
        for call in calls:
            for point in range(self.points):
                share = 0.0 if self.points == 1 else (point + 0.5) / self.points
                effects, apart = first_order(model, call, sites, share)
                total += effects / self.points
                distance += apart / self.points if self.points == 1 else 0.0
            if self.points > 1:
                distance += first_order(model, call, sites, 0.0)[1]
        return total / max(distance, 1e-12)


def first_order(model: Model, call: Call, sites: list[list[Site]], share: float) -> tuple[NDArray[np.float64], float]:
    """First-order effects of layers on half the squared distance of the predictions, and the squared distance.

    Args:
        model: the model.
        call: rows are source and target; the latents are taken from the source.
        sites: text keys and values by layer.
        share: how far on the way to the target's values the gradient is taken, 0..1.
    """
    given = call.with_latents_of(0)
    text = given.get("encoder_hidden_states")
    probe = Probe(share, 0 if text is None else int(text.shape[1]))
    with probe.on(model.denoiser, sites), torch.enable_grad():
        output = model.denoiser(**given)
        value = output[0] if isinstance(output, (tuple, list)) else output.sample
        apart = (value[0] - value[1].detach()).float()
        loss = -0.5 * apart.square().sum()
        names = list(probe.added)
        slopes = dict(zip(names, torch.autograd.grad(loss, [probe.added[name] for name in names]), strict=True))
    effects = [sum(float((slopes[s.name] * probe.step[s.name]).sum()) for s in layer) for layer in sites]
    return np.array(effects), float(apart.detach().square().sum())


@dataclass
class Probe:
    """Hooks that move row 0's activations towards row 1's and let gradients be taken there.

    Args:
        share: how far.
        text_tokens: tokens at the front of a shared sequence that are text.
        added: by site; a zero added to the activation, whose gradient is the activation's.
        step: by site; the target's activation less the source's.
    """

    share: float
    text_tokens: int
    added: dict[str, Tensor] = field(default_factory=dict)
    step: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def on(self, denoiser: nn.Module, sites: list[list[Site]]) -> Iterator[None]:
        """Hooks on for the length of a ``with``."""
        with ExitStack() as stack:
            for site in (one for layer in sites for one in layer):
                handle = denoiser.get_submodule(site.module).register_forward_hook(self._hook(site))
                stack.callback(handle.remove)
            yield

    def _hook(self, site: Site) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def after(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            end = self.text_tokens if site.stream == "text" else output.shape[1]
            own, other = output[0, :end], output[1, :end].detach()
            step = other - own.detach()
            added = torch.zeros_like(own, requires_grad=True)
            self.added[site.name], self.step[site.name] = added, step
            moved = torch.cat([own + self.share * step + added, output[0, end:]])
            return torch.stack([moved, *output[1:]])

        return after
