"""What the README and the examples show runs as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from t2iprobe.core.planted import sampling_defaults
from t2iprobe.plugins.organisms.recipes import WEIGHTS
from t2iprobe.registry import loading
from t2iprobe.registry.manager import Plugins

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
needs_weights = pytest.mark.skipif(
    not (WEIGHTS / "tiny-sd3" / "model_index.json").is_file(), reason="the weights of tiny-sd3 are not there"
)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded models draw the same words in 5 steps as in their own 20."""
    monkeypatch.setattr(loading, "sampling_defaults", lambda pipeline: sampling_defaults(pipeline) | {"num_steps": 5})


def test_the_numbers_of_methods_are_those_registered() -> None:
    page, plugins = (ROOT / "README.md").read_text(), Plugins(installed=False)
    assert f"[{len(plugins.localizers())} methods]" in page and f"{len(plugins.inverters())} inverters" in page


@pytest.mark.docs
@needs_weights
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block_runs(number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], "README.md", "exec"), {})
    assert list(tmp_path.glob("*.png"))


@pytest.mark.docs
@needs_weights
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert list(tmp_path.glob("*.png"))
