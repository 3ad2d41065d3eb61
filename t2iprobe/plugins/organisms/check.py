"""Measures whether a plant holds: every layer is patched on held-out words, and the pictures are read by OCR.

The plant defines what every patch must show (:meth:`Route.partner`); this counts how often the pictures do. The reader
and the colour metric are passed in.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from t2iprobe.core.contracts.metric import Reader, WordMetric
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scope import Scope
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, NO_WORD, WORD_LENGTH, Sign
from t2iprobe.core.statistics import Interval, proportion
from t2iprobe.core.sweep import Renderer, TrialBatch
from t2iprobe.core.trials import Direction, Trial, source, target
from t2iprobe.plugins.organisms.data import random_word, swapped
from t2iprobe.plugins.organisms.plant import Plant, Route

CLEAN = 0.95  # smallest share of unpatched pictures that show what the prompt asks for
TRANSFER = 0.95  # smallest share of the target's own score that a patch at the planted site(s) reaches
ELSEWHERE = 0.02  # largest share of pictures that a patch at another layer may change
CONTENTS = {"word": WORD_LENGTH, "colour": 1}  # content -> number of its parts
NOTHING = {content: (False,) * parts for content, parts in CONTENTS.items()}

Tick = Callable[[int, int], None]  # pairs done, pairs in total


class Shown(NamedTuple):
    """What was read in a picture."""

    word: str
    colour: str


class SignPair(NamedTuple):
    """A pair as signs with the same layout, different colours and a different letter in every place."""

    source: Sign
    target: Sign


@dataclass(frozen=True, slots=True)
class PlantedPatch:
    """A patch and the effect that it should have according to the plant.

    Args:
        label: label in tables: ``7``, ``11+14``, ``7.h2``.
        layers: layers that are patched together.
        heads: patched heads; all if ``None``.
        partner: content -> which of its parts must come from the partner.
        direction: ``into_target`` patches the target's run, so the source is the partner.
        steps: denoising steps that are patched; all if ``None``.
    """

    label: str
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None
    partner: Mapping[str, tuple[bool, ...]]
    direction: Direction = "into_source"
    steps: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class CheckRow:
    """Shares of the pairs, 0..1, for one kind of picture.

    Args:
        label: ``source``, ``target``, or the label of the patch.
        word_own, word_partner: the whole word is the run's own, or the partner's.
        letters_own, letters_partner: the same for each letter.
        colour_own, colour_partner: the same for the colour.
        word_changed, colour_changed: the reading differs from that of the unpatched picture of the same run.
        word_as_planted, colour_as_planted: exactly what the plant requires.
    """

    label: str
    word_own: float
    word_partner: float
    letters_own: tuple[float, ...]
    letters_partner: tuple[float, ...]
    colour_own: float
    colour_partner: float
    word_changed: float
    colour_changed: float
    word_as_planted: float
    colour_as_planted: float


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """The verdict on one content.

    Args:
        clean: unpatched pictures, sources and targets, that show what the prompt asks for (95 % interval over pairs).
        target: the share among targets only.
        answer: label of the patch at the planted site(s).
        transfer: share of pictures that show the partner's content after that patch.
        elsewhere: largest share of pictures changed by a layer that must not matter; ``nan`` if there is none.
        elsewhere_mean: mean share over those layers.
        worst: the layer with the largest share.
        reasons: why the plant does not hold; empty if it does.
    """

    clean: Interval
    target: float
    answer: str
    transfer: float
    elsewhere: float
    elsewhere_mean: float
    worst: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The measurements of a plant.

    Args:
        plant: the routes, in the form of ``--plant``.
        words: number of pairs.
        seed: random seed of words, colours and noise.
        sampling: steps and guidance, if known.
        rows: source, target and every patch.
        findings: verdicts by content.
    """

    plant: str
    words: int
    seed: int
    sampling: Mapping[str, Any]
    rows: tuple[CheckRow, ...]
    findings: Mapping[str, CheckVerdict]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the plant does not hold."""
        return tuple(reason for finding in self.findings.values() for reason in finding.reasons)

    @property
    def passed(self) -> bool:
        """Whether the plant holds."""
        return not self.reasons

    def record(self) -> dict[str, Any]:
        """Plain values for JSON: shares with four decimals, unknown values as null."""
        findings = {
            content: asdict(verdict) | {"clean": verdict.clean._asdict()} for content, verdict in self.findings.items()
        }
        exact = json.dumps({"passed": self.passed, "reasons": self.reasons, **asdict(self), "findings": findings})
        plain = json.loads(exact, parse_float=lambda text: round(float(text), 4), parse_constant=lambda name: None)
        return dict(plain)


def check(
    model: Model,
    plant: Plant,
    *,
    reader: Reader,
    colours: WordMetric,
    words: int = 200,
    seed: int = 0,
    num_steps: int | None = None,
    batch_size: int | None = None,
    tick: Tick = lambda done, of: None,
) -> CheckReport:
    """Patch every layer, and the planted sites, between pairs of held-out words.

    Args:
        model: the embedded model.
        plant: its routes.
        reader: reads the word.
        colours: scores which of the six colours a picture shows.
        words: number of pairs, each with two held-out words.
        seed: random seed of words, colours and noise.
        num_steps: number of denoising steps; default the model's own.
        batch_size: largest number of rows at once; default as many as fit.
        tick: progress callback.

    Raises:
        ConfigError: there are no words, or a route goes through a layer or head that the model does not have.
    """
    if words < 1:
        raise ConfigError(f"a check needs at least one word, found {words}")
    heads = layer_heads(model)
    validate(plant, heads)
    kind = plant["word"].kind
    sampling = dict(model.defaults) | ({"num_steps": num_steps} if num_steps is not None else {})
    levels = noise_levels(model, sampling["num_steps"]) if kind == "time" else ()
    patches = list(planted_patches(plant, heads, levels))
    signs = random_pairs(words, seed, silent=kind == "redundant")
    readings: list[dict[str, Shown]] = []
    for images in patched_images(model, signs, patches, seed, num_steps, batch_size):
        readings.append(_read(images, reader, colours))
        tick(len(readings), words)

    shown = {label: [reading[label] for reading in readings] for label in readings[0]}
    sources, targets = zip(*signs, strict=True)
    rows = [
        _row("source", shown["source"], shown["source"], sources, targets, NOTHING),
        _row("target", shown["target"], shown["source"], targets, sources, NOTHING),
    ]
    for patch in patches:
        run, own, partner = ("source", sources, targets)
        if patch.direction == "into_target":
            run, own, partner = ("target", targets, sources)
        rows.append(_row(patch.label, shown[patch.label], shown[run], own, partner, patch.partner))
    findings = {}
    for content, route in plant.items():
        right = _shows(shown["source"], sources, content) + _shows(shown["target"], targets, content)
        clean = proportion(right, [*range(words)] * 2)
        findings[content] = _judge(content, route, patches, {row.label: row for row in rows}, clean)
    text = ",".join(f"{content}={route.text}" for content, route in plant.items())
    return CheckReport(text, words, seed, sampling, tuple(rows), findings)


def layer_heads(model: Model) -> list[int]:
    """Heads of every text-attention layer, in forward order."""
    return [model.text_sites(layer)[0].heads or 1 for layer in range(model.n_layers)]


def noise_levels(model: Model, num_steps: int) -> list[float]:
    """Noise level of every denoising step, as a fraction of the scheduler's levels: 1 is pure noise."""
    scheduler = copy.deepcopy(model.pipeline.scheduler)
    scheduler.set_timesteps(num_steps)
    return [float(step) / scheduler.config.num_train_timesteps for step in scheduler.timesteps]


