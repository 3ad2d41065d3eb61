"""Folders that a stranger, a bug or a bad disk has changed: one sentence, nothing built, read or written by them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from shell import invoke
from simulation import study

from t2iprobe.cli import main
from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key
from t2iprobe.core.errors import ConfigError, DamagedError, LockedError, ModelError, T2IProbeError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.model import Model
from t2iprobe.core.planted import own_prompt_set, planted_layers, sampling_defaults
from t2iprobe.core.runs import checksums, runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.runs.lock import LOCK, is_held, lock
from t2iprobe.core.runs.status import listed
from t2iprobe.core.store.layout import Layout, SiteLayout
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.store.writer import ActivationWriter
from t2iprobe.core.study.result import StudyResult, layers_found
from t2iprobe.plugins.continual.evaluation import read_run
from t2iprobe.plugins.hub.load import load
from t2iprobe.plugins.organisms.recipes import WEIGHTS

SECRET = "root:x:0:0"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of an embedded model, as a stranger might give it away."""
    return Path(shutil.copytree(WEIGHTS / "tiny-sd3", tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    found = json.loads(file.read_text())
    found = {key: value for key, value in found.items() if key not in ("format", "checksum")}
    file.write_text(json.dumps({**found, **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("transformer/config.json", {"num_layers": 10**7}, "sets num_layers to 10,000,000, but the weights beside"),
        ("text_encoder_3/config.json", {"num_layers": 10**7}, "sets num_layers to 10,000,000"),
        ("vae/config.json", {"layers_per_block": 10**7}, "sets layers_per_block"),
        ("vae/config.json", {"block_out_channels": [10**9]}, "sets block_out_channels"),
        ("text_encoder/config.json", {"hidden_size": 10**9}, "sets hidden_size"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "sets num_train_timesteps"),
        ("transformer/config.json", {"attention_head_dim": "x"}, "cannot be loaded"),
    ],
)
def test_a_configuration_that_claims_more_than_is_stored(
    file: str, changes: dict[str, Any], said: str, model: Path
) -> None:
    edit(model / file, **changes)
    with pytest.raises(ModelError, match=said):
        load(str(model), LoadOptions(), {})


@pytest.mark.parametrize("part", ["transformer/diffusion_pytorch_model", "text_encoder/model", "text_encoder_3/model"])
def test_weights_that_lack_a_tensor(part: str, model: Path) -> None:
    file = model / f"{part}.safetensors"
    tensors = load_file(file)
    name = max(tensors, key=lambda one: tensors[one].numel())
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights in .* lack .*; copy or download them again"):
        load(str(model), LoadOptions(), {})


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": {"num_steps": "x", "guidance": 1.0}},
        {"sampling": {"num_steps": True, "guidance": 1.0}},
        {"sampling": {"num_steps": 10**9, "guidance": 1.0}},
        {"sampling": {"num_steps": 4, "guidance": float("nan")}},
        {"sampling": []},
        {"layers": {"word": ["x"]}},
        {"layers": [6]},
        {"prompt_set": ["signs"]},
        {"prompt_set": "csv:SECRET"},
        {"prompt_set": "glyphcontrol:SECRET"},
        {"prompt_set": "csv:file=SECRET"},
    ],
)
def test_planted_json_holds_what_it_should_and_names_no_file(changes: dict[str, Any], model: Path) -> None:
    (model.parent / "secret").write_text(SECRET)
    edit(model / "planted.json", **json.loads(json.dumps(changes).replace("SECRET", str(model.parent / "secret"))))
    with pytest.raises(ModelError, match=rf"planted\.json is damaged: {next(iter(changes))} is not") as error:
        own_prompt_set(str(model), {})
    assert SECRET not in str(error.value)


def test_another_valid_value_in_planted_json_is_damage(tmp_path: Path) -> None:
    (tmp_path / "planted.json").write_text(
        (WEIGHTS / "tiny-sd3/planted.json").read_text().replace('"seed": 0', '"seed": 2')
    )
    with pytest.raises(DamagedError, match="is not what was written"):
        planted_layers(str(tmp_path), "text", {})


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "{", ""])
def test_planted_json_is_an_object(content: str, model: Path) -> None:
    (model / "planted.json").write_text(content)
    with pytest.raises((ModelError, DamagedError), match=r"planted\.json"):
        planted_layers(str(model), "text", {})


