"""Who may import whom, and what the package shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import t2iprobe

ROOT = Path(__file__).parents[1]


def test_import_contracts_are_kept() -> None:
    """The contracts of pyproject.toml, run by import-linter itself."""
    command = "from importlinter.cli import lint_imports_command as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_public_names_are_sorted_and_exist() -> None:
    names = list(getattr(t2iprobe, "__all__", ()))
    assert names == sorted(names)
    assert all(hasattr(t2iprobe, name) for name in names)
