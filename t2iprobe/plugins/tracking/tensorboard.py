"""Shows studies in TensorBoard: :class:`TensorBoard`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image

from t2iprobe.core.contracts.tracker import Tracker
from t2iprobe.core.errors import ConfigError

if TYPE_CHECKING:
    from t2iprobe.core.study.result import StudyResult

SUFFIX = ".t2iprobe"  # of our event files, which another session replaces


class TensorBoard(Tracker):
    """Event files, made from what the study keeps and continued as it is measured, so that every point is there once.

    A curve is the score of a trial (a patched layer, say) against the number of the pair. At the end
    ``finding/ranking`` has what each layer does against its number, the finding is a text, and what decides the result
    are hyperparameters.

    Args:
        folder: where each study gets a folder of its run's name; default ``tensorboard`` beside the run folder.
        pictures: from how many pairs pictures are shown.
    """

    name = "tensorboard"
    summary = "scores, pictures and the finding as TensorBoard's event files (needs t2iprobe[tensorboard])"

    def __init__(self, folder: str = "", pictures: int = 4) -> None:
        if not find_spec("tensorboard"):
            raise ConfigError("TensorBoard's event files need a library: pip install 't2iprobe[tensorboard]'")
        self._folder, self._pictures = folder, pictures
        self._writer: Any = None

    def study_started(self, study: StudyResult) -> None:
        """See :class:`Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        path = study.path.absolute()
        folder = (Path(self._folder) if self._folder else path.parent / "tensorboard") / path.name
        for former in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            former.unlink()
        self._writer = SummaryWriter(str(folder), filename_suffix=SUFFIX)
        for row, trial in enumerate(study.trials):
            for pair in study.measured(trial):
                scores = {name: float(values[row, pair]) for name, values in study.scores.items()}
                shown = study.images(trial, pair) if pair < self._pictures else None
                self._add(trial.label, pair, scores, shown)
        self._writer.flush()

    def trial_finished(self, trial: str, pair: int, scores: Mapping[str, float], picture: Image | None) -> None:
        """See :class:`Tracker`."""
        self._add(trial, pair, scores, picture)
        self._writer.flush()

    def study_finished(self, study: StudyResult) -> None:
        """See :class:`Tracker`."""
        from torch.utils.tensorboard.summary import hparams

        found = study.finding
        if found is not None:
            for layer, value in enumerate(found.ranking):
                if math.isfinite(value):
                    self._writer.add_scalar("finding/ranking", value, layer)
            self._writer.add_text("finding", found.sentence)
        numbers: dict[str, float] = {"finding/layers": len(found.layers) if found else 0}
        if found is not None and found.response is not None:
            numbers["finding/response"] = found.response.mean
        settings = _plain(study.manifest["settings"])
        for summary in hparams(settings, dict.fromkeys(numbers)):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)
        for name, value in numbers.items():
            self._writer.add_scalar(name, value)
        self._writer.close()

    def _add(self, trial: str, pair: int, scores: Mapping[str, float], picture: Image | None) -> None:
        for name, value in scores.items():
            if math.isfinite(value):
                self._writer.add_scalar(f"{name}/{trial}", value, pair)
        if picture is not None and pair < self._pictures:
            self._writer.add_image(f"pictures/{trial}", np.asarray(picture), pair, dataformats="HWC")


def _plain(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The settings that are numbers or text, by their path: ``localizer.name``."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _plain(value, f"{before}{key}.")
        elif isinstance(value, str | int | float):
            found[f"{before}{key}"] = value
    return found
