"""Digests of prompts and words for a manifest: equal texts have equal digests, and a dictionary attack is not possible.

They are keyed with a secret of the user's that is kept outside every run folder: :func:`key_file`. With the same secret
a run can be resumed and compared with others, but a run folder that is passed on says nothing about its texts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import with_settings

SIZE = 32  # length of the secret in bytes


def key_file() -> Path:
    """Where the secret is kept: ``t2iprobe/guard.key`` in ``$XDG_STATE_HOME``, by default ``~/.local/state``."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "t2iprobe" / "guard.key"


def digests(texts: Sequence[str]) -> list[str]:
    """Digests that tell texts apart in a manifest without showing them.

    Raises:
        ConfigError: the secret cannot be read or made.
    """
    key = _key()
    return [_digest(text.encode(), key) for text in texts]


def deciding(reference: str) -> str:
    """``NAME[:key=value,…]`` with a digest of the file's content instead of its name: another list is another run."""
    name, settings = with_settings(reference)
    if "file" in settings:
        with suppress(OSError):  # whatever reads the file will report that it is not there
            settings["file"] = _digest(Path(settings["file"]).expanduser().read_bytes(), _key())
    listed = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}:{listed}" if listed else name


def key_name() -> str:
    """A name that tells secrets apart without showing them."""
    return _digest(b"", _key())


def _digest(content: bytes, key: bytes) -> str:
    return hashlib.blake2b(content, key=key, digest_size=8).hexdigest()


def _key() -> bytes:
    file = key_file()
    try:
        if not file.exists():
            _make(file)
        found = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the key for the digests of prompts cannot be stored in {file} ({error.strerror or error}); "
            "set XDG_STATE_HOME to a folder you can write to"
        ) from error
    if len(found) != SIZE:
        raise ConfigError(f"{file} does not contain a secret of {SIZE} bytes; delete it, and a new one is made")
    return found


def _make(file: Path) -> None:
    """Make the secret, whole or not at all and readable only by its owner; another process may be doing the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as opened:
            opened.write(secrets.token_bytes(SIZE))
        with suppress(FileExistsError):
            os.link(part, file)
    finally:
        part.unlink(missing_ok=True)
