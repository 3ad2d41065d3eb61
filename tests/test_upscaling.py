"""DeepFloyd IF's stage II: enlarges what the patched stage I made, from each row's own prompt and noise, unpatched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import IFSuperResolutionPipeline
from numpy.typing import NDArray

import t2iprobe as t2i
from t2iprobe.architectures.deepfloyd import DeepFloydIF, tiny_unet
from t2iprobe.architectures.sd import SD
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.interventions import ablate, patch
from t2iprobe.core.model import Model, Run

QUICK = {"num_inference_steps": 2}
PROMPTS = ('a sign that says "DOG"', 'a sign that says "CAT"', 'a sign that says "DOG"')
KV = "blocks.*.cross_attn.[kv]"


@pytest.fixture
def model() -> Model:
    return Model(DeepFloydIF.tiny(), DeepFloydIF(), upscaler=DeepFloydIF.tiny_upscaler(), upscaling=QUICK)


def run(model: Model, *prompts: str, **settings: Any) -> Run:
    return model.run(model.generation(prompts, 0, num_steps=2), **settings)


def pixels(run: Run) -> NDArray[np.int16]:
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def test_a_patched_picture_is_enlarged_from_the_rows_own_prompt(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 2 is row 0 with everything of its text patched from row 1: stage II still gets row 0's prompt."""
    given: list[dict[str, Any]] = []
    call = IFSuperResolutionPipeline.__call__

    def spy(self: Any, **arguments: Any) -> Any:
        given.append(arguments)
        return call(self, **arguments)

    monkeypatch.setattr(IFSuperResolutionPipeline, "__call__", spy)
    made = run(model, *PROMPTS, interventions=[patch({2: 1}, KV)])
    text = given[0]["prompt_embeds"]
    assert torch.equal(text[2], text[0]) and not torch.equal(text[1], text[0])
    with torch.no_grad():
        assert torch.equal(text, model.adapter.encode_prompts(model.pipeline, PROMPTS).tokens)
    small = given[0]["image"]
    assert small.shape == (3, 3, 16, 16) and not torch.equal(small[2], small[0])
    assert [image.size for image in made.images] == [(32, 32)] * 3
    assert (pixels(made)[2] != pixels(made)[0]).any()
    assert 0 < made.upscaling_seconds < made.seconds


def test_stage_two_is_never_patched(model: Model) -> None:
    """Its U-Net has modules of the same names; an edit of stage I sets no hook on them, and counts no call of them."""
    seen: list[int] = []
    unet = model.upscaler.unet  # type: ignore[union-attr]
    handle = unet.register_forward_pre_hook(
        lambda module, args: seen.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules()))
    )
    made = run(model, PROMPTS[0], interventions=[ablate(KV)])
    handle.remove()
    assert seen == [1, 1]  # this very hook, at both steps
    assert made.denoiser_calls == 2


def test_the_result_is_the_rows_own_whatever_the_batch(model: Model) -> None:
    together = pixels(run(model, *PROMPTS))
    assert (together == pixels(run(model, *PROMPTS))).all()
    alone = pixels(model.run(model.generation(PROMPTS, 0, num_steps=2), batch_size=1))
    assert np.abs(together - alone).max() <= 2
    other = pixels(model.run(model.generation(PROMPTS[:1], 1, num_steps=2)))
    assert (other[0] != together[0]).any()


def test_a_saved_stage_two_shares_the_first_stages_parts(tmp_path: Path) -> None:
    """Its own text encoder, if the folder has one, is not even read."""
    first, second = DeepFloydIF.tiny(), DeepFloydIF.tiny_upscaler()
    first.save_pretrained(tmp_path / "one")
    second.register_modules(text_encoder=first.text_encoder, tokenizer=first.tokenizer)
    second.save_pretrained(tmp_path / "two")
    (tmp_path / "two" / "text_encoder" / "model.safetensors").write_bytes(b"damaged")
    loaded = t2i.load(str(tmp_path / "one"), upscaler=str(tmp_path / "two"), device="cpu")
    assert loaded.upscaler.text_encoder is loaded.pipeline.text_encoder  # type: ignore[union-attr]
    loaded.upscaling = QUICK
    whole = Model(first, DeepFloydIF(), upscaler=DeepFloydIF.tiny_upscaler(), upscaling=QUICK)
    assert (pixels(run(loaded, PROMPTS[0])) == pixels(run(whole, PROMPTS[0]))).all()
    weights = sum(p.numel() * p.element_size() for part in (first.unet, first.text_encoder) for p in part.parameters())
    assert loaded.weight_bytes == weights + sum(p.numel() * p.element_size() for p in second.unet.parameters())
    assert loaded.image_bytes({}) == 3 * 32 * 32


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    first, second = DeepFloydIF.tiny(), DeepFloydIF.tiny_upscaler()
    with pytest.raises(ModelError, match=r"the upscaler is a IFPipeline; if works with IFSuperResolutionPipeline"):
        t2i.load(first, upscaler=first)
    with pytest.raises(ConfigError, match=r"sd has no super-resolution stage"):
        t2i.load(SD.tiny(), upscaler=second)
    with pytest.raises(ConfigError, match=r"anything, but sd has no super-resolution stage; if has"):
        t2i.load(SD.tiny(), upscaler="anything")
    second.unet = tiny_unet(in_channels=6, sample_size=32, class_embed_type="timestep", encoder_hid_dim=48)
    with pytest.raises(ModelError, match=r"embeddings of 48 channels, but this model's text encoder gives 32"):
        t2i.load(first, upscaler=second)
