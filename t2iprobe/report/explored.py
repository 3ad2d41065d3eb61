"""What a run folder that was saved in the explorer of ``t2iprobe view`` shows: its pictures side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from t2iprobe.core.runs import runfolder
from t2iprobe.report.figures import mosaic
from t2iprobe.report.folder import RunView, kept
from t2iprobe.report.page import page_of
from t2iprobe.report.sections import ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

KIND = "explore"  #: kind of these runs
PICTURES, SCRIPT = "images", "picture.py"
NAMES = "source", "result", "target"


def view(path: Path, plugins: Plugins) -> RunView:
    """What the run shows, finished or not."""
    manifest = runfolder.read_manifest(path)
    scene = manifest["settings"]["scene"]
    shown = [(name, image) for name in NAMES if (image := kept(path, f"{PICTURES}/{name}.png")) is not None]
    sheet = mosaic(shown) if shown else None
    sentence = str(manifest.get("sentence", "not finished"))
    rows = [[name.replace("_", " "), str(value)] for name, value in scene.items()]
    sections = [
        Section("Pictures", f"{SCRIPT} in this folder draws the result again.", pictures=shown),
        Section("On the screen", "", ReportTable(["setting", "value"], rows)),
    ]
    command = str(manifest["arguments"].get("command") or f"python {SCRIPT}")
    page = page_of(manifest, "tried in the explorer", sentence, sections, command)
    answer = {"model": manifest.get("model"), "sentence": sentence, "scene": scene, "moved": manifest.get("moved")}
    return RunView(page, answer if manifest["state"] == runfolder.FINISHED else None, sheet)
