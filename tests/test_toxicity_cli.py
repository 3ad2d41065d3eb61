"""``t2iprobe guard``, on the shipped model whose sixth layer writes the text."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from scipy import stats
from shell import invoke
from typer.testing import Result

from t2iprobe.cli.console import Format, answers
from t2iprobe.cli.papers import PAPERS
from t2iprobe.core.cache import ActivationCache
from t2iprobe.core.errors import ConfigError, RunExistsError
from t2iprobe.core.model import Run
from t2iprobe.plugins.metrics.text import DatasetF1, Precision, Recall
from t2iprobe.plugins.toxicity import bench as benching
from t2iprobe.plugins.toxicity import bench_measures, commands, report, session
from t2iprobe.plugins.toxicity.gallery import Chunk, Gallery
from t2iprobe.plugins.toxicity.methods import Case
from t2iprobe.plugins.toxicity.options import GuardBenchOptions
from t2iprobe.registry.manager import Plugins

TOXIC, BENIGN = 'a red framed sign that says "GRUM"', 'a blue plain sign that says "LAKE"'


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("grum\nvork\nzuff\n")
    return path


def guard(*arguments: str, **options: Any) -> Result:
    return invoke("guard", *arguments, **options)


def answer(outcome: Result, code: int = 0) -> dict[str, Any]:
    assert outcome.exit_code == code, outcome.output
    return json.loads(outcome.stdout)


def failure(outcome: Result) -> str:
    assert isinstance(outcome.exception, ConfigError), outcome.output
    return str(outcome.exception)


def test_check_tells_verdicts_without_the_text(words: Path) -> None:
    listed = answer(guard("check", TOXIC, BENIGN, "--words", words, "--format", "json"), 1)["prompts"]
    assert [row["verdict"] for row in listed] == ["rewritten", "pass"]
    assert (
        listed[0]["hits"] == [{"detector": "words", "label": "", "score": 1.0, "span": [29, 33]}]
        and listed[0]["rewriter"] == "mapped"
    )
    assert "GRUM" not in json.dumps(listed)
    outcome = guard("check", "-", "--words", words, input=f"{BENIGN}\n\n{BENIGN}\n")
    assert outcome.exit_code == 0 and outcome.stdout.count("pass") == 2


def test_a_function_is_a_detector_and_a_rewriter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_of_mine.py").write_text(
        "def toxic(text): return [(i, i + 4) for i in [text.find('LAKE')] if i >= 0]\n"
        "def instead(prompt, spans): return prompt.replace('LAKE', 'ROSE')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = (
        "--detector",
        "callback:function=judge_of_mine:toxic",
        "--rewriter",
        "callback:function=judge_of_mine:instead",
    )
    (row,) = answer(guard("check", BENIGN, *options, "--format", "json"), 1)["prompts"]
    assert row["rewrite"] == BENIGN.replace("LAKE", "ROSE")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "nothing to check"),
        (["check", "x", "--detector", "word"], "did you mean words"),
        (["check", "x", "--detector", "callback:function=nothing:here"], "cannot be imported"),
        (["check", "x", "--detector", "callback"], "needs function=package.module:name"),
        (["check", "x", "--detector", "classifier"], "needs a model"),
        (["check", "x", "--detector", "words:builtin=maybe"], "builtin must be true or false"),
        (["check", "x", "--where", "here"], "--where has no choice 'here'"),
        (["check", "x", "--words", "absent.txt"], "cannot read the words"),
        (["run", "--arch", "sd3"], "--prompt TEXT"),
        (["run", "--arch", "sd3", "--prompt", " "], "--prompt has an empty entry"),
        (["run", "--prompt", "x"], "name a model"),
        (["check", "x", "--time-limit", "0"], "--time-limit is more than 0, found 0"),
        (["check", "x", "--time-limit", "nan"], "--time-limit takes a finite number, found nan"),
        (["bench", "--preset", "iclr2025"], "needs --arch"),
        (["bench", "--arch", "sd3", "--plan"], "name the layers"),
        (["bench", "--arch", "flux", "--preset", "iclr2025", "--words", "w.txt"], "there are if, sd3, sdxl"),
    ],
)
def test_bad_options_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in failure(guard(*arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--prompt", "x"], "name the layers"),
        (["run", "--prompt", "x", "--layers", "40"], "the model's text-attention layers are 0-11"),
        (["run", "--prompt", "x", "--layers", "6", "--donor", "inject"], "use the donor row or stream"),
        (["bench", "--layers", "6", "--method", "localised"], "did you mean localized"),
        (["bench", "--layers", "6", "--template", "a sign"], "has no {word}"),
    ],
)
def test_what_the_model_does_not_have_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in failure(guard(*arguments, "--arch", "sd3"))
    assert not list(tmp_path.iterdir())


def test_the_detector_is_measured_without_saying_a_word() -> None:
    outcome = guard("detector", "--words-per-disguise", "2", "--format", "json")
    found = answer(outcome)
    assert found["tried"] > 150 and found["benign"] > 200 and found["recall"][0] > 0.95
    assert found["false_positive_rate"][0] < 0.02 and "leetspeak" in found["by_disguise"]


def test_pictures_of_prompts_are_guarded_logged_and_kept(words: Path, tmp_path: Path) -> None:
    run, prompts = tmp_path / "run", tmp_path / "prompts.txt"
    prompts.write_text(f"{BENIGN}\n{TOXIC}\n")
    options = ["run", "--arch", "sd3", "--layers", "6", "--prompts", prompts, "--words", words, "--num-steps", "2"]
    outcome = guard(*options, "--out", run, "--format", "json")
    found = answer(outcome)
    assert (found["passed"], found["rewritten"], found["refused"], found["donor"]) == (1, 1, 0, "row")
    assert found["denoiser_calls"] == 2 and found["denoiser_rows"] == found["normal_rows"] + 2 * 2
    assert "one additional row for each rewritten prompt, none in a U-Net" in " ".join(outcome.stderr.split())
    assert all((run / row["picture"]).is_file() for row in found["prompts"])
    kept = [path.read_text() for path in run.rglob("*.json*")]
    assert len((run / "audit.jsonl").read_text().splitlines()) == 2 and not any("GRUM" in one for one in kept)
    assert "1 prompt rewritten" in " ".join(outcome.stderr.split())
    assert found["contact_sheet"] == str(run / "contact_sheet.png")
    with Image.open(run / "contact_sheet.png") as opened:
        assert opened.width > 2 * 128 and len(opened.convert("RGB").getcolors(1 << 20) or ()) > 50
    again = guard(*options, "--out", run, "--format", "json")
    assert answer(again) == found and "already" in again.stderr
    page = (run / "report.html").read_text()
    assert found["sentence"] in page and BENIGN.split('"')[1] in page and "GRUM" not in page
    (run / "report.html").unlink()
    assert invoke("report", run).exit_code == 0
    assert (run / "report.html").read_text() == page and json.loads((run / "result.json").read_text()) == found
    assert f"Contact sheet: {run / 'contact_sheet.png'}" in guard(*options, "--out", run).stdout
    state = invoke("study", "status", run).stdout
    assert "kind  guard run" in state and "1 as they are, 1 rewritten, 0 refused" in state
    other = failure(guard(*options, "--seed", "5", "--out", run))
    assert "other settings (--seed 0 there, 5 now)" in other
    words.write_text(words.read_text() + "another\n")
    assert "(--detector words with a file, which has changed)" in failure(guard(*options, "--out", run))
    prompts.write_text(f"{TOXIC}\n{BENIGN}\n")
    assert "the same 2 prompts in another order" in failure(guard(*options, "--out", run))


def test_a_refused_prompt_has_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_judge.py").write_text("def toxic(text): return None if 'GRUM' in text else False\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    options = ("--detector", "callback:function=no_judge:toxic", "--layers", "6", "--num-steps", "2", "--arch", "sd3")
    outcome = guard("run", "--prompt", TOXIC, "--prompt", BENIGN, *options, "--out", run, "--format", "json")
    found = answer(outcome, 1)
    assert [row["picture"] is not None for row in found["prompts"]] == [False, True]
    assert found["prompts"][0]["reason"] == "the detector callback failed (TypeError)"
    assert [path.name for path in (run / "images").rglob("*.png")] == ["0001.png"]
    log = [json.loads(line) for line in (run / "audit.jsonl").read_text().splitlines()]
    assert sorted((line["verdict"], line["row"]) for line in log) == [("pass", 1), ("refused", 0)]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "parameters"), [("sdxl", 15_728_640), ("sd3", 4_721_664), ("if", 8_925_312)])
def test_the_papers_settings_plan_on_the_published_configuration(arch: str, parameters: int, words: Path) -> None:
    plan = answer(
        guard("bench", "--arch", arch, "--preset", "iclr2025", "--words", words, "--plan", "--format", "json")
    )
    paper = PAPERS["iclr2025"][arch]
    assert plan["parameters"] == parameters and tuple(plan["layers"]) == paper.layers
    assert plan["pictures_a_method"] == 3 * 4 and plan["start"] == {"sdxl": 4, "sd3": 0, "if": 2}[arch]
    assert plan["donor"] == ("row" if arch == "sd3" else "inject")
    assert plan["generation"]["num_steps"] == paper.num_steps


FOUND = {"layers": [2], "ranking": [0.0, 0.1, 1.0], "sentence": "Layer 2.", "response": None, "details": {}}


def test_a_plan_takes_its_layers_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": {"adapter": "sd3"}, "finding": FOUND}))
    options = ("bench", "--plan", "--from", tmp_path, "--format", "json", "--arch")
    assert answer(guard(*options, "sd3"))["layers"] == [2]
    assert "about a model of architecture sd3, this one is sdxl" in failure(guard(*options, "sdxl"))


def test_options_go_before_the_papers() -> None:
    embedded = benching.job_of(GuardBenchOptions(arch="sd3"), Plugins())
    assert len(embedded.words) >= 16 and all(len(word) == 4 for word in embedded.words)
    assert embedded.concept == embedded.options.negative == 'a sign that says "{word}"'
    real = benching.job_of(GuardBenchOptions(model="x/y", sld_concept="i2p"), Plugins())
    assert real.options.negative == 'text "{word}"' and real.concept.startswith("an image showing hate")
    assert real.words and set(real.words).isdisjoint(embedded.words)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"command": "guard bench"}, {}, "has a run of `t2iprobe guard bench`, not one of `t2iprobe guard run`"),
        ({"command": ""}, {}, "has a run of another kind"),
        (
            {"words": ["aa", "bb"]},
            {"words": ["aa", "cc"], "list": ["dd"]},
            "settings (1 of 2 words differs; 0 word-list lines there, 1 now);",
        ),
        ({"list": ["aa"]}, {"list": ["bb"]}, "(1 of 1 word-list line differs)"),
        ({"judge": []}, {"judge": ["classifier:model=x"]}, "(--judge not given there, classifier:model=x now)"),
        ({"layers": "6"}, {"from_run": "a"}, "(--layers 6 there, not given now; --from not given there, a now)"),
        (
            {"resolution": 8, "start_step": 0},
            {"num_steps": 2, "start_step": 1, "seed": 1, "dtype": "float16"},
            "(--resolution 8 there, not given now; --start-step 0 there, 1 now; --num-steps not given there, 2 now; "
            "2 more)",
        ),
    ],
)
def test_a_conflict_is_told_in_words(old: Any, new: Any, message: str, tmp_path: Path) -> None:
    before = {"command": "guard run", **old} if "command" in old else {"command": "guard run", "options": old}
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": before}))
    with pytest.raises(RunExistsError) as caught:
        session.check(tmp_path, {"command": "guard run", "options": new})
    assert message in str(caught.value)


def test_digests_of_texts_say_nothing_without_the_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Equal texts have equal ones in any process of the user, and nobody else can try words on them."""
    (one,), again = session.digests(["GRUM"]), session.digests(["BLEX", "GRUM"])
    assert again[1] == one != again[0]
    assert one != hashlib.blake2b(b"GRUM", digest_size=8).hexdigest()
    assert stat.S_IMODE(session.key_file().stat().st_mode) == 0o600
    here = {"command": "guard run", "options": {"key": session.key_name(), "prompts": [one]}}
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": here}))
    session.check(tmp_path, here)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert session.digests(["GRUM"]) != [one]
    with pytest.raises(RunExistsError, match="recorded with the secret of another user or machine"):
        session.check(tmp_path, {**here, "options": {"key": session.key_name(), "prompts": session.digests(["GRUM"])}})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set XDG_STATE_HOME"):
        session.digests(["GRUM"])


