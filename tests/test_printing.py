"""What is printed is data: never markup, and nothing in it drives the terminal."""

from __future__ import annotations

import re
import sys
from contextvars import ContextVar
from pathlib import Path

import pytest

import t2iprobe
from t2iprobe.cli import console, cost, main
from t2iprobe.cli.console import PlainConsole, say, silent, tell
from t2iprobe.cli.progress import counting
from t2iprobe.cli.studies import watched
from t2iprobe.cli.tables import bar, print_table
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.sweep import Cost, TrialResult

HOSTILE = "a [/red] [bold]b :smile: \x1b[31mc \x9b1m \x07 \x7f \u202ed \udcff é"
SHOWN = "a [/red] [bold]b :smile: \\x1b[31mc \\x9b1m \\x07 \\x7f \\u202ed \\udcff é"
ALLOWED = {"cli/console.py", "cli/app.py", "registry/manager.py"}


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "answers", PlainConsole(width=200))
    monkeypatch.setattr("t2iprobe.cli.tables.answers", console.answers)


@pytest.mark.usefixtures("wide")
def test_data_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    tell(HOSTILE, "bold")
    print_table(["name", HOSTILE], [(HOSTILE, 1)], title=HOSTILE)
    say(HOSTILE, "warning")
    with counting(HOSTILE, 3) as tick:
        tick(1, 3)
    out, err = capsys.readouterr()
    assert out.count(SHOWN) == 4 and f"warning: {SHOWN}" in err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", out)


PATHS = [f"{way}.attentions.{one}.transformer_blocks.{two}.attn2"
         for way in ("down_blocks.1", "up_blocks.0", "up_blocks.1") for one in (0, 1) for two in (0, 1)]  # fmt: skip


@pytest.mark.parametrize(("width", "terminal"), [(60, True), (80, True), (120, True), (120, False)])
def test_tables_fit_and_tell_their_rows_apart(
    width: int, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = PlainConsole(width=width, force_terminal=terminal, color_system=None)
    monkeypatch.setattr("t2iprobe.cli.tables.answers", narrow)
    rows = [(number, path, 0.25, "-0.26 to 0.26", 1.0, bar(0.5)) for number, path in enumerate(PATHS)]
    print_table(["layer", "path", "ocr_f1 target", "95 % bounds", "SSIM", ""], rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    firsts, seconds = ([line for line in lines if line.split()[:1] == [str(number)]] for number in (3, 4))
    assert firsts[0].split()[1] != seconds[0].split()[1], "cut to the same path"
    cells = [cell for line in firsts for cell in re.split("  +", line.strip())]
    assert {"0.25", "-0.26 to 0.26", "1.00"} <= {*cells}
    assert any("█" in cell for cell in cells) is (width == 120)
    assert terminal or PATHS[3] in cells, "cut where a program may read it"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_sentences_are_wrapped_and_folders_are_kept_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "t2iprobe.cli.tables.answers", PlainConsole(width=width, force_terminal=True, color_system=None)
    )
    run, said = "runs/patch-tiny-sd3", "the responsible set of layers by bisection of single pairs, with few images"
    print_table(["run", "model", "what it does"], [(run, "tiny-sd3", said), (run + "-2", "tiny-sd3", said)])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width and run + " " in out
    assert all(word in out.split() for word in said.split())


@pytest.mark.parametrize(
    ("notebook", "quiet", "expected"),
    [
        (False, False, r"signs 1/4 [\d:-]+\nsigns 2/4 [\d:-]+\n"),
        (True, False, r"\rsigns 1/4 [\d:-]+ +\rsigns 2/4 [\d:-]+ +\r {80}\r"),
        (False, True, ""),
        (True, True, ""),
    ],
)
def test_progress_is_told_where_no_bar_can_be_drawn(
    notebook: bool, quiet: bool, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("EVERY", "EVERY_IN_NOTEBOOK"):
        monkeypatch.setattr(f"t2iprobe.cli.progress.{name}", 0.0)
    monkeypatch.setattr("t2iprobe.cli.progress.in_notebook", lambda: notebook)
    monkeypatch.setenv("COLUMNS", "80")
    with silent(quiet), counting("signs", 4) as tick:
        tick(1, 4)
        tick(2, 4)
    assert re.fullmatch(expected, capsys.readouterr().err)


def test_the_bar_of_a_study_goes_to_the_total_of_its_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of donors and of guidance are no pictures; a search asks in parts."""
    monkeypatch.setattr("t2iprobe.cli.progress.EVERY", 0.0)
    with watched("signs", 2, Stop(), lambda pairs, cost: 4) as calls:
        for part in range(3):
            calls.planned(1, Cost(2, 2 * 3 * 5, 10))  # two pictures and a donor, guided, 5 steps
            for step in range(5):
                calls.on_step(3, step)
            calls.measured(TrialResult(part, {"a": {}, "b": {}}, {}, 0, 0))
    shown = re.findall(r"signs ([\d.]+)/(\d+)", capsys.readouterr().err)
    assert {total for _, total in shown} == {"4", "6"} and shown[-1] == ("6", "6")
    assert [float(done) for done, _ in shown] == sorted(float(done) for done, _ in shown)


@pytest.mark.parametrize("words", [["study", "status"], ["patch", "--model"], ["localize", "--method"], ["report"], []])
def test_what_is_typed_is_shown_as_it_is(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["t2iprobe", *words, "p[/bold]\x1b[31m"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and "p[/bold]" in out + err and "\x1b" not in out + err


def test_nothing_else_prints() -> None:
    """Everything is printed by the consoles of ``cli/console.py``, on which data cannot become markup."""
    root = Path(t2iprobe.__file__).parent
    printing = re.compile(
        r"\bConsole\(|rich\.markup|from_markup|typer\.echo|click\.echo|(?<![\w.])print\(|rich import print"
    )
    found = {
        str(path.relative_to(root)): line.strip()
        for path in root.rglob("*.py")
        if str(path.relative_to(root)) not in ALLOWED
        for line in path.read_text().splitlines()
        if printing.search(line) and not line.strip().startswith(("print(count(", "#", ">>>"))
    }
    assert not found


def test_the_time_of_a_plan_counts_the_report_and_what_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_begun", ContextVar("begun", default=None))
    now = 100.0
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now)
    assert cost.time_text(50) == "about 52 s" and cost.time_text(50, 40) == "about 42 s to 52 s"
    cost.start_clock()
    now += 8
    assert cost.time_text(50) == "about 60 s in all (8 s so far)"
    assert cost.time_text(50, 40) == "about 50 s to 60 s in all (8 s so far)"
