"""The command line: the main job on a shipped model, what it leaves behind, and one clear sentence for bad input."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.cli import main
from t2iprobe.cli.completion import KINDS, METHODS, bundled, embedded_layers
from t2iprobe.cli.models import published_ref, reference
from t2iprobe.core.contracts.adapter import layer_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.load_options import Embedded
from t2iprobe.core.planted import CARD
from t2iprobe.core.runs.runfolder import MANIFEST
from t2iprobe.plugins.organisms import build, weight_files
from t2iprobe.plugins.organisms.recipes import embedded, recipe
from t2iprobe.registry.hookspecs import hookimpl
from t2iprobe.registry.manager import Plugins
from tests.shell import commands, invoke

SHIPPED = [one.arch for one in embedded() if one.present]
PAIR = ("--source", 'a sign that says "OPEN"', "--target", 'a sign that says "SHUT"')

Call = Callable[[Sequence[str]], tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline folder with random weights."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    SD3.tiny().save_pretrained(path)
    return str(path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs the command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2iprobe", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_help_is_quick_because_it_imports_no_torch() -> None:
    code = "import sys; from t2iprobe.cli.app import build; build(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_help_of_every_command_fits_two_screens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)
    long = {}
    for words, command in walked(commands()):
        lines = invoke(*words, "--help").stdout.splitlines()
        if len(lines) > 80:
            long[" ".join(words)] = len(lines)
        if any(option.opts == ["--help-all"] for option in command.params):
            named = set(re.findall(r"--[\w-]+", "\n".join(lines)))
            assert {one for option in command.params for one in option.opts if one.startswith("--")} <= named
    assert not long
    described = invoke("localize", "--help-all").stdout
    assert "--revision" in described and "Branch, tag or commit" in described and "More options" not in described


def walked(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield words, command
    for name, each in inner.items():
        yield from walked(each, (*words, name))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("localize --method ad", {"adaptive"}),
        ("edit --method prompt-t", {"prompt-to-prompt"}),
        ("patch --arch sdx", {"sdxl"}),
        ("patch --model tiny-s", {"tiny-sd3", "tiny-sdxl"}),
        ("patch --format ", {"table", "json"}),
        ("edit --arch sd3 --layers 1", {"1", "10", "11"}),
        ("localize --model tiny-if --layers 0-2,6-", {f"0-2,6-{layer}" for layer in range(8)}),
        ("patch --arch flux --layers ", set()),
        ("report ", {"runs/done", "runs/stopped"}),
        ("edit --from runs/d", {"runs/done"}),
    ],
)
def test_the_shell_completes_names_and_runs(
    words: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("done", "stopped"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / MANIFEST).write_text("{}")
    line = f"t2iprobe {words}"
    asked = {"_T2IPROBE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    assert set(invoke(env=asked).stdout.split()) == expected


def test_what_the_shell_completes_is_what_bundled_plugins_register() -> None:
    names = Plugins(installed=False).names()
    assert bundled() == {kind: names[kind] for kind in bundled()}, "write names() into t2iprobe/cli/names.json again"
    assert {*KINDS.values(), *METHODS.values()} == {*bundled()}


def test_the_shell_shows_the_modules_of_layers() -> None:
    words = "t2iprobe patch --model tiny-sdxl --layers 8"
    shown = invoke(env={"_T2IPROBE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}).stdout
    assert '"8":"up_blocks.0.attentions.0.transformer_blocks.0.attn2"' in shown


def test_the_layers_that_the_shell_completes_are_those_of_the_embedded_models() -> None:
    plugins = Plugins(installed=False)
    found = {}
    for name, one in plugins.models().items():
        model = plugins.load(name, weights=False)
        layers = [row.path for row in layer_table(model.adapter, model.pipeline)]
        found[name] = {"arch": one.arch, "layers": layers}
    assert embedded_layers() == found, "write this into t2iprobe/cli/layers.json"


def test_the_plain_command_says_what_to_do_next(call: Call) -> None:
    code, out, err = call([])
    assert (code, err) == (0, "") and "t2iprobe patch --arch sd3" in out
    study, plain = {"question": {"model": "tiny-sd3"}}, {"command": "t2iprobe guard bench --arch sd3"}
    for name, state, more in (
        ("stopped", "interrupted", {"arguments": study}),
        ("bench", "interrupted", plain),
        ("done", "finished", {}),
    ):
        manifest = {"state": state, "settings": {}, "started": "today", **more}
        (folder := Path("runs") / name).mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps(manifest))
    (Path("runs") / "broken").mkdir()
    (Path("runs") / "broken" / MANIFEST).write_text("{")
    code, out, err = call([])
    assert (code, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    assert {"t2iprobe study resume runs/stopped", plain["command"], "t2iprobe report runs/done"} <= {*lines}
    assert any(line.split()[:2] == ["runs/broken", "damaged"] for line in lines)


def test_patch_writes_a_whole_run_and_shows_it_again(call: Call, folder: str, tmp_path: Path) -> None:
    arguments = ["patch", "--model", folder, *PAIR, "--num-steps", "2", "--format", "json"]
    code, out, err = call([*arguments, "--out", "run"])
    answer = json.loads(out)
    plan = " ".join(err.split())
    assert code == 0 and "plan: 1 pair ×" in plan and re.search(r"about \d+ s in all \(\d+ s so far\), memory", plan)
    assert [row["index"] for row in answer["layers"]] == [0, 1, 2]
    assert (answer["arch"], answer["planted"], answer["denoiser_calls"]) == ("sd3", None, 2)
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir()}
    files = {
        "contact_sheet.png",
        "plot.png",
        "report.html",
        "manifest.json",
        "checksums.json",
        "result.json",
        "study.zarr",
        "images",
    }
    assert names == files
    scores = np.asarray(zarr.open_group(run / "study.zarr", mode="r")["ocr_f1_target"])
    assert scores.shape == (5, 1)
    with Image.open(run / "images/pair-000/2.png") as image:
        assert image.mode == "RGB"
    code, again, err = call([*arguments, "--out", "run"])
    assert (code, json.loads(again)) == (0, answer) and "already" in err
    code, out, err = call([*arguments, "--out", "run", "--seed", "1"])
    assert (code, out) == (2, "") and "seed" in err.replace("\n", " ")


BAD = {
    "unknown architecture": (["--arch", "sd4"], "did you mean"),
    "no embedded model": (["--arch", "flux"], "no embedded flux"),
    "nothing named": ([], "name a model"),
    "unknown model": (["--model", "tiny-sd33"], "tiny-sd3"),
    "folder, but not a pipeline": (["--model", "."], "model_index.json"),
    "upscaler of no stage": (["--model", "FOLDER", *PAIR, "--upscaler", "x/y"], "sd3 has no super-resolution"),
    "other architecture": (["--model", "FOLDER", "--arch", "sdxl", *PAIR], "is sd3, not sdxl"),
    "same word": (["--model", "FOLDER", "--source", 'a "OPEN"', "--target", 'b "open"'], "different"),
    "no quotes": (["--model", "FOLDER", "--source", "a sign", "--target", "b"], "quotes"),
    "half a pair": (["--model", "FOLDER", "--source", 'a "OPEN"'], "both"),
    "layer out of range": (["--model", "FOLDER", *PAIR, "--layers", "0-3"], "0-2"),
    "layer that is no number": (["--model", "FOLDER", *PAIR, "--layers", "x"], "range"),
    "step out of range": (["--model", "FOLDER", *PAIR, "--num-steps", "2", "--steps", "0:3"], "0:2"),
    "pattern without a site": (["--model", "FOLDER", *PAIR, "--sites", "blocks.*.cross_attn.k"], "no site matches"),
    "unknown branch": (["--model", "FOLDER", *PAIR, "--branch", "con"], "cond"),
    "unknown concept": (["--model", "FOLDER", *PAIR, "--concept", "txt"], "text, colour"),
    "unknown prompt set": (["--model", "FOLDER", "--prompt-set", "simpel"], "simple"),
    "missing prompt files": (["--model", "FOLDER", "--prompt-set", "glyphcontrol:none"], "no file or folder none"),
    "no such option of a set": (["--model", "FOLDER", "--prompt-set", "simple:word=2"], "did you mean words?"),
    "no CLIP": (
        ["--model", "FOLDER", "--concept", "object", "--source", "a cat", "--target", "a dog"],
        "set T2IPROBE_CLIP to its folder",
    ),
    "broken line": (["--model", "FOLDER", "--pairs", "broken.csv"], "line 3"),
    "unwritable": (["--model", "FOLDER", *PAIR, "--out", "broken.csv/run"], "cannot be written"),
    "no cuda": (["--model", "FOLDER", *PAIR, "--device", "cuda"], "cuda was requested"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(what: str, call: Call, folder: str, tmp_path: Path) -> None:
    (tmp_path / "broken.csv").write_text('source,target\n"a ""A""","a ""B"""\n"no quotes","a ""B"""\n')
    arguments, said = BAD[what]
    code, out, err = call(["patch", *(folder if part == "FOLDER" else part for part in arguments)])
    assert (code, out) == (2, ""), err
    assert "error:" in err and said in " ".join(err.split()), err
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.rglob("*.part"))