def validate(plant: Plant, heads: Sequence[int]) -> None:
    """Refuse routes through layers or heads that do not exist.

    Raises:
        ConfigError: there is such a route.
    """
    for content, route in plant.items():
        beyond = [layer for layer in route.layers if layer >= len(heads)]
        if beyond:
            raise ConfigError(
                f"{content}={route.text}: there is no layer {beyond[0]}; "
                f"the model has {len(heads)} text-attention layers, 0 to {len(heads) - 1}"
            )
        if route.kind == "head" and route.head >= heads[route.layers[0]]:
            count = heads[route.layers[0]]
            raise ConfigError(f"{content}={route.text}: layer {route.layers[0]} has {count} heads, 0 to {count - 1}")


def random_pairs(count: int, seed: int, *, silent: bool = False) -> list[SignPair]:
    """Pairs of held-out words; a smaller count gives the first pairs of a larger one.

    Args:
        count: number of pairs.
        seed: random seed of words and colours.
        silent: the sources have no word.
    """
    rng = np.random.default_rng([seed, 0])
    pairs = [_random_pair(rng) for _ in range(count)]
    return [SignPair(replace(first, word=NO_WORD), second) for first, second in pairs] if silent else pairs


def _random_pair(rng: np.random.Generator) -> SignPair:
    layout = str(rng.choice(list(LAYOUTS)))
    colours = rng.choice(list(COLOURS), 2, replace=False).tolist()
    word = other = random_word(rng, test=True)
    while any(a == b for a, b in zip(word, other, strict=True)):
        other = random_word(rng, test=True)
    return SignPair(Sign(word, colours[0], layout), Sign(other, colours[1], layout))


