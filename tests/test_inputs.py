"""What goes into a pipeline beside prompts: negative prompts, in Python and from the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.cli import main
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model
from t2iprobe.plugins.toxicity.donors import beside

FAMILIES: tuple[type[Adapter], ...] = (SD, SDXL, SD3, DeepFloydIF, Flux)
DOG, CAT = "a sign that says DOG", "a red CAT on the sign"
BAD = "blurred, grey"


def pixels(images: Sequence[Any]) -> NDArray[np.int16]:
    return np.stack([np.asarray(image, np.int16) for image in images])


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0) for _ in range(count)]


@pytest.fixture(params=FAMILIES, ids=lambda adapter: adapter.name)
def model(request: pytest.FixtureRequest) -> Model:
    return Model(request.param.tiny(), request.param(), defaults={"guidance": 3.0, "num_steps": 2})


def bare(model: Model, prompts: Sequence[str], **more: Any) -> NDArray[np.int16]:
    """The pictures of the pipeline by itself."""
    arguments = {**model.adapter.inputs(model.pipeline, prompts), **model.adapter.guidance(model.pipeline, 3.0), **more}
    return pixels(model.pipeline(**arguments, num_inference_steps=2, generator=seeded(len(prompts))).images)


def test_a_negative_prompt_is_diffusers_own(model: Model) -> None:
    """Bit for bit; also one per row, and in a patched row, which keeps its own."""
    shared = pixels(model.run([DOG, CAT], negative_prompt=BAD).images)
    assert (shared == bare(model, [DOG, CAT], negative_prompt=[BAD, BAD])).all()
    assert (shared != pixels(model.run([DOG, CAT]).images)).any()
    swap = patch({1: 0}, "text", branches="cond") if model.adapter.name == "sd" else None
    each = model.run([DOG, CAT], negative_prompt=["", BAD], interventions=[swap] if swap else []).images
    assert (pixels(each) == bare(model, [DOG, DOG if swap else CAT], negative_prompt=["", BAD])).all()


def test_both_stages_get_the_negative_prompt() -> None:
    upscaler, settings = DeepFloydIF.tiny_upscaler(), {"num_inference_steps": 2}
    model = Model(DeepFloydIF.tiny(), DeepFloydIF(), upscaler=upscaler, upscaling=settings)
    made, noise = model.run([DOG], num_steps=2, negative_prompt=BAD), seeded(1)
    with torch.no_grad():
        text = model.pipeline.encode_prompt([DOG], negative_prompt=[BAD], clean_caption=False)
    said = dict(zip(("prompt_embeds", "negative_prompt_embeds"), text, strict=True))
    small = model.pipeline(**said, num_inference_steps=2, generator=noise, output_type="pt").images
    assert (pixels(made.images) == pixels(upscaler(image=small, **said, **settings, generator=noise).images)).all()


def test_a_negative_prompt_without_guidance_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="works through classifier-free guidance, and this generation"):
        model.run(DOG, guidance=1.0, negative_prompt=BAD)


@pytest.mark.parametrize("command", ["patch", "capture"])
def test_the_commands_take_it_and_keep_it(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SD.tiny().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(DOG)
    own = {
        "patch": ["--source", "a red sign", "--target", "a blue sign", "--concept", "colour", "--layers", "1"],
        "capture": ["--prompts", "prompts.txt", "--sites", "text"],
    }[command]
    asked = [command, "--model", "./model", "--num-steps", "1", "--out", "run", *own]

    def call(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", ["t2iprobe", *asked, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert call("--negative-prompt", BAD) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["settings"]["generation"]["negative_prompt"] == BAD
    assert call("--negative-prompt", "another") == 2  # another result, so not the same run


def test_an_extra_row_has_the_negative_prompt_of_its_row() -> None:
    model = Model(SD.tiny(), SD())
    longer, _ = beside(model.generation([DOG, CAT], negative_prompt=["", BAD]), {1: DOG})
    assert longer.options["negative_prompt"] == ["", BAD, BAD]
    assert beside(model.generation([DOG, CAT], negative_prompt=BAD), {1: DOG})[0].options["negative_prompt"] == BAD