def test_an_architecture_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    """Only what is in this installation is offered, whatever there are recipes for."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model_index.json").touch()
    listed = [
        Embedded("mine", "sd3", tmp_path / "mine"),
        Embedded("other", "sd3", tmp_path / "mine"),
        Embedded("tiny-sdxl", "sdxl", tmp_path / "nowhere", "t2iprobe organisms train tiny-sdxl"),
    ]

    class Source:
        @staticmethod
        @hookimpl
        def t2iprobe_register_models() -> list[Embedded]:
            return listed

    plugins = Plugins(("t2iprobe.architectures.plugin",), installed=False, extra=[Source()])
    assert reference("sd3", None, plugins) == "mine"
    with pytest.raises(ConfigError) as told:
        reference("sdxl", None, plugins)
    assert str(told.value) == (
        "there is no embedded sdxl model in this installation (there are models for sd3); name one: --model "
        "stabilityai/stable-diffusion-xl-base-1.0; or train one: t2iprobe organisms train tiny-sdxl"
    )
    with pytest.raises(ConfigError, match=r"name one: --model black-forest-labs/FLUX.1-dev$"):
        reference("flux", None, plugins)


def test_a_trained_folder_brings_its_prompts(call: Call, tmp_path: Path) -> None:
    """As ``organisms train --out DIR`` leaves it, under any name; a folder without a card gets plain prompts."""
    one = recipe("sd3")
    weight_files.save(build.sd3(), tmp_path / "anything", one)
    arguments = ["--model", "anything", "--limit", "1", "--layers", "6", "--num-steps", "1", "--format", "json"]
    code, out, err = call(["patch", *arguments, "--out", "run"])
    assert code == 0, err
    settings = json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]
    assert settings["pairs"][0][0].startswith(("a ", "an ")) and "sign that says" in settings["pairs"][0][0]
    assert json.loads(out)["planted"] == [6]
    assert "memory" in err and "for weights" in " ".join(err.split())
    (tmp_path / "anything" / CARD).unlink()
    assert Plugins().own_prompt_set("anything") == "simple"


def test_patch_with_an_upscaler(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepFloyd IF, both stages: the pictures kept are stage II's."""
    monkeypatch.setattr(DeepFloydIF, "upscale", functools.partialmethod(_quickly, DeepFloydIF.upscale))
    DeepFloydIF.tiny().save_pretrained("one")
    DeepFloydIF.tiny_upscaler().save_pretrained("two")
    arguments = ["patch", "--arch", "if", "--model", "./one", "--upscaler", "./two", *PAIR, "--layers", "0"]
    code, _, err = call([*arguments, "--num-steps", "1", "--out", "run"])
    assert code == 0, err
    with Image.open(tmp_path / "run/images/pair-000/0.png") as image:
        assert image.size == (32, 32)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["upscaler"] == "two"


