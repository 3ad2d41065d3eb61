"""Low-level access to a Zarr store: its location, keys and sizes, without opening arrays."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore

from t2iprobe.core.errors import ConfigError, DamagedError
from t2iprobe.core.names import near

STUDY = "study.zarr"
#: file names of an array in one folder, without a folder for each axis
FLAT: dict[str, Any] = {"name": "default", "separator": "."}

#: a run folder or a ``.zarr`` folder, a URL that fsspec knows, or a Zarr store object (``zarr.storage.ObjectStore``)
Where = str | Path | Store


def place(where: Where) -> str | Store:
    """The argument for Zarr; for a run folder, the store in it."""
    if isinstance(where, Store):
        return where
    name = str(where).removeprefix("file://")
    if "://" in name:
        return name
    path = Path(name)
    inner = path / STUDY
    return str(inner if inner.is_dir() else path)


def open_root(where: Where, *, write: bool = False) -> zarr.Group:
    """The root of an existing store, to read or to modify.

    Raises:
        ConfigError: there is no store.
    """
    found = place(where)
    try:
        # the consolidated metadata may be out of date while something is written
        return zarr.open_group(found, mode="r+" if write else "r", use_consolidated=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(found, str) and (Path(found) / "zarr.json").is_file():
            raise DamagedError(f"{found}/zarr.json cannot be read ({reason}); restore a copy of it") from None
        raise ConfigError(
            f"{found} is not a Zarr store ({reason}); name a run folder, a .zarr folder or a URL{_near(where)}"
        ) from None


def _near(where: Where) -> str:
    """Folders beside it with similar names, if there is none of this name."""
    path = Path(str(where))
    if isinstance(where, Store) or "://" in str(where) or path.exists() or not path.parent.is_dir():
        return ""
    beside = [str(one) for one in path.parent.iterdir() if one.is_dir()]
    return near(str(path), beside) if beside else ""


def listed(store: Store, prefix: str = "") -> list[str]:
    """Every key that begins with ``prefix``, sorted."""
    return sorted(sync(_collect(store.list_prefix(prefix))))


async def _collect(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]


def sizes(store: Store, keys: Iterable[str]) -> dict[str, int]:
    """Bytes by key."""
    if isinstance(store, LocalStore):
        return {key: (store.root / key).stat().st_size for key in keys}
    return {key: sync(store.getsize(key)) for key in keys}


def publish(root: zarr.Group) -> None:
    """Consolidate the metadata below ``root`` into one file, which xarray reads."""
    with warnings.catch_warnings():
        # Zarr warns that other libraries may not support it; these read the arrays' own metadata instead
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(root.store, path=root.path or None)


def exists(store: Store, key: str) -> bool:
    """Whether the key exists."""
    return sync(store.exists(key))


def below(store: Store, path: str) -> dict[str, Buffer]:
    """All values below ``path``, by the remainder of their keys."""
    prefix = f"{path}/"
    found = {key: sync(store.get(key, default_buffer_prototype())) for key in listed(store, prefix)}
    return {key.removeprefix(prefix): value for key, value in found.items() if value is not None}


def put(store: Store, contents: Mapping[str, Buffer]) -> None:
    """Write values by key, concurrently."""
    sync(_put(store, contents))


async def _put(store: Store, contents: Mapping[str, Buffer]) -> None:
    await asyncio.gather(*(store.set(key, value) for key, value in contents.items()))


def delete(store: Store, keys: Iterable[str]) -> None:
    """Remove keys, and folders that become empty.

    Raises:
        ConfigError: a key is behind a link or outside the store; nothing was removed.
    """
    keys = list(keys)
    if isinstance(store, LocalStore):
        for key in keys:
            _check_inside(store.root, key)
    for key in keys:
        sync(store.delete(key))
        if isinstance(store, LocalStore):
            _prune((store.root / key).parent, store.root)


def _check_inside(root: Path, key: str) -> None:
    path = root
    for part in PurePosixPath(key).parts:
        path = path / part
        if part == ".." or path.is_symlink():
            what = "is a link" if path.is_symlink() else "leads out of the store"
            raise ConfigError(
                f"{path} {what}; nothing is removed behind it: delete it yourself, or name the store that it leads to"
            )


def _prune(folder: Path, root: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def name_of(store: Any) -> str:
    """A readable name of a store."""
    return str(store.root) if isinstance(store, LocalStore) else str(store)
