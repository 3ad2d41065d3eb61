"""``t2iprobe localize`` and ``t2iprobe report``, on the shipped model whose answer is known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import t2iprobe
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.cli.app import build
from t2iprobe.cli.papers import PAPERS
from t2iprobe.cli.studies import Ready
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.study.planning import planned_study
from t2iprobe.core.sweep import Cost
from t2iprobe.plugins.localization import planning
from t2iprobe.plugins.localization.options import HELD_OUT, LocalizeOptions, question
from t2iprobe.registry.manager import Plugins


def asked(**changes: Any) -> LocalizeOptions:
    return LocalizeOptions(**{"arch": "sd3"} | changes)


def test_the_options_are_a_question() -> None:
    full = question(asked(method="steps", set={"layers": 6, "places": "4"}, resolution=32, seed=5), Plugins())
    assert (full.model, full.limit, full.held_out) == (
        "tiny-sd3",
        LocalizeOptions.pairs_by_default,
        HELD_OUT,
    )
    assert full.set == {"layers": 6, "places": "4"}
    assert (full.sampling["height"], full.sampling["width"], full.seed) == (32, 32, 5)


def test_a_preset_is_the_papers_and_gives_way_to_options() -> None:
    from_paper = asked(arch="sdxl", preset="iclr2025", glyphcontrol=Path("prompts"))
    full = question(from_paper, Plugins())
    assert full.model == "stabilityai/stable-diffusion-xl-base-1.0" and full.dtype == "float16"
    assert (full.num_steps, full.guidance, full.resolution) == (50, 5.0, 1024)
    assert full.prompt_set == "glyphcontrol:prompts,split=val,noise=shared" and full.limit == 200
    assert full.set == {"part": "text"}  # injection, which adaptive takes as a setting
    for arch, method, settings in (
        ("sd3", "exhaustive", {}),
        ("if", "exhaustive", {"part": "text"}),
        ("if", "steps", {}),
    ):
        other = question(asked(arch=arch, method=method, preset="iclr2025", glyphcontrol=Path("p")), Plugins())
        assert other.set == settings
    mine = question(asked(arch="sdxl", preset="iclr2025", glyphcontrol=Path("p"), num_steps=7), Plugins())
    assert mine.num_steps == 7


def test_a_further_metric_stands_behind_those_that_rank() -> None:
    full = question(asked(metric=["clip_t_template"]), Plugins())
    concepts = Plugins().concepts()
    assert full.metrics(concepts) == ["ocr_f1", "ocr_exact", "ocr_distance_normalised", "clip_t_template"]
    assert question(asked(), Plugins()).metrics(concepts) is None
    ranked = question(asked(metric="ssim", rank="ocr_distance"), Plugins())
    assert ranked.metrics(concepts) == ["ocr_distance", "ssim"]


LAYERS = {"sd3": 24, "if": 22, "sdxl": 70}
#: one more picture a pair where it found three layers: they together
PICTURES = {"sd3": 200 * 26, "if": 200 * 24, "sdxl": 200 * 72 + 200}
#: of eight rows at once: source, target and 6 layers, then 7 layers at a time and the target again; a U-Net's text keys
#: and values follow from the target's prompt
REPEATED = {"sd3": 200 * 3, "if": 0, "sdxl": 0}


@pytest.mark.parametrize("arch", PICTURES)
def test_the_papers_sweep_is_counted_without_weights(arch: str) -> None:
    paper = PAPERS["iclr2025"][arch]
    asks = ["localize", "--arch", arch, "--preset", "iclr2025", "--method", "exhaustive", "--plan", "--format", "json"]
    outcome = CliRunner().invoke(build(), asks)
    assert outcome.exit_code == 0, outcome.output
    plan = json.loads(outcome.stdout)
    assert (plan["model"], plan["layers"], plan["pictures"]) == (paper.model, LAYERS[arch], PICTURES[arch])
    assert plan["denoiser_rows"] == (plan["pictures"] + REPEATED[arch]) * paper.num_steps * 2
    assert plan["disk_bytes"] == plan["pictures"] * 3 * (256 if arch == "if" else 1024) ** 2
    assert tuple(one["layer"] for one in plan["expected"]) == paper.layers
    assert f"{plan['pictures']:,} pictures" in plan["sentence"] and bool(plan["inferred"]) == (arch == "if")


def plan(method: str = "adaptive", **changes: Any) -> dict[str, Any]:
    return planning.cost_plan(asked(method=method, plan=True, **changes), Plugins())


@pytest.mark.parametrize("method", ["adaptive", "attribution", "contribution"])
def test_a_search_is_rehearsed_for_its_cost(method: str) -> None:
    """It is a part of the sweep's; gradients and attention take rows beyond those of the patched pictures."""
    found = plan(method, preset="iclr2025")
    assert 0 < found["pictures"] < PICTURES["sd3"]
    read = found["denoiser_rows"] - 2 * 28 * found["pictures"]
    # of four pairs, two pictures each: 28 calls of 12 rows, or one call of 4, in place of 28 calls of 4
    donors = 2 * 28 * 19 if method == "adaptive" else 0
    assert read == donors + {"adaptive": 0, "attribution": 4 * 28 * 8, "contribution": 4 * (4 - 4 * 28)}[method]


