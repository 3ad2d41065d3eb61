"""``examples/plugins``, as wheels in an environment of their own; and the how-tos about plugins, which show them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.plugins.organisms.recipes import WEIGHTS
from t2iprobe.registry.manager import DISABLE
from t2iprobe.testing.adapters import ADAPTER_LAWS

ROOT = Path(__file__).parents[1]
EXAMPLES, HOW_TO = ROOT / "examples/plugins", ROOT / "docs/how-to"
needs_weights = pytest.mark.skipif(not (WEIGHTS / "tiny-sd3/model_index.json").is_file(), reason="there are no weights")
PACKAGES = ("ldm", "letters", "halves", "broken")
REASONS = {
    "import-error": "import failed: ModuleNotFoundError: No module named 'a_library_that_is_not_installed'",
    "exits": "import failed: SystemExit: no licence found",
    "unknown-hook": "unknown hook 't2iprobe_register_samplers'",
    "clash": "its command 'patch' is left out, because 'localization' has 'patch'",
    "unmarked": "t2iprobe_register_metrics must be marked with @t2iprobe.hookimpl to be used",
    "other-api": "made for plugin API v2; this is v1",
}
#: runs commands in one process, because importing torch takes longer than most of them
DRIVER = """
import contextlib, io, json, sys
from t2iprobe.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv, out, err = ["t2iprobe", *words], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, json.loads(out.getvalue())]), flush=True)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the example packages, and everything that this one has."""
    folder = tmp_path_factory.mktemp("plugins")
    for package in PACKAGES:  # a build leaves files beside the sources
        shutil.copytree(EXAMPLES / package, folder / package)
    places = [str(folder / package) for package in PACKAGES]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "wheels")]
    subprocess.run([*pip, "wheel", *built, *places], check=True)
    venv.create(folder / "env")
    found = folder / "env/bin/python"
    site = folder / "env" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (site / "shared.pth").write_text(f"{ROOT}\nimport site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    wheels = map(str, (folder / "wheels").glob("*.whl"))
    subprocess.run([*pip, "--python", str(found), "install", "--no-deps", "--no-index", *wheels], check=True)
    return found


@needs_weights
def test_example_plugins_work_and_broken_ones_are_named(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DISABLE)  # under which other tests see no installed plugins
    commands = [
        ["plugins", "--check"],
        ["sites", "--arch", "ldm", "--full-size"],
        ["halves", "cost", "--layers", "24"],
        ["localize", "--arch", "sd3", "--method", "halves", "--metric", "letters", "--limit", "1", "--held-out", "0",
         "--num-steps", "2", "--out", str(tmp_path / "run")],
    ]  # fmt: skip
    words = json.dumps([[*one, "--format", "json"] for one in commands])
    done = subprocess.run([python, "-c", DRIVER, words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (checked, plugins), (_, sites), (_, cost), (found, answer) = map(json.loads, done.stdout.splitlines())
    assert checked == 1
    rows: dict[str, Any] = {row["name"]: row for row in plugins["plugins"]}
    assert rows["ldm"]["provides"] == {"adapters": ["ldm"]}
    assert rows["letters"]["provides"] == {"metrics": ["letters"], "aggregates": ["letter_odds"]}
    assert rows["halves"]["provides"] == {"localizers": ["halves"], "commands": ["halves"]}
    for name, reason in REASONS.items():
        assert reason in rows[name]["reason"] and rows[name]["status"] == ("skipped" if "API" in reason else "broken")
        assert done.stderr.count(f"the plugin {name!r} is broken") >= ("API" not in reason)
    assert sites["layers"] and cost == {"pictures": 144}
    assert found == 0 and "letter_odds_target" in answer["aggregates"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert answer["further"] == ["letters_target"] and "letters target</button>" in page
    assert "share of the target's letters" in page or "share of the target&#39;s letters" in page


@pytest.mark.docs
def test_the_how_to_explains_every_attribute_of_a_probed_adapter_and_names_laws_that_exist() -> None:
    text = (HOW_TO / "write-an-adapter.md").read_text()
    assert [name for name in ProbedAdapter.__annotations__ if f"`{name}`" not in text] == []
    named = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", text.partition("| law that fails |")[2], re.M))
    )
    assert named and set(named) <= {law.__name__ for law in ADAPTER_LAWS}


@pytest.mark.docs
@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("write-an-adapter", "ldm/t2iprobe_ldm/adapter.py"),
        ("write-a-metric", "letters/t2iprobe_letters/letters.py"),
        ("write-a-method", "halves/t2iprobe_halves/method.py"),
        ("write-a-method", "halves/t2iprobe_halves/commands.py"),
    ],
)
def test_the_how_to_shows_what_the_example_has(page: str, file: str) -> None:
    shown, source = (HOW_TO / f"{page}.md").read_text(), (EXAMPLES / file).read_text()
    for part in re.split(r"\n\n\n", source)[1:]:
        assert part.strip() in shown
