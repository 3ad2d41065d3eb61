"""One model a command: what a shell, TOML and Python give is read by it, and refused in one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import typer
from typer.testing import CliRunner

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.options import RunOptions
from t2iprobe.core.command_options import Names, Numbers, Options, Settings, Texts, option, panel_of
from t2iprobe.core.errors import ConfigError


class Group(Options):
    panel: ClassVar[str] = "Group"
    num_steps: int | None = option(None, help="Steps [of it].", ge=1)
    share: float = option(0.5, help="Share.", ge=0, le=1)


class Asked(RunOptions, Group):
    panel: ClassVar[str] = "Own"
    file: Path | None = option(None, help="A file.", argument=True)
    from_run: Path | None = option(None, flag="--from", help="A run.")
    method: Names = option((), help="Methods.")
    metric: Names = option(("psnr", "ssim"), help="Metrics.")
    prompt: Texts = option((), help="Prompts.")
    layers: Numbers | None = option(None, help="Layers.")
    set: Settings = option({}, help="Settings.")
    way: Literal["inject", "stream"] = option("inject", help="Way.")
    deep: bool | None = option(None, flag="--deep/--flat", help="Depth.")
    seed: int = option(0, help="Seed.", ge=0, lt=2**32)
    share: float = option(0.25, help="Another default.", ge=0, le=1)
    inverter: str = option("ddim", help="Of the file.", only_with="file")
    address: str | None = option(None, help="Of a cluster.", only_with="way=stream|row")


SEEN: list[tuple[Asked, list[str]]] = []
app = typer.Typer()


@app.command()
@takes(Asked)
def ask(asked: Asked, context: typer.Context) -> None:
    """Ask."""
    SEEN.append((asked, typed(context)))


@app.command()
def other() -> None:
    """A second one, so that the first keeps its name."""


def shell(*words: str) -> Asked:
    outcome = CliRunner().invoke(app, ["ask", *words], catch_exceptions=True)
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return SEEN[-1][0]


WORDS = ("a.toml", "--num-steps", "3", "--from", "run", "--method", "a,b:x=1,y=2", "--method", "c", "--layers", "3-5",
         "--set", "u=1", "--deep", "-y")  # fmt: skip
SAME = {
    "file": Path("a.toml"), "num_steps": 3, "from_run": Path("run"), "method": ["a", "b:x=1,y=2", "c"], "layers": "3-5",
    "set": {"u": "1"}, "deep": True, "yes": True,
}  # fmt: skip


def test_a_shell_and_python_and_a_file_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "asked.toml"
    file.write_text(
        'file="a.toml"\nnum_steps=3\nfrom_run="run"\nmethod=["a", "b:x=1,y=2", "c"]\nlayers="3-5"\ndeep=true\n'
        'yes=true\n[set]\nu="1"\n'
    )
    one, other, third = shell(*WORDS), Asked(**SAME), Asked.from_toml(file, "the file")  # type: ignore[arg-type]
    assert one.given() == other.given() == third.given() == {**SAME, "file": "a.toml", "from_run": "run"}
    assert one.method == ("a", "b:x=1,y=2", "c") and one.share == 0.25 and one.num_steps == 3
    assert SEEN[-1][1][1:] == ["ask", "a.toml", "--num-steps", "3", "--from", "run", "--method", "a,b:x=1,y=2",
                               "--method", "c", "--layers", "3-5", "--set", "u=1", "--deep", "--yes"]  # fmt: skip


def test_what_is_given_is_told_from_what_is_not() -> None:
    asked = Asked(num_steps=2, layers=[3, 5], prompt="a, b")
    assert asked.given() == {"num_steps": 2, "layers": "3,5", "prompt": ["a, b"]} and not asked.has("share")
    full = asked.filled({"num_steps": 9, "share": 1.0, "from_run": None})
    assert (full.num_steps, full.share, full.from_run) == (2, 1.0, None) and full.has("share")
    assert Asked(address="auto", way="stream").address and Asked(inverter="ddim").inverter == "ddim"
    assert Asked(layers=6).layers == "6" and Asked(layers=range(2)).layers == "0,1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_steps": 0}, "num_steps is 1 or more, found 0"),
        ({"num_steps": True}, "num_steps takes a number, found true"),
        ({"num_steps": 1.5}, "num_steps takes a whole number, found 1.5"),
        ({"share": math.nan}, "share takes a finite number, found nan"),
        ({"share": math.inf}, "share takes a finite number, found inf"),
        ({"share": "much"}, "share takes a number, found much"),
        ({"share": 1.5}, "share is 1 or less, found 1.5"),
        ({"seed": 2**32}, "seed is less than 4,294,967,296, found 4294967296"),
        ({"layers": " "}, "layers is empty"),
        ({"file": ""}, "file is empty"),
        ({"method": "a,,b"}, "method has an empty entry"),
        ({"prompt": ["a", ""]}, "prompt has an empty entry"),
        ({"layers": True}, "layers takes text, found True"),
        ({"set": ["u"]}, "set takes NAME=VALUE, found 'u'"),
        ({"way": "injct"}, "way has no choice 'injct'; did you mean inject?"),
        ({"deep": 1}, "deep is true or false, found 1"),
        ({"num_steps": 2**64}, "num_steps is 10,000,000 or less, found 18446744073709551616"),
        ({"file": "a" * 300}, "file is too long: a file name has at most 255 bytes"),
        ({"from_run": "a/" * 3000}, "from_run is too long"),
        ({"file": "a\0b"}, "file has a NUL character"),
        ({"inverter": "exact"}, "inverter does nothing without file; add that, or leave it out"),
        ({"address": "auto"}, "address does nothing without way stream; add that, or leave it out"),
        ({"num_step": 3}, "no option 'num_step'; did you mean num_steps?"),
    ],
)
def test_what_cannot_be_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Asked(**given)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-steps", "0"], "--num-steps is 1 or more, found 0"),
        (["--num-steps", "nan"], "--num-steps takes a whole number, found nan"),
        (["--share", "inf"], "--share takes a finite number, found inf"),
        (["--from", ""], "--from is empty"),
        (["--method", ""], "--method has an empty entry"),
        (["--format", "jsn"], "--format has no choice 'jsn'; did you mean json?"),
        ([""], "FILE is empty"),
    ],
)
def test_an_option_is_named_as_it_was_typed(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        shell(*words)
    assert str(refused.value).startswith(said)


def test_a_file_says_where_it_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "asked.toml"
    for text, said in (
        ("share = nan", "share takes a finite number"),
        ("shar = 1", "did you mean share"),
        ("x", "not valid TOML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said) as refused:
            Asked.from_toml(file, "the file")
        assert str(file) in str(refused.value)


def test_an_option_stands_under_the_heading_of_the_group_that_has_it_first() -> None:
    assert [panel_of(Asked, name) for name in ("share", "way", "yes")] == ["Group", "Own", "Run"]
    help = " ".join(CliRunner().invoke(app, ["ask", "--help"], env={"COLUMNS": "120"}).output.split())
    assert "Steps [of it]." in help and "inject|stream" in help and "NUMBER 0…1" in help and "0.25" in help
    assert "[default: psnr,ssim]" in help
    assert help.index("─ Own ") < help.index("─ Run ")


def test_python_and_a_shell_call_an_option_differently() -> None:
    assert Asked().called("from_run") == "from_run" and shell().called("from_run") == "--from"
