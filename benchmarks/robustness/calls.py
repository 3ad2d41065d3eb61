"""Runs the command line in a forked process, so that calls cost no imports and can be killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 240.0  # seconds after which a call counts as hung
REFUSED = (1, 2)
HUNG, KILLED = "hung", -signal.SIGKILL
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Called:
    """How a call of the command line ended.

    Args:
        code: its exit code; negative if a signal ended it, None if it hung and was killed.
        out: what it wrote on stdout.
        err: what it wrote on stderr.
        seconds: how long it took.
    """

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def verdict(self) -> str:
        """``ran``, ``refused`` (one sentence), ``traceback``, ``hung``, ``killed`` or ``no sentence``."""
        if self.code is None:
            return HUNG
        if "Traceback (most recent call last)" in self.err:
            return "traceback"
        if self.code == KILLED:
            return "killed"
        if self.code == 0:
            return "ran"
        return "refused" if self.code in REFUSED and (self.out + self.err).strip() else "no sentence"

    @property
    def sentence(self) -> str:
        """The last line on stderr, or of a traceback its last two."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip(" │╭╰─╮╯")]
        return " / ".join(lines[-2:] if self.verdict == "traceback" else lines[-1:])[:300]


def call(command: str | Sequence[str], folder: Path, kill_after: float | None = None) -> Called:
    """Run ``t2iprobe COMMAND`` in a folder; ``kill_after`` so many seconds it gets SIGKILL."""
    words = shlex.split(command) if isinstance(command, str) else list(command)
    with tempfile.TemporaryDirectory() as place:
        streams = Path(place, "out"), Path(place, "err")
        start = time.monotonic()
        child = FORK.Process(target=_child, args=(words, folder, streams))
        child.start()
        child.join(TIMEOUT if kill_after is None else kill_after)
        hung = child.is_alive() and kill_after is None
        if child.is_alive():
            os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in streams)
    return Called(None if hung else child.exitcode, out, err, time.monotonic() - start)


def _child(words: Sequence[str], folder: Path, streams: tuple[Path, Path]) -> None:
    from t2iprobe.cli import main

    os.setsid()  # a kill takes its workers with it
    for path, number in zip(streams, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    sys.argv = ["t2iprobe", *words]
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
