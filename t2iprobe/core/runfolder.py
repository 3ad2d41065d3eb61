"""A run on disk: written next to its place and moved there whole, so a run folder is complete or absent.

The layout is that of a study: ``manifest.json`` and ``study.zarr`` with ``scores/<metric>`` (trial, pair).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL.Image import Image
from zarr.codecs import Crc32cCodec, ZstdCodec

from t2iprobe.core.errors import ConfigError, RunExistsError

PACKAGES = ("t2iprobe", "torch", "diffusers", "transformers", "peft", "zarr", "numpy")
MANIFEST = "manifest.json"


def manifest(settings: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """What a run was asked for and what it ran on.

    Args:
        settings: everything that decides the result; a run with others may not share the folder.
        facts: whatever else is worth keeping.
    """
    return {
        "settings": dict(settings),
        **facts,
        "versions": {name: _version(name) for name in PACKAGES},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def existing(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a finished run with the same settings in ``path``; ``None`` where there is no run.

    Raises:
        RunExistsError: there is a run with other settings, or something that is no run.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    file = path / MANIFEST
    if not file.is_file():
        raise RunExistsError(f"{path} exists and is no run of t2iprobe (no {MANIFEST}); choose another --out")
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        old = found["settings"]
    except (ValueError, KeyError) as error:
        raise RunExistsError(f"{file} cannot be read ({error}); choose another --out, or delete that folder") from None
    wanted = json.loads(json.dumps(settings))
    differing = [
        f"{key}: {old.get(key)!r} there, {wanted.get(key)!r} now"
        for key in {**old, **wanted}
        if old.get(key) != wanted.get(key)
    ]
    if differing:
        raise RunExistsError(
            f"{path} holds a run with other settings ({'; '.join(differing[:3])}); choose another --out, "
            "or delete that folder"
        )
    return found


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
