"""Studies by name: :class:`Study` for Python, and :func:`planned` for what a study file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2iprobe.core.concepts import concept_named
from t2iprobe.core.contracts.localizer import Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_pairs
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair, pair_from_prompts, pairs_from_csv
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.study import study
from t2iprobe.core.study.context import StudyCallbacks, StudyContext
from t2iprobe.core.study.file import PairsPart, StudyFile
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.results import Result

PAIRS = 8  # of a prompt set, where nobody says


class Study(study.StudyRunner):
    """A question about a model, and the pairs to ask it of; see :meth:`run`.

    Args:
        model: what :func:`t2iprobe.load` gives.
        pairs: what :func:`t2iprobe.prompt_set` gives.
        localizer: chooses the trials; a name, or what :meth:`Plugins.localizer` gives.
        metrics: by name; default those of the pairs' concept. The first that judges the concept ranks.
        settings: of the generation (``num_steps``, ``guidance``, ``height``, ``width``).
        held_out: numbers of the pairs to confirm on, or how many of the last ones.
        budget: most rows through the denoiser.
        seed: of the localizer's own chance.
        batch_size: most pictures at once; out of memory halves it.
        reader: OCR engine.
        store: URL of the store, where it is not to lie in the run folder.
        plugins: where names are looked up; default all that are installed.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[Pair],
        localizer: str | Localizer = "exhaustive",
        *,
        metrics: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        held_out: int | Sequence[int] = 0,
        budget: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        reader: str = "rapidocr",
        store: str | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        plugins = plugins or Plugins()
        chooses = plugins.localizer(localizer) if isinstance(localizer, str) else localizer
        judge = plugins.scorer(_concept(pairs), reader, metrics)
        check_pairs(judge, pairs, plugins.readers())
        aside = blind(judge, pairs)
        held = tail(len(pairs), held_out, aside) if isinstance(held_out, int) else tuple(held_out)
        bench = StudyContext.of(model, pairs, judge, settings, batch_size)
        held = tuple(number for number in held if number not in aside)
        super().__init__(bench, pairs, chooses, held, budget, seed, {}, versions(plugins), store, aside)

    def run(self, path: str | Path, callbacks: StudyCallbacks | None = None) -> Result:
        """Run it in a folder, go on with it there, or find it finished; see :meth:`t2iprobe.core.study.Study.run`."""
        return Result.open(super().run(path, callbacks).path)


def _concept(pairs: Sequence[Pair]) -> str:
    found = sorted({pair.concept for pair in pairs})
    if len(found) != 1:
        raise ConfigError(f"a study needs pairs of one concept, found {', '.join(found) or 'no pairs'}")
    return found[0]


def tail(count: int, held_out: int, set_aside: Sequence[int] = ()) -> tuple[int, ...]:
    """The last pairs of those that are not set aside, which are held out.

    Raises:
        ConfigError: none is left to search on.
    """
    asked = [number for number in range(count) if number not in set_aside]
    if held_out >= len(asked):
        raise ConfigError(f"{held_out} of {len(asked)} pairs are to be held out, which leaves none to search on")
    return tuple(asked[len(asked) - held_out :])


