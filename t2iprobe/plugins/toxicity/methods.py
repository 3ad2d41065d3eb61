"""Ways to keep toxic text out of a picture: the guard and what it is compared with, listed in :data:`METHODS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Generation, Model, OnStep, Run
from t2iprobe.plugins.toxicity import latent
from t2iprobe.plugins.toxicity.donors import Donation, Way, chosen_way

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
        batch_size: the largest number of rows at once.
    """

    model: Model
    layers: Sequence[int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: int = 0
    negative: str = NEGATIVE
    concept: str = latent.CONCEPT
    batch_size: int = 64

    def generation(self, prompts: Sequence[str], cases: Sequence[Case]) -> Generation:
        """A generation with one row per case."""
        return self.model.generation(prompts, [case.seed for case in cases], **self.settings)


class GuardMethod(ABC):
    """One way to keep toxic text out of a picture.

    Args:
        setup: what all methods share.
    """

    #: batch rows per picture
    rows = 1

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.check()

    def check(self) -> None:  # noqa: B027 -- most go with every model
        """Refuse a model for which the method is meaningless.

        Raises:
            ConfigError: the method is meaningless for this model.
        """

    @abstractmethod
    def run(self, cases: Sequence[Case], on_step: OnStep) -> Run:
        """The pictures of the cases, in order."""

    def _asked(self, cases: Sequence[Case]) -> Generation:
        return self.setup.generation([case.prompt for case in cases], cases)

    def _run(self, model: Model, generation: Generation, count: int, on_step: OnStep, **more: Any) -> Run:
        size = max(self.setup.batch_size, self.rows)
        return model.run(generation, rows=range(count), batch_size=size, on_step=on_step, **more)


class Unguarded(GuardMethod):
    """The prompt as it is, for the whole model."""

    def run(self, cases: Sequence[Case], on_step: OnStep) -> Run:
        """See :meth:`GuardMethod.run`."""
        return self._run(self.setup.model, self._asked(cases), len(cases), on_step)


class Swap(GuardMethod):
    """The rewrite for the whole model."""

    def run(self, cases: Sequence[Case], on_step: OnStep) -> Run:
        """See :meth:`GuardMethod.run`."""
        generation = self.setup.generation([case.rewrite for case in cases], cases)
        return self._run(self.setup.model, generation, len(cases), on_step)


class LocalizedGuard(GuardMethod):
    """The rewrite for the localized layers: the guard."""

    way: Way = "auto"

    def check(self) -> None:
        """See :meth:`GuardMethod.check`."""
        setup = self.setup
        self.donation = Donation(setup.model, setup.layers, chosen_way(setup.model, self.way), setup.start)
        self.rows = 2 if self.donation.way == "row" else 1

    def run(self, cases: Sequence[Case], on_step: OnStep) -> Run:
        """See :meth:`GuardMethod.run`."""
        rewrites = {row: case.rewrite for row, case in enumerate(cases)}
        with self.donation.given(self._asked(cases), rewrites) as (generation, edits):
            return self._run(self.setup.model, generation, len(cases), on_step, interventions=edits)


class Streamed(LocalizedGuard):
    """The guard with its text stream, see :mod:`.donors`."""

    way = "stream"


class Negative(GuardMethod):
    """The toxic word in the negative prompt, as the paper has it."""

    def check(self) -> None:
        """See :meth:`GuardMethod.check`."""
        if self.setup.model.guided(self.setup.settings) != 2:
            raise ConfigError(
                "a negative prompt works through classifier-free guidance, and this generation of "
                f"{self.setup.model.adapter.name} has none: raise --guidance above 1 (a model distilled with guidance "
                "has none at any scale), or leave the method out"
            )

    def run(self, cases: Sequence[Case], on_step: OnStep) -> Run:
        """See :meth:`GuardMethod.run`."""
        negatives = [self.setup.negative.replace(WORD, case.word) for case in cases]
        asked = self._asked(cases)
        generation = replace(asked, options={**asked.options, "negative_prompt": negatives})
        return self._run(self.setup.model, generation, len(cases), on_step)


class SafeLatent(GuardMethod):
    """Safe Latent Diffusion in one of its published configurations."""

    preset = "medium"
    rows = 2

    def check(self) -> None:
        """See :meth:`GuardMethod.check`."""
        latent.check(self.setup.model, self.setup.settings)

    def run(self, cases: Sequence[Case], on_step: OnStep) -> Run:
        """See :meth:`GuardMethod.run`."""
        setup = self.setup
        concepts = {row: setup.concept.replace(WORD, case.word) for row, case in enumerate(cases)}
        longer, companions = latent.beside(self._asked(cases), concepts)
        safety = latent.PRESETS[self.preset]
        edits = latent.interventions(setup.model, companions, safety, setup.settings.get("num_steps"))
        return self._run(latent.opened(setup.model), longer, len(cases), on_step, interventions=edits)


def _configured(name: str) -> type[SafeLatent]:
    return type(f"SafeLatent{name.title()}", (SafeLatent,), {"preset": name})


UNGUARDED, LOCALIZED = "unguarded", "localized"
METHODS: Mapping[str, Callable[[Setup], GuardMethod]] = {
    UNGUARDED: Unguarded,
    LOCALIZED: LocalizedGuard,
    "localized-stream": Streamed,
    "negative-prompt": Negative,
    "prompt-swap": Swap,
    **{f"sld-{name}": _configured(name) for name in latent.PRESETS},
}
#: what is compared unless asked otherwise
USUAL = (LOCALIZED, "negative-prompt", "prompt-swap", "sld-medium", "sld-strong")
