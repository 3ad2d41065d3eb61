"""Packages that ``t2iprobe plugins new`` writes pass their own tests as they are, and a name that cannot be is said."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shell import invoke

from t2iprobe.cli.new_plugin import KINDS, Kind, write_plugin
from t2iprobe.core.contracts.detector import Hit
from t2iprobe.core.errors import ConfigError
from t2iprobe.testing.plugins import its_hooks_are_sound

ROOT = Path(__file__).parents[1]
#: what the tests of an adapter would take longest for, and what they have in common
LEFT_OUT = "not (TestMyAdapter and not (names or fire or large)) and not TestPlugin"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of every kind."""
    out = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        outcome = invoke("plugins", "new", f"my_{kind}", "--kind", kind, "--out", out)
        assert outcome.exit_code == 0 and "pyproject.toml" in outcome.output
    return out


@pytest.mark.slow
def test_every_kind_passes_its_own_tests(written: Path) -> None:
    path = os.pathsep.join(map(str, (ROOT, *written.iterdir())))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        LEFT_OUT,
        "--import-mode=importlib",
    ]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=written, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_registers(written: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(written / f"my_{kind}")
    its_hooks_are_sound(f"t2iprobe_my_{kind}")


def test_what_is_written_is_clean(written: Path) -> None:
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, written], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_a_name_hides_nothing_that_the_module_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: tuple[tuple[str, Kind], ...] = (("hit", "detector"), ("app", "command"))
    for name, kind in names:
        write_plugin(name, kind, tmp_path, ())
        monkeypatch.syspath_prepend(tmp_path / name)
    (detector,) = importlib.import_module("t2iprobe_hit").t2iprobe_register_detectors()
    assert detector().find("darn it") == [Hit(0, 4, "hit")]
    assert "app" in importlib.import_module("t2iprobe_app").t2iprobe_register_commands()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("My-Metric", "metric", "lower-case letters, digits and _"),
        ("class", "metric", "lower-case letters, digits and _"),
        ("ssim", "metric", "a plugin has the name 'ssim' already"),
        ("report", "command", "a plugin has the name 'report' already"),
        ("my_metric", "metric", "exists already"),
    ],
)
def test_a_name_that_cannot_be_is_one_sentence(written: Path, name: str, kind: str, said: str) -> None:
    outcome = invoke("plugins", "new", name, "--kind", kind, "--out", written)
    assert isinstance(outcome.exception, ConfigError) and said in str(outcome.exception)
    assert outcome.exception.exit_code == 2 and len(list(written.iterdir())) == len(KINDS)
