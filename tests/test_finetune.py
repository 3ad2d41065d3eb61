"""``t2iprobe finetune``: what it is taught and watched on, its table, its folder, and what it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shell
import torch
from PIL import Image
from safetensors.torch import load_file

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.cli.papers import PAPERS
from t2iprobe.core.command_options import flags
from t2iprobe.core.errors import ConfigError, DamagedError, StoppedError, StoreError
from t2iprobe.core.model import Model
from t2iprobe.core.runs.checksums import damaged
from t2iprobe.core.runs.runfolder import read_manifest
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.sign_pictures import DIGITS, LETTERS, glyphs
from t2iprobe.plugins.finetune.monitor import SCORES, Monitor, latents, precision_recall
from t2iprobe.plugins.finetune.options import FinetuneOptions
from t2iprobe.plugins.finetune.record import sheet
from t2iprobe.plugins.finetune.report import over_seeds, same_modules, table
from t2iprobe.plugins.finetune.session import FinetuneCallbacks, FinetuneJob, FinetuneSession
from t2iprobe.plugins.finetune.sources import ProbePicture, TrainingSet, lesson, probes
from t2iprobe.plugins.organisms.build import tokenizer
from t2iprobe.plugins.organisms.prompts import HELD_OUT, TRAINED, WORDS, Digits
from t2iprobe.plugins.organisms.recipes import WEIGHTS
from t2iprobe.registry.manager import Plugins
from t2iprobe.training.dataset import write_folder
from t2iprobe.training.lora import Lora
from t2iprobe.training.targets import PROJECTIONS, SCOPES, choose
from t2iprobe.training.trainer import CHECKPOINT, Settings


class Blind:
    """Reads what is written on the picture's corner: the red of its first pixel, as a digit."""

    name = "blind"

    def read(self, images: Any) -> list[str]:
        return [str(np.asarray(image)[0, 0, 0] // 26) for image in images]


PROBES = [ProbePicture(f'a sign that says "{number}"', number, str(number)) for number in range(4)]


def tiny() -> Model:
    return Model(SD3.tiny(), SD3(), ref="tiny")


def watcher(model: Model) -> Monitor:
    found = Monitor(model, Plugins(), PROBES[:2], PROBES[2:], settings={"num_steps": 1})
    found.reader = Blind()  # type: ignore[assignment]
    return found


def a_lesson(number: int = 4) -> TrainingSet:
    return lesson(f"digits:pictures={number}", Plugins(), limit=2)


def job(scope: str = "localized", steps: int = 3, **changes: Any) -> FinetuneJob:
    settings = Settings(steps=steps, batch=2, lr=1e-2)
    return FinetuneJob(settings, **{"layers": (1,), "scope": scope, "rank": 2, "side": 16, **changes})


# what is learnt


def test_digits_have_tokens_that_no_letter_has_and_were_never_shown() -> None:
    reads = tokenizer(18, start=True)
    one_each = [reads(f'a red plain sign that says "{digit * 4}"').input_ids for digit in DIGITS]
    plain = reads('a red plain sign that says "AAAA"').input_ids
    own = [{*ids} - {*plain} for ids in one_each]
    assert all(len(tokens) == 1 for tokens in own) and len(set.union(*own)) == len(DIGITS)
    assert reads.unk_token_id not in set.union(*own)
    assert not set(DIGITS) & set(LETTERS) and not any(set(word) & set(DIGITS) for word in WORDS)
    drawn = glyphs().reshape(len(glyphs()), -1)
    gaps = torch.cdist(torch.tensor(drawn), torch.tensor(drawn)) + 99 * torch.eye(len(drawn))
    assert len(drawn) == 36 and gaps.min() > 1  # no digit is drawn as a letter


def test_numbers_that_are_asked_for_are_never_drawn() -> None:
    digits = Digits(pictures=40)
    asked, drawn = digits.pairs(limit=30, seed=2), list(digits.pictures(seed=2))
    assert len(drawn) == 40 and not set(HELD_OUT) & set(TRAINED) and len(HELD_OUT) + len(TRAINED) == 10**4
    assert {one.source_word for one in asked} <= set(HELD_OUT) and {word for *_, word in drawn} <= set(TRAINED)
    assert all(f'"{word}"' in caption and picture.size == (32, 32) for picture, caption, word in drawn)
    assert [one.source for one in digits.pairs(limit=5, seed=2)] == [one.source for one in asked[:5]]


def test_a_folder_teaches_its_captions_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    given = [(Image.new("RGB", (40, 30)), f'a sign that says "{n:02d}"', None) for n in range(8)]
    folder = write_folder(tmp_path / "data", given)
    Image.new("RGB", (4, 4)).save(folder / "odd.png")
    found = lesson(str(folder), Plugins(), limit=4)
    assert [one.word for one in found.probes] == ["00", "02", "04", "06"] and len(found.examples) == 8
    assert "1 pictures in" in found.note and "odd.png" in found.note
    (folder / "metadata.jsonl").write_text((folder / "metadata.jsonl").read_text().replace(r"\"03\"", r"\"99\""))
    renamed = lesson(str(folder), Plugins(), limit=4).digest
    Image.new("RGB", (40, 30), "red").save(folder / "00005.png")
    assert len({found.digest, renamed, lesson(str(folder), Plugins(), limit=4).digest}) == 3


def test_prompts_come_from_a_set_or_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('a shop called "TEA"\n\na red fox\n')
    assert probes(str(path), Plugins(), limit=9, seed=7) == [
        ProbePicture('a shop called "TEA"', 7, "TEA"),
        ProbePicture("a red fox", 8, None),
    ]
    assert [one.word for one in probes("signs", Plugins(), limit=3)] == [
        one.source_word for one in Plugins().prompt_set("signs", limit=3)
    ]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("digit", "neither a folder nor a prompt set that draws pictures; did you mean digits"),
        ("digits:pixels=3", "prompt set digits has no setting 'pixels'"),
        ("./none", "is not a folder"),
    ],
)
def test_bad_data_is_one_sentence(ref: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lesson(ref, Plugins(), limit=2)


def test_empty_prompts_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        probes(str(tmp_path / "none.txt"), Plugins(), limit=2)
    with pytest.raises(ConfigError, match="cannot read the prompts in"):
        probes(str(tmp_path / "absent.txt"), Plugins(), limit=2)


# what is watched


def test_precision_and_recall_of_a_collapse() -> None:
    draws = torch.Generator().manual_seed(0)
    base = torch.randn(60, 5, generator=draws)
    assert precision_recall(base, base) == (1, 1)
    stuck = base[:1] + 0.01 * torch.randn(60, 5, generator=draws)
    precision, recall = precision_recall(stuck, base)
    assert precision == 1 and recall <= 2 / 60  # all of them possible, and hardly anything left of the rest
    assert precision_recall(base + 100, base) == (0, 0)
    assert all(math.isnan(one) for one in precision_recall(base[:3], base))


def test_precision_and_recall_by_hand() -> None:
    base, tuned = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[1.5], [6.0], [7.0]])
    # nearest neighbours: base 1, 1 and 2 away; tuned 4.5, 1 and 1 away
    assert precision_recall(tuned, base, neighbours=1) == (pytest.approx(1 / 3), 1.0)
    assert precision_recall(tuned[1:], base, neighbours=1) == (0.0, 0.0)