@pytest.mark.parametrize("name", [path.name for path in WEIGHTS.iterdir() if (path / "planted.json").is_file()])
def test_the_embedded_models_pass(name: str) -> None:
    pipeline = load(str(WEIGHTS / name), LoadOptions(), {})
    assert sampling_defaults(pipeline)["num_steps"] > 0
    assert planted_layers(str(WEIGHTS / name), "text", {}) and own_prompt_set(str(WEIGHTS / name), {}) == "signs"


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("why", ["locked store", "no store", "work", "disk", "work in an empty folder"])
def test_a_refused_start_leaves_the_disk_as_it_was(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(session: RunSession) -> dict[str, Any]:
        (session.path / "half").write_text("x")
        raise ConfigError("no")

    if why == "work in an empty folder":
        (tmp_path / "runs/a").mkdir(parents=True)
    if why == "locked store":
        (tmp_path / "elsewhere.lock").write_text('{"by": "process 1 on another machine", "run": "x"}')
    if why == "disk":
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(runfolder, "write_manifest", lambda *words: (_ for _ in ()).throw(full))
    store = {"locked store": f"file://{tmp_path}/elsewhere", "no store": "nosuch://x/y"}.get(why)
    before = left(tmp_path)
    with pytest.raises(T2IProbeError):
        execute(RunDefinition("numbers", {}, work, store=store), tmp_path / "runs/a")
    assert left(tmp_path) == before


def test_who_waits_for_a_lock_that_is_removed_gets_the_new_one(tmp_path: Path) -> None:
    with lock(tmp_path):
        assert is_held(tmp_path / LOCK)
        with pytest.raises(LockedError, match=f"process {os.getpid()}"), lock(tmp_path):
            pass
        assert is_held(tmp_path / LOCK)  # who was refused has not removed it
    assert not left(tmp_path) and not is_held(tmp_path / LOCK)
    (tmp_path / LOCK).write_text("process 1 on this machine")  # left by a kill
    assert not is_held(tmp_path / LOCK) and (tmp_path / LOCK).read_text() == "process 1 on this machine"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study and a capture, without the checksums that would notice every change at once."""
    runs = tmp_path_factory.mktemp("runs")
    one = study(count=4)
    one.context = dataclasses.replace(one.context, facts={"model": "simulated", "adapter": "sd3"})
    one.run(runs / "study")
    (runs / "capture").mkdir()
    runfolder.write_manifest(runs / "capture", {"kind": "capture", "state": "finished", "settings": {}})
    sites = (SiteLayout("blocks.0.joint_attn.k", ("token", "channel")),)
    layout = Layout(sites, ("a", "b"), (0, 0), (0,))
    with ActivationWriter(runs / "capture/study.zarr", "capture", layout) as writer, writer.unit(0) as rows:
        writer.add([Key(sites[0].name, 0, Branch.COND)], tuple(rows), torch.ones(2, 3, 4))
    for name in ("study", "capture"):
        (runs / name / "checksums.json").unlink(missing_ok=True)
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """Copies of them."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def verified(run: Path) -> None:
    """Says what is damaged, and does not fail itself."""
    ended = invoke("store", "verify", run)
    assert isinstance(ended.exception, T2IProbeError | SystemExit | None), ended.exception


def refused(*words: str | Path) -> str:
    """What a command says that has to end with an error of ours, in one line."""
    ended = invoke(*words)
    said = str(ended.exception) if isinstance(ended.exception, T2IProbeError) else ended.output
    assert isinstance(ended.exception, T2IProbeError | SystemExit), ended.exception
    assert ended.exit_code in (1, 2) and said.strip() and "Traceback" not in said
    return said


def test_store_rm_leaves_a_store_that_a_manifest_only_names(runs: Path) -> None:
    manifest = {"kind": "capture", "state": "finished", "settings": {}, "store": str(runs / "capture/study.zarr")}
    (runs / "stranger").mkdir()
    runfolder.write_manifest(runs / "stranger", manifest)
    before = left(runs / "capture")
    assert invoke("store", "rm", runs / "stranger").exit_code == 0
    said = refused("store", "rm", runs / "stranger", "--activations", "--yes")
    command = f"t2iprobe store rm {runs / 'capture/study.zarr'} --activations"
    assert f"to remove them: {command}" in said and left(runs / "capture") == before


HUGE = 10**9
COND = "activations/capture/blocks.0.joint_attn.k/cond"


def metadata(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


def huge(found: dict[str, Any], *, chunks: bool) -> None:
    found["shape"] = [HUGE] * len(found["shape"])
    if chunks:
        found["chunk_grid"]["configuration"]["chunk_shape"] = found["shape"]


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("name", ["score_target", "ssim", "pair"])
def test_a_study_that_claims_more_than_is_stored(name: str, chunks: bool, runs: Path) -> None:
    metadata(runs / f"study/study.zarr/{name}/zarr.json", lambda found: huge(found, chunks=chunks))
    for words in (["store", "info"], ["study", "status"], ["store", "export", "--out", runs / "x.csv"], ["report"]):
        assert name in refused(*words, runs / "study")
    listed = invoke("study", "ls", runs)
    assert listed.exit_code in (0, 1) and isinstance(listed.exception, T2IProbeError | None)
    verified(runs / "study")


@pytest.mark.parametrize("chunks", [False, True])
def test_pictures_that_claim_more_than_is_stored(chunks: bool, runs: Path) -> None:
    metadata(runs / "study/study.zarr/images/zarr.json", lambda found: huge(found, chunks=chunks))
    with pytest.raises(DamagedError, match=r"images/zarr.json .*1,?000,?000,?000"):
        StudyResult.open(runs / "study").images("source", 0)


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("name", ["step", "prompt", "seed", COND.partition("capture/")[2]])
def test_activations_that_claim_more_than_is_stored(name: str, chunks: bool, runs: Path) -> None:
    file = runs / f"capture/study.zarr/activations/capture/{name}/zarr.json"
    metadata(file, lambda found: huge(found, chunks=chunks))
    for words in (["store", "info"], ["store", "verify"], ["store", "rm"]):
        refused(*words, runs / "capture")
    with pytest.raises(DamagedError):
        ActivationStore(runs / "capture").fetch("blocks.0.joint_attn.k", 0, Branch.COND, [0])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("study/study.zarr/score_target", {"data_type": "int16", "fill_value": 0}),
        ("study/study.zarr/score_target", {"shape": [1]}),
        ("study/study.zarr/score_target", None),
        ("study/study.zarr/pair", None),
        ("study/study.zarr/trial", {"attributes": {"trials": [1]}}),
        ("study/study.zarr/trial", {"attributes": {"trials": {"a": 1}}}),
        ("study/study.zarr", {"attributes": {"scores": 7}}),
        ("study/study.zarr", {"attributes": {"scores": ["nosuch"]}}),
        ("capture/study.zarr/activations/capture", {"attributes": {"t2iprobe": None}}),
        ("capture/study.zarr/activations/capture", {"attributes": {"t2iprobe": {"format": 1}}}),
        ("capture/study.zarr/activations/capture/prompt", None),
        ("capture/study.zarr/activations/capture/seed", {"shape": [7]}),
        (f"capture/study.zarr/{COND}", {"attributes": {}}),
        (f"capture/study.zarr/{COND}", {"shape": [1]}),
    ],
)
def test_stores_of_the_wrong_kind(name: str, change: dict[str, Any] | None, runs: Path) -> None:
    if change is None:
        shutil.rmtree(runs / name)
    else:
        metadata(runs / name / "zarr.json", lambda found: found.update(change))
    refused("store", "info", runs / name.partition("/")[0])
    if name.startswith("study/study.zarr/"):
        refused("store", "export", runs / "study", "--out", runs / "x.csv")
    verified(runs / name.partition("/")[0])


