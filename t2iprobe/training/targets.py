"""Which modules a LoRA adapts: a scope (which attention) and its projections, from the adapter's sites."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from t2iprobe.core.contracts.adapter import Adapter, Pipeline, count_parameters, layer_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.sites import Site

#: scope -> description
SCOPES = {
    "localized": "the text attention of the found layers",
    "all-cross": "the text attention of every layer",
    "all-attention": "every attention projection, including self-attention and what text tokens compute for themselves",
    "random": "the text attention of equally many other layers, drawn by the seed",
}
#: which projections of them -> description
PROJECTIONS = {
    "text": "text keys and values, which is what localization patches",
    "image": "the projections of the image tokens: queries, output, and keys and values in shared attention",
    "both": "all of them",
}
_PORTS = (".q", ".k", ".v", ".z")


@dataclass(frozen=True, slots=True)
class Targets:
    """The modules that a LoRA adapts.

    Args:
        scope, projections: as requested.
        layers: text-attention layers in forward order; all of them for ``all-attention``.
        modules: paths of linear modules below the denoiser, in forward order.
    """

    scope: str
    projections: str
    layers: tuple[int, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Parameter counts.

    Args:
        modules: number of adapted modules.
        trained: parameters of the LoRA's matrices, which are trained and saved.
        adapted: weights and biases of the adapted modules, which stay frozen.
        text_kv: the part of ``adapted`` in text keys and values, as ``t2iprobe sites`` counts them.
        denoiser: parameters of the whole denoiser.
    """

    modules: int
    trained: int
    adapted: int
    text_kv: int
    denoiser: int

    def share(self, number: int) -> float:
        """``number`` as a fraction of the denoiser's parameters."""
        return number / self.denoiser

    def sentence(self) -> str:
        """The counts as a sentence."""
        kv = f", {self.text_kv:,} in text keys and values ({self.share(self.text_kv):.2%}, as `t2iprobe sites` counts)"
        return (
            f"{self.trained:,} LoRA parameters ({self.share(self.trained):.4%} of the denoiser's {self.denoiser:,}) on "
            f"{self.modules} modules of {self.adapted:,} weights ({self.share(self.adapted):.2%})"
            f"{kv if self.text_kv else ''}"
        )


def choose(
    adapter: Adapter,
    pipeline: Pipeline,
    scope: str,
    *,
    layers: Sequence[int] = (),
    projections: str = "both",
    seed: int = 0,
) -> Targets:
    """Some projections of a scope, as :class:`Targets`.

    Args:
        adapter: adapter of the model's family.
        pipeline: only its denoiser is needed.
        scope: a key of :data:`SCOPES`.
        layers: the localized layers; ``localized`` takes them, ``random`` equally many others.
        projections: a key of :data:`PROJECTIONS`.
        seed: random seed of the scope ``random``.

    Raises:
        ConfigError: scope or projections are unknown, or layers that the scope needs are missing or do not exist.
    """
    choice("scope", scope, SCOPES)
    choice("projections", projections, PROJECTIONS)
    sites = [site for site in adapter.sites(pipeline) if site.layer is not None]
    known = sorted({site.layer for site in sites if site.kind in adapter.text_kv and site.layer is not None})
    chosen = _layers(scope, tuple(layers), known, seed)
    if scope == "all-attention":
        wanted = [site for site in sites if _everything(site, adapter, projections)]
    else:
        wanted = [site for layer in chosen for site in _of_layer(sites, layer, adapter, projections)]
    denoiser = adapter.module(pipeline)
    paths = dict.fromkeys(site.module for site in wanted if _linear(denoiser, site.module))
    return Targets(scope, projections, chosen, tuple(paths))


def count(adapter: Adapter, pipeline: Pipeline, targets: Targets, rank: int) -> Count:
    """Count parameters; before a LoRA is attached, whose matrices would count as the denoiser's.

    Raises:
        ConfigError: the rank exceeds a module's width.
    """
    denoiser = adapter.module(pipeline)
    modules = {path: denoiser.get_submodule(path) for path in targets.modules}
    check_rank(modules, rank)
    counted = {site for row in layer_table(adapter, pipeline) for site in row.sites}
    text = {site.module for site in adapter.sites(pipeline) if site.name in counted}
    return Count(
        modules=len(modules),
        trained=sum(rank * sum(_widths(module)) for module in modules.values()),
        adapted=sum(map(count_parameters, modules.values())),
        text_kv=sum(count_parameters(module) for path, module in modules.items() if path in text),
        denoiser=count_parameters(denoiser),
    )


def check_rank(modules: dict[str, nn.Module], rank: int) -> None:
    """Refuse a rank that exceeds what a module can use.

    Raises:
        ConfigError: the rank is below 1, or above a module's narrower side.
    """
    path, least = min(((path, min(_widths(module))) for path, module in modules.items()), key=lambda found: found[1])
    if not 1 <= rank <= least:
        raise ConfigError(f"a LoRA rank lies between 1 and the layer's width, {least} at {path}; found {rank}")


def _layers(scope: str, localized: tuple[int, ...], known: list[int], seed: int) -> tuple[int, ...]:
    """The layers of a scope."""
    if scope in ("all-cross", "all-attention"):
        return tuple(known)
    if not localized:
        raise ConfigError(
            f"the scope {scope} needs the found layers: name them, or a run of `t2iprobe localize` that found them"
        )
    if missing := sorted(set(localized) - set(known)):
        raise ConfigError(f"there is no text-attention layer {missing[0]}; the model has {known[0]}-{known[-1]}")
    if scope == "localized":
        return tuple(sorted(set(localized)))
    others = [layer for layer in known if layer not in localized]
    if len(others) < len(set(localized)):
        raise ConfigError(f"the scope random needs {len(set(localized))} other layers, but there are {len(others)}")
    return tuple(sorted(random.Random(seed).sample(others, len(set(localized)))))


def _of_layer(sites: Sequence[Site], layer: int, adapter: Adapter, projections: str) -> list[Site]:
    """Projections of the attention through which the text enters a layer."""
    own = [site for site in sites if site.layer == layer and site.kind.endswith(_PORTS)]
    text = [site for site in own if site.kind in adapter.text_kv]
    attention = {site.module.rpartition(".")[0] + "." for site in text}
    image = [
        site
        for site in own
        if site not in text and not site.kind.startswith("text.") and site.module.startswith(tuple(attention))
    ]
    return {"text": text, "image": image, "both": [site for site in own if site in text or site in image]}[projections]


def _everything(site: Site, adapter: Adapter, projections: str) -> bool:
    """Whether ``all-attention`` includes the site."""
    part = site.kind.partition(".")[0]
    if not site.kind.endswith(_PORTS) or part == "mlp":
        return False
    text = site.kind in adapter.text_kv or part == "text"
    return {"text": text, "image": not text, "both": True}[projections]


def _linear(denoiser: nn.Module, path: str) -> bool:
    """Whether a LoRA can adapt the module; in FLUX's single-stream blocks, ``z`` is a whole attention module."""
    return hasattr(denoiser.get_submodule(path), "in_features")


def _widths(module: Any) -> tuple[int, int]:
    return int(module.in_features), int(module.out_features)
