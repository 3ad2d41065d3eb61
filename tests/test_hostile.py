"""Folders that a stranger, a bug or a bad disk has changed: one sentence, nothing built, read or written by them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from t2iprobe.core.errors import ConfigError, DamagedError, LockedError, ModelError, T2IProbeError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.planted import own_prompt_set, planted_layers, sampling_defaults
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.runs.lock import LOCK, is_held, lock
from t2iprobe.plugins.hub.load import load
from t2iprobe.plugins.organisms.recipes import WEIGHTS

SECRET = "root:x:0:0"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of an embedded model, as a stranger might give it away."""
    return Path(shutil.copytree(WEIGHTS / "tiny-sd3", tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


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
