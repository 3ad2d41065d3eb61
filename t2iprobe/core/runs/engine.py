"""The run engine: :func:`execute` starts a :class:`RunDefinition` in a folder, resumes it, or finds it finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import DamagedError, LockedError, StoppedError, StoreError, T2IProbeError
from t2iprobe.core.names import counted
from t2iprobe.core.runs import checksums, provenance, runfolder
from t2iprobe.core.runs.files import clear, is_full, unwritable, write
from t2iprobe.core.runs.lock import LOCK, claim, lock, waiting_lock
from t2iprobe.core.runs.stop import Stop

PROGRESS = "progress.json"
EVERY = 1.0  # seconds between notes of how far a run is


@dataclass(frozen=True)
class RunDefinition:
    """What a command supplies to the engine, which does everything else.

    Args:
        kind: kind of the run.
        settings: everything that decides the result; where it runs and how much at once does not.
        work: does all that is missing, unit by unit, and gives what the manifest gets at the end. It keeps each unit
            where it belongs, whole, before it says so by :meth:`RunSession.done`.
        facts: facts about the model and whatever else is worth keeping.
        arguments: the arguments as they were given.
        plugins: versions of the plugins, by name.
        unit: the word for what is counted.
        resume: how to go on, in words.
        store: URL of the store if it is not in the folder; the store is claimed.
        is_complete: whether a finished run still has all its parts.
        shared: whether several processes may work on the run at once, each on units of its own.
        disposable: whether the folder is removed again with all that is in it if the first session has kept no unit.
        leftover: files in the folder that a finished run has no use for.
        check: refuses a folder with a run of other settings, in words of its own, before the engine does.
    """

    kind: str
    settings: Mapping[str, Any]
    work: Callable[[RunSession], Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)
    unit: str = "unit"
    resume: str = "the same command continues"
    store: str | None = None
    is_complete: Callable[[], bool] = lambda: True
    shared: bool = False
    disposable: bool = True
    leftover: tuple[str, ...] = ()
    check: Callable[[Path], None] = lambda path: None


@dataclass
class RunSession:
    """A run in progress, from its beginning or from where it was interrupted.

    Args:
        run: the definition of the run.
        path: the run's folder.
        stop: says whether the run is to stop.
        found: the manifest of the previous session.
        units: how many units are kept.
        total: how many units there are; ``None`` if that is not known.
        spent: what all sessions took, by name; for a killed session, as far as it had noted it.
    """

    run: RunDefinition
    path: Path
    stop: Stop
    found: Mapping[str, Any] | None = None
    units: int = 0
    total: int | None = None
    spent: dict[str, float] = field(default_factory=dict)
    begun: bool = False  # whether the manifest of this session is in the folder

    def __post_init__(self) -> None:
        self._began = self._noted = time.perf_counter()
        before = progress_of(self.path, self.found or {})
        self.units, self.total = before.get("done") or 0, before.get("total")
        if not self.run.shared:  # processes that work together each count only their own
            self.spent = dict(before.get("spent", {}))
        self._seconds = self.spent.get("seconds", 0.0)
        run, found = self.run, self.found or {}
        self.manifest = {
            "kind": run.kind,
            "state": runfolder.RUNNING,
            "arguments": provenance.portable(run.arguments),
            "settings": dict(run.settings),
            **{key: value for key, value in run.facts.items() if key != "decides"},
            **provenance.command(),
            "plugins": dict(run.plugins),
            "versions": provenance.versions(),
            "git": provenance.repository(),
            "started": found.get("started") or runfolder.now(),
            "sessions": found.get("sessions", 0) + 1,
        }

    def begin(self, units: int, total: int | None = None) -> None:
        """Say how many units are already kept, and how many there are in all."""
        self.units, self.total = units, total

    def done(self, units: int = 1, **spent: float) -> None:
        """Report that units are kept.

        Args:
            units: how many units.
            spent: what they took, which is added to what was spent before.
        """
        self.units += units
        self.spend(**spent)
        if time.perf_counter() - self._noted > EVERY:
            with suppress(StoreError, LockedError), lock(self.path) if self.run.shared else nullcontext():
                self.note()  # if the disk is full, the next unit will report it

    def spend(self, **spent: float) -> None:
        """Add to the cost."""
        for name, value in spent.items():
            self.spent[name] = self.spent.get(name, 0) + value

    def check(self) -> None:
        """Stop, between two units, if a stop was requested.

        Raises:
            StoppedError: the run was asked to stop.
            StoreError: the folder is gone.
        """
        self.there()
        if self.stop.asked:
            raise StoppedError(f"stopped; {self.kept}: {self.run.resume}")

    def there(self) -> None:
        """Make sure that the folder still exists; otherwise whoever writes next might make it anew.

        Raises:
            StoreError: it is gone.
        """
        if gone(self.path):
            raise StoreError(_gone(self.path))

    @property
    def kept(self) -> str:
        """How far it is, in words."""
        if self.total is None:
            return f"{counted(self.units, self.run.unit)} {'is' if self.units == 1 else 'are'} kept"
        return f"{self.units:,} of {counted(self.total, self.run.unit)} are kept"

    @property
    def seconds(self) -> float:
        """The seconds that all sessions have taken so far."""
        return self._seconds + time.perf_counter() - self._began

    def note(self) -> None:
        """Write down how far it is."""
        self._noted = time.perf_counter()
        self.spent["seconds"] = round(self.seconds, 2)
        if not gone(self.path):
            write(self.path / PROGRESS, checksums.signed({**self.progress, "spent": self.spent}))

    def close(self, state: str, **more: Any) -> None:
        """Write the manifest at the end of the session."""
        self.note()
        ended = {"state": state, "ended": runfolder.now()}
        noted = {"spent": self.cost, **more, "progress": self.progress}
        runfolder.write_manifest(self.path, {**self.manifest, **noted, **ended})

    @property
    def progress(self) -> dict[str, Any]:
        """How far it is."""
        return {"done": self.units, "total": self.total, "unit": self.run.unit}

    @property
    def cost(self) -> dict[str, float]:
        """What all sessions took, including those of other processes."""
        if not self.run.shared:
            return self.spent
        before = runfolder.read_manifest(self.path).get("spent", {})
        return {name: before.get(name, 0) + self.spent.get(name, 0) for name in {**before, **self.spent}}


def execute(run: RunDefinition, path: Path, stop: Stop | None = None) -> dict[str, Any]:
    """Start a run in a folder, resume it there, or find it finished; returns its manifest.

    Raises:
        RunExistsError: the folder has a run with other settings; nothing was touched.
        LockedError: another process is working on it.
        StoppedError: SIGINT or SIGTERM was received; what is complete is kept.
        StoreError: the disk is full, or the folder was taken away.
        DamagedError: a file of the run is not what was written.
    """
    _existing_run(run, path)
    with runfolder.made(path):
        if run.shared:
            return _work(run, path, stop or Stop())
        with lock(path), claim(run.store, path):
            found = _existing_run(run, path)  # look once more: it may have changed before we had the lock
            if found is None or found["state"] != runfolder.FINISHED or not run.is_complete():
                found = _work(run, path, stop or Stop())
        return found


def _existing_run(run: RunDefinition, path: Path) -> dict[str, Any] | None:
    run.check(path)
    return runfolder.existing(path, run.settings)


def _work(run: RunDefinition, path: Path, stop: Stop) -> dict[str, Any]:
    with _folder_lock(run, path):
        session = RunSession(run, path, stop, _existing_run(run, path))
        checksums.unseal(path)
    with _interrupted(session):
        with _folder_lock(run, path):
            runfolder.write_manifest(path, session.manifest)
            session.begun = True
        with stop.listening():
            session.check()
            more = run.work(session)
        session.there()
        with _folder_lock(run, path):
            _finish(session, more)
    return runfolder.read_manifest(path)


@contextmanager
def _folder_lock(run: RunDefinition, path: Path) -> Iterator[None]:
    """Hold the folder while a run's progress is noted; a process that works alone holds it anyway."""
    with waiting_lock(path) if run.shared else nullcontext():
        yield


