"""From cells to edits: :func:`parts_of` groups them, :func:`interventions` makes what :meth:`Model.run` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from t2iprobe.core.cache import Activations
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import Edit, HookContext, Intervention, ablate, patch
from t2iprobe.core.scope import Scope
from t2iprobe.viewer.explorer.offers import Offer, patterns
from t2iprobe.viewer.explorer.scene import BRANCHES, Scene, cells_of


@dataclass(frozen=True)
class Part:
    """Cells with the same steps.

    Args:
        layers: their layers.
        sites: patterns of their sites.
        steps: their steps; ``None`` is all that there are.
    """

    layers: tuple[int, ...]
    sites: tuple[str, ...]
    steps: tuple[int, ...] | None


def parts_of(scene: Scene, offer: Offer, steps: int) -> list[Part]:
    """The chosen cells, those with the same steps together.

    Args:
        scene: what is on the screen.
        offer: what is exchanged.
        steps: denoising steps of a run.

    Raises:
        ConfigError: there is no such cell or head.
    """
    by_steps: dict[tuple[int, ...], list[int]] = {}
    for layer, chosen in cells_of(scene.cells).items():
        if layer not in offer.sites:
            raise ConfigError(f"there is no {offer.title} at layer {layer}: choose among {_listed(offer)}")
        if chosen[-1] >= steps:
            raise ConfigError(f"there is no step {chosen[-1]}: this run has the steps 0 to {steps - 1}")
        by_steps.setdefault(chosen, []).append(layer)
    layers = [layer for listed in by_steps.values() for layer in listed]
    if scene.heads and layers and max(scene.heads) >= (heads := offer.heads(layers)):
        raise ConfigError(f"there is no head {max(scene.heads)}: the chosen cells have {heads} heads to choose from")
    return [
        Part(tuple(listed), patterns(offer, listed), None if len(chosen) == steps else chosen)
        for chosen, listed in by_steps.items()
    ]


def _listed(offer: Offer) -> str:
    return ", ".join(map(str, offer.sites))


def interventions(
    scene: Scene, parts: Sequence[Part], donor: Activations | Mapping[int, int] | None
) -> list[Intervention]:
    """The edits of a scene; :func:`~t2iprobe.viewer.explorer.script.python` writes the same ones down."""
    made = []
    for part in parts:
        scope = Scope(part.steps, BRANCHES[scene.branch], heads=scene.heads or None)
        if scene.mode == "patch":
            assert donor is not None
            made.append(patch(donor, part.sites, scope=scope))
        elif scene.mode == "scale":
            made.append(Intervention(_scaled(scene.factor), part.sites, scope, label="scale"))
        else:
            made.append(ablate(part.sites, kind=scene.mode, scope=scope))
    return made


def _scaled(factor: float) -> Edit:
    def edit(value: Tensor, hook: HookContext) -> Tensor:
        return value * factor

    return edit
