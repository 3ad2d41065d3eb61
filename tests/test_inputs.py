"""What goes into a pipeline beside prompts: negative prompts, embeddings, pictures for ControlNets and IP-Adapters."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    MultiControlNetModel,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from PIL import Image

import t2iprobe as t2i
from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.architectures.tiny_parts import LATENT
from t2iprobe.cli import main
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Generation, Model
from t2iprobe.plugins.editing.photo import inverted
from t2iprobe.plugins.inversion.ddim import DDIM
from t2iprobe.plugins.toxicity.donors import beside
from t2iprobe.sampling import model_denoiser

FAMILIES: tuple[type[Adapter], ...] = (SD, SDXL, SD3, DeepFloydIF, Flux)
DOG, CAT = "a sign that says DOG", "a red CAT on the sign"
BAD = "blurred, grey"
QUICK = {"num_inference_steps": 2}


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
    upscaler = DeepFloydIF.tiny_upscaler()
    model = Model(DeepFloydIF.tiny(), DeepFloydIF(), upscaler=upscaler, upscaling=QUICK)
    made, noise = model.run([DOG], num_steps=2, negative_prompt=BAD), seeded(1)
    with torch.no_grad():
        text = model.pipeline.encode_prompt([DOG], negative_prompt=[BAD], clean_caption=False)
    said = dict(zip(("prompt_embeds", "negative_prompt_embeds"), text, strict=True))
    small = model.pipeline(**said, num_inference_steps=2, generator=noise, output_type="pt").images
    assert (pixels(made.images) == pixels(upscaler(image=small, **said, **QUICK, generator=noise).images)).all()


def test_a_negative_prompt_without_guidance_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="works through classifier-free guidance, and this generation"):
        model.run(DOG, guidance=1.0, negative_prompt=BAD)


def test_a_photo_is_not_inverted_with_another_negative_prompt_than_it_is_drawn_with() -> None:
    model, settings = Model(SD.tiny(), SD()), {"negative_prompt": BAD, "num_steps": 2}
    with pytest.raises(ConfigError, match=r"invert without guidance \(1\)"):
        inverted(model, picture(0), DOG, DDIM(), settings, guidance=3.0)
    assert inverted(model, picture(0), DOG, DDIM(), settings).shape == (1, 4, 8, 8)


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
    longer, _ = beside(model, model.generation([DOG, CAT], negative_prompt=["", BAD]), {1: DOG})
    assert longer.options["negative_prompt"] == ["", BAD, BAD]
    assert (
        beside(model, model.generation([DOG, CAT], negative_prompt=BAD), {1: DOG})[0].options["negative_prompt"] == BAD
    )


# embeddings in place of text


def embedded(model: Model, prompts: Sequence[str]) -> dict[str, Any]:
    """The prompts as the pipeline encodes them."""
    with torch.no_grad():
        found = model.adapter.encode_prompts(model.pipeline, prompts)
    return {"prompt_embeds": found.tokens} | ({} if found.pooled is None else {"pooled_prompt_embeds": found.pooled})


def test_embeddings_are_the_text_they_came_from(model: Model) -> None:
    """Bit for bit: pictures, caches and patches."""
    options, sites = embedded(model, [DOG, CAT]), model.text_sites(1).names
    run, plain = model.run(options=options, cache=sites), model.run([DOG, CAT], cache=sites)
    assert (pixels(run.images) == pixels(plain.images)).all() and run.prompts == ("", "")
    assert all(torch.equal(run.cache[name], plain.cache[name]) for name in sites)
    swap = patch({1: 0}, sites)
    patched = [one.images for one in (model.run(options=options, interventions=[swap]),
                                      model.run([DOG, CAT], interventions=[swap]))]  # fmt: skip
    assert (pixels(patched[0]) == pixels(patched[1])).all()
    generation = Generation((), (0, 0), options=options)
    assert (
        pixels(model.run(generation, rows=[1], batch_size=1).images) == pixels(model.run([CAT]).images)
    ).mean() > 0.9


def test_one_embedding_serves_all_rows_and_a_negative_one_is_a_negative_prompt(model: Model) -> None:
    one = embedded(model, [DOG])
    run = model.run(Generation((), (0, 1), options=one))
    assert np.abs(pixels(run.images) - pixels(model.run([DOG, DOG], seed=[0, 1]).images)).max() <= 1
    negative = {f"negative_{name}": value for name, value in embedded(model, [BAD, BAD]).items()}
    bad = model.run([DOG, CAT], options=negative), model.run([DOG, CAT], negative_prompt=BAD)
    assert (pixels(bad[0].images) == pixels(bad[1].images)).all()


def test_both_stages_get_the_embeddings() -> None:
    model = Model(DeepFloydIF.tiny(), DeepFloydIF(), upscaler=DeepFloydIF.tiny_upscaler(), upscaling=QUICK)
    run, plain = model.run(options=embedded(model, [DOG]), num_steps=2), model.run([DOG], num_steps=2)
    assert (pixels(run.images) == pixels(plain.images)).all()


TOKENS, POOLED = torch.zeros(2, 24, 32), torch.zeros(2, 32)


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([DOG, CAT], {"prompt_embeds": TOKENS, "pooled_prompt_embeds": POOLED}, "from a prompt or from prompt_embeds"),
        (None, {}, "at least one prompt, or prompt_embeds"),
        (None, {"prompt_embeds": TOKENS}, "prompt_embeds needs pooled_prompt_embeds beside it"),
        ([DOG], {"pooled_prompt_embeds": POOLED[:1]}, "pooled_prompt_embeds needs prompt_embeds"),
        (None, {"prompt_embeds": TOKENS, "pooled_prompt_embeds": POOLED, "prompt_2": DOG}, "stand for the text"),
        (None, {"prompt_embeds": TOKENS[0], "pooled_prompt_embeds": POOLED}, r"a tensor \(row, token, channel\)"),
        ([DOG] * 3, {"negative_prompt_embeds": TOKENS, "negative_pooled_prompt_embeds": POOLED}, "2 rows as negative"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(prompts: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Model(SD3.tiny(), SD3()).run(prompts, options=options)


# ControlNet and IP-Adapter, as the user built them


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8))


def filled(module: Any) -> Any:
    """Weights that do something: a new ControlNet's last layers are zero."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.2)
    return module.eval()


