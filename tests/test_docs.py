"""What the documentation shows is right: Python runs, commands have the options they are shown with."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from shell import commands

from t2iprobe.cli.command import _given
from t2iprobe.cli.commands.study import StudyFile
from t2iprobe.core.planted import sampling_defaults
from t2iprobe.plugins.organisms.recipes import WEIGHTS
from t2iprobe.registry import loading
from t2iprobe.registry.manager import Plugins

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]}
ELSEWHERE = ("docs/how-to/capture-activations.md",)  # runs with its shell commands in test_store.py
#: a fenced block, its language, and a comment right before it that says why it is not run
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
needs_weights = pytest.mark.skipif(
    not (WEIGHTS / "tiny-sd3" / "model_index.json").is_file(), reason="the weights of tiny-sd3 are not there"
)


def blocks(page: str, *languages: str) -> list[str]:
    """The blocks of a page in these languages, without those that say why they are not run."""
    return [text for why, language, text in BLOCK.findall(PAGES[page]) if language in languages and not why]


def shown_commands() -> Iterator[tuple[str, str]]:
    """Every command line of t2iprobe, with its page."""
    for page in PAGES:
        for line in "".join(blocks(page, "console")).replace("\\\n", " ").splitlines():
            if line.startswith("t2iprobe "):
                yield page, line


def parsed(command: Any, words: list[str]) -> None:
    """Parse a command line and check its options' types and bounds, without running it."""
    while len(words) > 1 and words[1] in getattr(command, "commands", ()):
        command, words = command.commands[words[1]], words[1:]
    with command.make_context(words[0], words[1:]) as context:
        body = inspect.unwrap(command.callback)
        kind = eval(body.__annotations__["options"], body.__globals__)
        kind.from_shell(_given(context, context.params))


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded models draw the same words in 5 steps as in their own 20."""
    monkeypatch.setattr(loading, "sampling_defaults", lambda pipeline: sampling_defaults(pipeline) | {"num_steps": 5})


def test_the_numbers_of_methods_are_those_registered() -> None:
    page, plugins = PAGES["docs/index.md"], Plugins(installed=False)
    assert f"[{len(plugins.localizers())} methods]" in page and f"{len(plugins.inverters())} inverters" in page
    families = PAGES["docs/reference/architectures.md"].count("\n| `")
    assert f"[{families} families]" in PAGES["README.md"]


@pytest.mark.docs
def test_every_block_says_its_language() -> None:
    bare = [(page, text[:40]) for page in PAGES for _, language, text in BLOCK.findall(PAGES[page]) if not language]
    assert not bare


@pytest.mark.docs
@pytest.mark.parametrize("page", sorted({page for page, _ in shown_commands()}))
def test_commands_have_the_options_that_they_are_shown_with(page: str) -> None:
    for place, line in shown_commands():
        if place == page:
            try:
                parsed(commands(), shlex.split(line, comments=True))
            except Exception as error:
                pytest.fail(f"{line}: {error or type(error)}")


@pytest.mark.docs
def test_the_study_file_that_is_shown_is_one() -> None:
    (text,) = blocks("docs/how-to/scale-out.md", "toml")
    assert StudyFile.from_table(tomllib.loads(text), "the page").set == {"select": "gap"}


@pytest.mark.docs
@needs_weights
@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page not in ELSEWHERE])
def test_python_runs(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Block after block, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    for text in blocks(page, "python"):
        exec(compile(text, page, "exec"), module.__dict__)


@pytest.mark.docs
@needs_weights
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
@pytest.mark.usefixtures("blank_figures")
def test_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert list(tmp_path.glob("*.png"))


@pytest.mark.docs
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_notebooks_have_the_code_of_the_examples(path: Path) -> None:
    """``python docs/_site/notebooks.py`` makes them."""
    notebook = json.loads((ROOT / f"docs/notebooks/{path.stem.replace('_', '-')}.ipynb").read_text())
    source, code = path.read_text(), [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert source.count("# %%") == len(code) and all(cell in source for cell in code)