def test_a_sheet_has_a_row_a_prompt_and_a_column_a_method(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    found, missed = (Case("a GRUM", "GRUM", "a " + word, word, 0) for word in ("RAIN", "GRUM"))
    for name, rows, colour in (("unguarded", (0, 1), "red"), ("localized-stream", (0,), "blue")):
        picture = Image.new("RGB", (48, 48), colour)
        gallery.add(name, rows, Run([picture] * len(rows), ActivationCache(0), 1, 1, 0.1))
    drawn = report.sheet(["unguarded", "localized-stream"], [found, missed], gallery, words=False)
    colours = {colour: count for count, colour in drawn.getcolors(1 << 20) or ()}
    assert colours[255, 0, 0] == colours[0, 0, 255] == 96 * 96  # the one that is guarded, in whole pixels


def row_of(method: str) -> dict[str, Any]:
    """A row of the table, as measured."""
    scores = {name: [0.5, 0.2, 0.8] for name, _, _ in report.COLUMNS}
    costs = {"denoiser_rows_an_image": 8.0, "denoiser_calls_a_batch": 1.0, "seconds_an_image": 0.1}
    return {"method": method, **scores, **costs, "toxicity_published": None}


def test_the_table_of_methods_is_readable_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"contact_sheet": "runs/x/contact_sheet.png", "report": "runs/x/report.html"}
    given = {"model": "tiny", "methods": [row_of("localized-stream"), row_of("unguarded")], "sentence": "So."} | files
    monkeypatch.setattr(answers, "width", 80)
    with answers.capture() as shown:
        commands._print_bench(given, Format.table)
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80 and sum("localized-stream" in row for row in lines) == 2
    assert {"outside", "published", "benign"} <= set(shown.get().split()) and "0.500 [0.200, 0.800]" in shown.get()
    assert files["contact_sheet"] in lines[-1]


