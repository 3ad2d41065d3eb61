"""``t2iprobe invert``, command by command, on a random tiny model in a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import shell
from PIL import Image
from typer.testing import Result

from t2iprobe.cli.console import answers
from t2iprobe.core.errors import ModelError
from t2iprobe.plugins.inversion import plan, session
from t2iprobe.plugins.inversion.presets import PRESETS, applied
from t2iprobe.plugins.metrics.readers import RapidOCRReader
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.no_bars import no_bars

INVERTERS = Plugins(installed=False).inverters()
pytestmark = pytest.mark.usefixtures("blank_figures")  # test_invert_study.py looks at them


def invoke(*arguments: Any) -> Result:
    return shell.invoke("invert", *arguments)


def answered(*arguments: Any) -> dict[str, Any]:
    outcome = invoke(*arguments, "--format", "json")
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    with no_bars():
        Plugins(installed=False).adapters()["sd3"].tiny().save_pretrained(folder)
    (folder / "prompts.txt").write_text("# two\na cat\na dog\n")
    return folder


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    common = ["--model", model, "--prompts", model / "prompts.txt", "--limit", 8, "--num-steps", 3, "--device", "cpu"]
    found = answered("run", *common, "--method", "euler", "--method", "forward:steps=1", "--out", path)
    assert found["rows"] == 8 and [one["method"] for one in found["methods"]] == ["euler", "forward:steps=1"]
    assert found["spent"]["denoiser_rows"] == 8 * (3 + 3 + 3 + 2 + 3) and found["spent"]["seconds"] > 0
    assert found["methods"][0]["nfe_invert"] == 3 and found["examined"]["euler"]["error"] < 1e-5
    again = invoke("run", *common, "--method", "euler", "--method", "forward:steps=1", "--out", path)
    assert again.exit_code == 0 and "plan:" not in again.stderr  # found finished
    assert json.loads((path / "result.json").read_text()) == found and (path / "contact_sheet.png").is_file()
    return path


def test_analyze_leaves_tables_plots_and_a_report(run: Path) -> None:
    found = answered("analyze", run)
    assert found["sentence"] == sentence(run) and found["analysis"]["rows"] == 8
    assert json.loads((run / "result.json").read_text()) == found
    page = (run / "report.html").read_text()
    assert page.count("data:image/webp") >= 8 and "true noise" in page and "over the floor" in page
    assert {"correlation.png", "geometry.png", "pictures-0.png"} <= {file.name for file in (run / "figures").iterdir()}
    table = invoke("analyze", run, "--limit", 5)
    assert table.exit_code == 0 and "over the floor" in table.stdout


def sentence(run: Path) -> str:
    from t2iprobe.plugins.inversion.report import sentence as told

    return told(json.loads((run / "result.json").read_text())["analysis"])


def test_interpolate_and_edit_go_on_from_a_run(run: Path) -> None:
    between = answered("interpolate", run, "--limit", 2, "--points", 3, "--method", "euler", "--device", "cpu")
    assert between["interpolation"]["methods"] == ["euler"] and between["interpolation"]["pairs"] == 2
    edited = answered("edit", run, "--swap", "--limit", 3, "--variations", 0, "--device", "cpu")
    assert [row["what"] for row in edited["edit"]["rows"]] == ["true noise", "euler", "forward:steps=1", "other noise"]
    page = (run / "report.html").read_text()
    assert "Interpolation" in page and "Edits" in page and "Correlation and normality" in page
    assert {"analysis", "interpolation", "edit"} <= edited.keys()


def test_ablate(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ablation"
    common = ["--model", model, "--prompts", model / "prompts.txt", "--limit", 4, "--device", "cpu", "--out", path]
    found = answered("ablate", *common, "--k", "0,1", "--num-steps", "2,3")["ablation"]
    methods = {(row["num_steps"], row["method"]) for row in found["rows"]}
    assert methods == {(t, name) for t in (2, 3) for name in ("true noise", "euler", "forward:steps=1")}
    assert (path / "figures" / "k.png").is_file() and "Settings" in (path / "report.html").read_text()
    assert answered("ablate", *common, "--k", "0,1", "--num-steps", "2,3")["ablation"] == found
    runs = [json.loads(file.read_text()) for file in path.glob("*/manifest.json")]
    plan = answered("ablate", *common, "--k", "0,1", "--num-steps", "2,3", "--plan")
    assert plan["denoiser_rows"] == sum(run["spent"]["denoiser_rows"] for run in runs) and plan["rows"] == 8
    assert [part["part"] for part in plan["parts"]] == ["T2-w1", "T3-w1"] and plan["hours"] is not None
    monkeypatch.setattr(answers, "width", 80)
    shown = invoke("ablate", *common, "--k", "0,1", "--num-steps", "2,3").stdout.splitlines()
    assert {"autocorrelation", "correlation", "elsewhere", "|reconstruction", "image|"} <= set(" ".join(shown).split())
    assert max(map(len, shown[:-1])) <= 80 and "…" not in " ".join(shown)
    assert sum(line.split()[:2] == ["forward:steps=1", "3"] for line in shown) > 1  # in every part of the table


@pytest.mark.slow
def test_a_study_tells_its_total_before_its_parts(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the parts add up to it."""
    # the pictures are of a random model: there is nothing to read, and reading would take half of the time
    monkeypatch.setattr(RapidOCRReader, "read", lambda self, images: [""] * len(images))
    run, loads = tmp_path / "run", Mock(wraps=session.loaded)
    monkeypatch.setattr(session, "loaded", loads)
    given = ["--model", model, "--limit", 16, "--num-steps", 3, "--device", "cpu"]
    outcome = invoke("study", *given, "--out", run)
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    counts = re.findall(r"plan.*?([\d,]+) denoiser rows", " ".join(outcome.stderr.split()))
    total, *parts = (int(count.replace(",", "")) for count in counts)
    assert "plan of all parts: " in outcome.stderr and len(parts) == 5 and total == sum(parts)
    assert loads.call_count == 1
    plan = answered("study", *given, "--plan")
    assert plan["denoiser_rows"] == total == sum(part["denoiser_rows"] for part in plan["parts"])
    assert [part["part"] for part in plan["parts"][:3]] == ["inversion", "interpolation", "edits"]