def _finish(session: RunSession, more: Mapping[str, Any]) -> None:
    session.close(runfolder.FINISHED, **more)
    for name in (PROGRESS, *session.run.leftover):
        (session.path / name).unlink(missing_ok=True)
    checksums.seal(session.path)


@contextmanager
def _interrupted(session: RunSession) -> Iterator[None]:
    """Note that an error ended the session; a disposable run that kept nothing in its first session leaves nothing."""
    path = session.path
    try:
        yield
    except BaseException as error:
        if session.begun and gone(path):
            raise StoreError(_gone(path)) from error
        if isinstance(error, StoppedError) and session.stop.asked:
            error.exit_code = 128 + session.stop.signal
        translated = _as_store_error(error, session)
        if session.found is None and not session.units and (session.run.disposable or _only_begun(session)):
            clear(path)
        else:
            with suppress(OSError, T2IProbeError):  # the disk may be full, which the error that is being raised says
                _note(session, error)
        if translated is None:
            raise
        raise translated from error


def _only_begun(session: RunSession) -> bool:
    """Whether the folder has only what the engine itself puts there, and no other process may be about to add to it."""
    own = (runfolder.MANIFEST, PROGRESS, checksums.CHECKSUMS, LOCK)
    path = session.path
    return not session.run.shared and path.is_dir() and all(one.name in own for one in path.iterdir())