def test_percent_and_plurals_in_the_sentence() -> None:
    case = Case("a", "b", "c", "d", 0)
    count = "(1 picture of 1 word, 95 % intervals over words)"
    alone = report.sentence([row_of("unguarded")], [case])
    assert alone == f"Without a guard 50 % [20 %, 80 %] of the pictures show toxic text {count}."
    both = report.sentence([row_of("unguarded"), row_of("localized") | {"denoiser_rows_an_image": 16.0}], [case])
    assert f"no additional denoiser call, 100 % more denoiser rows {count}" in both


def test_pictures_of_a_word_count_once() -> None:
    """Six words from four seeds each, of which two words are always written: binomial of 6, not of 24."""
    white = Image.new("RGB", (8, 8), "white")

    class Pictures:
        chunks: ClassVar[list[Any]] = []

        def image(self, method: str, row: int) -> Image.Image:
            return white

    class Listed:
        def find(self, text: str) -> list[str]:
            return [text]

    cases = [Case("a sign", f"word{row // 4}", "a sign", "calm", row) for row in range(24)]
    f1 = DatasetF1()
    tools: Any = bench_measures.PictureMeasures(
        lambda pictures: ["seen" if case.word < "word2" else "" for case in cases],
        {"ocr_precision": Precision(), "ocr_recall": Recall()}, {}, f1, [Listed()],  # type: ignore[list-item]
    )  # fmt: skip
    row = bench_measures.measure(["unguarded"], cases, Pictures(), tools)[0]  # type: ignore[arg-type]
    expected = stats.binomtest(2, 6).proportion_ci(method="exact")
    assert row["toxicity"] == pytest.approx([1 / 3, expected.low, expected.high], abs=0.01)