def test_a_plan_of_other_settings() -> None:
    own = {"num_steps": 10, "guidance": 1.0, "resolution": 512, "limit": 8, "held_out": 3, "prompt_set": "creative"}
    found = plan("exhaustive", **own)
    assert (found["pairs"], found["held_out"]) == (8, 3) and found["pictures"] == 5 * 26 + 3 * 3
    assert found["denoiser_rows"] == 10 * (found["pictures"] + 5 * 3)  # no guidance, no second branch; see REPEATED
    assert plan("exhaustive", **own, budget=600)["denoiser_rows"] <= 600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": None, "model": "any"}, "give arch"),
        ({}, "num_steps, guidance and resolution"),
        ({"preset": "iclr2025", "method": "tokens"}, "give positions"),
        ({"preset": "iclr2025", "held_out": 200}, "leaves none to search on"),
    ],
)
def test_what_cannot_be_planned_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("commands", "light"),
    [
        (["localize --concept colr", "localize --reader rapid", "patch --concept colr"], "torch"),
        (["localize --method adaptve", "localize --set foo=1", "patch --branch con"], "diffusers"),
    ],
)
def test_a_wrong_name_is_said_before_the_libraries_are_imported(commands: list[str], light: str) -> None:
    code = (
        "import sys; from t2iprobe.cli import main\n"
        "for command in sys.argv[2:]:\n"
        "  sys.argv = ['t2iprobe', *command.split(), '--arch', 'sd3']\n"
        "  try: main()\n"
        "  except SystemExit as ended: print(ended.code, LIGHT in sys.modules)"
    ).replace("LIGHT", repr(light))
    ran = subprocess.run([sys.executable, "-c", code, "", *commands], check=False, capture_output=True, text=True)
    assert ran.stdout.split() == ["2", "False"] * len(commands), ran.stderr