def test_list_says_what_each_inverter_supports() -> None:
    found = {one["name"]: one for one in answered("list")["inverters"]}
    assert set(found) == set(INVERTERS)
    assert found["rf-solver"]["predictions"] == ["flow"] and found["rf-solver"]["calls_a_step"] == 2
    assert found["forward"]["settings"] == {"steps": 2, "level": "correct"} and found["forward"]["needs"] == ["noise"]
    flow = answered("list", "--prediction", "flow")["inverters"]
    assert {one["name"] for one in flow} == {name for name, kind in INVERTERS.items() if "flow" in kind.predictions}
    assert "did you mean epsilon" in str(invoke("list", "--prediction", "epsilom").exception)


def test_presets_are_the_papers_and_give_way_to_options() -> None:
    from t2iprobe.plugins.inversion.options import InvertOptions

    plain = applied(InvertOptions(preset="sdxl"))
    assert plain.model == "stabilityai/stable-diffusion-xl-base-1.0" and plain.dtype == "float16"
    assert (plain.num_steps, plain.limit, plain.distinct, plain.reencode) == (50, 2048, 512, True)
    own = {"model": "mine", "dtype": "float32", "num_steps": 7, "method": "belm"}
    mine = applied(InvertOptions(preset="sdxl", **own))
    assert (mine.model, mine.dtype, mine.num_steps, mine.method) == ("mine", "float32", 7, ("belm",))
    assert {row["preset"] for row in answered("run", "--preset", "list")["presets"]} == set(PRESETS)


