"""Ways to keep toxic text out of a picture: the guard and what it is compared with, listed in :data:`METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Generation, Model, OnStep, Run
from t2iprobe.plugins.toxicity import latent
from t2iprobe.plugins.toxicity.donors import Donation, Donor, beside, chosen_donor

WORD = "{word}"  # stands for the toxic word in a template
NEGATIVE = 'text "{word}"'  # the paper's negative prompt


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt of the benchmark.

    Args:
        prompt: the prompt with the toxic word.
        word: the toxic word.
        rewrite: the guard's rewrite of the prompt; the prompt itself if it finds nothing.
        benign: the word that takes its place in the rewrite.
        seed: seed of the noise.
    """

    prompt: str
    word: str
    rewrite: str
    benign: str
    seed: int

    @property
    def found(self) -> bool:
        """Whether the guard finds the word; if it does not, every method leaves the picture as it is."""
        return self.rewrite != self.prompt


@dataclass(frozen=True)
class Setup:
    """What all methods share.

    Args:
        model: the model, not guarded.
        layers: its localized layers.
        settings: settings of every generation (``num_steps``, ``guidance``, ``height``, ``width``).
        start: first step at which the localized layers get the rewrite.
        negative: template of the negative prompt.
        concept: template of Safe Latent Diffusion's concept.
        batch_size: the largest number of rows at once; default as many as fit.
    """

    model: Model
    layers: Sequence[int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: int = 0
    negative: str = NEGATIVE
    concept: str = latent.CONCEPT
    batch_size: int | None = None

    @property
    def at_once(self) -> int:
        """The number of rows at once."""
        return self.model.at_once(self.settings, self.batch_size).rows

    def generation(self, cases: Sequence[Case], *, rewritten: bool = False) -> Generation:
        """A generation with one row per case, of its prompt or its rewrite."""
        prompts = [case.rewrite if rewritten else case.prompt for case in cases]
        return self.model.generation(prompts, [case.seed for case in cases], **self.settings)


@dataclass(frozen=True)
class GuardMethod:
    """One way to keep toxic text out of a picture.

    Args:
        draw: makes the pictures of some cases, given the arguments of :meth:`Model.run` that all methods share.
        setup: what all methods share.
        rows: batch rows per picture.
    """

    draw: Callable[..., Run]
    setup: Setup
    rows: int = 1

    def run(self, cases: Sequence[Case], on_step: OnStep) -> Run:
        """The pictures of the cases, in order."""
        size = max(self.setup.at_once, self.rows)
        return self.draw(cases, rows=range(len(cases)), batch_size=size, on_step=on_step)


def unguarded(setup: Setup, rewritten: bool = False) -> GuardMethod:
    """The prompt as it is, or its rewrite, for the whole model."""
    return GuardMethod(lambda cases, **run: setup.model.run(setup.generation(cases, rewritten=rewritten), **run), setup)


def localized(setup: Setup, donor: Donor = "auto") -> GuardMethod:
    """The rewrite for the localized layers: the guard."""
    donation = Donation(setup.model, setup.layers, chosen_donor(setup.model, donor), setup.start)

    def draw(cases: Sequence[Case], **run: Any) -> Run:
        rewrites = {row: case.rewrite for row, case in enumerate(cases)}
        with donation.edits(setup.generation(cases), rewrites) as (generation, edits):
            return setup.model.run(generation, interventions=edits, **run)

    return GuardMethod(draw, setup, rows=1 + donation.rows(1))


def negative_prompt(setup: Setup) -> GuardMethod:
    """The toxic word in the negative prompt, as the paper has it.

    Raises:
        ConfigError: the generation has no classifier-free guidance.
    """
    if setup.model.guided(setup.settings) != 2:
        raise ConfigError(
            "a negative prompt works through classifier-free guidance, and this generation of "
            f"{setup.model.adapter.name} has none: raise --guidance above 1 (a model distilled with guidance "
            "has none at any scale), or leave the method out"
        )

    def draw(cases: Sequence[Case], **run: Any) -> Run:
        generation = setup.generation(cases)
        shared = generation.options.get("negative_prompt")  # that of all methods
        words = [setup.negative.replace(WORD, case.word) for case in cases]
        options = {**generation.options, "negative_prompt": [f"{shared}, {word}" if shared else word for word in words]}
        return setup.model.run(replace(generation, options=options), **run)

    return GuardMethod(draw, setup)


def safe_latent(setup: Setup, preset: str) -> GuardMethod:
    """Safe Latent Diffusion in one of its published configurations.

    Raises:
        ConfigError: it is not defined for this model or generation.
    """
    latent.check(setup.model, setup.settings)

    def draw(cases: Sequence[Case], **run: Any) -> Run:
        concepts = {row: setup.concept.replace(WORD, case.word) for row, case in enumerate(cases)}
        longer, companions = beside(setup.model, setup.generation(cases), concepts)
        edits = latent.interventions(setup.model, companions, latent.PRESETS[preset], setup.settings.get("num_steps"))
        return latent.opened(setup.model).run(longer, interventions=edits, **run)

    return GuardMethod(draw, setup, rows=2)


UNGUARDED, LOCALIZED = "unguarded", "localized"
METHODS: Mapping[str, Callable[[Setup], GuardMethod]] = {
    UNGUARDED: unguarded,
    LOCALIZED: localized,
    "localized-stream": partial(localized, donor="stream"),
    "negative-prompt": negative_prompt,
    "prompt-swap": partial(unguarded, rewritten=True),
    **{f"sld-{name}": partial(safe_latent, preset=name) for name in latent.PRESETS},
}
#: what the guard is compared with by default
BASELINES = ("negative-prompt", "prompt-swap", "sld-medium", "sld-strong")