def _quickly(self: DeepFloydIF, upscale: Any, *arguments: Any) -> Any:
    *given, settings = arguments
    return upscale(self, *given, {**settings, "num_inference_steps": 1})


def test_corrupt_weights_are_said(call: Call, folder: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    weights = next((copy / "transformer").glob("*.safetensors"))
    os.truncate(weights, weights.stat().st_size // 2)
    code, out, err = call(["patch", "--model", str(copy), *PAIR])
    assert (code, out) == (2, "") and "error:" in err


def test_nan_names_site_and_step(call: Call, tmp_path: Path) -> None:
    pipeline = SD3.tiny()
    pipeline.transformer.transformer_blocks[1].attn.add_k_proj.weight.data[0] = float("nan")
    pipeline.save_pretrained(tmp_path / "nan")
    code, _, err = call(["patch", "--model", "nan/", *PAIR, "--num-steps", "2"])
    said = " ".join(err.split())
    assert code == 1 and "step 0" in said and "blocks.1.joint_attn.k" in said


def test_a_cut_prompt_is_said(call: Call, folder: str) -> None:
    long = "very " * 60
    pair = ("--source", f'a {long} sign "OPEN"', "--target", f'a {long} sign "SHUT"')
    _, _, err = call(["patch", "--model", folder, *pair, "--num-steps", "2"])
    assert "cut off" in " ".join(err.split())


def test_sites_count_the_published_parameters(call: Call) -> None:
    code, out, _ = call(["sites", "--arch", "sdxl", "--full-size", "--layers", "55-57", "--format", "json"])
    answer = json.loads(out)
    assert code == 0
    assert (answer["layers_in_all"], answer["parameters"], answer["denoiser_parameters"]) == (
        70,
        15_728_640,
        2_567_463_684,
    )
    assert [row["path"] for row in answer["layers"]] == [
        f"up_blocks.0.attentions.2.transformer_blocks.{i}.attn2" for i in (1, 2, 3)
    ]


def test_sites_finds_the_configuration_where_it_is(call: Call, folder: str) -> None:
    outer = Path(folder).parent
    code, out, _ = call(["sites", "--model", str(outer), "--subfolder", Path(folder).name, "--format", "json"])
    assert code == 0 and json.loads(out)["arch"] == "sd3"
    code, _, err = call(["sites", "--arch", "sd3", "--full-size", "--revision", "main"])
    assert code == 2 and "published configuration" in err


def test_the_version_needs_no_command(call: Call) -> None:
    import t2iprobe

    assert call(["--version"]) == (0, f"{t2iprobe.__version__}\n", "")
    module = subprocess.run([sys.executable, "-m", "t2iprobe", "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == f"{t2iprobe.__version__}\n"


def test_errors_of_the_machine_are_one_sentence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied", "runs/words")

    monkeypatch.setattr(Plugins, "commands", refuse)
    assert call(["plugins"]) == (1, "", "error: runs/words: Permission denied\n")


def test_a_full_stdout_is_one_sentence() -> None:
    script = "import sys; sys.argv = ['t2iprobe', 'plugins']; from t2iprobe.cli import main; main()"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1 and ended.stderr == "error: the output: No space left on device\n"


def test_a_device_is_not_read(call: Call) -> None:
    code, _, err = call(["guard", "check", "a sign", "--words", "/dev/zero"])
    assert code == 2 and "cannot read the words in /dev/zero: it is not a file" in err


def test_plugins_are_listed(call: Call) -> None:
    code, out, _ = call(["plugins", "--format", "json"])
    rows = json.loads(out)["plugins"]
    assert code == 0 and {"architectures", "organisms", "metrics", "prompts", "hub"} <= {row["name"] for row in rows}
    assert all(row["status"] == "ok" for row in rows)


@pytest.mark.parametrize("concept", ["text", "colour"])
@pytest.mark.parametrize("arch", SHIPPED)
def test_the_planted_layers_come_out_on_top(arch: str, concept: str, call: Call) -> None:
    # the word of tiny-sdxl is half in one layer and half in another: four pairs do not prove a half
    layers = {"sd3-text": "5-7", "if-text": "3-5", "sdxl-text": "11-14", "sdxl-colour": "3-5", "if-colour": "1-3"}
    fewer = ["--num-steps", "4", "--limit", "8" if (arch, concept) == ("sdxl", "text") else "4"]
    fewer += ["--layers", layers[f"{arch}-{concept}"]] if f"{arch}-{concept}" in layers else []
    code, out, err = call(["patch", "--arch", arch, "--concept", concept, *fewer, "--format", "json"])
    answer = json.loads(out)
    assert code == 0 and f"tiny-{arch}" in err and f"--model {published_ref(arch, Plugins())}" in " ".join(err.split())
    assert sorted(answer["top"]) == answer["planted"]
    found = [row for row in answer["layers"] if row["index"] in answer["planted"]]
    others = [row for row in answer["layers"] if row["index"] not in answer["planted"]]
    # half a word moves the letter multiset by less than half, where the two words share letters
    assert min(row["response"][0] for row in found) > (0.9 if len(found) == 1 else 0.2)
    assert max(abs(row["response"][0]) for row in others) < 0.1
    assert max(row["ssim"] for row in found) < min(row["ssim"] for row in others)