def forged(run: Path, name: str, value: Any) -> None:
    """A manifest with another value, and with the right checksum."""
    manifest = checksums.unsigned(run / "manifest.json")
    inner = manifest
    *above, last = name.split(".")
    for key in above:
        inner = inner[key]
    inner[last] = value
    runfolder.write_manifest(run, manifest)


@pytest.mark.parametrize("content", ["[]", "null", "7", '"x"', "{}", '[["settings", {}]]', "[" * 100_000, "", "\0"])
def test_a_manifest_is_an_object(content: str, runs: Path) -> None:
    (runs / "study/manifest.json").write_text(content)
    for words in (
        ["report"],
        ["study", "status"],
        ["study", "resume"],
        ["continual", "analyze"],
        ["invert", "analyze"],
    ):
        assert "manifest.json" in refused(*words, runs / "study")
    listed = json.loads(invoke("study", "ls", runs, "--format", "json").stdout)
    assert [one["state"] for one in listed["studies"]] == ["finished", "damaged"]


@pytest.mark.parametrize("value", [None, [], 7, "x", {}, [[]], [None]])
@pytest.mark.parametrize("name", ["settings", "settings.pairs", "settings.localizer", "finding", "scale", "scores"])
def test_manifests_of_wrong_types(name: str, value: Any, runs: Path) -> None:
    forged(runs / "study", name, value)
    for words in (["report"], ["study", "status"], ["study", "ls"], ["store", "info"], ["study", "resume"]):
        ended = invoke(*words, runs if words[-1] == "ls" else runs / "study")
        assert isinstance(ended.exception, T2IProbeError | SystemExit | None), (words, ended.exception)


