"""The folder of a run: its manifest, and whether it contains the run with the given settings.

::

    manifest.json    what was asked, what it ran on, how far it is
    progress.json    until it is finished: how far, and what it has cost so far
    checksums.json   of the files that are read back, see t2iprobe.core.runs.checksums
    study.zarr       scores and pictures, see t2iprobe.core.study.arrays; activations, see t2iprobe.core.store.layout
    result.json, …   once it is finished: what is looked at, see t2iprobe.report.folder
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL.Image import Image

from t2iprobe.core.errors import ConfigError, DamagedError, RunExistsError
from t2iprobe.core.names import near
from t2iprobe.core.runs.checksums import CHECKSUMS, intact, keep, signed, unsigned
from t2iprobe.core.runs.files import PARTS, write
from t2iprobe.core.runs.lock import LOCK

MANIFEST = "manifest.json"
STORE = "study.zarr"
Read = Callable[[Sequence[str], int], Iterator[Image | None]]  # the pictures of trials on a pair
TYPES: Mapping[str, type | tuple[type, ...]] = {  # of values that are read whatever made the run
    **dict.fromkeys(("settings", "arguments", "plugins", "spent", "progress"), dict),
    **dict.fromkeys(("kind", "state", "started", "ended", "sentence"), str),
    **dict.fromkeys(("model", "store", "settings.kind", "settings.command"), (str, type(None))),
    **dict.fromkeys(("finding", "scale"), (dict, type(None))),
    **dict.fromkeys(("scores", "settings.pairs"), list),
    "settings.localizer": dict,
    "sessions": int,
}
INSTEAD = "choose another folder, or delete that one"
RUNNING, FINISHED, INTERRUPTED = "running", "finished", "interrupted"  # states of a run


def now() -> str:
    """The current time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        ConfigError: there is no run; the message suggests similar names.
        DamagedError: the manifest is not what was written.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise ConfigError(f"{path} is not a run of t2iprobe (it has no {MANIFEST}){_near(path)}")
    found = unsigned(file)
    if "settings" not in found:
        raise DamagedError(f"{file} cannot be read: it has no settings; {INSTEAD}")
    for name, right in TYPES.items():
        section, _, key = name.rpartition(".")
        part = found[section] if section else found
        if key in part and not isinstance(part[key], right):
            raise DamagedError(f"{file} cannot be read: {name} is {part[key]!r:.40}; {INSTEAD}")
    return found


def _near(path: Path) -> str:
    """Runs next to it that have similar names."""
    there = [str(one.parent) for one in path.parent.glob(f"*/{MANIFEST}")]
    return near(str(path), there) if there else "; `t2iprobe study ls` lists those in runs/"


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest, whole or not at all.

    Raises:
        StoreError: the disk is full or gone.
    """
    write(path / MANIFEST, signed(manifest))


@contextmanager
def made(path: Path) -> Iterator[None]:
    """Make the folder of a run; if the ``with`` block fails and left it empty, nothing of it stays.

    Raises:
        ConfigError: the folder cannot be made.
    """
    new = [one for one in (path, *path.parents) if not one.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}; choose another folder") from None
        yield
    except BaseException:
        with suppress(OSError):  # not empty, or gone
            for one in new:
                one.rmdir()
        raise


def check(path: Path) -> None:
    """Make sure, before long work, that the folder of a run can be made.

    Raises:
        ConfigError: it cannot.
    """
    above = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ConfigError(f"{path} cannot be written: {above} is not a writable folder; choose another folder")


def existing(path: Path, settings: Mapping[str, Any], *, partly: bool = False) -> dict[str, Any] | None:
    """The manifest of the run in ``path``, which must have the same settings; ``None`` if there is no run.

    A run that is not finished may go on with another budget.

    Args:
        path: path of the folder.
        settings: everything that decides the result.
        partly: whether not all settings are known yet, so that only those that are get compared.

    Raises:
        RunExistsError: there is a run with other settings, or something that is not a run.
    """
    if not path.exists() or (path.is_dir() and not any(map(_counts, path.iterdir()))):
        return None
    if not (path / MANIFEST).is_file():
        raise RunExistsError(f"{path} exists and is not a run of t2iprobe (it has no {MANIFEST}); choose another")
    found = read_manifest(path)
    finished = found.setdefault("state", FINISHED) == FINISHED
    old, wanted = found["settings"], json.loads(json.dumps(settings))
    if partly:
        old = {key: old.get(key) for key in wanted}
    differing = list(differences(old, wanted, () if finished else ("budget",)))
    if differing:
        raise RunExistsError(
            f"{path} holds a run with other settings ({'; '.join(differing[:3])}); choose another folder, "
            "or delete that one"
        )
    return found


def _counts(item: Path) -> bool:
    """Whether a file makes its folder count as not empty; what a killed process left of its start does not."""
    return item.name not in (LOCK, CHECKSUMS) and not item.name.endswith(PARTS)


def differences(old: Any, new: Any, besides: Sequence[str] = (), name: str = "") -> Iterator[str]:
    """Where two JSON values differ, in words: ``generation.num_steps: 2 there, 3 now``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if key not in besides:
                yield from differences(old.get(key), new.get(key), (), f"{name}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, (), f"{name}[{index}]")
    elif old != new:
        yield f"{name}: {_short(old)} there, {_short(new)} now"


def _short(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, list) and len(value) > 4 else repr(value)


def write_images(path: Path, folder: str, pairs: Iterable[int], labels: Mapping[str, str], read: Read) -> None:
    """Write one PNG per image: ``folder/pair-000/<label>.png``; those that are there as they were written stay.

    Images are read pair by pair, so the memory this takes does not grow with the number of pairs.

    Args:
        path: the run's folder.
        folder: the folder in it.
        pairs: numbers of the pairs.
        labels: names of the files, by trial label.
        read: reads the images of trials on a pair; without an image there is no file.

    Raises:
        StoreError: the disk is full or gone.
    """
    wanted = {
        number: {f"{folder}/pair-{number:03d}/{name}.png": label for label, name in labels.items()} for number in pairs
    }
    there = intact(path, [name for files in wanted.values() for name in files])

    def made() -> Iterator[tuple[str, Image]]:
        for number, files in wanted.items():
            missing = {name: label for name, label in files.items() if name not in there}
            for name, image in zip(missing, read(list(missing.values()), number), strict=True):
                if image is not None:
                    yield name, image

    keep(path, made())