def with_controlnet(adapter: type[Adapter]) -> Any:
    """The family's tiny pipeline with a ControlNet, as diffusers makes it."""
    parts = dict(adapter.tiny().components)
    if adapter in (SD, SDXL):
        kind: Any = StableDiffusionControlNetPipeline if adapter is SD else StableDiffusionXLControlNetPipeline
        net: Any = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16))
    elif adapter is SD3:
        kind = StableDiffusion3ControlNetPipeline
        net = SD3ControlNetModel.from_transformer(SD3.tiny().transformer, 2, 0, load_weights_from_transformer=False)
    else:
        kind, shape = FluxControlNetPipeline, {"attention_head_dim": 16, "num_attention_heads": 2}
        net = FluxControlNetModel.from_transformer(parts["transformer"], 1, 1, **shape)
    names = set(inspect.signature(kind.__init__).parameters)
    made = kind(**{name: part for name, part in parts.items() if name in names}, controlnet=filled(net))
    if adapter is Flux:
        made.default_sample_size = LATENT  # diffusers fixes it at 128 for every model
    made.set_progress_bar_config(disable=True)
    return made


def by_hand(model: Model, layer: int, call: Callable[[], Any]) -> Any:
    """Copy row 0's text keys and values of a layer to row 1 with hooks of our own, in every branch."""

    def copy(window: slice, module: Any, args: Any, value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        for start in range(0, len(value), 2):
            value[start + 1, window] = value[start, window]
        return value

    handles = [
        model.denoiser.get_submodule(site.module).register_forward_hook(partial(copy, slice(None)))
        for site in model.text_sites(layer)
    ]
    try:
        return call()
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("adapter", [SD, SDXL, SD3, Flux], ids=lambda one: one.name)
def test_a_pipeline_with_a_controlnet(adapter: type[Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    """The family's adapter and sites; pictures and patches are those of bare diffusers, bit for bit."""
    if adapter is SD3:  # its pipeline draws the encoded picture from torch's global generator
        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    model = t2i.load(with_controlnet(adapter))
    model.defaults = {"guidance": 3.0, "num_steps": 2}
    assert model.adapter.name == adapter.name and model.sites.names == Model(adapter.tiny(), adapter()).sites.names
    key = model.adapter.needed_options(model.pipeline)[0][0]
    pictures = [picture(0), picture(1)]
    options = {key: pictures}
    run = pixels(model.run([DOG, CAT], options=options).images)
    assert (run == bare(model, [DOG, CAT], **options)).all()
    assert (run != pixels(model.run([DOG, CAT], options={key: pictures[::-1]}).images)).any()
    swap = patch({1: 0}, model.text_sites(1))
    patched = pixels(model.run([DOG, CAT], options=options, interventions=[swap]).images)
    assert (patched == by_hand(model, 1, lambda: bare(model, [DOG, CAT], **options))).all()
    assert (patched[1] != run[1]).any() and (patched[0] == run[0]).all()
    split = pixels(model.run([DOG, CAT], options=options, batch_size=1).images)  # each row keeps its picture
    assert np.abs(split - run).max() <= 1
    shared = pixels(model.run([DOG, CAT], options={key: pictures[0]}, batch_size=1).images)
    assert np.abs(shared[0] - run[0]).max() <= 1 and (shared[1] != run[1]).any()
    with pytest.raises(ConfigError, match=rf"3 pictures as {key} for 2 prompts"):
        model.run([DOG, CAT], options={key: [*pictures, picture(2)]})
    with pytest.raises(ConfigError, match=f"ControlNetPipeline needs {key}: options="):
        model.run([DOG, CAT])


def test_what_a_controlnet_reads_is_drawn_from_the_rows_seed() -> None:
    model = t2i.load(with_controlnet(SD3))
    options = {"control_image": picture(0)}
    first, again = (pixels(model.run([DOG, CAT], num_steps=2, options=options).images) for _ in range(2))
    split = pixels(model.run([DOG, CAT], num_steps=2, options=options, batch_size=1).images)
    assert (first == again).all() and np.abs(first - split).max() <= 1


def test_several_controlnets_take_a_picture_each() -> None:
    pipeline = with_controlnet(SD)
    both = MultiControlNetModel([pipeline.controlnet, filled(ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=(8, 16)))])  # fmt: skip
    pipeline.register_modules(controlnet=both)
    model = t2i.load(pipeline)
    model.defaults = {"guidance": 3.0, "num_steps": 2}
    options = {"image": [picture(0), picture(1)]}
    run = pixels(model.run([DOG, CAT], options=options, batch_size=1).images)
    assert np.abs(run - bare(model, [DOG, CAT], **options)).max() <= 1
    with pytest.raises(ConfigError, match="a list with one picture for each"):
        model.run([DOG, CAT], options={"image": [[picture(0), picture(1)], [picture(2), picture(3)]]})


def with_ip_adapter(adapter: type[Adapter]) -> Any:
    """The family's tiny U-Net pipeline with an IP-Adapter of four tokens."""
    pipeline = adapter.tiny()
    width, keys = pipeline.unet.config.cross_attention_dim, {}
    names = [name for name in pipeline.unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(pipeline.unet.attn_processors):
        if name in names:
            hidden = pipeline.unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
            for part in ("k", "v"):
                keys[f"{number}.to_{part}_ip.weight"] = torch.randn(hidden, width)
    project = {"proj.weight": torch.randn(4 * width, 8), "proj.bias": torch.zeros(4 * width)}
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    pipeline.load_ip_adapter({"image_proj": project | norm, "ip_adapter": keys}, "", "", image_encoder_folder=None)
    return pipeline


@pytest.mark.parametrize("adapter", [SD, SDXL], ids=lambda one: one.name)
def test_a_pipeline_with_an_ip_adapter(adapter: type[Adapter]) -> None:
    model = t2i.load(with_ip_adapter(adapter))
    model.defaults = {"guidance": 3.0, "num_steps": 2}
    assert model.sites.names == Model(adapter.tiny(), adapter()).sites.names
    options = {"ip_adapter_image_embeds": [torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))]}
    read = "blocks.1.cross_attn.text"
    run = model.run([DOG, CAT], options=options, cache=[*model.text_sites(1).names, read])
    plain = pixels(run.images)
    assert (plain == bare(model, [DOG, CAT], **options)).all() and run.cache[read].shape[-1] == 32
    assert (plain != pixels(Model(adapter.tiny(), adapter()).run([DOG, CAT], num_steps=2, guidance=3.0).images)).any()
    patched = pixels(model.run([DOG, CAT], options=options, interventions=[patch({1: 0}, model.text_sites(1))]).images)
    assert (patched == by_hand(model, 1, lambda: bare(model, [DOG, CAT], **options))).all()
    assert (patched[1] != plain[1]).any()
    injected = pixels(model.run([DOG, CAT], options=options, interventions=[patch({1: 0}, read)]).images)
    assert (injected == patched).all()
    with pytest.raises(ConfigError, match="needs ip_adapter_image: options="):
        model.run([DOG, CAT])


def test_flux_with_an_ip_adapter() -> None:
    """The text's keys and values are patched beside the picture's, which the adapter's own layers make."""
    chance, pipeline = torch.Generator().manual_seed(0), Flux.tiny()
    width, inner = pipeline.transformer.config.joint_attention_dim, pipeline.transformer.inner_dim
    keys: dict[str, torch.Tensor] = {}
    for block in range(len(pipeline.transformer.transformer_blocks)):
        for part in "kv":
            keys[f"{block}.to_{part}_ip.weight"] = torch.randn(inner, width, generator=chance)
            keys[f"{block}.to_{part}_ip.bias"] = torch.zeros(inner)
    project = {"proj.weight": torch.randn(4 * width, 8, generator=chance), "proj.bias": torch.zeros(4 * width)}
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    state = {"image_proj": project | norm, "ip_adapter": keys}
    pipeline.load_ip_adapter(state, weight_name="", image_encoder_pretrained_model_name_or_path=None)
    model = t2i.load(pipeline)
    model.defaults = {"guidance": 3.0, "num_steps": 2}
    names = ("ip_adapter_image_embeds", "negative_ip_adapter_image_embeds")
    options = {name: [torch.randn(2, 1, 8, generator=chance)] for name in names}
    plain = pixels(model.run([DOG, CAT], options=options, batch_size=1).images)
    assert np.abs(plain - bare(model, [DOG, CAT], **options)).max() <= 1
    assert (plain != pixels(Model(Flux.tiny(), Flux()).run([DOG, CAT], num_steps=2, guidance=3.0).images)).any()
    swap = [patch({1: 0}, model.text_sites(1))]
    patched = pixels(model.run([DOG, CAT], options=options, batch_size=1, interventions=swap).images)
    assert np.abs(patched[0] - plain[0]).max() <= 1 and (patched[1] != plain[1]).any()
    with pytest.raises(ConfigError, match="needs ip_adapter_image: options="):
        model.run([DOG, CAT])


def test_a_class_of_the_users_own_has_its_base_classs_adapter() -> None:
    class Mine(StableDiffusionPipeline):
        """A pipeline of the user's own."""

    assert t2i.load(Mine(**SD.tiny().components, requires_safety_checker=False)).adapter.name == "sd"


def test_inversion_refuses_what_the_denoiser_alone_does_not_get() -> None:
    with pytest.raises(ConfigError, match="cannot give it image"):
        model_denoiser(t2i.load(with_controlnet(SD)), [DOG])