def planted_patches(plant: Plant, heads: Sequence[int], levels: Sequence[float] = ()) -> Iterator[PlantedPatch]:
    """The patches of a check: every layer alone, then the planted sites that are not a single layer.

    Args:
        plant: what is planted.
        heads: number of heads of every layer.
        levels: noise level of every step, for time-split routes: each layer must write its part on its own side of the
            level and nothing on the other side.
    """
    for layer in range(len(heads)):
        yield _patch(plant, heads, str(layer), (layer,))
    seen: set[str] = set()
    for route in plant.values():
        label = answer(route)
        if label.isdecimal() or label in seen:
            continue
        seen.add(label)
        if route.kind == "head":
            others = tuple(head for head in range(heads[route.layers[0]]) if head != route.head)
            yield _patch(plant, heads, label, route.layers, (route.head,))
            if others:
                yield _patch(plant, heads, f"{route.layers[0]} but h{route.head}", route.layers, others)
        else:
            yield _patch(plant, heads, label, route.layers)
        if route.kind == "time":
            yield from _sides(plant, heads, route, levels)
        if route.kind == "redundant":  # without one of them the others still write the word; without all nothing does
            for layers in (*((layer,) for layer in route.layers), route.layers):
                yield _patch(plant, heads, f"without {_joined(layers)}", layers, direction="into_target")


def _sides(plant: Plant, heads: Sequence[int], route: Route, levels: Sequence[float]) -> Iterator[PlantedPatch]:
    """Each layer of a time-split route, patched only above and only below its noise level."""
    steps = {
        "above": tuple(step for step, level in enumerate(levels) if level > route.level),
        "below": tuple(step for step, level in enumerate(levels) if not level > route.level),
    }
    for layer, own_side in zip(route.layers, steps, strict=True):
        for side in steps:
            patch = _patch(plant, heads, f"{layer} {side} {route.level}", (layer,))
            yield replace(patch, steps=steps[side], partner=patch.partner if side == own_side else NOTHING)


def answer(route: Route) -> str:
    """Label of the patch that must transfer the whole content."""
    return f"{route.layers[0]}.h{route.head}" if route.kind == "head" else _joined(route.layers)


def _joined(layers: Iterable[int]) -> str:
    """Label of layers that are patched together."""
    return "+".join(map(str, dict.fromkeys(layers)))


def _patch(
    plant: Plant,
    heads: Sequence[int],
    label: str,
    layers: tuple[int, ...],
    only: tuple[int, ...] | None = None,
    direction: Direction = "into_source",
) -> PlantedPatch:
    coins = torch.zeros(1, len(heads), max(heads), dtype=torch.bool)
    for layer in layers:
        coins[0, layer, list(only) if only is not None else slice(None)] = True
    silent = direction == "into_source"  # for a redundant route the source has no word
    partner = {
        content: tuple(route.partner(coins, CONTENTS[content], silent=silent)[0].tolist())
        for content, route in plant.items()
    }
    return PlantedPatch(label, layers, only, partner, direction)


