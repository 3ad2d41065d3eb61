"""What plain ``t2iprobe`` shows: the last runs in this folder, how to go on with them, or where to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t2iprobe.cli.commandline import quoted
from t2iprobe.cli.console import tell
from t2iprobe.cli.run_table import print_runs, run_facts
from t2iprobe.core.names import counted
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.status import KILLED, state_or_damage

LAST = 5  # most runs that are shown
FIRST = {
    "t2iprobe patch --arch sd3": "which layer writes the text in the image, patching one at a time",
    "t2iprobe localize --arch sd3": "the set of layers that writes it, confirmed on held-out pairs",
    "t2iprobe edit --arch sd3 --layers 6": "put another text into the same image with that layer",
}


def print_home(runs: Path) -> None:
    """Print the last runs in a folder with the commands that go on with them, or commands to start with."""
    folders = sorted(runs.glob(f"*/{runfolder.MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
    if folders:
        rows = [run_facts(state_or_damage(path.parent)) for path in folders[:LAST]]
        tell(f"{counted(len(folders), 'run')} in {runs}/" + (f", the last {LAST}:" if len(folders) > LAST else ":"))
        print_runs(rows, ("run", "state", "kept", "started"))
        _print_commands({"t2iprobe view": "all runs in the browser", **dict(_next(rows))})
    else:
        tell(f"No runs in {runs}/ yet. These commands work offline, on tiny models that come with t2iprobe:")
        _print_commands(FIRST)
    tell("t2iprobe --help lists all commands.")


def _next(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Commands that go on with runs that were stopped, and one that looks at the last finished one."""
    for row in rows:
        if row["state"] in (runfolder.INTERRUPTED, KILLED) and (again := _again(Path(row["path"]))):
            yield again, f"resumes {row['path']}"
    if finished := [row for row in rows if row["state"] == runfolder.FINISHED]:
        yield quoted(["t2iprobe", "report", finished[0]["path"]]), "writes its report.html again, to open in a browser"


def _again(path: Path) -> str:
    """The command that resumes a run; empty if it was started from Python."""
    manifest = runfolder.read_manifest(path)
    if manifest.get("arguments", {}).get("question"):
        return quoted(["t2iprobe", "study", "resume", str(path)])
    return str(manifest.get("command", ""))


def _print_commands(commands: Mapping[str, str]) -> None:
    for command, what in commands.items():
        tell(f"  {command}", "bold")
        tell(f"      {what}")