def _note(session: RunSession, error: BaseException) -> None:
    with _folder_lock(session.run, session.path):
        session.close(runfolder.INTERRUPTED, error=type(error).__name__)
        if not session.run.shared:  # in a shared run another process may be writing
            checksums.seal(session.path)


def _as_store_error(error: BaseException, session: RunSession) -> StoreError | None:
    """An error on writing as one sentence with what is kept and how to go on; ``None`` for every other error."""
    cause = error.__cause__ if type(error) is StoreError else error  # one that was explained already
    inside = str(getattr(cause, "filename", None) or "").startswith(str(session.path))
    if cause is None or isinstance(cause, T2IProbeError):
        return None
    if not (is_full(cause) or (isinstance(cause, OSError) and (inside or cause is not error))):
        return None
    said = unwritable(str(session.path), error) if cause is error else error
    kept = f"{session.kept}: " if session.units else ""
    mend = "make room" if is_full(cause) else "make it writable"
    return StoreError(f"{said}; {kept}{mend}, and {session.run.resume}")


def gone(path: Path) -> bool:
    """Whether a run's folder was taken away during the run; whatever is written after that would begin a new folder."""
    return not (path / runfolder.MANIFEST).is_file()


def _gone(path: Path) -> str:
    rest = f"delete what is left in {path} and " if path.exists() and any(path.iterdir()) else ""
    return (
        f"{path} was removed or renamed while its run was writing there, and nothing is kept in it; {rest}start again"
    )


def progress_of(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How far a run is and what it has spent: as many of ``done``, ``total``, ``unit`` and ``spent`` as are known.

    Raises:
        DamagedError: ``progress.json`` is not what was written.
    """
    file = path / PROGRESS
    if file.is_file() and manifest.get("state") != runfolder.FINISHED:
        found = checksums.unsigned(file)
    else:
        file = path / runfolder.MANIFEST
        found = {**manifest.get("progress", {}), "spent": manifest.get("spent", {})}
    spent = found.get("spent", {})
    numbers = [found.get("done"), found.get("total"), *(spent.values() if isinstance(spent, dict) else [""])]
    known = all(isinstance(one, int | float | None) for one in numbers)
    if not known or not isinstance(found.get("unit", ""), str):
        raise DamagedError(f"{file} cannot be read: how far the run is, is no number; {runfolder.INSTEAD}")
    return found