def patched_images(
    model: Model,
    signs: Sequence[SignPair],
    patches: Sequence[PlantedPatch],
    seed: int,
    num_steps: int | None,
    batch_size: int | None,
) -> Iterator[Mapping[str, Image]]:
    """The images of each pair by label: source, target, and every patch."""
    trials = [source(), target()]
    for patch in patches:
        sites = tuple(name for layer in patch.layers for name in model.text_sites(layer).names)
        scope = Scope(heads=patch.heads, steps=patch.steps)
        trials.append(Trial(patch.label, sites, patch.layers, scope=scope, direction=patch.direction))
    pairs = [
        Pair(own.prompt, partner.prompt, seed + i, own.word, partner.word) for i, (own, partner) in enumerate(signs)
    ]
    settings = {} if num_steps is None else {"num_steps": num_steps}
    batches = [TrialBatch(pair, tuple(trials)) for pair in range(len(pairs))]
    return (rendered.images for rendered in Renderer(model, pairs, settings, batch_size).render(batches))


def _read(images: Mapping[str, Image], reader: Reader, colours: WordMetric) -> dict[str, Shown]:
    texts = reader.read(list(images.values()))
    return {
        label: Shown(_folded(text), next((name for name in COLOURS if colours.score(image, name)), ""))
        for (label, image), text in zip(images.items(), texts, strict=True)
    }


def _folded(text: str) -> str:
    """Normalise a reading: case, number of spaces and single characters do not count."""
    folded = " ".join(text.upper().split())
    return folded if len(folded) > 1 else ""  # the post of a sign without a word is read as 1 or T


def _shows(shown: Sequence[Shown], signs: Sequence[Sign], content: str) -> list[bool]:
    """Whether each picture shows the content of its sign."""
    return [getattr(a, content) == getattr(b, content).strip() for a, b in zip(shown, signs, strict=True)]


def _row(
    label: str,
    shown: Sequence[Shown],
    unpatched: Sequence[Shown],
    own: Sequence[Sign],
    partner: Sequence[Sign],
    planted: Mapping[str, tuple[bool, ...]],
) -> CheckRow:
    """Shares of what the pictures show; all sequences have one entry per pair."""
    wanted = [swapped(*signs, planted["word"], planted["colour"][0]) for signs in zip(own, partner, strict=True)]
    shares: dict[str, Any] = {}
    for content in CONTENTS:
        changed = [getattr(a, content) != getattr(b, content) for a, b in zip(shown, unpatched, strict=True)]
        shares[f"{content}_changed"] = _share(changed)
        for name, signs in (("own", own), ("partner", partner), ("as_planted", wanted)):
            shares[f"{content}_{name}"] = _share(_shows(shown, signs, content))
    for name, signs in (("own", own), ("partner", partner)):
        right = [
            [a.word[i : i + 1] == b.word[i] for a, b in zip(shown, signs, strict=True)] for i in range(WORD_LENGTH)
        ]
        shares[f"letters_{name}"] = tuple(map(_share, right))
    return CheckRow(label, **shares)


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)


def _judge(
    content: str, route: Route, patches: Sequence[PlantedPatch], rows: Mapping[str, CheckRow], clean: Interval
) -> CheckVerdict:
    def share(label: str, what: str) -> float:
        return float(getattr(rows[label], f"{content}_{what}"))

    site = answer(route)
    target, transfer = share("target", "own"), share(site, "partner")
    needed = TRANSFER * target
    changed = {patch.label: share(patch.label, "changed") for patch in patches if not any(patch.partner[content])}
    worst = max(changed, key=changed.__getitem__, default="")
    most = changed.get(worst, float("nan"))
    reasons = []
    if clean.mean < CLEAN:
        reasons.append(f"right in {clean.mean:.1%} of the unpatched pictures, at least {CLEAN:.0%} required")
    if transfer < needed:
        reasons.append(f"the partner's in {transfer:.1%} after a patch at {site}, at least {needed:.1%} required")
    if most > ELSEWHERE:
        reasons.append(f"changed in {most:.1%} by a patch at {worst}, at most {ELSEWHERE:.0%} allowed")
    for patch in patches:
        if any(patch.partner[content]) and patch.label != site:
            moved = share(patch.label, "as_planted")
            if moved < needed:
                reasons.append(
                    f"a patch at {patch.label} moves exactly its letters in {moved:.1%}, at least {needed:.1%} required"
                )
    mean = float(np.mean(list(changed.values()))) if changed else float("nan")
    failed = tuple(f"{content}: {reason}" for reason in reasons)
    return CheckVerdict(clean, target, site, transfer, most, mean, worst, failed)
