"""The GPU benchmark runs without a GPU on tiny models, so that it runs unattended the first time there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def test_the_script_runs_on_tiny_models(tmp_path: Path) -> None:
    asked = ["--tiny", "--device", "cpu", "--models", "sd3-medium", "--steps", "1", "--rows", "2"]
    subprocess.run([sys.executable, SCRIPT, *asked, "--out", tmp_path], check=True, capture_output=True)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "error" not in json.dumps(found)
    assert found["sd3-medium"]["pictures"]["equal pictures"] is True
    assert found["sd3-medium"]["patching"]["largest difference of the two, of 255"] == 0
    assert found["sd3-medium"]["command"]["rows a picture"] >= 1
