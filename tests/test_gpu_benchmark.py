"""The GPU benchmark runs without a GPU on tiny models, so that it runs unattended the first time there is one."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import diffusers
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.mark.filterwarnings("default")  # as in a process of its own
def test_the_script_runs_on_tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["--tiny", "--device", "cpu", "--models", "sd3-medium", "--steps", "1", "--rows", "2"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *asked, "--out", str(tmp_path)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    verbosity = diffusers.utils.logging.get_verbosity()
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "error" not in json.dumps(found)
    assert found["sd3-medium"]["pictures"]["equal pictures"] is True
    assert found["sd3-medium"]["patching"]["largest difference of the two, of 255"] == 0
    assert found["sd3-medium"]["command"]["rows a picture"] >= 1
