"""Every command on a saved folder of every bundled family, and on its published configuration; ``families.md`` says
what runs and what is refused, and why."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shell import commands

from t2iprobe.api import load
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.cli import main
from t2iprobe.core.errors import ModelError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.plugins.hub.files import variant_of
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.no_bars import no_bars

PAGE = (Path(__file__).parents[1] / "docs/reference/families.md").read_text()
EXPECTED_CODE = {"guard check": 1}  # what it found is toxic
PIPELINES: dict[tuple[str, bool], Any] = {}

Call = Callable[[str], tuple[int, str, str]]


def changed(pipeline: Any, **config: Any) -> Any:
    """The pipeline with a transformer of another configuration."""
    with parts.seeded():
        kind, old = type(pipeline.transformer), pipeline.transformer.config
        pipeline.register_modules(transformer=parts.enliven(kind.from_config(old, **config)))
    return pipeline


FAMILIES: dict[str, Callable[[], Any]] = {
    "SD": SD.tiny,
    "SDXL": SDXL.tiny,
    "SD3": lambda: changed(SD3.tiny(), dual_attention_layers=[], qk_norm=None),
    "SD3.5": SD3.tiny,
    "IF": DeepFloydIF.tiny,
    "FLUX, told": lambda: changed(Flux.tiny(), guidance_embeds=True),
    "FLUX, true": Flux.tiny,
}

#: families that differ from another one in a module or two, and what goes through these; the rest is as with the other
TWINS = {"SDXL": "SD", "SD3": "SD3.5", "FLUX, true": "FLUX, told"}
OF_TWINS = (
    "sites", "patch", "localize --method heads", "localize --method attribution", "capture", "edit --method all",
    "edit --image", "guard bench", "guard bench --method negative-prompt", "guard bench --method sld-medium",
    "finetune", "invert run", "invert run --method null-text",
)  # fmt: skip

PAIR = "--source 'a red cat' --target 'a blue cat' --concept colour"
DRAWN = "--num-steps 2 --resolution 16 --guidance 2"
SET = f"--prompt-set simple --limit 2 --concept colour {DRAWN} --yes"
LEARN = "--layers 1 --data data --train-batch-size 2 --resolution 16 --num-steps 1 --limit 1 --guidance 2 --yes"
LEARN = f"{LEARN} --prompts prompts.txt --preserve prompts.txt"
SIGN = """'a sign that says "GRUM"' --words words.txt"""

#: in an order in which later ones find what earlier ones leave
COMMANDS = {
    "sites": "sites --model MODEL",
    "patch": f"patch --model MODEL {PAIR} {DRAWN} --out patch",
    "patch --sites": f"patch --model MODEL {PAIR} {DRAWN} --sites blocks.1.*_attn.[kv] --branch cond --out patch-sites",
    "patch, nothing given": f"patch --model MODEL {PAIR} --num-steps 1 --layers 0 --out patch-own",
    "patch --guidance 0": f"patch --model MODEL {PAIR} --num-steps 1 --resolution 16 --guidance 0 --out patch-0",
    "patch --upscaler": f"patch --model MODEL {PAIR} {DRAWN} --upscaler UPSCALER --out patch-upscaled",
    "localize": f"localize --model MODEL {SET} --out localize",
    "localize --method exhaustive": f"localize --model MODEL {SET} --method exhaustive --out exhaustive",
    "localize --method steps": f"localize --model MODEL {SET} --method steps --set layers=1 --out steps",
    "localize --method heads": f"localize --model MODEL {SET} --method heads --set layers=1 --out heads",
    "localize --method attribution": f"localize --model MODEL {SET} --method attribution --out attribution",
    "localize --method contribution": f"localize --model MODEL {SET} --method contribution --out contribution",
    "study run": "study run study.toml --yes",
    "report": "report study",
    "capture": f"capture --model MODEL --sites blocks.1.*_attn.k --prompts prompts.txt {DRAWN} --out capture",
    "store info": "store info capture",
    "store verify": "store verify capture",
    "edit --method all": f"edit --model MODEL {PAIR} {DRAWN} --layers 1 --method all --yes --out edit",
    "edit --image": f"edit --model MODEL {PAIR} {DRAWN} --layers 1 --image photo.png --yes --out edit-image",
    "guard check": f"guard check {SIGN}",
    "guard run": f"guard run --model MODEL --layers 1 --prompt {SIGN} {DRAWN} --out guard",
    "guard bench": f"guard bench --model MODEL --layers 1 --words words.txt --seeds 1 {DRAWN} --yes --out bench",
    "guard bench --method negative-prompt": "guard bench --model MODEL --layers 1 --words words.txt --seeds 1 "
    f"--method negative-prompt {DRAWN} --yes --out bench-negative",
    "guard bench --method sld-medium": "guard bench --model MODEL --layers 1 --words words.txt --seeds 1 "
    f"--method sld-medium {DRAWN} --yes --out bench-sld",
    "finetune": f"finetune --model MODEL {LEARN} --train-steps 2 --out tuned",
    "finetune --init": f"finetune --model MODEL {LEARN} --train-steps 1 --init tuned/lora --out tuned-on",
    "edit --edit-lora": f"edit --model MODEL {PAIR} {DRAWN} --layers 1 --method localized+lora "
    "--edit-lora tuned/lora --yes --out edit-lora",
    "invert run": "invert run --model MODEL --prompts prompts.txt --limit 4 --num-steps 2 --resolution 16 --out invert",
    "invert run --method null-text": "invert run --model MODEL --prompts prompts.txt --limit 2 --num-steps 2 "
    "--resolution 16 --method null-text --guidance 2 --out invert-null",
    "invert run --plan": "invert run --plan --model MODEL --limit 4 --num-steps 2 --resolution 16",
    "invert edit": "invert edit invert --swap --limit 2 --variations 0",
    "continual run": "continual run --model MODEL --stream stream.toml --scope localized --layers 1 --rank 1 "
    f"--train-steps 1 --train-batch-size 2 --side 16 --samples 1 {DRAWN} --metric none --method naive --workers 1 "
    "--yes --out continual",
}

#: what takes longer, mostly to draw figures
FIGURES = {
    "invert run": COMMANDS["invert run"],
    "invert analyze": "invert analyze invert",
    "invert interpolate": "invert interpolate invert --limit 2 --points 3",
    "invert ablate": "invert ablate --model MODEL --prompts prompts.txt --limit 4 --num-steps 2 --k 0,1 "
    "--resolution 16 --out ablate",
    "invert training": "invert training --checkpoints checkpoints --prompts prompts.txt --limit 4 --num-steps 1 "
    "--out training",
}

#: of an architecture, on its published configuration
PLANS = {
    "sites --full-size": "sites --arch ARCH --full-size",
    "localize --plan": "localize --arch ARCH --prompt-set simple --limit 6 --num-steps 2 --guidance 2 "
    "--resolution 512 --plan",
    "edit --plan": "edit --arch ARCH --prompt-set simple --limit 2 --layers 3 --num-steps 2 --guidance 2 --plan",
    "guard bench --plan": "guard bench --arch ARCH --words words.txt --layers 3 --plan",
    "continual run --plan": "continual run --arch ARCH --full-size --stream objects --plan",
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family, saved once as diffusers does."""
    root = tmp_path_factory.mktemp("families")

    def saved(family: str) -> Path:
        path = root / re.sub(r"\W+", "-", family)
        if not path.is_dir():
            with no_bars():
                (DeepFloydIF.tiny_upscaler() if family == "upscaler" else FAMILIES[family]()).save_pretrained(path)
        return path

    return saved


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs the command line in a folder of its own: exit code, stdout, stderr. A folder is loaded once."""
    original = Plugins.load_pipeline

    def once(self: Plugins, ref: str, options: LoadOptions) -> Any:
        key = (ref, options.weights)
        if key not in PIPELINES:
            PIPELINES[key] = original(self, ref, options)
        return PIPELINES[key]

    monkeypatch.setattr(Plugins, "load_pipeline", once)
    monkeypatch.setattr("t2iprobe.cli.app.build", commands)
    monkeypatch.setattr(DeepFloydIF, "upscale", in_one_step(DeepFloydIF.upscale))
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2iprobe", *shlex.split(command), "--format", "json"])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


def in_one_step(upscale: Callable[..., Any]) -> Callable[..., Any]:
    """Stage II, which otherwise takes its own number of steps."""
    return lambda *given: upscale(*given[:-1], {**given[-1], "num_inference_steps": 1})


@pytest.fixture(autouse=True)
def _figures_of_one_family(request: pytest.FixtureRequest) -> None:
    """Only SD's are painted: painting knows no family."""
    if "[SD]" not in request.node.name:
        request.getfixturevalue("blank_figures")


