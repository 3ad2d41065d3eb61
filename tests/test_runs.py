"""The engine of runs, on a run of numbers: units, stops, sessions, folders that vanish, damage."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2iprobe.core.errors import ConfigError, DamagedError, LockedError, RunExistsError, StoppedError, StoreError
from t2iprobe.core.runs import checksums, lines, runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.runs.files import parts, write
from t2iprobe.core.runs.lock import lock
from t2iprobe.core.runs.status import listed, state_of
from t2iprobe.core.runs.stop import Stop

COUNT = 5


def numbers(told: Callable[[RunSession, int], None] = lambda session, number: None, **changes: Any) -> RunDefinition:
    """Keeps the squares of five numbers, each in a file of its own."""

    def work(session: RunSession) -> dict[str, Any]:
        todo = [one for one in range(COUNT) if not (session.path / f"{one}.txt").exists()]
        session.begin(COUNT - len(todo), COUNT)
        for one in todo:
            session.check()
            checksums.keep(session.path, {f"{one}.txt": str(one**2)})
            session.done(rows=2)
            told(session, one)
        checksums.keep(session.path, {"result.json": {"sum": 30}})
        return {"sentence": "30"}

    return RunDefinition("numbers", {"count": COUNT} | changes, work, unit="number")


def at(number: int, act: Callable[[RunSession], object]) -> Callable[[RunSession, int], None]:
    return lambda session, one: act(session) and None if one == number else None


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_finishes_the_unit_and_sessions_add_up(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match="stopped; 3 of 5 numbers are kept: the same command continues") as stopped:
        execute(numbers(at(2, lambda session: os.kill(os.getpid(), number))), tmp_path / "run")
    assert stopped.value.exit_code == 128 + number
    state = state_of(tmp_path / "run")
    assert (state.state, state.kind, state.done, state.total) == ("interrupted", "numbers", 3, 5)
    found = execute(numbers(), tmp_path / "run")
    assert (found["state"], found["sessions"], found["spent"]["rows"]) == ("finished", 2, 10)
    assert found["progress"] == {"done": 5, "total": 5, "unit": "number"} and not list(
        checksums.damaged(tmp_path / "run")
    )
    assert execute(numbers(at(0, pytest.fail)), tmp_path / "run") == found
    assert signal.getsignal(number) is before


def test_an_outer_run_hears_what_an_inner_one_was_told(tmp_path: Path) -> None:
    outer, inner = Stop(), Stop()
    with outer.listening():
        with inner.listening():
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.asked and outer.asked and outer.signal == signal.SIGTERM


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_vanishes(again: bool, tmp_path: Path) -> None:
    def vanish(session: RunSession) -> None:
        shutil.rmtree(session.path)
        if again:  # as a library does that makes folders as it needs them
            session.path.mkdir()
            (session.path / "x").write_text("")

    for number in (1, COUNT - 1):
        with pytest.raises(StoreError, match="was removed or renamed") as error:
            execute(numbers(at(number, vanish)), tmp_path / "run")
        assert "are kept" not in str(error.value) and again == ("delete what is left" in str(error.value))
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_a_full_disk_says_what_is_kept(tmp_path: Path) -> None:
    def full(session: RunSession) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="no space left; 3 of 5 numbers are kept: make room, and the same command"):
        execute(numbers(at(2, full)), tmp_path / "run")
    assert execute(numbers(), tmp_path / "run")["state"] == "finished"


def test_other_settings_and_other_holders_are_refused(tmp_path: Path) -> None:
    def second(session: RunSession) -> None:
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
            execute(numbers(), tmp_path / "run")

    execute(numbers(at(1, second)), tmp_path / "run")
    with pytest.raises(RunExistsError, match="base: None there, 3 now"):
        execute(numbers(base=3), tmp_path / "run")
    with pytest.raises(ConfigError, match=f"did you mean {tmp_path / 'run'}"):
        state_of(tmp_path / "runn")


def test_an_error_before_the_first_unit_leaves_nothing(tmp_path: Path) -> None:
    def work(session: RunSession) -> dict[str, Any]:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        execute(RunDefinition("numbers", {}, work), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["0.txt", "result.json", "manifest.json", "checksums.json", "progress.json"])
def test_damage_is_noticed_before_a_run_goes_on(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        execute(numbers(at(2, lambda session: os.kill(os.getpid(), signal.SIGINT))), tmp_path / "run")
    if name == "result.json":
        checksums.keep(tmp_path / "run", {name: {"sum": 0}})
    file = tmp_path / "run" / name
    raw = bytearray(file.read_bytes())
    raw[raw.rindex(b'"') - 1 if len(raw) > 1 else 0] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DamagedError, match=name):
        execute(numbers(), tmp_path / "run")
    assert [one.state for one in listed(tmp_path)] == [
        "interrupted" if name in ("0.txt", "result.json", "checksums.json") else "damaged"
    ]


def test_a_changed_page_is_noticed_and_stops_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(StoppedError):
        execute(numbers(at(2, lambda session: os.kill(os.getpid(), signal.SIGINT))), run)
    checksums.keep(run, {"report.html": "<p>two of three</p>"})
    (run / "report.html").write_text("<p>mine</p>")
    assert [name for name, _ in checksums.damaged(run)] == ["report.html"]
    execute(numbers(), run)
    assert not list(checksums.damaged(run)) and (run / "report.html").read_text() == "<p>mine</p>"


def test_a_settled_file_has_one_version(tmp_path: Path) -> None:
    for text in "12":
        checksums.keep(tmp_path, {"a": text})
    (tmp_path / "a").write_text("1")
    assert not list(checksums.damaged(tmp_path))
    checksums.settle(tmp_path, ["a"])
    assert [name for name, _ in checksums.damaged(tmp_path)] == ["a"]


def test_a_kill_between_the_note_and_the_file_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksums.keep(tmp_path, {"a": "1"})
    real = Path.replace

    def killed(part: Path, path: Path) -> Path:
        if path.name in ("a", "b"):
            raise KeyboardInterrupt
        return real(part, path)

    monkeypatch.setattr(Path, "replace", killed)
    for name in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            checksums.keep(tmp_path, {name: "2"})
    assert not list(checksums.damaged(tmp_path)) and checksums.check(tmp_path / "a").read_text() == "1"
    monkeypatch.setattr(Path, "replace", real)
    (tmp_path / "a").write_text("3")
    assert [name for name, _ in checksums.damaged(tmp_path)] == ["a"]


def test_lines_are_whole_or_named(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    for number in range(3):
        lines.append(file, {"number": number, "share": 0.1})
    with file.open("a") as cut:
        cut.write('{"number": 3, "sh')
    assert [line["number"] for line in lines.read(file)] == [0, 1, 2]
    lines.append(file, {"number": 4})
    assert lines.read(file)[-1] == {"number": 4} and len(lines.read(file)) == 4
    raw = file.read_bytes().replace(b'"number": 1', b'"number": 9')
    file.write_bytes(raw)
    with pytest.raises(DamagedError, match=r"log.jsonl is damaged: line 2"):
        lines.read(file)


def test_files_are_replaced_whole_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "a.txt").symlink_to(tmp_path / "thesis")
    (tmp_path / ".a.txt.part").symlink_to(tmp_path / "thesis")
    write(tmp_path / "a.txt", "new")
    assert (tmp_path / "thesis").read_text() == "years of work" and not (tmp_path / "a.txt").is_symlink()

    def fails(part: Path) -> None:
        part.mkdir()
        raise OSError(errno.ENOSPC, "")

    with pytest.raises(StoreError, match=r"lora cannot be written: no space left"):
        write(tmp_path / "lora", fails)
    assert not parts(tmp_path) and not (tmp_path / "lora").exists()
    with pytest.raises(StoreError, match="no space left"):
        write(tmp_path / "x", lambda part: (_ for _ in ()).throw(RuntimeError("No space left on device (os error 28)")))


def test_a_killed_run_says_so(tmp_path: Path) -> None:
    runfolder.write_manifest(tmp_path, {"settings": {}, "state": "running"})
    assert state_of(tmp_path).state == "killed"
    with lock(tmp_path):
        assert state_of(tmp_path).state == "running"
    assert json.loads((tmp_path / "manifest.json").read_text())["state"] == "running"
