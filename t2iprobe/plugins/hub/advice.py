"""What went wrong while weights were fetched or read, and what to do: :func:`explained`."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from t2iprobe.core.load_options import INDEX

OFFLINE = (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError, TimeoutError)


def explained(ref: str, error: Exception) -> str:
    """One sentence that says what went wrong with ``ref``, and what to do."""
    causes = tuple(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return (
            f"the disk is full: {ref} is downloaded to {constants.HF_HUB_CACHE}; free space there, or name another "
            "folder with `export HF_HOME=FOLDER`"
        )
    if caused_by(GatedRepoError):
        return f"{ref} is gated: accept its licence on https://huggingface.co/{ref}, then log in with `hf auth login`"
    if _status(causes) == 401 and "token" in str(error).lower():
        return f"the hub refuses the token it was sent for {ref}: log in again with `hf auth login`"
    if caused_by(RevisionNotFoundError):
        return f"the hub's {ref} has no such revision; see https://huggingface.co/{ref}/tree/main for those it has"
    if caused_by(RepositoryNotFoundError):
        return f"the hub has no model {ref}, or it is private: check the name, or log in with `hf auth login`"
    if caused_by(RemoteEntryNotFoundError):
        return f"the hub's {ref} is not a diffusers pipeline, it lacks a file: {_line(error)}"
    if caused_by(*OFFLINE):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return (
            f"{why} and {ref} is not in the local cache {constants.HF_HUB_CACHE}: run `hf download {ref}` where there "
            f"is a network and copy the cache, or give a local folder with {INDEX} instead ({_line(error)})"
        )
    if caused_by(SafetensorError):
        return f"the weights of {ref} are corrupt; copy or download them again: {_line(error)}"
    if caused_by(MemoryError):
        return f"the main memory is too small for {ref}: leave out a component, or quantise the weights"
    return f"{ref} cannot be loaded: {type(error).__name__}: {_line(error)}"


def _status(causes: tuple[BaseException, ...]) -> int | None:
    """The HTTP status of the hub's answer."""
    answers = [getattr(cause, "response", None) for cause in causes if isinstance(cause, HfHubHTTPError)]
    return next((int(one.status_code) for one in answers if one is not None), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: Exception) -> str:
    """The beginning of an error message, on one line."""
    return " ".join(str(error).split())[:300]
