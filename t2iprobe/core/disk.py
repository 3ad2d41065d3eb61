"""What the system says about writing, as one error of ours: :func:`explained`."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from t2iprobe.core.errors import StoreError, T2IProbeError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(name: str, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise what cannot be written within the ``with`` as one sentence.

    Args:
        name: what is written.
        kept: what stays, and how to go on, in words; asked for only then.

    Raises:
        StoreError: the disk is full or gone, or may not be written.
    """
    try:
        yield
    except T2IProbeError:
        raise
    except OSError as error:
        reason = "no space left" if error.errno in FULL else str(error.strerror or error)
        rest = kept()
        raise StoreError(f"{name} cannot be written: {reason}" + (f"; {rest}" if rest else "")) from error