def test_the_plan_of_a_search_is_of_all_its_questions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The first ones were told, a sixth of them."""
    model = Model(SD3.tiny(), SD3(), ref="tiny")
    monkeypatch.setattr("t2iprobe.registry.manager.Plugins.load", lambda *_, **__: model)
    given = {"num_steps": 2, "guidance": 1.0, "limit": 6, "held_out": 2, "prompt_set": "signs", "model": "tiny"}
    full = question(asked(**given), Plugins())
    study = planned_study(full, Plugins())
    ready = Ready(study.recipe(), study, tmp_path)
    planning.announce(ready, 4, Cost(8, 16, 2))
    said = " ".join(capsys.readouterr().err.split())
    counts = [int(one) for one in re.findall(r"(\d+) pictures \(\d+ rows", said)]
    assert len(counts) == 2 and 8 < counts[0] <= counts[1] and "to begin with" not in said
    assert "adaptive on tiny, 6 pairs: in all" in said and planning.rehearses(study.localizer)
    assert not planning.rehearses(Plugins().localizer("exhaustive"))


def test_a_plan_of_a_checkpoint_is_of_its_own_configuration(tmp_path: Path) -> None:
    """Without weights, and with where they would be."""
    SD3.tiny().save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    given = {"num_steps": 2, "guidance": 2.0, "resolution": 32, "limit": 4, "prompt_set": "simple", "arch": None}
    found = plan("exhaustive", model=str(tmp_path), **given)
    assert (found["arch"], found["layers"], found["inferred"]) == ("sd3", SD3.tiny().transformer.config.num_layers, "")
    assert "its configuration" in found["sentence"] and "here: float32, everything on cpu; " in found["sentence"]
    with pytest.raises(ConfigError, match="whose architecture is sd3, not sdxl"):
        plan("exhaustive", model=str(tmp_path), **given | {"arch": "sdxl"})


def test_few_pairs_keep_a_third_to_confirm_on(tmp_path: Path) -> None:
    assert question(asked(limit=9), Plugins()).held_out == 3
    assert question(asked(limit=8), Plugins()).held_out == 0
    assert question(asked(limit=60), Plugins()).held_out == HELD_OUT
    mine = tmp_path / "mine.csv"
    mine.write_text("source,target\n" + '"a ""A""","a ""B"""\n' * 5)
    full = question(asked(pairs=mine), Plugins())
    assert (full.limit, full.held_out) == (5, 0)
    with pytest.raises(ConfigError, match="holds 5 pairs, fewer than the 9 requested"):
        question(asked(pairs=mine, limit=9), Plugins())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": ["layers"]}, "NAME=VALUE"),
        ({"prompt_set": "signs", "pairs": Path("x.csv")}, "one way"),
        ({"pairs": Path("3")}, "is a CSV file; for 3 pairs use"),
        ({"preset": "iclr2025"}, "needs arch .* and glyphcontrol"),
        ({"preset": "iclr2024", "glyphcontrol": Path("x")}, "iclr2025"),
        ({"glyphcontrol": Path("x")}, "goes with preset"),
    ],
)
def test_bad_options_are_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        question(asked(**changes), Plugins())


def test_the_methods_are_listed() -> None:
    outcome = CliRunner().invoke(build(), ["localize", "--method", "list", "--format", "json"])
    methods = json.loads(outcome.stdout)["methods"]
    assert {"exhaustive", "adaptive", "attribution", "heads", "random"} <= set(methods) and all(methods.values())


@pytest.mark.slow
def test_the_planted_layer_is_found_kept_and_reported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = "localize --arch sd3 --concept colour --limit 5 --num-steps 6 --held-out 2"
    arguments = asked.split()
    outcome = CliRunner().invoke(build(), [*arguments, "--out", str(run), "--format", "json"])
    assert outcome.exit_code == 0, outcome.output
    answer = json.loads(outcome.stdout)
    assert answer["layers"] == answer["planted"] == [3] and answer["response"][0] > 0.9 and answer["response"][1] > 0.1
    page = (run / "report.html").read_text()
    assert answer["sentence"][:20] in page and page.count("data:image/png") > 10
    ran = f"t2iprobe {asked} --out "
    assert f"<code>{ran}" in page and "study resume" not in page
    manifest = json.loads((run / "manifest.json").read_text())
    assert " ".join(manifest["arguments"]["command"]).startswith(ran)
    again = CliRunner().invoke(build(), [*arguments, "--out", str(run), "--format", "json"])
    assert "already" in again.stderr
    assert json.loads(again.stdout) == answer
    made = ("report.html", "result.json", "contact_sheet.png", "plot.png")
    before = {name: (run / name).read_bytes() for name in made}
    for name in made:
        (run / name).unlink()
    rebuilt = CliRunner().invoke(build(), ["report", str(run), "--format", "json"])
    assert rebuilt.exit_code == 0 and {name: (run / name).read_bytes() for name in made} == before
    assert t2iprobe.Result.open(run).report(tmp_path / "mine.html").read_text() == page
