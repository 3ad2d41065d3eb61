"""What can be exchanged in a model, by layer: :func:`offers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from t2iprobe.core.model import Model
from t2iprobe.core.sites import Site

TEXT = "text"  # name of the first offer, which localization patches: text keys and values
#: what the ports of attention to the text, and the other kinds of site, are called on the board
TITLES = {
    "q": "queries of the picture",
    "k": "keys of the text",
    "v": "values of the text",
    "z": "what each head brings",
    "out": "output of the attention",
    "in": "input of the attention",
    "text": "text that the layer reads",
    "pattern": "attention weights on the text",
    "self_attn.q": "queries among picture tokens",
    "self_attn.k": "keys of the picture",
    "self_attn.v": "values of the picture",
    "self_attn.z": "what each head of self-attention brings",
    "self_attn.out": "output of self-attention",
    "self_attn.in": "input of self-attention",
    "self_attn.pattern": "attention weights among picture tokens",
    "mlp.in": "input of the MLP",
    "mlp.out": "output of the MLP",
    "text.in": "text stream, before the attention",
    "text.q": "queries of the text",
    "text.z": "what each head brings to the text",
    "text.out": "text stream, after the attention",
    "text.pattern": "attention weights of the text on the picture",
}


@dataclass(frozen=True)
class Offer:
    """One thing to exchange.

    Args:
        name: ``text``, or a kind of site.
        title: its name in words.
        sites: sites of each layer that has it.
    """

    name: str
    title: str
    sites: Mapping[int, Sequence[Site]]

    def heads(self, layers: Iterable[int]) -> int:
        """How many attention heads all of these layers have; 0 if there are none to choose."""
        return min((site.heads or 0 for layer in layers for site in self.sites[layer]), default=0)


def offers(model: Model) -> dict[str, Offer]:
    """Everything that can be exchanged in a model, by name: text keys and values first, then each kind of site."""
    kinds: dict[str, dict[int, list[Site]]] = {TEXT: {}}
    for site in model.sites:
        if site.layer is not None and not site.carried:
            kinds.setdefault(site.kind, {}).setdefault(site.layer, []).append(site)
            if site.kind in model.adapter.text_kv:
                kinds[TEXT].setdefault(site.layer, []).append(site)
    return {name: Offer(name, _title(name), sites) for name, sites in kinds.items()}


def _title(name: str) -> str:
    if name == TEXT:
        return "keys and values of the text"
    part, _, port = name.partition(".")
    attends = part in ("cross_attn", "joint_attn")
    return TITLES.get(port if attends else name, name)


def patterns(offer: Offer, layers: Iterable[int]) -> tuple[str, ...]:
    """Patterns that match the sites of these layers and no others, as one would write them.

    Such as ``blocks.6.joint_attn.[kv]``, ``blocks.{6,7}.mlp.out`` or ``blocks.*.cross_attn.q``.
    """
    chosen = tuple(layers)
    block = "*" if len(chosen) == len(offer.sites) else _either(map(str, chosen))
    sites = [site for layer in chosen for site in offer.sites[layer]]
    kinds = dict.fromkeys(site.kind for site in sites)
    if {f"blocks.{layer}.{kind}" for layer in chosen for kind in kinds} != {site.name for site in sites}:
        return tuple(site.name for site in sites)  # a part of the layers lacks a kind, or names begin otherwise
    ports: dict[str, list[str]] = {}
    for kind in kinds:
        part, _, port = kind.partition(".")
        ports.setdefault(part, []).append(port)
    return tuple(f"blocks.{block}.{part}.{_either(names)}" for part, names in ports.items())


def _either(words: Iterable[str]) -> str:
    listed = list(words)
    if len(listed) == 1:
        return listed[0]
    return (
        f"[{''.join(listed)}]"
        if all(map(str.isalpha, listed)) and max(map(len, listed)) == 1
        else (f"{{{','.join(listed)}}}")
    )
