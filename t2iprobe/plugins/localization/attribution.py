"""Ranks layers by integrated gradients, all at once: :class:`Attribution`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t2iprobe.core.hooks import prediction_of
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.sites import Site
from t2iprobe.core.sweep import Cost
from t2iprobe.core.trials import Space
from t2iprobe.core.windows import window_of
from t2iprobe.plugins.localization.conditioning import RecordedCall, recorded
from t2iprobe.plugins.localization.ranking import RankingLocalizer


@dataclass
class Attribution(RankingLocalizer):
    """Integrated gradients of all layers at once, from one backward pass per denoiser call and point.

    At every step of the source's run, the denoiser is evaluated on the *same* latents with the source's prompt and with
    the target's. The objective needs no OCR: how far the prediction moves from the source's to the target's, along the
    straight line between them. Its gradient with respect to a layer's text keys and values, times (target's -
    source's), is the effect of patching the layer there, to first order (attribution patching: Nanda 2023; Syed et al.,
    arXiv 2310.10348). The gradient is averaged over ``points`` midpoints of the path from the source's to the target's
    values, for all layers together, which is integrated gradients (Sundararajan et al., arXiv 1703.01365; Hanna et al.,
    arXiv 2403.17806): summed over layers, it equals the effect of patching all of them together, up to the error of the
    midpoint rule, which vanishes if the prediction is at most quadratic along the path. Steps are weighted by the
    squared distance of the two predictions: 1 is a layer that makes all of the difference. The donor's values are those
    of the target's prompt at the source's latents, not of the target's run.

    It averages over the path and can thus miss interactions: how layers that act only together share their effect
    depends on the path. So the ``finalists`` are patched exactly, each alone and all together, and a layer is judged by
    that.

    Args:
        pairs: number of search pairs to take gradients on.
        finalists: number of layers to patch exactly.
        points: gradients per step.
    """

    name: ClassVar[str] = "attribution"
    summary: ClassVar[str] = "integrated gradients of all layers, finalists patched exactly"
    unit: ClassVar[str] = "integrated gradient, share of the change in the prediction"
    least: ClassVar[dict[str, int]] = {**RankingLocalizer.least, "points": 1}
    points: int = 1

    @property
    def key(self) -> str:
        """See :class:`~t2iprobe.plugins.localization.ranking.RankingLocalizer`."""
        return f"integrated gradients {self.points} points"

    def cost(self, model: Model, settings: Mapping[str, Any]) -> Cost:
        """One run; then per call the two predictions, and a forward and a backward pass of two rows for every point."""
        evaluations = model.evaluations(settings.get("num_steps"), settings.get("options"))
        rows = 2 * model.rows(settings) + evaluations * (2 + 6 * self.points)
        return Cost(2, rows, model.calls(settings) + evaluations * (1 + 3 * self.points))

    def measured(self, model: Model, space: Space, pair: Pair, settings: Mapping[str, Any]) -> NDArray[np.float64]:
        """Attributions of the layers, (layer,)."""
        if model.placement is not None:
            model.placement.check_gradients()
        _, calls = recorded(model, model.generation([pair.source, pair.target], pair.seed, **settings))
        sites = [[model.sites.named(name) for name in names] for names in space.kv]
        return attributed(model.denoiser, sites, calls, self.points)


def attributed(
    denoiser: nn.Module, sites: Sequence[Sequence[Site]], calls: Sequence[RecordedCall], points: int
) -> NDArray[np.float64]:
    """Share of the way from the source's predictions to the target's that each layer accounts for, (layer,).

    Args:
        denoiser: the denoiser.
        sites: text keys and values by layer.
        calls: recorded calls with the rows source and target; the latents are the source's.
        points: gradients per call.
    """
    total, distance = np.zeros(len(sites)), 0.0
    for call in calls:
        apart = difference(denoiser, call)
        shares = (np.arange(points) + 0.5) / points
        total += np.mean([first_order(denoiser, call, sites, share, apart) for share in shares], axis=0)
        distance += float(apart.square().sum())
    return total / max(distance, 1e-12)


def difference(denoiser: nn.Module, call: RecordedCall) -> Tensor:
    """The target's prediction minus the source's, at the source's latents."""
    with torch.no_grad():
        value = _predicted(denoiser, call)
    return (value[1] - value[0]).float()


def first_order(
    denoiser: nn.Module, call: RecordedCall, sites: Sequence[Sequence[Site]], share: float, along: Tensor
) -> NDArray[np.float64]:
    """First-order effect of every layer on the source's prediction, projected on ``along``, (layer,).

    Args:
        denoiser: the denoiser.
        call: recorded call with the rows source and target; the latents are the source's.
        sites: text keys and values by layer.
        share: position on the path to the target's values at which the gradient is taken, 0..1.
        along: direction with the shape of a prediction.
    """
    probe = GradientProbe(share, call.text_spans)
    with probe.on(denoiser, sites), torch.enable_grad():
        gone = (_predicted(denoiser, call)[0].float() * along).sum()
        names = list(probe.added)
        slopes = dict(zip(names, torch.autograd.grad(gone, [probe.added[name] for name in names]), strict=True))
    return np.array([sum(float((slopes[one.name] * probe.step[one.name]).sum()) for one in layer) for layer in sites])


def _predicted(denoiser: nn.Module, call: RecordedCall) -> Tensor:
    return prediction_of(denoiser(**call.with_latents_of(0)))


@dataclass
class GradientProbe:
    """Hooks that move row 0's activations towards row 1's, so that gradients can be taken there.

    Args:
        share: how far they are moved, 0..1.
        text_spans: where the text tokens stand in a sequence of so many tokens.
        added: by site; a zero added to the activation, whose gradient is that of the activation.
        step: by site; the target's activation minus the source's.
    """

    share: float
    text_spans: Callable[[int], Sequence[slice]]
    added: dict[str, Tensor] = field(default_factory=dict)
    step: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def on(self, denoiser: nn.Module, sites: Sequence[Sequence[Site]]) -> Iterator[None]:
        """Install the hooks inside a ``with`` block."""
        with ExitStack() as stack:
            for site in (one for layer in sites for one in layer):
                handle = denoiser.get_submodule(site.module).register_forward_hook(self._hook(site))
                stack.callback(handle.remove)
            yield

    def _hook(self, site: Site) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def after(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            window = window_of(site, output, self.text_spans(output.shape[1]) if site.stream == "text" else ())
            part = output if window is None else window.take(output)
            own, other = part[0], part[1].detach()
            step = other - own.detach()
            added = torch.zeros_like(own, requires_grad=True)
            self.added[site.name], self.step[site.name] = added, step
            moved = torch.stack([own + self.share * step + added, *part[1:]])
            return moved if window is None else window.put(output, moved)

        return after
