"""Run folders of all commands hold the same kinds of files, see docs/reference/run-folders.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from shell import invoke

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.runs.checksums import damaged
from t2iprobe.report.folder import ANSWER, PAGE, PLACES, PLOT, SHEET

DOCS = Path(__file__).parent.parent / "docs/reference/run-folders.md"
MANIFEST = (DOCS.parent / "manifest.md").read_text().partition("## Every run")[2].partition("\n## ")[0]
EVERY_RUN = {key for row in re.findall(r"^\| (`.*?) \|", MANIFEST, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
PAIR = ["--source", 'a sign that says "OPEN"', "--target", 'a sign that says "SHUT"']
QUICK = ["--num-steps", "1", "--device", "cpu"]
STUDY = 'model = "model"\nsource = \'a sign that says "OPEN"\'\ntarget = \'a sign that says "SHUT"\'\nnum_steps = 1\n'
TRAINING = ["--train-steps", "1", "--rank", "1", "--num-steps", "1"]
CONTINUAL = ["--samples", "1", "--workers", "1", "--metric", "none", "--order", "0", "--seed", "0"]
#: the smallest run of every command that leaves a run folder, without --model and --out; what it does not leave
COMMANDS: Mapping[str, tuple[list[str], set[str]]] = {
    "patch": ([*PAIR, *QUICK, "--layers", "1"], set()),
    "localize": ([*PAIR, *QUICK, "--method", "exhaustive", "--held-out", "0"], set()),
    "study run": (["study.toml"], set()),
    "edit": ([*PAIR, *QUICK, "--layers", "1"], set()),
    "capture": ([*QUICK, "--prompts", "prompts.txt", "--sites", "blocks.0.joint_attn.k"], {PLOT}),
    "guard run": ([*QUICK, "--layers", "1", "--words", "words.txt", "--prompts", "prompts.txt"], {PLOT}),
    "guard bench": ([*QUICK, "--layers", "1", "--words", "words.txt", "--method", "prompt-swap"], set()),
    "invert run": ([*QUICK, "--prompts", "prompts.txt", "--limit", "2"], set()),
    "invert ablate": (["--device", "cpu", "--prompts", "prompts.txt", "--limit", "3", "--num-steps", "1"], set()),
    "finetune": (["--data", "digits:pictures=1", "--layers", "1", "--limit", "1", "--device", "cpu", *TRAINING], set()),
    "continual run": (
        ["--stream", "stream.toml", "--method", "naive", "--reference", "base", *CONTINUAL, *TRAINING],
        {PLOT},
    ),
}


def printed(*words: object) -> str:
    ended = invoke(*words)
    assert ended.exit_code == 0, (ended.output, ended.exception)
    return ended.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, and the files that commands read."""
    folder = tmp_path_factory.mktemp("place")
    SD3.tiny().save_pretrained(folder / "model")
    (folder / "study.toml").write_text(STUDY)
    (folder / "prompts.txt").write_text('a sign that says "OPEN"\na sign that says "SHUT"\n')
    (folder / "words.txt").write_text("GRUM\n")
    for kind in ("train", "refs"):
        (folder / kind).mkdir()
        for number in range(2):
            Image.new("RGB", (16, 16), (40 * len(kind), 90 * number, 0)).save(folder / kind / f"{number}.png")
    task = ['prompts = ["a {X}"]', "[[tasks]]", 'name = "red"', 'prompt = "a sks"', 'token = "sks"']
    (folder / "stream.toml").write_text("\n".join([*task, 'train = "train"', 'references = "refs"']))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_run_leaves_the_same_files(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    arguments, without = COMMANDS[command]
    run = Path("runs") / command.replace(" ", "-")
    model = [] if command == "study run" else ["--model", "model"]
    answer = json.loads(printed(*command.split(), *arguments, *model, "--out", run, "--format", "json"))
    names = {ANSWER, PAGE, SHEET, PLOT} - without
    there = {path.name for path in run.iterdir()}
    assert {*names, "manifest.json", "checksums.json"} <= there and not without & there
    assert not {path.name for path in run.glob("*.json")} - {ANSWER, "manifest.json", "checksums.json"}
    assert answer == json.loads((run / ANSWER).read_text()) and answer["sentence"] and answer["run"] == str(run)
    assert {key: answer[key] for key in PLACES} == {
        key: str(run / name) if name in names else None for key, name in PLACES.items()
    }
    assert set(json.loads((run / "manifest.json").read_text())) >= EVERY_RUN
    page = (run / PAGE).read_text()
    assert "<h1>" in page and not re.search(r'(src|href)="(?!data:|#)', page)
    before = {name: (run / name).read_bytes() for name in names}
    for name in names - {ANSWER, SHEET}:
        (run / name).unlink()
    assert dict(damaged(run)) == dict.fromkeys(names - {ANSWER, SHEET}, "is missing")
    assert answer["sentence"] == json.loads(printed("report", run, "--format", "json"))["sentence"]
    assert {name: (run / name).read_bytes() for name in names} == before and not list(damaged(run))


def test_the_table_in_the_docs_says_the_same() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in DOCS.read_text().splitlines() if "|" in line]
    table = {
        command: row
        for row in rows
        if len(row) == 6
        for command in re.findall(r"`([a-z ]+)`", row[0])
        if "several" not in row[0]
    }
    assert COMMANDS.keys() <= table.keys()
    for command, (_, without) in COMMANDS.items():
        _, result, page, sheet, plot, _ = table[command]
        assert (result.split(";")[0].split(",")[0], page.split(":")[0].split(",")[0]) == ("yes", "yes")
        assert sheet != "no" and plot.startswith("no") is (without == {PLOT} and command != "continual run")