def test_looks_compare_with_the_base_model() -> None:
    model = tiny()
    found = watcher(model)
    before = found.before
    assert before.scores["keep_ssim"] == 1 and before.scores["precision"] == before.scores["recall"] == 1
    assert math.isnan(before.scores["learn_clip_t"])
    red = [np.asarray(image)[0, 0, 0] // 26 for image in before.images]
    rights = [float(value == number) for number, value in enumerate(red)]
    assert before.each["learn_exact"] == rights[:2] and before.each["keep_exact"] == rights[2:]
    lora = Lora.attach(model, choose(model.adapter, model.pipeline, "all-cross").modules, rank=2)
    assert found.validate().scores == pytest.approx(before.scores, nan_ok=True)  # it begins as the base model
    with torch.no_grad():
        lora.matrices(lora.modules[0])[1].normal_(std=5)
    after = found.validate()
    assert after.scores["keep_ssim"] < 0.99 and found.before is before
    assert latents(model, after.images).shape == (4, 4 * 8 * 8)
    lora.detach()


def test_a_sheet_has_four_rows() -> None:
    base, tuned = ([Image.new("RGB", (32, 32), colour) for _ in range(5)] for colour in ("red", "blue"))
    found = sheet(tuned, base, learn=3)
    middle = [found.getpixel((180, row)) for row in (60, 164, 268, 372)]
    assert middle == [(255, 0, 0), (0, 0, 255)] * 2 and found.getpixel((found.width - 60, 60)) == (255, 0, 0)


# one training and several


def test_a_session_trains_keeps_and_goes_on(tmp_path: Path) -> None:
    model = tiny()
    before = {name: one.clone() for name, one in model.denoiser.state_dict().items()}
    session = FinetuneSession(model, a_lesson(), watcher(model), every=2)
    whole = session.run(job(), tmp_path / "whole")
    stop, steps = Stop(), []

    def on_step(step: int, loss: float) -> None:
        steps.append(step)
        stop.asked = step == 1

    with pytest.raises(StoppedError):
        session.run(job(), tmp_path / "cut", FinetuneCallbacks(on_step, stop=stop))
    assert json.loads((tmp_path / "cut/manifest.json").read_text())["state"] == "interrupted"
    validated: list[int] = []
    cut = session.run(job(), tmp_path / "cut", FinetuneCallbacks(validated=lambda step, scores: validated.append(step)))
    for name in ("losses.jsonl", "validations.jsonl"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert validated == [2, 3] and cut["after"] == whole["after"] and cut["loss"] == whole["loss"]
    one, other = (load_file(tmp_path / run / "lora/pytorch_lora_weights.safetensors") for run in ("cut", "whole"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in (tmp_path / "cut/samples").iterdir()) == [
        f"step-00000{step}.png" for step in (0, 2, 3)
    ]
    assert all(torch.equal(one, before[name]) for name, one in model.denoiser.state_dict().items())
    assert session.run(job(), tmp_path / "cut") == read_manifest(tmp_path / "cut")
    assert not (tmp_path / "cut" / CHECKPOINT).exists() and not list(damaged(tmp_path / "cut"))
    with pytest.raises(ConfigError, match=r"holds a run with other settings .*rank: 2 there, 1 now"):
        session.run(job(rank=1), tmp_path / "cut")
    assert session.done(job(), tmp_path / "cut") and not session.done(job(), tmp_path / "new")
    session.monitor.reader.name = "another"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="reader: 'blind' there, 'another' now"):
        session.run(job(), tmp_path / "cut")


@pytest.mark.parametrize("step", [1, 3])
def test_a_folder_that_vanishes_is_no_training(step: int, tmp_path: Path) -> None:
    model = tiny()
    session = FinetuneSession(model, a_lesson(), watcher(model))

    def on_step(number: int, loss: float) -> None:
        if number == step:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(StoreError, match="was removed or renamed"):
        session.run(job(), tmp_path / "run", FinetuneCallbacks(on_step))
    assert not (tmp_path / "run/lora").exists()


@pytest.mark.parametrize("name", ["losses.jsonl", "checkpoint.pt", "samples", "lora"])
def test_a_full_disk_is_one_error_and_the_training_goes_on(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny()
    session = FinetuneSession(model, a_lesson(), watcher(model), every=2)
    whole = session.run(job(), tmp_path / "whole")

    def full(real: Any) -> Any:
        def wrapped(path: Path, *given: Any, **options: Any) -> Any:
            if name in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, *given, **options)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full(Path.write_bytes))
        patched.setattr(Path, "open", full(Path.open))
        if name == "lora":
            patched.setattr(Path, "replace", full(Path.replace))
        with pytest.raises(StoreError, match="no space left"):
            session.run(job(), tmp_path / "run")
    assert session.run(job(), tmp_path / "run")["after"] == whole["after"]


@pytest.mark.parametrize("name", ["losses.jsonl", "validations.jsonl", "samples/step-000000.png", "lora"])
def test_a_flipped_bit_is_noticed(name: str, tmp_path: Path) -> None:
    model = tiny()
    session = FinetuneSession(model, a_lesson(), watcher(model))
    session.run(job(), tmp_path / "run")
    file = tmp_path / "run" / (name if name != "lora" else "lora/pytorch_lora_weights.safetensors")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 4
    file.write_bytes(raw)
    assert [found for found, _ in damaged(tmp_path / "run")] == [str(file.relative_to(tmp_path / "run"))]
    if name == "lora":
        with pytest.raises(DamagedError, match="lora_weights"):
            Lora.load(model, file.parent)


def test_a_saved_lora_is_gone_on_from(tmp_path: Path) -> None:
    model = tiny()
    session = FinetuneSession(model, a_lesson())
    session.run(job(), tmp_path / "first")
    start = str(shutil.copytree(tmp_path / "first/lora", tmp_path / "start"))
    session.run(job(steps=1, start=start), tmp_path / "second")
    lora = Lora.load(model, start)
    state = lora.state()
    lora.detach()
    second = Lora.load(model, tmp_path / "second/lora")
    gap = max(float((second.state()[name] - value).abs().max()) for name, value in state.items())
    assert 0 < gap < 0.02  # one step of 0.01 away from where it started
    second.detach()
    with pytest.raises(ConfigError, match="does not match the modules of this scope"):
        session.run(job("all-cross", start=start), tmp_path / "third")
    shutil.copytree(tmp_path / "second/lora", start, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="start_digest"):
        session.run(job(steps=1, start=start), tmp_path / "second")
    assert not getattr(model.denoiser, "peft_config", None)


def test_a_saved_lora_goes_on_with_the_scale_that_it_has(tmp_path: Path) -> None:
    """Plain diffusers draws what was not trained on as it draws what was started from."""
    model = tiny()
    session = FinetuneSession(model, a_lesson())
    lora = Lora.attach(model, job().targets(model).modules, rank=2, alpha=16)
    torch.manual_seed(0)
    for one in lora.parameters():
        torch.nn.init.normal_(one, std=0.5)
    start = str(lora.save(tmp_path / "start"))
    lora.detach()
    still = replace(job(start=start), settings=Settings(steps=1, batch=2, lr=1e-12))
    session.run(still, tmp_path / "second")

    def drawn(folder: Path | str | None) -> Any:
        pipeline = SD3.tiny()
        if folder is not None:
            pipeline.load_lora_weights(folder)
        seed = torch.Generator().manual_seed(1)
        return np.asarray(pipeline("a sign", num_inference_steps=2, generator=seed, max_sequence_length=24).images[0])

    assert np.array_equal(drawn(tmp_path / "second/lora"), drawn(start))
    assert not np.array_equal(drawn(start), drawn(None))
    for changes, said in (({"alpha": 2.0}, "alpha 16 at .* but 2 was requested"), ({"rank": 1}, "use rank 2")):
        with pytest.raises(ConfigError, match=said):
            session.run(job(start=start, **changes), tmp_path / min(changes))
        assert not getattr(model.denoiser, "peft_config", None)


@pytest.mark.parametrize(("every", "start"), [(0, False), (1, False), (2, False), (2, True)])
def test_the_looks_that_are_planned_are_made(every: int, start: bool, tmp_path: Path) -> None:
    model = tiny()
    session = FinetuneSession(model, a_lesson(), watcher(model), every)
    one = job()
    if start:
        session.run(one, tmp_path / "start")
        one = replace(one, start=str(tmp_path / "start/lora"))
    made: list[int] = []
    monitor, validate = session.monitor, session.monitor.validate if session.monitor else None
    assert monitor is not None and validate is not None
    monitor.validate = lambda: made.append(1) or validate()  # type: ignore[method-assign,func-returns-value]
    session.run(one, tmp_path / "run")
    assert len(made) == session.validations(one)


def test_sides_that_the_model_cannot_have_are_refused() -> None:
    session = FinetuneSession(tiny(), a_lesson())
    assert session.side(job(side=None)) == 16
    with pytest.raises(ConfigError, match=r"resolution of 18: .* multiples of 4"):
        session.side(job(side=18))


def test_means_over_seeds_have_students_interval() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found is not None and found == pytest.approx((2, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    alone = over_seeds([0.5, None])
    assert alone is not None and alone.mean == 0.5 and math.isnan(alone.low)
    assert over_seeds([None]) is None


def test_several_trainings_make_a_row_a_scope() -> None:
    def run(scope: str, seed: int, f1: float, modules: list[str]) -> dict[str, Any]:
        return {
            "settings": {"job": {"scope": scope, "settings": {"seed": seed}}},
            "layers": [seed], "modules": modules, "parameters": {"modules": 1, "trained": 10, "denoiser": 1000},
            "after": {"learn_f1": f1}, "loss": 0.5, "seconds": 2.0,
        }  # fmt: skip

    rows = table([run("a", 0, 0.2, ["x"]), run("a", 1, 0.4, ["x"]), run("b", 0, 0.9, ["x"])])
    assert [(row["scope"], row["seeds"], row["share"], row["seconds"]) for row in rows] == [
        ("a", [0, 1], 0.01, 4.0),
        ("b", [0], 0.01, 2.0),
    ]
    assert rows[0]["scores"]["learn_f1"].mean == pytest.approx(0.3)
    assert same_modules([run("a", 0, 0, ["x"]), run("b", 0, 0, ["x"]), run("c", 0, 0, ["y"])]) == [("a", "b")]


# the command


def invoke(*arguments: str) -> Any:
    return shell.invoke("finetune", *arguments)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    SD3.tiny().save_pretrained(place)
    return place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "sd3", "--layers", "6"], "nothing to learn from: --data"),
        (["--data", "digits", "--layers", "6"], "name a model"),
        (["--arch", "sd3", "--data", "digits", "--scope", "local"], "no scope 'local'; did you mean localized"),
        (["--arch", "sd3", "--data", "digits"], "name the layers: --layers 6, or --from RUN"),
        (["--arch", "sd3", "--data", "digits", "--layers", "12"], "text-attention layers are 0-11"),
        (["--arch", "sd3", "--data", "digits", "--layers", "6", "--rank", "500"], "LoRA rank lies between 1 and"),
        (
            ["--arch", "sd3", "--data", "digits", "--layers", "6", "--precision", "half"],
            "--precision has no choice 'half'; there are bf16, fp16, no",
        ),
        (
            ["--arch", "sd3", "--data", "digits", "--layers", "6", "--projections", "words"],
            "--projections has no choice 'words'",
        ),
        (["--arch", "sd3", "--data", "digits", "--layers", "6", "--clip", "./none"], "CLIP model './none' cannot"),
        (["--preset", "iclr2025", "--plan"], "needs --arch"),
        (["--preset", "iclr2025", "--arch", "flux", "--plan"], "model of the preset iclr2025 for the architecture"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    outcome = invoke(*arguments, "--out", str(tmp_path / "run"))
    assert isinstance(outcome.exception, ConfigError), outcome.output
    assert outcome.exception.exit_code == 2
    assert message in " ".join(str(outcome.exception).split()) and not (tmp_path / "run").exists()


def test_layers_of_another_architecture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": {"adapter": "sdxl"}, "finding": {"layers": [2]}}))
    outcome = invoke("--arch", "sd3", "--data", "digits", "--from", str(tmp_path), "--out", str(tmp_path / "run"))
    assert "about a model of architecture sdxl, this one is sd3" in str(outcome.exception)


def test_a_plan_takes_its_layers_as_a_training_does(tmp_path: Path) -> None:
    plan = ("--preset", "iclr2025", "--plan", "--format", "json")
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": {"adapter": "sd3"}, "finding": {"layers": [2]}}))
    found = json.loads(invoke("--arch", "sd3", "--from", str(tmp_path), *plan).stdout)
    assert found["plans"][0]["layers"] == [2]
    for arguments, message in (
        (["--arch", "sdxl", "--from", str(tmp_path)], "about a model of architecture sd3, this one is sdxl"),
        (["--arch", "sd3", "--layers", "24"], "text-attention layers are 0-23, found 24"),
        (["--arch", "sd3", "--layers", "1", "--from", str(tmp_path)], "give --layers or --from, not both"),
    ):
        assert message in str(invoke(*arguments, *plan).exception)


def test_the_command_trains_tells_and_shows_again(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        "--model", str(saved), "--data", "digits:pictures=4", "--layers", "1", "--rank", "2", "--train-steps", "2",
        "--train-batch-size", "2", "--lr", "0.01", "--limit", "2", "--num-steps", "1", "--device", "cpu",
        "--out", str(run), "--format", "json",
    ]  # fmt: skip
    outcome = invoke(*arguments)
    assert outcome.exit_code == 0, outcome.output
    answer = json.loads(outcome.stdout)
    one = answer["runs"][0]
    assert (one["scope"], one["layers"], one["steps"]) == ("localized", [1], 2)
    assert one["parameters"]["trained"] == 2 * 6 * 32 and one["parameters"]["text_kv"] == 544
    assert one["before"]["keep_ssim"] == 1 and one["after"]["keep_ssim"] <= 1
    assert "384 LoRA parameters" in outcome.stderr and "544 in text keys and values" in outcome.stderr
    assert "pictures are smaller" not in outcome.stderr
    SD3.tiny().load_lora_weights(one["lora"])
    again = invoke(*arguments)
    assert json.loads(again.stdout) == answer == json.loads((run / "result.json").read_text())
    assert "has this run already" in again.stderr
    changed = invoke(*arguments, "--alpha", "3")
    assert "other settings" in str(changed.exception)


def test_the_command_compares_scopes_over_seeds(saved: Path, tmp_path: Path) -> None:
    outcome = invoke(
        "--model", str(saved), "--data", "digits:pictures=2", "--layers", "1", "--rank", "1", "--train-steps", "1",
        "--train-batch-size", "1", "--scope", "localized,random", "--seeds", "2", "--limit", "1", "--num-steps", "1",
        "--out", str(tmp_path), "--device", "cpu",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    trainings = {"localized-0", "localized-1", "random-0", "random-1"}
    kept = {"manifest.json", "checksums.json", "result.json", "report.html", "contact_sheet.png", "plot.png"}
    assert {path.name for path in tmp_path.iterdir()} == trainings | kept
    assert all(kept <= {path.name for path in (tmp_path / one).iterdir()} for one in trainings)
    assert "Mean over 2 seeds" in outcome.stdout and "localized" in outcome.stdout
    answer = json.loads((tmp_path / "result.json").read_text())
    assert [row["scope"] for row in answer["table"]] == ["localized", "random"] and len(answer["runs"]) == 4


@pytest.mark.parametrize(
    ("arch", "trained", "adapted", "text_kv"),
    [
        ("sdxl", 4 * 3 * (6 * 1280 + 2 * 2048 + 0), None, 15_728_640),
        ("sd3", 4 * 4 * 2 * 1536, 4 * (1536 * 1536 + 1536), 0),
        ("if", 4 * 6 * 2 * 2112, None, 8_925_312),
    ],
)
def test_presets_plan_on_the_published_configurations(
    arch: str, trained: int, adapted: int | None, text_kv: int
) -> None:
    outcome = invoke("--arch", arch, "--preset", "iclr2025", "--plan", "--format", "json")
    assert outcome.exit_code == 0, outcome.output
    answer = json.loads(outcome.stdout)
    plan = answer["plans"][0]
    found = plan["parameters"]
    assert (found["trained"], found["text_kv"]) == (trained, text_kv) and adapted in (None, found["adapted"])
    assert plan["epochs"] == 50.0 and bool(answer["carried"]) == (arch != "sdxl")
    assert tuple(plan["layers"]) == PAPERS["iclr2025"][arch].layers


def test_a_preset_gives_way_to_options() -> None:
    outcome = invoke(
        "--arch", "sdxl", "--preset", "iclr2025", "--plan", "--format", "json", "--rank", "64", "--layers", "60"
    )
    plan = json.loads(outcome.stdout)["plans"][0]
    assert (plan["rank"], plan["layers"], plan["steps"]) == (64, [60], 7254)


def test_the_page_names_every_scope_projection_score_and_option() -> None:
    page = (Path(__file__).parent.parent / "docs/how-to/finetune-located-layers.md").read_text()
    assert all(f"`{name}`" in page for name in [*SCOPES, *PROJECTIONS, *SCORES])
    known = {name for option, field in FinetuneOptions.model_fields.items() for name in flags(option, field)}
    assert all(
        option in known for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.replace("--num_processes", ""))
    )


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS / "tiny-sd3/model_index.json").is_file(), reason="no weights of tiny-sd3 here")
def test_the_embedded_model_learns_digits_in_its_word_layer(tmp_path: Path) -> None:
    model = Plugins().load("tiny-sd3", device="cpu")
    taught = lesson("digits", Plugins(), limit=8)
    monitor = Monitor(model, Plugins(), taught.probes, PROBES[:1], settings={"num_steps": 5})
    session = FinetuneSession(model, taught, monitor)
    found = session.run(FinetuneJob(Settings(steps=40, batch=6, lr=3e-3), layers=(6,), rank=8), tmp_path)
    assert found["after"]["learn_f1"] > found["before"]["learn_f1"] + 0.1