@pytest.mark.filterwarnings("ignore:ddim misses the noise:UserWarning")  # ADM's source-time, which says so
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_planned_and_built_without_weights(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The published denoiser takes what the plan counts; the levels are those of its scheduler."""
    monkeypatch.chdir(tmp_path)
    found = answered("run", "--plan", "--preset", name)
    preset, plugins = PRESETS[name], Plugins(installed=False)
    flow = "shift" in preset.levels
    assert (found["rows"], found["num_steps"]) == (preset.limit, preset.num_steps) and found["hours"] is None
    up = sum(one["calls_up"] + one["calls_down"] for one in found["methods"]) + preset.num_steps
    assert found["denoiser_rows"] == up * preset.limit
    assert [one["method"] for one in found["methods"]] == list(preset.method)
    config: Any = plan.family_named(preset.family, plugins).full_size().config
    assert preset.shape[0] == (config.in_channels // 4 if name == "flux" else config.in_channels)
    assert name == "flux" or preset.shape[1:] == (config.sample_size,) * 2
    assert found["prediction"] == ("flow" if flow else "epsilon") and not list(tmp_path.iterdir())
    wrong = "ddim" if flow else "euler"
    refused = invoke("run", "--plan", "--preset", name, "--method", wrong).exception
    assert f"the inverter {wrong} supports models that predict " in str(refused)


def test_a_preset_without_its_weights_says_what_can_be_had(monkeypatch: Any) -> None:
    def absent(*arguments: Any, **settings: Any) -> None:
        raise ModelError("far/away cannot be loaded")

    monkeypatch.setattr(Plugins, "load_pipeline", absent)
    error = invoke("run", "--preset", "dit").exception
    assert getattr(
        error, "exit_code", None
    ) == 2 and "`t2iprobe invert run --preset dit --plan` needs no weights" in str(error)
    assert "plan" not in str(invoke("run", "--model", "far/away").exception)


def test_the_plan_of_a_model_is_what_its_run_says(model: Path, run: Path) -> None:
    common = ["--model", model, "--limit", 8, "--num-steps", 3, "--device", "cpu"]
    found = answered("run", "--plan", *common, "--method", "euler", "--method", "forward:steps=1")
    spent = json.loads((run / "manifest.json").read_text())["spent"]
    assert found["denoiser_rows"] == spent["denoiser_rows"] and found["hours"] is not None
    assert found["methods"][1] == {"method": "forward:steps=1", "calls_up": 2, "calls_down": 3}
    table = invoke("run", "--plan", *common)
    assert table.exit_code == 0 and "denoiser rows  72" in table.stdout
    assert "leave --resolution out" in str(invoke("run", "--plan", "--preset", "ldm", "--resolution", 64).exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--method", "eulr"], "did you mean euler"),
        (["run", "--method", "ddim"], "this one predicts flow; use belm, edict, euler"),
        (["run", "--method", "oracle:steps=9"], None),
        (["run", "--preset", "sdx"], "did you mean sdxl"),
        (["run", "--prompts", "PROMPTS", "--prompt-set", "simple"], "one way"),
        (["run", "--images", "absent", "--limit", "3"], "--limit goes with"),
        (["run", "--images", "absent"], "is not a folder"),
        (["run", "--images", "SMALL"], "has 8 x 16 pixels, the model makes 16 x 16; add --fit"),
        (["run", "--images", "GREY"], "is of mode L, the model takes RGB; convert it, or add --fit"),
        (["run", "--method", "forward:steps=3"], "forward cannot replace 3 steps"),
        (["training", "--checkpoints", "absent"], "is not a folder of checkpoints; `t2iprobe organisms train NAME"),
        (["training", "--checkpoints", "GREY"], "has 0 checkpoints, named by their step; at least 2"),
        (["ablate", "--k", "a"], "--k takes a whole number, found a"),
        (["ablate", "--k", "1", "--equal-calls", "9"], "name methods"),
    ],
)
def test_bad_options_are_one_sentence(arguments: list[str], message: str | None, model: Path, tmp_path: Path) -> None:
    for name, mode, size in (("SMALL", "RGB", (8, 16)), ("GREY", "L", (16, 16))):
        (tmp_path / name).mkdir()
        Image.new(mode, size).save(tmp_path / name / "one.png")
    known = {"PROMPTS": model / "prompts.txt", "SMALL": tmp_path / "SMALL", "GREY": tmp_path / "GREY"}
    given = [str(known.get(one, one)) for one in arguments]
    place = (
        ["--model", model, "--limit", 2] if "--limit" not in given and "--images" not in given else ["--model", model]
    )
    place = ["--limit", 4] if "training" in given else place
    steps = ["--num-steps", 2, "--device", "cpu", "--out", tmp_path / "run"]
    outcome = invoke(*given, *place, *steps)
    if message is None:
        assert outcome.exit_code == 0  # an oracle of more steps than there are knows all of them
        return
    assert outcome.exception is not None and message in str(outcome.exception)
    assert getattr(outcome.exception, "exit_code", None) == 2 and not (tmp_path / "run").exists()


def test_guidance_warns(model: Path, tmp_path: Path) -> None:
    outcome = invoke(
        "run", "--model", model, "--prompts", model / "prompts.txt", "--limit", 1, "--num-steps", 1, "--guidance", 3,
        "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert outcome.exit_code == 0 and "guidance 3 adds an error of its own" in outcome.stderr


def test_what_takes_long_or_much_wants_yes(model: Path, tmp_path: Path) -> None:
    outcome = invoke(
        "run", "--model", model, "--prompts", model / "prompts.txt", "--limit", 100, "--num-steps", 2,
        "--device", "cpu", "--max-bytes", "1kB", "--out", tmp_path / "run",
    )  # fmt: skip
    assert "add --yes" in str(outcome.exception) and not (tmp_path / "run").exists()


def test_another_run_in_the_folder_is_left_alone(run: Path, model: Path) -> None:
    before = (run / "manifest.json").read_text()
    outcome = invoke("run", "--model", model, "--limit", 3, "--num-steps", 2, "--prompt-set", "signs", "--out", run)
    assert "other settings" in str(outcome.exception) and (run / "manifest.json").read_text() == before


def test_a_run_is_listed_and_never_mistaken_for_a_study(run: Path) -> None:
    listed = shell.invoke("study", "ls", run.parent, "--format", "json")
    assert json.loads(listed.stdout)["studies"][0]["state"] == "finished"
