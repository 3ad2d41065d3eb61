"""One counterfactual run, :class:`Trial`, and everything that can be patched in a model, :class:`Space`.

There are two directions. ``into_source`` patches the target's activations into the source's run, ``into_target`` the
source's into the target's. With the target's run as the *clean* and the source's as the *corrupted* one, they are the
*denoising* and *noising* of Heimersheim & Nanda (arXiv 2404.15255); those names are avoided here because denoising is
also what a diffusion model does at every step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.scope import Scope

if TYPE_CHECKING:
    from t2iprobe.core.model import Model

Direction = Literal["into_source", "into_target"]
#: what is taken from the other run: text keys and values, or the text embedding a layer reads (the paper's *injection*)
Part = Literal["kv", "text"]


@dataclass(frozen=True, slots=True)
class Trial:
    """Run one prompt of a pair with the activations of some sites taken from the run of the other prompt.

    Args:
        label: unique description; it names the trial in tables and in the store.
        sites: names of the patched sites; empty for an unpatched run.
        layers: text-attention layers the sites belong to.
        direction: ``into_source`` runs the source's prompt and takes activations from the target's run;
            ``into_target`` runs the target's prompt and takes them from the source's run.
        scope: steps, branches, tokens and heads that are patched.
        num_steps: denoising steps of the generation; ``None`` takes the study's.
    """

    label: str
    sites: tuple[str, ...]
    layers: tuple[int, ...] = ()
    direction: Direction = "into_source"
    scope: Scope = field(default_factory=Scope)
    num_steps: int | None = None

    @property
    def layer(self) -> int | None:
        """The layer if there is exactly one, else ``None``."""
        return self.layers[0] if len(self.layers) == 1 else None


def source(num_steps: int | None = None) -> Trial:
    """The source's prompt, unpatched."""
    return Trial("source" + _at(num_steps), (), num_steps=num_steps)


def target(num_steps: int | None = None) -> Trial:
    """The target's prompt, unpatched."""
    return Trial("target" + _at(num_steps), (), direction="into_target", num_steps=num_steps)


@dataclass(frozen=True, slots=True)
class Space:
    """Everything that a localization can patch in a model.

    Args:
        kv: text keys and values of each text-attention layer, in forward order.
        text: sites of the text embedding each layer reads; empty where the family has no such site per layer.
        heads: attention heads of each layer.
        steps: denoising steps of the study.
    """

    kv: tuple[tuple[str, ...], ...]
    text: tuple[tuple[str, ...], ...]
    heads: tuple[int, ...]
    steps: int

    @classmethod
    def of(cls, model: Model, num_steps: int | None = None) -> Space:
        """The space of a model."""
        listed = range(model.n_layers)
        kv = tuple(model.text_sites(layer).names for layer in listed)
        # only in cross-attention is what text keys and values are computed from the encoded prompt itself
        readers = [site for site in model.sites if site.kind == "cross_attn.text"]
        text = tuple(tuple(site.name for site in readers if site.layer == layer) for layer in listed)
        heads = tuple(model.sites.named(names[0]).heads or 1 for names in kv)
        return cls(kv, text, heads, model.steps(num_steps))

    @property
    def layers(self) -> int:
        """Number of text-attention layers."""
        return len(self.kv)

    def trial(
        self,
        layers: Iterable[int],
        *,
        part: Part = "kv",
        direction: Direction = "into_source",
        scope: Scope | None = None,
        num_steps: int | None = None,
    ) -> Trial:
        """Patch these layers together.

        Raises:
            ConfigError: no layer is given, a layer does not exist, or ``part="text"`` on a family without such sites.
        """
        chosen = tuple(sorted(set(layers)))
        wrong = [layer for layer in chosen if not 0 <= layer < self.layers]
        if wrong or not chosen:
            raise ConfigError(f"the model has layers 0-{self.layers - 1}, found {ranges(chosen) or 'none'}")
        listed = self.kv if part == "kv" else self.text
        sites = tuple(name for layer in chosen for name in listed[layer])
        if not sites:
            raise ConfigError("injection needs layers that read the encoded prompt; this family has none, use part=kv")
        scope = scope or Scope()
        prefix = ("into target " if direction == "into_target" else "") + ("text " if part == "text" else "")
        label = prefix + ranges(chosen) + _scoped(scope) + _at(num_steps)
        return Trial(label, sites, chosen, direction, scope, num_steps)


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers as ``3+5-8``; runs of three or more are abbreviated."""
    # within a run of consecutive numbers, a number less its position is constant
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(sorted(set(numbers))), lambda item: item[1] - item[0])
    ]
    return "+".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else "+".join(map(str, run)) for run in runs)


def _scoped(scope: Scope) -> str:
    """The scope as part of a label."""
    parts = {"steps": scope.steps, "heads": scope.heads, "tokens": scope.tokens}
    words = [f" {name} {ranges(values)}" for name, values in parts.items() if values is not None]
    if scope.branches is not None:
        words.append(" " + "+".join(sorted(scope.branches)))
    return "".join(words)


def _at(num_steps: int | None) -> str:
    return "" if num_steps is None else f" @{num_steps} steps"
