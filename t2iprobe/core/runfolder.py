"""A run on disk: written next to its place and moved there whole, so a run folder is complete or absent.

The layout is that of a study: ``manifest.json`` and ``study.zarr`` with ``scores/<metric>`` (trial, pair).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL.Image import Image
from zarr.codecs import Crc32cCodec, ZstdCodec

from t2iprobe.core.errors import ConfigError, RunExistsError, StoreError
from t2iprobe.core.lock import LOCK

PACKAGES = ("t2iprobe", "torch", "diffusers", "transformers", "peft", "zarr", "numpy")
MANIFEST = "manifest.json"
PART = ".manifest.json.part"  # until it is whole
STORE = "study.zarr"
RUNNING, FINISHED, INTERRUPTED = "running", "finished", "interrupted"  # states of a run


def manifest(settings: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """What a run was asked for and what it ran on.

    Args:
        settings: everything that decides the result; a run with others may not share the folder.
        facts: whatever else is worth keeping.
    """
    return {
        "settings": dict(settings),
        **facts,
        "versions": versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Of the packages that decide a result."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_manifest(path: Path) -> dict[str, Any]:
    """What a run folder says about itself.

    Raises:
        ConfigError: there is no run, or its manifest cannot be read.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise ConfigError(f"{path} is no run of t2iprobe (no {MANIFEST}); `t2iprobe study ls` lists those in runs/")
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        return found | {"settings": found["settings"]}
    except (OSError, ValueError, KeyError) as error:
        raise RunExistsError(f"{file} cannot be read ({error}); choose another --out, or delete that folder") from None


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest, whole or not at all.

    Raises:
        StoreError: the disk is full or gone.
    """
    part = path / PART
    try:
        part.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        part.replace(path / MANIFEST)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StoreError(f"{path / MANIFEST} cannot be written: {error.strerror or error}") from error


def make(path: Path) -> None:
    """The folder of a run.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror or error}; choose another place") from None


def existing(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a run with the same settings in ``path``; ``None`` where there is no run.

    A run that is not finished may go on with another budget.

    Raises:
        RunExistsError: there is a run with other settings, or something that is no run.
    """
    if not path.exists() or (path.is_dir() and not any(item.name not in (LOCK, PART) for item in path.iterdir())):
        return None
    if not (path / MANIFEST).is_file():
        raise RunExistsError(f"{path} exists and is no run of t2iprobe (no {MANIFEST}); choose another --out")
    found = read_manifest(path)
    finished = found.setdefault("state", FINISHED) == FINISHED
    old, wanted = found["settings"], json.loads(json.dumps(settings))
    differing = list(differences(old, wanted, () if finished else ("budget",)))
    if differing:
        raise RunExistsError(
            f"{path} holds a run with other settings ({'; '.join(differing[:3])}); choose another --out, "
            "or delete that folder"
        )
    return found


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


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A folder to write a run into; it becomes ``path`` at the end, and vanishes on an error.

    Raises:
        ConfigError: the place cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror or error}; choose another place") from None
    try:
        yield part
        if path.is_dir():
            (path / LOCK).unlink(missing_ok=True)  # of a run that was killed before it wrote anything
            path.rmdir()  # existing() has seen that it is empty
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_scores(
    path: Path, scores: Mapping[str, NDArray[np.float32]], trials: Sequence[str], pairs: Sequence[str]
) -> None:
    """``study.zarr`` with labelled score arrays (trial, pair), checksummed."""
    group = zarr.open_group(path / "study.zarr", mode="w")
    for name, labels in (("trial", trials), ("pair", pairs)):
        group.attrs[name] = list(labels)
        array = group.create_array(name, shape=(len(labels),), dtype="int32", dimension_names=(name,))
        array[:] = np.arange(len(labels), dtype=np.int32)
    for name, values in scores.items():
        array = group.create_array(
            f"scores/{name}",
            shape=values.shape,
            chunks=(values.shape[0], 1),
            dtype="float32",
            fill_value=np.nan,
            dimension_names=("trial", "pair"),
            compressors=[ZstdCodec(), Crc32cCodec()],
        )
        array[:] = values


def write_images(folder: Path, rows: Sequence[Sequence[Image]], trials: Sequence[str]) -> None:
    """One PNG an image, ``pair-000/<trial>.png``."""
    for number, row in enumerate(rows):
        place = folder / f"pair-{number:03d}"
        place.mkdir(parents=True)
        for label, image in zip(trials, row, strict=True):
            image.save(place / f"{label}.png")
