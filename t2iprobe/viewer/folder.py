"""The runs that the viewer serves: :class:`RunsFolder` finds them, and gives a path only for a name that it found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from t2iprobe.core.errors import ConfigError, T2IProbeError
from t2iprobe.core.names import near
from t2iprobe.core.runs.runfolder import MANIFEST
from t2iprobe.core.runs.status import DAMAGED, State, state_of


class RunsFolder:
    """Every run folder below a folder, or that folder itself if it is one.

    A run's name is its path below the folder, with ``/``. Runs within a run are parts of it and are not listed.
    What links lead to outside the folder is not served.

    Args:
        root: the folder; it may appear later.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def names(self) -> list[str]:
        """Names of the runs, sorted."""
        return sorted(self._found())

    def path(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            ConfigError: there is no such run.
        """
        folder = self.root if self._is_run and name == self.root.name else self.root / name
        if "\0" in name or not self._serves(folder / MANIFEST):
            raise ConfigError(f"no run {name!r} in {self.root}{near(name, self.names())}")
        return folder

    def file(self, run: str, name: str) -> Path | None:
        """A file or folder in a run; ``None`` if it is not there, or leads out of the runs that are served.

        Raises:
            ConfigError: there is no such run.
        """
        found = self.path(run) / name
        return found if self._serves(found) else None

    def state(self, name: str) -> State:
        """How far a run is; a damaged one has the reason as ``error``."""
        try:
            return state_of(self.path(name))
        except T2IProbeError as error:
            return State(self.root / name, DAMAGED, error=str(error))

    @property
    def _is_run(self) -> bool:
        return (self.root / MANIFEST).is_file()

    def _serves(self, path: Path) -> bool:
        """Whether a path exists and, links followed, is in the folder."""
        return path.exists() and path.resolve().is_relative_to(self.root)

    def _found(self) -> Iterator[str]:
        if self._is_run:
            yield self.root.name
            return
        for place, folders, files in os.walk(self.root):
            if MANIFEST in files:
                folders.clear()
                yield Path(place).relative_to(self.root).as_posix()
