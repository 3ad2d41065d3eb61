"""Checks whether files of a run still are what was written, with ``checksums.json`` in its folder.

::

    kept      files that :func:`keep` wrote, from then on: a whole older version is right too, until the run ends,
              because a kill may come between the note and the file
    sealed    what else lay there when a session ended, see :func:`seal`; forgotten when the next one begins

Chunks of Zarr stores have checksums of their own. Files that change in between carry their checksum inside, see
:func:`signed`. A changed HTML page is noticed, but it stops nothing, because nothing reads it back. If a folder has no
``checksums.json`` (a run of an earlier version), nothing is compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ConfigError, DamagedError
from t2iprobe.core.runs.files import PARTS, Content, encoded, explained, write
from t2iprobe.core.runs.lock import LOCK, lock

CHECKSUMS = "checksums.json"
OWN = "checksum"  # key of a file's own checksum
FORMAT = "format"  # key that says that a file has its own checksum
AGAIN = "delete {} and run it again"
INSTEAD = {  # advice in place of AGAIN, for files that a run can do without
    CHECKSUMS: "delete it, and files are taken as they are",
    "progress.json": "delete it, and the run goes on without knowing what it took before",
    **dict.fromkeys(
        ("report.html", "contact_sheet.png", "plot.png"), "delete it: `t2iprobe report` makes it again from the run"
    ),
}
SIGNED = ("manifest.json", "progress.json")  # files that carry their own checksum
WRITTEN = ".html"  # ending of files that are written anew, and never read
UP = 6  # folders of a run are at most this deep
BLOCK = 1 << 20

Table = dict[str, dict[str, list[str | None]]]


def keep(folder: Path, contents: Mapping[str, Any] | Iterable[tuple[str, Content]]) -> None:
    """Write files of a run, each whole or not at all, and note their checksums so that damage is noticed.

    All are written beside their places before the first is put there, so any number of files takes one note.

    Args:
        folder: the run's folder.
        contents: contents of the files (:data:`Content`) by name below the folder; or such pairs, made one by one.

    Raises:
        StoreError: the disk is full or gone.
        ConfigError: a folder in it is a link.
    """
    digests, parts = {}, {}
    try:
        for name, content in contents.items() if isinstance(contents, Mapping) else contents:
            if link := next((one for one in Path(name).parents[:-1] if (folder / one).is_symlink()), None):
                raise ConfigError(f"{folder / link} is a link, and nothing is written behind it; delete it")
            path = folder / name
            if folder.is_dir():  # a run's folder that was taken away is not made again
                path.parent.mkdir(parents=True, exist_ok=True)
            parts[path] = path.with_name(f".{path.name}{PARTS}")
            with explained(str(path)):
                data = encoded(content, path.name)
                parts[path].unlink(missing_ok=True)  # a link would be followed
                parts[path].write_bytes(data)
            digests[name] = hashlib.sha256(data).hexdigest()
        table = _table(folder)
        for name, digest in digests.items():
            before = table["kept"].get(name, table["sealed"].pop(name, [None]))
            table["kept"][name] = [before[-1], digest]
        _write(folder, table)
        for path, part in parts.items():
            with explained(str(path)):
                part.replace(path)
    except BaseException:
        with suppress(OSError):
            for part in parts.values():
                part.unlink(missing_ok=True)
        raise


def settle(folder: Path, names: Collection[str]) -> None:
    """Forget the older versions of files that :func:`keep` has written; from now on only the last one is right.

    Raises:
        StoreError: the disk is full or gone.
    """
    table = _table(folder)
    settled = {name: found[-1:] for name, found in table["kept"].items() if name in names}
    _write(folder, {**table, "kept": table["kept"] | settled})


def seal(folder: Path) -> None:
    """Note the checksums of everything in the folder, at the end of a session.

    Raises:
        StoreError: the disk is full or gone.
    """
    there = {str(path.relative_to(folder)): path for path in _files(folder)}
    kept = {name: found for name, found in _table(folder)["kept"].items() if name in there}
    table: Table = {"kept": {name: found[-1:] for name, found in kept.items()}, "sealed": {}}
    for name, path in there.items():
        digest = _digest(path)
        if name not in kept or digest not in kept[name]:
            table["kept"].pop(name, None)
            table["sealed"][name] = [digest]
    _write(folder, table)


def unseal(folder: Path) -> None:
    """Check everything before a session begins, and forget the checksums of what the session may change.

    Raises:
        DamagedError: a file is not what was written.
    """
    for name, reason in damaged(folder):
        if not name.endswith(WRITTEN):
            raise _error(folder, name, reason)
    table = _table(folder)
    kept = {name: found for name, found in table["kept"].items() if not name.endswith(WRITTEN)}
    if table["sealed"] or kept != table["kept"]:
        _write(folder, {"kept": kept, "sealed": {}})


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Allow changes to a finished run within a ``with`` block; afterwards the changed files count as correct.

    Raises:
        DamagedError: a file is not what was written.
        LockedError: another process is changing it.
    """
    with lock(folder):
        unseal(folder)
    try:
        yield
    finally:
        with lock(folder):
            if unsigned(folder / "manifest.json").get("state") == "finished":
                seal(folder)


