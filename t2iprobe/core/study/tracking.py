"""Tells the trackers of a study what happens, and keeps their errors from it: :class:`Tracking`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from t2iprobe.core.contracts.tracker import Tracker
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.sweep import TrialResult


class Tracking:
    """The trackers of one session; each is left out, with a warning, from its first error on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers, self._started = list(trackers), False

    def started(self, read: Callable[[], StudyResult]) -> None:
        """The study begins or goes on.

        Args:
            read: gives the study as far as it is kept; is not called without trackers.
        """
        self._started = True
        if self._trackers:
            study = read()
            self._tell("study_started", study)

    def measured(self, answer: TrialResult) -> None:
        """Trials were measured on a pair."""
        for label, scores in answer.scores.items():
            self._tell("trial_finished", label, answer.pair, scores, answer.images.get(label))

    def finished(self, study: StudyResult) -> None:
        """The study is complete, perhaps already before this session."""
        if not self._started:
            self.started(lambda: study)
        self._tell("study_finished", study)

    def _tell(self, method: str, *arguments: object) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._trackers.remove(tracker)
                said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                warnings.warn(f"the tracker {tracker.name} raised {said}; the run goes on without it", stacklevel=1)