def blind(scorer: Scorer, pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Numbers of the pairs that the ranking score cannot tell, however well they are drawn; they are set aside.

    Raises:
        ConfigError: it can tell none of them.
    """
    found = tuple(number for number, pair in enumerate(pairs) if scorer.blind(pair))
    if found and len(found) == len(pairs):
        one, score = pairs[0], scorer.metrics[0].name
        raise ConfigError(
            f"{score} cannot tell source from target: perfect pictures of {one.source_word!r} and {one.target_word!r} "
            f"score the same to {one.target_word!r}, and so in all {len(pairs)} pairs; take other words, or let a "
            "metric rank that tells them, such as ocr_distance as the first of a study file's metrics"
        )
    return found


def versions(plugins: Plugins) -> dict[str, str]:
    """Of the plugins in use."""
    return {row.name: row.version for row in plugins.listing() if row.status == "ok"}


@dataclass(frozen=True)
class ContextRecipe:
    """How to make a bench; a value that can be sent to another machine and called there.

    Args:
        file: the study file.
        pairs: what is asked about.
    """

    file: StudyFile
    pairs: tuple[Pair, ...]

    def __call__(self, plugins: Plugins | None = None) -> StudyContext:
        """Load the model and what reads its pictures; from all plugins that are installed where none are given."""
        file, plugins = self.file, plugins or Plugins()
        judge = plugins.scorer(_concept(self.pairs), file.reader, file.metrics)
        part = file.model
        model = plugins.load(part.ref, upscaler=part.upscaler, device=part.device, dtype=part.dtype)
        return StudyContext.of(model, self.pairs, judge, file.generation.model_dump(), file.batch_size)


@dataclass(frozen=True)
class PlannedStudy:
    """A study file, looked up and checked as far as that goes without the model.

    Args:
        file: the study file.
        pairs: its pairs.
        localizer: its localizer.
        plugins: versions by name.
        set_aside: numbers of the pairs that are not asked.
        command: that asked for it, word by word; empty where none did.
    """

    file: StudyFile
    pairs: tuple[Pair, ...]
    localizer: Localizer
    plugins: Mapping[str, str]
    set_aside: tuple[int, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def recipe(self) -> ContextRecipe:
        """Makes the bench."""
        return ContextRecipe(self.file, self.pairs)

    @property
    def arguments(self) -> dict[str, Any]:
        """The study file and the command, for the manifest."""
        file = {"file": self.file.model_dump(exclude_none=True, exclude={"out"})}
        return file | ({"command": list(self.command)} if self.command else {})

    def on(self, bench: StudyContext) -> study.StudyRunner:
        """The study on a bench."""
        held_out = tail(len(self.pairs), self.file.pairs.held_out, self.set_aside)
        return study.StudyRunner(
            bench,
            self.pairs,
            self.localizer,
            held_out,
            self.file.budget,
            self.file.seed,
            self.arguments,
            self.plugins,
            self.file.store,
            self.set_aside,
        )


def planned(file: StudyFile, plugins: Plugins | None = None) -> PlannedStudy:
    """What a study file asks for.

    Raises:
        ConfigError: a name in it is not known, or the pairs cannot be had.
    """
    plugins = plugins or Plugins()
    chooses = plugins.localizer(file.localizer.name, **file.localizer.settings)
    pairs = _pairs(file.pairs, file.model.ref, plugins)
    judge = plugins.scorer(_concept(pairs), file.reader, file.metrics)
    check_pairs(judge, pairs, plugins.readers())
    aside = blind(judge, pairs)
    tail(len(pairs), file.pairs.held_out, aside)
    return PlannedStudy(file, tuple(pairs), chooses, versions(plugins), aside)


def _pairs(part: PairsPart, ref: str, plugins: Plugins) -> list[Pair]:
    concept = concept_named(part.concept, plugins.concepts())
    if sum(way is not None for way in (part.source or part.target, part.csv, part.prompt_set)) > 1:
        raise ConfigError("give the pairs one way: source and target, or csv, or prompt_set")
    if part.source or part.target:
        if not (part.source and part.target):
            raise ConfigError("a pair needs both source and target")
        return [pair_from_prompts(part.source, part.target, part.seed, concept)]
    if part.csv is not None:
        return _listed(part, part.csv, plugins)
    name = part.prompt_set or plugins.own_prompt_set(ref)
    return plugins.prompt_set(name, limit=part.limit or PAIRS, seed=part.seed, concept=concept.name)


def _listed(part: PairsPart, csv: str, plugins: Plugins) -> list[Pair]:
    """The pairs of a CSV file."""
    found = pairs_from_csv(Path(csv).expanduser(), seed=part.seed, concept=part.concept, known=plugins.concepts())
    other = {pair.concept for pair in found} - {part.concept}
    if other:
        raise ConfigError(f"{csv} has pairs for concept {', '.join(other)}; this run is for {part.concept}")
    return found[: part.limit]
