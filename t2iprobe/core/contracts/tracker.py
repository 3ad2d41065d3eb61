"""Trackers, which follow a study while it runs and show it elsewhere. Plugins subclass :class:`Tracker`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from PIL.Image import Image

if TYPE_CHECKING:
    from t2iprobe.core.study.result import StudyResult


class Tracker:
    """Follows one study; does nothing by itself, so a subclass has only the methods that it needs.

    Subclasses are registered through ``t2iprobe_register_trackers``. Settings are arguments of the constructor. A
    tracker that raises is left out from then on, with a warning; the study goes on.
    """

    name: ClassVar[str]
    #: one-line summary, shown in lists
    summary: ClassVar[str]

    def study_started(self, study: StudyResult) -> None:
        """A study begins or goes on; ``study`` has what earlier sessions measured, of which nothing is told again."""

    def trial_finished(self, trial: str, pair: int, scores: Mapping[str, float], picture: Image | None) -> None:
        """A trial was measured on a pair.

        Args:
            trial: label of the trial; ``source`` and ``target`` are not patched.
            pair: number of the pair, from 0.
            scores: by name, the ranking score first.
            picture: the picture that was scored; ``None`` if the study makes none.
        """

    def study_finished(self, study: StudyResult) -> None:
        """The study is complete, with its finding. A session that is stopped or killed ends without this."""