def furnish(model: Path) -> None:
    """What the commands read, in the working folder."""
    Path("words.txt").write_text("grum\n")
    Path("prompts.txt").write_text("a cat\na dog\n")
    noise = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    names = [f"{folder}/{number}.png" for folder in ("data", "one", "two") for number in range(2)]
    for name, picture in zip(["photo.png", *names], noise, strict=True):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(name)
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"a {number}"}) for number in range(2)]
    Path("data/metadata.jsonl").write_text("\n".join(lines))
    tasks = [f'[[tasks]]\nname="{one}"\nprompt="a {one}"\ntoken="{one}"\ntrain="{one}"\n' for one in ("one", "two")]
    Path("stream.toml").write_text("\n".join(['prompts=["a {X}"]\ngeneric=["a dog"]', *tasks]))
    Path("study.toml").write_text(
        f'out="study"\nmodel="{model}"\nmethod="exhaustive"\nsource="a red cat"\ntarget="a blue cat"\n'
        'concept="colour"\nnum_steps=1\nguidance=2.0\nresolution=16\n'
    )
    Path("checkpoints").mkdir()
    for step in (1, 2):
        Path("checkpoints", str(step)).symlink_to(model)


def table(heading: str) -> dict[str, dict[str, str]]:
    """Of the page: family, command, cell."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    first, _, *rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    names = [name.strip() for name in first[1:]]
    return {name: {row[0].strip("` "): row[place].strip() for row in rows} for place, name in enumerate(names, start=1)}


REASONS = dict(re.findall(r"^\* \((\w)\) `([^`]+)`", PAGE, re.MULTILINE))


def outcome(name: str, code: int, out: str, err: str) -> str:
    """A cell of the table, as it came; anything else in the words of the command."""
    if code == EXPECTED_CODE.get(name, 0):
        return "runs" if isinstance(json.loads(out), dict) else f"no object: {out[:200]}"
    reason = next((letter for letter, said in REASONS.items() if said in err), None)
    fine = code == 2 and not out and reason is not None
    return f"refuses ({reason})" if fine else f"ended with {code}: {err[-300:]}"


def outcomes(commands: dict[str, str], call: Call, **words: object) -> dict[str, str]:
    found = {}
    for name, command in commands.items():
        for word, value in words.items():
            command = command.replace(word, str(value))
        found[name] = outcome(name, *call(command))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_command_does_what_the_table_says(family: str, folders: Callable[[str], Path], call: Call) -> None:
    furnish(folders(family))
    commands = {**COMMANDS}
    if family.startswith("FLUX"):  # 64 times the pixels: the pipeline's own size is for a real autoencoder
        commands["patch, nothing given"] += " --resolution 16"
    if family in TWINS:
        commands = {name: commands[name] for name in OF_TWINS}
    found = outcomes(commands, call, MODEL=folders(family), UPSCALER=folders("upscaler"))
    assert found == {name: table("Commands")[family][name] for name in commands}


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in TWINS])
def test_what_draws_figures_does_what_the_table_says(family: str, folders: Callable[[str], Path], call: Call) -> None:
    furnish(folders(family))
    found = outcomes(FIGURES, call, MODEL=folders(family))
    assert found == {name: table("Commands")[family][name] for name in FIGURES}


@pytest.mark.parametrize("arch", ["sd", "sdxl", "sd3", "if", "flux"])
def test_every_plan_does_what_the_table_says(arch: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("grum\n")
    assert outcomes(PLANS, call, ARCH=arch) == table("Plans without weights")[arch]


def test_the_table_has_every_command_and_reason() -> None:
    listed = table("Commands")
    assert list(listed) == list(FAMILIES)
    for family, other in TWINS.items():
        assert all(listed[family][name] == cell for name, cell in listed[other].items() if name not in OF_TWINS)
    for rows in listed.values():
        assert set(rows) == {*COMMANDS, *FIGURES}
        assert all(cell == "runs" or re.fullmatch(r"refuses \((\w)\)", cell)[1] in REASONS for cell in rows.values())


# half precision


@pytest.mark.parametrize("shards", ["10GB", "100KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("which", ["all", "one"])
def test_a_folder_of_half_precision_only_loads_and_says_so(which: str, shards: str, tmp_path: Path) -> None:
    """With every component so, or with only one, whose plain weights are gone."""
    pipeline = SD3.tiny()
    with no_bars():
        pipeline.save_pretrained(tmp_path, variant="fp16" if which == "all" else None, max_shard_size=shards)
        if which == "one":
            for file in (tmp_path / "transformer").glob("*model*"):
                file.unlink()
            pipeline.transformer.save_pretrained(tmp_path / "transformer", variant="fp16", max_shard_size=shards)
    with pytest.warns(UserWarning, match="only as the variant fp16: loading those, as float32"):
        found = load(str(tmp_path), plugins=Plugins(installed=False)).pipeline
    for name in ("transformer", "text_encoder", "vae"):
        ours, theirs = getattr(found, name).state_dict(), getattr(pipeline, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_variants_that_do_not_fit_together_are_refused() -> None:
    names = [
        f"{part}/diffusion_pytorch_model.{variant}.safetensors" for part, variant in (("unet", "fp16"), ("vae", "bf16"))
    ]
    with pytest.raises(ModelError, match="different variants: bf16, fp16"):
        variant_of(names, "float32")
