"""Studies that are open for reading: :class:`OpenStudies`. Pictures stay on the disk until they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.runs.runfolder import MANIFEST, STORE, read_manifest
from t2iprobe.core.study.result import StudyResult
from t2iprobe.viewer.folder import RunsFolder

KEPT = 4  # studies that stay open; the scores of each are in memory


class OpenStudies:
    """Opens studies, each once for as long as its files do not change.

    Args:
        runs: where they are.
    """

    def __init__(self, runs: RunsFolder) -> None:
        self._runs = runs
        self._open: OrderedDict[str, tuple[str, StudyResult]] = OrderedDict()
        self._lock = Lock()

    def get(self, run: str) -> StudyResult:
        """The study of a run, as it is now.

        Raises:
            ConfigError: it has no answers yet, or keeps them outside its folder.
            DamagedError: its scores are not what was written.
        """
        version = self.version(run)
        with self._lock:
            if run not in self._open or self._open[run][0] != version:
                self._open[run] = version, StudyResult.open(self._runs.path(run))
            self._open.move_to_end(run)
            while len(self._open) > KEPT:
                self._open.popitem(last=False)
            return self._open[run][1]

    def version(self, run: str) -> str:
        """A text that differs once the study has other answers.

        Raises:
            ConfigError: see :meth:`get`.
        """
        path = self._runs.path(run)
        if elsewhere := read_manifest(path).get("store"):
            raise ConfigError(f"the pictures of {run} are in {elsewhere}, outside the folder that is shown")
        if self._runs.file(run, STORE) is None:
            raise ConfigError(f"{run} has no answers yet")
        members = [one.relative_to(path).as_posix() for one in (path / STORE).iterdir()]
        if out := next((one for one in members if self._runs.file(run, one) is None), None):
            raise ConfigError(f"{out} of {run} is a link that leads out of the run")
        return max(map(_changed, (path / MANIFEST, *(path / STORE).glob("*/c/**/*"))))


def _changed(file: Path) -> str:
    try:
        return f"{file.stat().st_mtime_ns:x}"
    except OSError:  # a file that was just replaced
        return ""
