"""What a study asks: :class:`StudyOptions`, and :class:`Question` with everything that decides the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2iprobe.core.command_options import Settings, option
from t2iprobe.core.concepts import Concept, concept_named
from t2iprobe.core.option_groups import GenerationOptions, PairOptions, ScoreOptions, StagedModelOptions

#: what limits a search
BUDGET = "Maximum denoiser evaluations, counted per image: images × steps × guidance branches."


class StudyOptions(ScoreOptions, GenerationOptions, PairOptions, StagedModelOptions):
    """The options of every command that makes a study."""

    panel: ClassVar[str] = "Search"
    held_out: int | None = option(None, help="How many of the last pairs to hold out, to confirm the layers on.", ge=0)
    set: Settings = option({}, help="Setting of the method, NAME=VALUE; repeatable.")
    budget: int | None = option(None, help=BUDGET, ge=1)
    rank: str | None = option(None, help="Metric that ranks the layers; default: the concept's own.")
    store: str | None = option(
        None, help="Keep scores and images at this URL (anything fsspec knows) instead of in the run folder."
    )

    def metrics(self, concepts: Mapping[str, Concept]) -> list[str] | None:
        """Names for the scorer, with the one that ranks first; ``None`` leaves the choice to the concept."""
        if not (self.rank or self.metric):
            return None
        own = [self.rank] if self.rank else concept_named(self.concept, concepts).metrics
        return list(dict.fromkeys([*own, *self.metric]))


class Question(StudyOptions):
    """A study with its names looked up and its defaults filled in, also one that is shipped to other machines."""

    model: str = option(help="Reference of the weights.")
    held_out: int = option(0, help="How many of the last pairs to hold out.", ge=0)
    method: str = option(help="Localization method.")

    @property
    def kept(self) -> dict[str, Any]:
        """The question as kept in the manifest, from which the study can be resumed; options not given are left out."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"arch"})
