"""What a run folder says, of whatever kind it is: :func:`state_of`, :func:`listed`, :func:`size_of`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import LockedError, T2IProbeError
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.engine import progress_of
from t2iprobe.core.runs.files import size_of
from t2iprobe.core.runs.lock import LOCK, lock

KILLED, DAMAGED = "killed", "damaged"  # states that a manifest does not say


@dataclass(frozen=True)
class State:
    """Of a run folder.

    Args:
        path: of the folder.
        state: ``running``, ``finished``, ``interrupted``, ``killed`` or ``damaged``.
        kind: what made it: a localizer, a command, or what the run calls itself.
        model: by name.
        done, total, unit: how far it is; ``None`` where that was not noted.
        started, ended: when.
        sentence: of its answer.
        bytes: of all its files.
        error: why it cannot be read.
    """

    path: Path
    state: str
    kind: str = ""
    model: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    started: str = ""
    ended: str = ""
    sentence: str = ""
    bytes: int = 0
    error: str = ""


def state_of(path: Path) -> State:
    """How far a run is, also while it goes on.

    Raises:
        ConfigError: there is none.
        DamagedError: what it says of itself is not what was written.
    """
    manifest = runfolder.read_manifest(path)
    far = progress_of(path, manifest)
    return State(
        path,
        _state(path, manifest),
        kind_of(manifest),
        manifest.get("model") or "",
        far.get("done"),
        far.get("total"),
        far.get("unit", ""),
        manifest.get("started") or "",
        manifest.get("ended") or "",
        (manifest.get("finding") or manifest).get("sentence", ""),
        size_of(path),
    )


def listed(folder: Path) -> Iterator[State]:
    """Every run in a folder; one that cannot be read does not hide the others."""
    for place in sorted(folder.glob(f"*/{runfolder.MANIFEST}")):
        try:
            yield state_of(place.parent)
        except T2IProbeError as error:
            yield State(place.parent, DAMAGED, bytes=size_of(place.parent), error=str(error))


def kind_of(manifest: Mapping[str, Any]) -> str:
    """What made a run."""
    settings = manifest["settings"]
    named = settings.get("localizer", {}).get("name"), settings.get("command"), manifest.get("kind")
    return next((str(one) for one in (*named, settings.get("kind")) if one), "")


def _state(path: Path, manifest: Mapping[str, Any]) -> str:
    state = str(manifest.get("state", runfolder.FINISHED))
    return KILLED if state == runfolder.RUNNING and not any(map(_held, path.rglob(LOCK))) else state


def _held(file: Path) -> bool:
    """Whether a process is at the folder of a lock, or whether that cannot be seen."""
    try:
        with lock(file.parent):
            return False
    except (LockedError, OSError):
        return True