@pytest.fixture
def read_only(runs: Path) -> Iterator[Path]:
    """The runs, where nobody may write, for a user who is not root."""
    user, shared = os.geteuid(), Path(tempfile.mkdtemp())
    place = Path(shutil.copytree(runs, shared / "runs"))
    os.chmod(shared, 0o755)
    for one in (place, *place.rglob("*")):
        os.chmod(one, 0o555 if one.is_dir() else 0o444)
    if user == 0:
        os.seteuid(65534)
    try:
        if not os.access(__file__, os.R_OK, effective_ids=True):
            pytest.skip("the package cannot be read by another user")
        yield place
    finally:
        os.seteuid(user)
        for one in (place, *(one for one in place.rglob("*") if one.is_dir())):
            os.chmod(one, 0o755)
        shutil.rmtree(shared)


@pytest.mark.parametrize(
    "words",
    [
        ["report", "RUNS/study"],
        ["report", "RUNS/study", "--out", "RUNS/x.html"],
        ["store", "rm", "RUNS/capture"],
        ["store", "rm", "RUNS/capture", "--all", "--yes"],
        ["store", "rm", "RUNS/capture", "--activations", "--yes"],
        ["store", "export", "RUNS/study", "--out", "RUNS/x.csv"],
        ["finetune", "--arch", "sd3", "--layers", "6", "--data", "digits", "--out", "RUNS/new"],
        ["organisms", "train", "tiny-sd3", "--out", "RUNS/new"],
        ["localize", "--arch", "sd3", "--out", "RUNS/new/deeper"],
    ],
)
def test_no_permission_is_one_sentence(
    words: list[str], read_only: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(read_only)
    monkeypatch.setattr(sys, "argv", ["t2iprobe", *(word.replace("RUNS", str(read_only)) for word in words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (1, 2) and str(read_only) in "".join(capsys.readouterr().err.split())
    assert left(read_only) == before


def test_who_may_not_write_sees_whether_a_run_is_still_going(read_only: Path) -> None:
    assert [one.state for one in listed(read_only)] == ["finished", "finished"]


def test_folders_of_a_run_that_are_links_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/figures").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="figures is a link"):
        checksums.keep(tmp_path / "run", {"figures/a.txt": "x"})
    assert not left(tmp_path / "precious")


@pytest.mark.parametrize(
    "content", ["[]", "null", "{", "{}", '{"rows": 7}', '{"rows": [7]}', '{"rows": [{}], "sentence": 7}']
)
def test_an_answer_of_the_wrong_kind(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DamagedError, match=r"result\.json (has no JSON object|is not JSON|does not have the)"):
        checksums.read_json(tmp_path / "result.json", {"rows": list, "sentence": str})


FINDING = {"layers": [1], "ranking": [0.1, None], "sentence": "1", "response": None, "details": {}}


@pytest.mark.parametrize(
    "changes",
    [{"layers": ["x"]}, {"layers": 7}, {"layers": [-1]}, {"layers": [99]}, {"layers": None}],
)
def test_layers_of_a_forged_localization(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {"adapter": "sd3", "localizer": {"name": "single"}}
    model = SimpleNamespace(adapter=SimpleNamespace(name="sd3"), n_layers=12, ref="x")
    runfolder.write_manifest(tmp_path, {"settings": settings, "finding": FINDING})
    assert layers_found(tmp_path, cast(Model, model)) == (1,)
    runfolder.write_manifest(tmp_path, {"settings": settings, "finding": FINDING | changes})
    with pytest.raises((DamagedError, ConfigError)):
        layers_found(tmp_path, cast(Model, model))


CONTINUAL = {
    "kind": "continual", "stream": {"tasks": [{"name": "a"}]}, "methods": [{"name": "naive"}], "orders": [0],
    "seeds": [0], "references": ["base"], "targets": {},
}  # fmt: skip


@pytest.mark.parametrize("key", [key for key in CONTINUAL if key != "kind"])
@pytest.mark.parametrize("value", [None, 7, "x", [None], [{}]])
def test_a_continual_run_of_wrong_types(key: str, value: Any, tmp_path: Path) -> None:
    runfolder.write_manifest(tmp_path, {"settings": CONTINUAL})
    assert read_run(tmp_path)["settings"] == CONTINUAL
    runfolder.write_manifest(tmp_path, {"settings": {**CONTINUAL, key: value}})
    with pytest.raises(DamagedError, match=r"manifest\.json cannot be understood"):
        read_run(tmp_path)


@pytest.mark.parametrize("what", [{"done": "x"}, {"total": []}, {"spent": 7}, {"spent": {"rows": "x"}}, {"unit": 7}])
def test_progress_of_wrong_types(what: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    runfolder.write_manifest(tmp_path / "run", {"settings": {}, "state": "interrupted"})
    (tmp_path / "run/progress.json").write_text(json.dumps(checksums.signed(what)))
    assert [one.state for one in listed(tmp_path)] == ["damaged"]


PATCH = ["patch", "--arch", "sd3", "--num-steps", "1", "--out", "RUNS/new"]
CAPTURE = ["capture", "--arch", "sd3", "--sites", "*", "--prompts", "RUNS/x.csv", "--out", "RUNS/new"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*CAPTURE, "--round-bits", "99"], "--round-bits"),
        ([*PATCH, "--resolution", "33"], "33 × 33 pixels were requested; this model needs sides that are multiples of"),
        *(
            ([*PATCH, option, ""], f"{option} is empty")
            for option in ("--dtype", "--prompt-set", "--heads", "--source")
        ),
        *(([*PATCH, "--guidance", value], "--guidance") for value in ("nan", "inf", "1e400")),
        ([*PATCH, "--seed", str(2**64)], "--seed"),
        ([*PATCH, "--pairs", "RUNS/x.csv"], "a NUL in line 2"),
        ([*PATCH, "--pairs", "/dev/zero"], "/dev/zero"),
        ([*PATCH[:-1], "RUNS/" + "a" * 300], "--out"),
        (
            ["finetune", "--arch", "sd3", "--layers", "6", "--data", "digits", "--learning-rate", "nan"],
            "--learning-rate",
        ),
        (["study", "ls", "RUNS/nosuch"], "RUNS/nosuch"),
        (["study", "run", "RUNS/x.toml"], "num_steps takes a number, found true"),
        (["store", "rm", "RUNS/capture", "--activations", "--run", "captur", "--yes"], "did you mean capture"),
        (["store", "rm", "RUNS/capture", "--activations", "--run", "../../x", "--yes"], "no captured run"),
    ],
)
def test_wrong_values_are_one_sentence(words: list[str], said: str, runs: Path) -> None:
    (runs / "x.csv").write_bytes(b"source,target\na,b\0\n")
    (runs / "x.toml").write_text('model = "tiny-sd3"\nnum_steps = true\n')
    before = left(runs)
    told = refused(*(word.replace("RUNS", str(runs)) for word in words))
    assert said.replace("RUNS", str(runs)) in " ".join(told.split())
    assert left(runs) == before


def test_a_start_that_wrote_nothing_of_its_own_leaves_nothing_either(tmp_path: Path) -> None:
    def work(session: RunSession) -> dict[str, Any]:
        if session.run.settings:
            (session.path / "audit.jsonl").write_text("refused")
        raise ConfigError("no")

    for settings in ({}, {"logs": True}):
        with pytest.raises(ConfigError):
            execute(RunDefinition("guard", settings, work, disposable=False), tmp_path / "run")
        assert (tmp_path / "run").exists() == bool(settings)
    assert (tmp_path / "run/audit.jsonl").read_text() == "refused"
