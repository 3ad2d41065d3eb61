"""What went wrong while files were fetched from the hub or read, and the next command: :func:`explained`."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
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

LOGIN = "`hf auth login`"
FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EACCES, errno.EROFS, errno.EPERM)
OFFLINE = (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError, TimeoutError)


def explained(ref: str, error: Exception) -> str:
    """One sentence that says what went wrong with ``ref``, and what to do.

    Args:
        ref: a folder, a file, a hub id, or a file of a hub id (``owner/name/file``).
        error: what was raised.
    """
    causes = tuple(_causes(error))
    return _of_disk(ref, causes) or _of_hub(ref, error, causes) or _of_file(ref, error, causes)


def failed_at_hub(error: Exception) -> bool:
    """Whether the hub, or the way there, is why something could not be read."""
    return any(isinstance(cause, (HfHubHTTPError, *OFFLINE)) or _is_transport(cause) for cause in _causes(error))


def _of_disk(ref: str, causes: tuple[BaseException, ...]) -> str:
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    elsewhere = "name another folder with `export HF_HOME=FOLDER`"
    if numbers & {*FULL}:
        return f"the disk is full: {ref} is downloaded to {constants.HF_HUB_CACHE}; free space there, or {elsewhere}"
    written = any(constants.HF_HUB_CACHE in str(getattr(cause, "filename", "")) for cause in causes)
    if numbers & {*READ_ONLY} and written:
        return f"{ref} cannot be downloaded to {constants.HF_HUB_CACHE}, which is not writable: {elsewhere}"
    return ""


def _of_hub(ref: str, error: Exception, causes: tuple[BaseException, ...]) -> str:
    owner, _, rest = ref.partition("/")
    name, _, file = rest.partition("/")
    repository, address = f"{owner}/{name}", f"https://huggingface.co/{owner}/{name}"

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if caused_by(GatedRepoError):
        return f"{repository} is gated: accept its licence on {address}, then log in with that account: {LOGIN}"
    if caused_by(DisabledRepoError):
        return f"the hub has disabled {repository}; {address} may say why: give another copy of the model"
    if caused_by(RevisionNotFoundError):
        return f"the hub's {repository} has no such revision; see {address}/tree/main for those it has"
    if caused_by(RepositoryNotFoundError):
        return f"the hub has no model {repository}, or it is private: check the name, or log in with {LOGIN}"
    if caused_by(RemoteEntryNotFoundError):
        lacks = file or INDEX
        return (
            f"the hub's {repository} has no {lacks}: see {address}/tree/main for what it has; a model in one file is "
            f"named with that, as {repository}/FILE.safetensors"
        )
    if (status := _status(causes)) is not None:
        return _of_status(repository, status, error)
    if caused_by(*OFFLINE) or any(map(_is_transport, causes)):
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set (`unset HF_HUB_OFFLINE`)" if offline else "the hub cannot be reached"
        return (
            f"{why} and {ref} is not in the local cache {constants.HF_HUB_CACHE}: run "
            f"`hf download {' '.join(filter(None, (repository, file)))}` where there is a network and copy the cache, "
            f"or give a local folder with {INDEX} instead ({_line(error)})"
        )
    return ""


def _of_status(repository: str, status: int, error: Exception) -> str:
    """What an HTTP status means that has no error class of its own."""
    if status == 401:
        return (
            f"the hub refuses the token it was sent for {repository}: log in again with {LOGIN} (`unset HF_TOKEN` if "
            "that is set)"
        )
    if status == 403:
        return (
            f"the token may not read {repository}: make one that may on https://huggingface.co/settings/tokens, and "
            f"log in with it: {LOGIN} ({_line(error)})"
        )
    if status == 429:
        return f"the hub had too many requests from here: wait some minutes, or log in, which allows more: {LOGIN}"
    return (
        f"the hub answers {status} for {repository}: try again later; https://status.huggingface.co says whether it is "
        f"down ({_line(error)})"
    )


def _of_file(ref: str, error: Exception, causes: tuple[BaseException, ...]) -> str:
    if any(isinstance(cause, SafetensorError) for cause in causes):
        return f"the weights of {ref} are corrupt; copy or download them again: {_line(error)}"
    if any(isinstance(cause, MemoryError) for cause in causes):
        return f"the main memory is too small for {ref}: leave out a component, or quantise the weights"
    return f"{ref} cannot be loaded: {type(error).__name__}: {_line(error)}"


def _status(causes: tuple[BaseException, ...]) -> int | None:
    """The HTTP status of the hub's answer."""
    answers = [getattr(cause, "response", None) for cause in causes if isinstance(cause, HfHubHTTPError)]
    return next((int(one.status_code) for one in answers if one is not None), None)


def _is_transport(error: BaseException) -> bool:
    """Whether it is an error of the HTTP library, whose name changes with the hub's client."""
    return type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: Exception) -> str:
    """The beginning of an error message, on one line."""
    return " ".join(str(error).split())[:300]
