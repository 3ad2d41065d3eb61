"""A study in Python: :class:`Study`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2iprobe.core.contracts.localizer import Localizer
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.study.context import StudyCallbacks, StudyContext
from t2iprobe.core.study.planning import judge, tail
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.results import Result


class Study(StudyRunner):
    """A question about a model, and the pairs to ask it of; see :meth:`run`.

    Args:
        model: what :func:`t2iprobe.load` gives.
        pairs: what :func:`t2iprobe.prompt_set` gives.
        localizer: chooses the trials; a name, or what :meth:`Plugins.localizer` gives.
        metrics: names of metrics; default those of the pairs' concept. The first that judges the concept ranks.
        settings: settings of the generation (``num_steps``, ``guidance``, ``height``, ``width``).
        held_out: numbers of the pairs to confirm on, or how many of the last ones.
        budget: largest number of rows through the denoiser.
        seed: seed of the localizer's own randomness.
        batch_size: largest number of pictures at once; out of memory halves it.
        reader: OCR engine.
        store: URL of the store, if it is not in the run folder.
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
        method = plugins.localizer(localizer) if isinstance(localizer, str) else localizer
        scorer, aside = judge(pairs, plugins, reader, metrics)
        held = tail(len(pairs), held_out, aside) if isinstance(held_out, int) else held_out
        super().__init__(
            StudyContext.of(model, pairs, scorer, settings, batch_size),
            pairs,
            method,
            tuple(number for number in held if number not in aside),
            budget,
            seed,
            {},
            plugins.versions(),
            store,
            aside,
        )

    def run(self, path: str | Path, callbacks: StudyCallbacks | None = None) -> Result:
        """Run it in a folder, go on with it there, or find it finished; see :meth:`.StudyRunner.run`."""
        return Result.open(super().run(path, callbacks).path)
