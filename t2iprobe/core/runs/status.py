"""What a run folder of any kind says about itself: :func:`state_of`, :func:`listed`, :func:`size_of`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.engine import progress_of
from t2iprobe.core.runs.files import size_of
from t2iprobe.core.runs.lock import LOCK, is_held

KILLED, DAMAGED = "killed", "damaged"  # states that no manifest gives


@dataclass(frozen=True)
class State:
    """The state of a run folder.

    Args:
        path: path of the folder.
        state: ``running``, ``finished``, ``interrupted``, ``killed`` or ``damaged``.
        kind: what made it: a localizer, a command, or what the run calls itself.
        model: name of the model.
        done, total, unit: how far the run is; ``None`` if that was not noted.
        started, ended: when it started and ended.
        sentence: the sentence of its answer.
        bytes: size of all its files.
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
    """How far a run is, even while it is going on.

    Raises:
        ConfigError: there is no run.
        DamagedError: what it says about itself is not what was written.
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
        manifest.get("started", ""),
        manifest.get("ended", ""),
        str((manifest.get("finding") or manifest).get("sentence", "")),
        size_of(path),
    )


def listed(folder: Path) -> Iterator[State]:
    """Every run in a folder; a run that cannot be read does not hide the others."""
    for place in sorted(folder.glob(f"*/{runfolder.MANIFEST}")):
        yield state_or_damage(place.parent)


def state_or_damage(path: Path) -> State:
    """How far a run is; that it is damaged if it cannot be read."""
    try:
        return state_of(path)
    except T2IProbeError as error:
        return State(path, DAMAGED, bytes=size_of(path), error=str(error))


def kind_of(manifest: Mapping[str, Any]) -> str:
    """What made a run."""
    settings = manifest["settings"]
    named = settings.get("localizer", {}).get("name"), settings.get("command"), manifest.get("kind")
    return next((str(one) for one in (*named, settings.get("kind")) if one), "")


def _state(path: Path, manifest: Mapping[str, Any]) -> str:
    state = str(manifest.get("state", runfolder.FINISHED))
    return KILLED if state == runfolder.RUNNING and not any(map(is_held, path.rglob(LOCK))) else state
