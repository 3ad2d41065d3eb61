"""The runs that the viewer serves: :class:`RunsFolder` finds them, and gives a path only for a name that it found."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ConfigError, T2IProbeError
from t2iprobe.core.names import near
from t2iprobe.core.runs.engine import PROGRESS
from t2iprobe.core.runs.runfolder import MANIFEST, RUNNING, read_manifest
from t2iprobe.core.runs.status import DAMAGED, State, state_of
from t2iprobe.report.folder import ANSWER, PLACES, answer_in, sentence_in

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")  # of a run that is made here


class RunsFolder:
    """Every run folder below a folder, or that folder itself if it is one.

    A run's name is its path below the folder, with ``/``. Runs within a run are parts of it and are not listed.
    What links lead to outside the folder is not served.

    Args:
        root: the folder; it may appear later.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._known: dict[str, tuple[object, dict[str, Any]]] = {}  # facts about runs that are not running

    def listed(self) -> list[dict[str, Any]]:
        """The :meth:`facts` of every run, by name."""
        return [self._facts(name, path) for name, path in sorted(self._found())]

    def path(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            ConfigError: there is no such run.
        """
        folder = self.root if self._is_run and name == self.root.name else self.root / name
        if "\0" in name or not self._serves(folder / MANIFEST):
            raise ConfigError(f"no run {name!r} in {self.root}{near(name, [known for known, _ in self._found()])}")
        return folder

    def new(self, name: str) -> Path:
        """The folder of a run that is to be made, in the folder of runs.

        Raises:
            ConfigError: the name is none that a folder may have, or a single run is served.
        """
        if self._is_run:
            raise ConfigError(f"{self.root} is a run; to save another, start the viewer on the folder that it is in")
        if not NAME.fullmatch(name):
            raise ConfigError(f"a run's name has letters, digits, - and _, at most 80, found {name!r:.90}")
        return self.root / name

    def file(self, run: str, name: str) -> Path | None:
        """A file or folder in a run; ``None`` if it is not there, or leads out of the run.

        Raises:
            ConfigError: there is no such run.
        """
        folder = self.path(run)
        found = folder / name
        inside = "\0" not in name and found.exists() and found.resolve().is_relative_to(folder.resolve())
        return found if inside else None

    def facts(self, name: str) -> dict[str, Any]:
        """What the table says about a run; a damaged one has the reason as ``error``.

        Raises:
            ConfigError: there is no such run.
        """
        return self._facts(name, self.path(name))

    def _facts(self, name: str, path: Path) -> dict[str, Any]:
        seen = [_changed(path / file) for file in (MANIFEST, PROGRESS, ANSWER)]
        if name in self._known and self._known[name][0] == seen:
            return self._known[name][1]
        try:
            facts = {**asdict(state_of(path)), "spent": read_manifest(path).get("spent", {})}
            facts["sentence"] = facts["sentence"] or sentence_in(path)
        except (T2IProbeError, OSError) as error:
            facts = {**asdict(State(path, DAMAGED, error=str(error))), "spent": {}}
        facts |= {"name": name}
        del facts["path"]
        if facts["state"] != RUNNING:  # that one may be killed without a file that changes
            self._known[name] = seen, facts
        return facts

    def answer(self, name: str) -> dict[str, Any]:
        """The answer of a run, without its sentence and the places of its files; empty if it has none that can be read.

        Raises:
            ConfigError: there is no such run.
        """
        path, found = self.path(name), dict[str, Any]()
        with suppress(T2IProbeError):
            found = answer_in(path) or {}
        return {key: value for key, value in found.items() if key not in {*PLACES, "run", "sentence"}}

    @property
    def _is_run(self) -> bool:
        return (self.root / MANIFEST).is_file()

    def _serves(self, path: Path) -> bool:
        """Whether a path exists and, links followed, is in the folder."""
        return path.exists() and path.resolve().is_relative_to(self.root)

    def _found(self) -> Iterator[tuple[str, Path]]:
        """Name and folder of each run."""
        if self._is_run:
            yield self.root.name, self.root
            return
        for place, folders, files in os.walk(self.root):
            if MANIFEST in files:
                folders.clear()
            if MANIFEST in files and self._serves(Path(place) / MANIFEST):
                yield Path(place).relative_to(self.root).as_posix(), Path(place)


def _changed(file: Path) -> tuple[int, int] | None:
    """What differs once a file was written again."""
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None
