"""Measures whether a plant holds: every layer is patched on held-out words, read by OCR.

The plant defines what every patch must show (:meth:`Route.partner`); this counts how often the pictures do. It knows no
reader and no palette: they are passed in.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from t2iprobe.core.contracts.metric import Reader, WordMetric
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scope import Scope
from t2iprobe.core.statistics import Interval, proportion
from t2iprobe.core.sweep import Renderer, TrialBatch
from t2iprobe.core.trials import Direction, Trial, source, target
from t2iprobe.plugins.organisms.data import random_word, swapped
from t2iprobe.plugins.organisms.pictures import COLOURS, LAYOUTS, NO_WORD, WORD_LENGTH, Sign
from t2iprobe.plugins.organisms.plant import Plant, Route

CLEAN = 0.95  # smallest share of unpatched pictures that show what the prompt asks for
TRANSFER = 0.95  # smallest share of the target's own score that a patch at the planted site(s) reaches
ELSEWHERE = 0.02  # largest share of pictures that a patch at another layer may change
CONTENTS = {"word": WORD_LENGTH, "colour": 1}  # content -> number of its parts

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
        findings = {name: asdict(one) | {"clean": one.clean._asdict()} for name, one in self.findings.items()}
        found = asdict(self) | {"sampling": dict(self.sampling), "findings": findings}
        return {"passed": self.passed, "reasons": list(self.reasons), **_plain(found)}


def check(
    model: Model,
    plant: Plant,
    *,
    reader: Reader,
    colours: WordMetric,
    words: int = 200,
    seed: int = 0,
    num_steps: int | None = None,
    guidance: float | None = None,
    batch_size: int = 64,
    tick: Tick = lambda done, of: None,
) -> CheckReport:
    """Patch every layer, and the planted sites, between pairs of held-out words.

    Args:
        model: the embedded model.
        plant: its routes.
        reader: reads the word.
        colours: tells which of the six colours a picture shows.
        words: number of pairs, each with two held-out words.
        seed: random seed of words, colours and noise.
        num_steps, guidance: sampling settings; default the model's own.
        batch_size: largest number of rows at once.
        tick: progress callback.

    Raises:
        ConfigError: there are no words, or a route goes through a layer or head that the model does not have.
    """
    if words < 1:
        raise ConfigError(f"a check needs at least one word, found {words}")
    heads = layer_heads(model)
    validate(plant, heads)
    asked = random_pairs(words, seed, silent=plant["word"].kind == "redundant")
    given = {"num_steps": num_steps, "guidance": guidance}
    settings = {key: value for key, value in given.items() if value is not None}
    timed = plant["word"].kind == "time"
    levels = noise_levels(model, num_steps or model.defaults["num_steps"]) if timed else ()
    questions = list(ask(plant, heads, levels))
    tallies = {label: Tally() for label in ("source", "target", *(one.label for one in questions))}
    pairs = [Pair(a.prompt, b.prompt, seed + i, a.word, b.word) for i, (a, b) in enumerate(asked)]
    stream = _stream(model, pairs, questions, settings, batch_size)
    for done, (signs, images) in enumerate(zip(asked, stream, strict=True), 1):
        _count(tallies, signs, questions, _readings(images, reader, colours))
        tick(done, words)
    rows = {label: tally.row(label) for label, tally in tallies.items()}
    findings = {
        content: _judge(content, route, questions, rows, [tallies[one].right[content] for one in ("source", "target")])
        for content, route in plant.items()
    }
    sampling = {key: model.defaults[key] for key in given if model.defaults.get(key) is not None} | settings
    text = ",".join(f"{content}={route.text}" for content, route in plant.items())
    return CheckReport(text, words, seed, sampling, tuple(rows.values()), findings)


def layer_heads(model: Model) -> list[int]:
    """Heads of every text-attention layer, in forward order."""
    return [model.text_sites(layer)[0].heads or 1 for layer in range(model.layers)]


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
    return [SignPair(replace(one, word=NO_WORD), other) for one, other in pairs] if silent else pairs


def _random_pair(rng: np.random.Generator) -> SignPair:
    layout = str(rng.choice(list(LAYOUTS)))
    one, two = rng.choice(list(COLOURS), 2, replace=False).tolist()
    word = other = random_word(rng, test=True)
    while any(a == b for a, b in zip(word, other, strict=True)):
        other = random_word(rng, test=True)
    return SignPair(Sign(word, one, layout), Sign(other, two, layout))


def ask(plant: Plant, heads: Sequence[int], levels: Sequence[float] = ()) -> Iterator[PlantedPatch]:
    """The patches of a check: every layer alone, then the planted sites that are not a single layer.

    Args:
        plant: what is planted.
        heads: number of heads of every layer.
        levels: noise level of every step, for time-split routes: each layer must write its part on its own side of the
            level and nothing on the other side.
    """
    for layer in range(len(heads)):
        yield _question(plant, heads, str(layer), (layer,))
    seen: set[str] = set()
    for route in plant.values():
        label = answer(route)
        if label.isdecimal() or label in seen:
            continue
        seen.add(label)
        if route.kind == "head":
            others = tuple(head for head in range(heads[route.layers[0]]) if head != route.head)
            yield _question(plant, heads, label, route.layers, (route.head,))
            if others:
                yield _question(plant, heads, f"{route.layers[0]} but h{route.head}", route.layers, others)
        else:
            yield _question(plant, heads, label, route.layers)
        if route.kind == "time":
            yield from _sides(plant, heads, route, levels)
        if route.kind == "redundant":  # without one of them the others still write the word; without all nothing does
            for layers in (*((layer,) for layer in route.layers), route.layers):
                yield _question(plant, heads, f"without {joined(layers)}", layers, direction="into_target")


def _sides(plant: Plant, heads: Sequence[int], route: Route, levels: Sequence[float]) -> Iterator[PlantedPatch]:
    """Each layer of a time-split route, patched only above and only below its noise level."""
    above = tuple(step for step, level in enumerate(levels) if level > route.level)
    below = tuple(step for step in range(len(levels)) if step not in above)
    for (layer, own), (side, steps) in product(
        zip(route.layers, (above, below), strict=True), (("above", above), ("below", below))
    ):
        found = _question(plant, heads, f"{layer} {side} {route.level}", (layer,))
        nothing = {content: (False,) * parts for content, parts in CONTENTS.items()}
        yield replace(found, steps=steps, partner=found.partner if steps is own else nothing)


def answer(route: Route) -> str:
    """Label of the patch that must transfer the whole content."""
    if route.kind == "head":
        return f"{route.layers[0]}.h{route.head}"
    return joined(route.layers)


def joined(layers: Iterable[int]) -> str:
    """Label of layers that are patched together."""
    return "+".join(str(layer) for layer in dict.fromkeys(layers))


def _question(
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


def _stream(
    model: Model, pairs: Sequence[Pair], questions: Sequence[PlantedPatch], settings: Mapping[str, Any], batch_size: int
) -> Iterator[dict[str, Image]]:
    """Images of a pair by label."""
    trials = (source(), target(), *(_trial(model, one) for one in questions))
    asks = [TrialBatch(pair, trials) for pair in range(len(pairs))]
    return (made.images for made in Renderer(model, pairs, settings, batch_size).render(asks))


def _trial(model: Model, one: PlantedPatch) -> Trial:
    sites = tuple(name for layer in one.layers for name in model.text_sites(layer).names)
    return Trial(one.label, sites, one.layers, scope=Scope(heads=one.heads, steps=one.steps), direction=one.direction)


def _readings(images: Mapping[str, Image], reader: Reader, colours: WordMetric) -> dict[str, Shown]:
    texts = reader.read(list(images.values()))
    return {
        label: Shown(_folded(text), next((name for name in COLOURS if colours.score(image, name)), ""))
        for (label, image), text in zip(images.items(), texts, strict=True)
    }


def _folded(text: str) -> str:
    """Normalise a reading: case, number of spaces and single characters do not count, a digit for a letter does."""
    folded = " ".join(text.upper().split())
    return folded if len(folded) > 1 else ""  # the post of a sign without a word is read as 1 or T


@dataclass
class Tally:
    """Counts for one row, pair by pair."""

    pairs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    right: dict[str, list[bool]] = field(default_factory=lambda: {content: [] for content in CONTENTS})

    def add(self, shown: Shown, clean: Shown, own: Sign, other: Sign, planted: Mapping[str, tuple[bool, ...]]) -> None:
        """Add one picture: what it shows, what the unpatched source shows, and what the plant requires."""
        self.pairs += 1
        for who, sign in (("own", own), ("partner", other)):
            self.counts[f"word_{who}"] += shown.word == sign.word.strip()
            self.counts[f"colour_{who}"] += shown.colour == sign.colour
            for place, (read, letter) in enumerate(zip(shown.word, sign.word, strict=False)):
                self.counts[f"letter{place}_{who}"] += read == letter
        for content in CONTENTS:
            self.right[content].append(getattr(shown, content) == getattr(own, content).strip())
            parts = planted[content]
            self.counts[f"{content}_changed"] += getattr(shown, content) != getattr(clean, content)
            wanted = (
                swapped(own, other, parts, False) if content == "word" else swapped(own, other, (False,) * 4, parts[0])
            )
            self.counts[f"{content}_as_planted"] += getattr(shown, content) == getattr(wanted, content).strip()

    def row(self, label: str) -> CheckRow:
        """The counts as shares."""
        share = {key: value / self.pairs for key, value in self.counts.items()}
        whole = (f"{content}_{who}" for content in CONTENTS for who in ("own", "partner", "changed"))
        letters = {
            f"letters_{who}": tuple(share.get(f"letter{place}_{who}", 0.0) for place in range(WORD_LENGTH))
            for who in ("own", "partner")
        }
        planted = {f"{content}_as_planted": share[f"{content}_as_planted"] for content in CONTENTS}
        return CheckRow(label=label, **{key: share[key] for key in whole}, **letters, **planted)  # type: ignore[arg-type]


def _count(
    tallies: Mapping[str, Tally], signs: SignPair, questions: Sequence[PlantedPatch], found: Mapping[str, Shown]
) -> None:
    """Add one pair to every row."""
    nothing = {content: (False,) * parts for content, parts in CONTENTS.items()}
    clean = found["source"]
    tallies["source"].add(clean, clean, signs.source, signs.target, nothing)
    tallies["target"].add(found["target"], clean, signs.target, signs.source, nothing)
    for one in questions:
        own, other = signs if one.direction == "into_source" else signs[::-1]
        base = clean if one.direction == "into_source" else found["target"]
        tallies[one.label].add(found[one.label], base, own, other, one.partner)


def _judge(
    content: str,
    route: Route,
    questions: Sequence[PlantedPatch],
    rows: Mapping[str, CheckRow],
    right: Sequence[Sequence[bool]],
) -> CheckVerdict:
    """``right`` (2, pair): whether the unpatched source and target show what the prompt asks for."""

    def share(label: str, what: str) -> float:
        return float(getattr(rows[label], f"{content}_{what}"))

    target = share("target", "own")
    clean = proportion(np.ravel(right), [pair for side in right for pair in range(len(side))])
    transfer = share(answer(route), "partner")
    idle = [one.label for one in questions if one.partner[content] == (False,) * CONTENTS[content]]
    changed = {label: share(label, "changed") for label in idle}
    worst = max(changed, key=changed.__getitem__, default="")
    moving = [one.label for one in questions if any(one.partner[content]) and one.label != answer(route)]
    part = {label: share(label, "as_planted") for label in moving}
    most, bar = changed.get(worst, float("nan")), TRANSFER * target
    reasons = [
        (
            clean.mean < CLEAN,
            f"{content}: right in {clean.mean:.1%} of the unpatched pictures, at least {CLEAN:.0%} required",
        ),
        (
            transfer < bar,
            f"{content}: the partner's in {transfer:.1%} after a patch at {answer(route)}, at least {bar:.1%} required",
        ),
        (most > ELSEWHERE, f"{content}: changed in {most:.1%} by a patch at {worst}, at most {ELSEWHERE:.0%} allowed"),
        *(
            (
                found < bar,
                f"{content}: a patch at {label} moves exactly its letters in {found:.1%}, at least {bar:.1%} required",
            )
            for label, found in part.items()
        ),
    ]
    mean = float(np.mean(list(changed.values()))) if changed else float("nan")
    failed = tuple(text for bad, text in reasons if bad)
    return CheckVerdict(clean, target, answer(route), transfer, most, mean, worst, failed)


def _plain(value: Any) -> Any:
    """Round shares and turn NaN into null, in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if value == value else None
    return value
