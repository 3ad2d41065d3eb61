"""Layers by integrated gradients, all at once: :class:`Attribution`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from t2iprobe.plugins.localization.conditioning import RecordedCall, recorded
from t2iprobe.plugins.localization.ranking import RankingLocalizer
from t2iprobe.plugins.localization.settings import at_least


@dataclass
class Attribution(RankingLocalizer):
    """Integrated gradients of every layer at once, from one backward pass a denoiser call and point.

    At every step of the source's run the denoiser is asked about the *same* latents with the source's prompt and with
    the target's. What is watched needs no OCR: how far the prediction goes from the source's to the target's, along the
    straight line between the two. Its gradient with respect to a layer's text keys and values, times (target's -
    source's), is what patching the layer there adds, to first order (attribution patching: Nanda 2023; Syed et al.,
    arXiv 2310.10348). The gradient is averaged over ``points`` midpoints of the way from the source's to the target's
    values, all layers together, which is integrated gradients (Sundararajan et al., arXiv 1703.01365; Hanna et al.,
    arXiv 2403.17806): summed over layers, it is what patching all of them together brings, up to the error of the
    midpoint rule, which is none where the prediction is at most quadratic along the way. Steps count by their squared
    distance of the two predictions: 1 is a layer that makes all of the difference. The donor's values are those the
    target's prompt gives at the source's latents, not of the target's run.

    It misses what only the path's ends show: layers that act only together share what they bring by chance of the path.
    The ``finalists`` are then patched exactly, each alone and all together, and a layer counts by that.

    Args:
        pairs: of the search, to take gradients on.
        finalists: layers to patch exactly.
        points: gradients a step.
    """

    name: ClassVar[str] = "attribution"
    summary: ClassVar[str] = "integrated gradients of all layers, finalists patched exactly"
    unit: ClassVar[str] = "integrated gradient, share of the change in the prediction"
    points: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, points=self.points)

    @property
    def key(self) -> str:
        """See :class:`~t2iprobe.plugins.localization.ranking.RankingLocalizer`."""
        return f"integrated gradients {self.points} points"

    def cost(self, model: Model, settings: Mapping[str, Any]) -> Cost:
        """A run; for every call the two predictions, and a forward and a backward pass of two rows for every point."""
        evaluations = model.evaluations(settings.get("num_steps"))
        rows = evaluations * (2 * model.guided(settings) + 2 + 6 * self.points)
        return Cost(2, rows, model.calls(settings) + evaluations * (1 + 3 * self.points))

    def measured(self, model: Model, space: Space, pair: Pair, settings: Mapping[str, Any]) -> NDArray[np.float64]:
        """Attributions of the layers, (layer,)."""
        _, calls = recorded(model, model.generation([pair.source, pair.target], pair.seed, **settings))
        sites = [[model.sites.named(name) for name in names] for names in space.kv]
        return attributed(model.denoiser, sites, calls, self.points)


def attributed(
    denoiser: nn.Module, sites: Sequence[Sequence[Site]], calls: Sequence[RecordedCall], points: int
) -> NDArray[np.float64]:
    """Share of the way from the source's predictions to the target's that each layer makes, (layer,).

    Args:
        denoiser: is asked.
        sites: text keys and values by layer.
        calls: rows are source and target; the latents are taken from the source.
        points: gradients a call.
    """
    total, distance = np.zeros(len(sites)), 0.0
    for call in calls:
        apart = difference(denoiser, call)
        shares = (np.arange(points) + 0.5) / points
        total += np.mean([first_order(denoiser, call, sites, share, apart) for share in shares], axis=0)
        distance += float(apart.square().sum())
    return total / max(distance, 1e-12)


def difference(denoiser: nn.Module, call: RecordedCall) -> Tensor:
    """The target's prediction less the source's, at the source's latents."""
    with torch.no_grad():
        value = _predicted(denoiser, call)
    return (value[1] - value[0]).float()


def first_order(
    denoiser: nn.Module, call: RecordedCall, sites: Sequence[Sequence[Site]], share: float, along: Tensor
) -> NDArray[np.float64]:
    """First-order effect of every layer on the source's prediction, as far as it is ``along`` a direction, (layer,).

    Args:
        denoiser: is asked.
        call: rows are source and target; the latents are taken from the source.
        sites: text keys and values by layer.
        share: how far on the way to the target's values the gradient is taken, 0..1.
        along: of the shape of a prediction.
    """
    text = call.arguments.get("encoder_hidden_states")
    probe = GradientProbe(share, 0 if text is None else int(text.shape[1]))
    with probe.on(denoiser, sites), torch.enable_grad():
        gone = (_predicted(denoiser, call)[0].float() * along).sum()
        names = list(probe.added)
        slopes = dict(zip(names, torch.autograd.grad(gone, [probe.added[name] for name in names]), strict=True))
    return np.array([sum(float((slopes[one.name] * probe.step[one.name]).sum()) for one in layer) for layer in sites])


def _predicted(denoiser: nn.Module, call: RecordedCall) -> Tensor:
    output = denoiser(**call.with_latents_of(0))
    value: Tensor = output[0] if isinstance(output, (tuple, list)) else output.sample
    return value


@dataclass
class GradientProbe:
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
    def on(self, denoiser: nn.Module, sites: Sequence[Sequence[Site]]) -> Iterator[None]:
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
