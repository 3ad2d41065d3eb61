"""One counterfactual question: :class:`Trial`; and all that can be asked of a model: :class:`Space`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.scope import Scope

Direction = Literal["denoising", "noising"]
#: what is taken over from the other run: text keys and values, or the text a layer reads (the paper's *injection*)
Part = Literal["kv", "text"]


@dataclass(frozen=True, slots=True)
class Trial:
    """Run one prompt of a pair, with the activations of some sites taken from the run of the other.

    Args:
        label: says it all, and is unique: it names the trial in tables and in the store.
        sites: names of the sites; none leaves the run as it is.
        layers: text-attention layers the sites belong to.
        direction: ``denoising`` runs the source's prompt and takes from the target's run; ``noising`` runs the
            target's and takes from the source's (Heimersheim & Nanda, arXiv 2404.15255).
        scope: steps, branches, tokens and heads.
        num_steps: denoising steps of the generation; ``None`` as the study's.
    """

    label: str
    sites: tuple[str, ...]
    layers: tuple[int, ...] = ()
    direction: Direction = "denoising"
    scope: Scope = field(default_factory=Scope)
    num_steps: int | None = None

    @property
    def layer(self) -> int | None:
        """The layer, where it is one."""
        return self.layers[0] if len(self.layers) == 1 else None


def source(num_steps: int | None = None) -> Trial:
    """The source's prompt, unpatched."""
    return Trial("source" + _at(num_steps), (), num_steps=num_steps)


def target(num_steps: int | None = None) -> Trial:
    """The target's prompt, unpatched."""
    return Trial("target" + _at(num_steps), (), direction="noising", num_steps=num_steps)


@dataclass(frozen=True, slots=True)
class Space:
    """What a localization can patch.

    Args:
        kv: text keys and values of each text-attention layer, in forward order.
        text: the text each layer reads; empty where the family has no such site a layer.
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
        listed = range(model.layers)
        kv = tuple(model.text_sites(layer).names for layer in listed)
        text = tuple(_text_entry(model, layer) for layer in listed)
        heads = tuple(model.sites.named(names[0]).heads or 1 for names in kv)
        return cls(kv, text, heads, model.steps(num_steps))

    @property
    def layers(self) -> int:
        """How many text-attention layers there are."""
        return len(self.kv)

    def trial(
        self,
        layers: Iterable[int],
        *,
        part: Part = "kv",
        direction: Direction = "denoising",
        scope: Scope | None = None,
        num_steps: int | None = None,
    ) -> Trial:
        """Patch these layers together.

        Raises:
            ConfigError: no layer, or one that is not there, or ``part="text"`` on a family without such sites.
        """
        chosen = tuple(sorted(set(layers)))
        wrong = [layer for layer in chosen if not 0 <= layer < self.layers]
        if wrong or not chosen:
            raise ConfigError(f"the model has layers 0-{self.layers - 1}, found {ranges(chosen) or 'none'}")
        listed = self.kv if part == "kv" else self.text
        sites = tuple(name for layer in chosen for name in listed[layer])
        if not sites:
            raise ConfigError("injection needs layers that read the prompt's text; this family has none, patch instead")
        scope = scope or Scope()
        prefix = ("noising " if direction == "noising" else "") + ("text " if part == "text" else "")
        label = prefix + ranges(chosen) + _scoped(scope) + _at(num_steps)
        return Trial(label, sites, chosen, direction, scope, num_steps)


def _text_entry(model: Model, layer: int) -> tuple[str, ...]:
    """What :attr:`Adapter.text_kv` is computed from, where that is the encoded prompt itself: cross-attention."""
    kinds = ("cross_attn.text",)
    return tuple(site.name for site in model.sites if site.layer == layer and site.kind in kinds)


def ranges(numbers: Iterable[int]) -> str:
    """``3+5-8``: numbers in order, runs of three and more shortened."""
    return "+".join(_spans(sorted(set(numbers))))


def _spans(numbers: list[int]) -> Iterator[str]:
    start = 0
    while start < len(numbers):
        stop = start
        while stop + 1 < len(numbers) and numbers[stop + 1] == numbers[stop] + 1:
            stop += 1
        if stop - start >= 2:
            yield f"{numbers[start]}-{numbers[stop]}"
        else:
            yield from map(str, numbers[start : stop + 1])
        start = stop + 1


def _scoped(scope: Scope) -> str:
    """The scope in a label."""
    parts = {"steps": scope.steps, "heads": scope.heads, "tokens": scope.tokens}
    words = [f" {name} {ranges(values)}" for name, values in parts.items() if values is not None]
    if scope.branches is not None:
        words.append(" " + "+".join(sorted(scope.branches)))
    return "".join(words)


def _at(num_steps: int | None) -> str:
    return "" if num_steps is None else f" @{num_steps} steps"