def test_only_images_that_do_not_exist_and_change_are_still_to_be_drawn(tmp_path: Path) -> None:
    """The bar and the record of a resumed run go to what is left."""
    gallery = Gallery(tmp_path)
    gallery.chunks += [Chunk("unguarded", [0, 1], 1, 1, 1.0), Chunk("localized", [0], 1, 1, 1.0)]
    cases = [Case("a GRUM", "GRUM", rewrite, "RAIN", 0) for rewrite in ("a RAIN", "a GRUM", "a RAIN")]
    left = bench_measures.missing(["unguarded", "localized"], cases, gallery)
    assert left == {"unguarded": [2], "localized": [2]}


@pytest.mark.slow
def test_the_guard_against_its_baselines(words: Path, tmp_path: Path) -> None:
    """The word goes and the picture stays; the rewrite as prompt changes the picture more; a second call shows it."""
    run = tmp_path / "run"
    options = ["bench", "--arch", "sd3", "--layers", "6", "--words", words, "--out", run, "--format", "json"]
    options += ["--num-steps", "8"]
    chosen = ["--method", "localized,localized-stream,prompt-swap"]
    outcome = guard(*options, *chosen)
    found = answer(outcome)
    table = {row["method"]: row for row in found["methods"]}
    assert found["detected"] == found["cases"] == 3
    assert table["unguarded"]["toxicity"][0] == pytest.approx(1, abs=0.02)
    assert table["unguarded"]["ocr_f1_toxic"][0] == pytest.approx(1, abs=0.02)
    assert table["localized"]["toxicity"][0] == 0 and table["localized"]["ocr_f1_benign"][0] > 0.95
    assert table["localized"]["denoiser_rows_an_image"] == 2 * table["unguarded"]["denoiser_rows_an_image"]
    assert table["localized-stream"]["denoiser_rows_an_image"] == table["unguarded"]["denoiser_rows_an_image"]
    assert len({row["denoiser_calls_a_batch"] for row in found["methods"]}) == 1
    assert found["contact_sheet"] == str(run / "contact_sheet.png") and found["report"] == str(run / "report.html")
    assert "3 words there, 2 now" in failure(guard(*options, *chosen, "--limit", "2"))
    assert "GRUM" not in (run / "result.json").read_text() + (run / "manifest.json").read_text()
    assert (run / "contact_sheet.png").is_file() and "SSIM" in (run / "report.html").read_text()
    assert "--method localized,localized-stream,prompt-swap" in (run / "report.html").read_text()
    assert answer(guard(*options, *chosen)) == found == json.loads((run / "result.json").read_text())
    with Image.open(run / "plot.png") as plot:
        assert plot.width > 1000
