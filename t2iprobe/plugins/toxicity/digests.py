"""Digests of prompts and words for a manifest: equal texts have equal digests, and nobody can run a dictionary on them.

They are keyed with a secret of the user's that is kept outside every run folder: :func:`key_file`. So wherever the same
secret is, a run can go on and can be told from others, and a run folder that is passed on says nothing about its texts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from t2iprobe.core.errors import ConfigError

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


def digest_of(held: bytes) -> str:
    """The digest of what a file holds."""
    return _digest(held, _key())


def key_name() -> str:
    """A name that tells secrets apart without showing them."""
    return _digest(b"", _key())


def _digest(held: bytes, key: bytes) -> str:
    return hashlib.blake2b(held, key=key, digest_size=8).hexdigest()


def _key() -> bytes:
    file = key_file()
    try:
        if not file.exists():
            _make(file)
        found = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the secret that keys the digests of prompts cannot be kept in {file} ({error.strerror or error}); "
            "set XDG_STATE_HOME to a folder of yours that can be written"
        ) from error
    if len(found) != SIZE:
        raise ConfigError(f"{file} holds no secret of {SIZE} bytes; delete it, and another one is made")
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