def damaged(folder: Path) -> Iterator[tuple[str, str]]:
    """The files of a run that are not what was written, with the reason for each.

    Raises:
        DamagedError: the table itself cannot be read.
    """
    table = _table(folder)
    for name, digests in {**table["sealed"], **table["kept"]}.items():
        reason = _reason(folder / name, digests)
        if reason:
            yield name, reason


def intact(folder: Path, names: Iterable[str]) -> set[str]:
    """Those of a run's files that are there and what was noted of them last."""
    table = _table(folder)
    noted = {name: (table["kept"].get(name) or table["sealed"].get(name) or [None])[-1:] for name in names}
    return {name for name, digest in noted.items() if _reason(folder / name, digest) == "" and digest != [None]}


def counted(folder: Path) -> int:
    """How many files are compared."""
    return sum(map(len, _table(folder).values()))


def check(path: Path) -> Path:
    """Make sure that a file is what was written, if it belongs to a run.

    Raises:
        DamagedError: it is not.
    """
    above = [*path.parents[:UP], *path.absolute().parents[:UP]]  # look first along the path as it was given
    folder = next((one for one in above if (one / CHECKSUMS).is_file()), None)
    if folder is None:
        return path
    name, table = path.absolute().relative_to(folder.absolute()).as_posix(), _table(folder)
    digests = table["kept"].get(name) or table["sealed"].get(name)
    if digests is not None and (reason := _reason(path, digests)):
        raise _error(folder, name, reason)
    return path


def read_json(path: Path, needs: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Args:
        path: path of the file.
        needs: types of the values that it must have, by key; a list is one of objects.

    Raises:
        DamagedError: the file is not what was written, or has no JSON object, or not these values.
    """
    try:
        found = json.loads(check(path).read_bytes())
    except FileNotFoundError:
        raise _error(path.parent, path.name, "is missing") from None
    except (ValueError, RecursionError) as error:
        raise _error(path.parent, path.name, f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _error(path.parent, path.name, "has no JSON object")
    for key, kind in (needs or {}).items():
        value = found.get(key)
        listed = value if isinstance(value, list) else []
        if not isinstance(value, kind) or not all(isinstance(one, dict) for one in listed):
            raise _error(path.parent, path.name, f"does not have the {key} of such a run")
    return found


def signed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The contents with a checksum of themselves added; see :func:`unsigned`."""
    plain = json.loads(json.dumps(found, allow_nan=False))
    return {**plain, FORMAT: 2, OWN: _own({**plain, FORMAT: 2})}


def unsigned(path: Path) -> dict[str, Any]:
    """The contents of a signed file; files of earlier versions have no signature.

    Raises:
        DamagedError: it is not what was written.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _error(path.parent, path.name, f"cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise _error(path.parent, path.name, "has no JSON object")
    own, plain = found.pop(OWN, None), dict(found)
    if (own is not None or FORMAT in found) and own != _own(plain):
        raise _error(path.parent, path.name, "is not what was written")
    found.pop(FORMAT, None)
    return found


def _own(found: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _error(folder: Path, name: str, reason: str) -> DamagedError:
    return DamagedError(f"{folder / name} {reason}; restore a copy of it, or {INSTEAD.get(name, AGAIN.format(folder))}")


def _reason(path: Path, digests: list[str | None]) -> str:
    """What is wrong with a file; ``None`` if it is one of the versions that may be there."""
    if not path.is_file():
        return "" if None in digests else "is missing"
    return "" if _digest(path) in digests else "is damaged: it is not what was written"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table(folder: Path) -> Table:
    path = folder / CHECKSUMS
    found = unsigned(path) if path.is_file() else {}
    table = {name: found.get(name, {}) for name in ("kept", "sealed")}
    for digests in table.values():
        if not isinstance(digests, dict) or not all(isinstance(one, list) for one in digests.values()):
            raise _error(folder, CHECKSUMS, "is no table of checksums")
    return table


def _write(folder: Path, table: Table) -> None:
    write(folder / CHECKSUMS, signed(table))


def _files(folder: Path) -> Iterator[Path]:
    """The files that are compared: no links, no Zarr chunks, nothing that carries its own checksum."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in (LOCK, CHECKSUMS) or path.name.endswith(PARTS):
            continue
        if path.is_dir():
            if path.suffix == ".zarr":
                yield from (one for one in sorted(path.rglob("zarr.json")) if not one.is_symlink())
            elif not (path / CHECKSUMS).is_file():  # a run within a run has checksums of its own
                yield from _files(path)
        elif path.name not in SIGNED:
            yield path
