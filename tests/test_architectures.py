"""Every adapter against its own tiny pipeline: what it says of sites, prompts and branches is what diffusers does."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux, pack, unpack
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.architectures.tiny_parts import enliven
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter, Conditioning, layer_table
from t2iprobe.core.errors import HookError
from t2iprobe.core.model import Model
from t2iprobe.core.sites import Site
from t2iprobe.plugins.organisms.training import inner_pooled
from t2iprobe.sampling import model_denoiser

ADAPTERS: tuple[type[Adapter], ...] = (SD, SDXL, SD3, DeepFloydIF, Flux)
PROMPTS = ('A sign that says "DOG"', 'A sign that says "CAT"')


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.name)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    built = request.param()
    assert isinstance(built, Adapter)
    return built


@pytest.fixture
def pipeline(adapter: Adapter) -> Any:
    return adapter.tiny()


def read(site: Site, module: nn.Module, call: tuple[Any, ...], named: dict[str, Any], result: Any) -> Any:
    """The site's value in a finished call of its module."""
    key = site.port.key
    if site.port.side == "in":
        return inspect.signature(module.forward).bind(*call, **named).arguments[str(key)]
    return result if key is None else result[key]


def hooked(adapter: Adapter, pipeline: Any) -> list[Site]:
    """The sites that are an argument or a result of a module; patterns are neither."""
    return [site for site in adapter.sites(pipeline) if not site.is_pattern]


def record(adapter: Adapter, pipeline: Any, note: Callable[[Site, Any], None], stack: ExitStack) -> None:
    """Calls ``note`` with every site and its value, in the order they really come."""
    denoiser = adapter.module(pipeline)
    for site in hooked(adapter, pipeline):

        def before(module: nn.Module, call: Any, named: Any, site: Site = site) -> None:
            note(site, read(site, module, call, named, None))

        def after(module: nn.Module, call: Any, named: Any, result: Any, site: Site = site) -> None:
            note(site, read(site, module, call, named, result))

        module = denoiser.get_submodule(site.module)
        if site.port.side == "in":
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = module.register_forward_hook(after, with_kwargs=True)
        stack.callback(handle.remove)


def generate(adapter: Adapter, pipeline: Any, prompts: tuple[str, ...], **settings: Any) -> Tensor:
    """Undecoded result of a run from seed 0, each row from the same noise."""
    generators = [torch.Generator().manual_seed(0) for _ in prompts]
    given = {"num_inference_steps": 1, "output_type": "pt" if adapter.name == "if" else "latent"}
    result = pipeline(**(adapter.inputs(pipeline, prompts) | given | settings), generator=generators).images
    assert isinstance(result, Tensor)
    return result


def denoiser_calls(adapter: Adapter, pipeline: Any, prompts: tuple[str, ...], **settings: Any) -> list[dict[str, Any]]:
    """Arguments of every denoiser call of a run, and its result under ``return``."""
    calls: list[dict[str, Any]] = []

    def note(module: nn.Module, call: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        bound = inspect.signature(module.forward).bind(*call, **named).arguments
        calls.append({**bound, "return": result[0]})

    handle = adapter.module(pipeline).register_forward_hook(note, with_kwargs=True)
    try:
        generate(adapter, pipeline, prompts, **settings)
    finally:
        handle.remove()
    return calls


@torch.no_grad()
def encode(adapter: Adapter, pipeline: Any, *prompts: str) -> Conditioning:
    """As a pipeline encodes: without gradients T5's attention takes another kernel, which differs in the last bits."""
    return adapter.encode_prompts(pipeline, prompts)


def test_sites_fire_in_the_listed_order_with_the_listed_axes(adapter: Adapter, pipeline: Any) -> None:
    fired: list[str] = []

    def note(site: Site, value: Any) -> None:
        fired.append(site.name)
        assert value.ndim == 1 + len(site.axes), site.name
        if site.heads:
            assert value.shape[1 + site.axes.index("channel")] % site.heads == 0, site.name

    with ExitStack() as stack:
        record(adapter, pipeline, note, stack)
        generate(adapter, pipeline, PROMPTS)
    assert fired == [site.name for site in hooked(adapter, pipeline)]
    assert len(set(fired)) == len(fired)


def test_modulation_of_packed_weights_has_its_width() -> None:
    """4-bit weights are kept as one column, (numbers / 2, 1), so that their shape does not say the width."""
    adapter, pipeline = SD3(), SD3.tiny()
    plain = list(adapter.sites(pipeline))
    for block in pipeline.transformer.transformer_blocks:
        weight = block.norm1.linear.weight
        block.norm1.linear.weight = nn.Parameter(weight.reshape(-1, 1)[::2].clone())
    assert list(adapter.sites(pipeline)) == plain


def test_flux_single_stream_sites_share_one_sequence(pipeline_flux: Any) -> None:
    """As many tokens as text and image have together, in the single-stream blocks only."""
    lengths: dict[str, int] = {}
    with ExitStack() as stack:
        record(Flux(), pipeline_flux, lambda site, value: lengths.__setitem__(site.name, value.shape[1]), stack)
        generate(Flux(), pipeline_flux, PROMPTS[:1])
    tokens = lengths["text"] + (pipeline_flux.default_sample_size // 2) ** 2
    shared = [site for site in hooked(Flux(), pipeline_flux) if site.stream != "all"]
    assert {lengths[site.name] for site in shared} == {tokens}
    assert {site.layer for site in shared} == {2, 3}


@pytest.fixture
def pipeline_flux() -> Any:
    return Flux.tiny()


def test_tiny_is_quick_repeatable_and_leaves_the_random_state_alone(adapter: Adapter) -> None:
    adapter.tiny()  # diffusers imports its pipelines on first use
    state = torch.get_rng_state()
    start = time.perf_counter()
    one = adapter.tiny()
    assert time.perf_counter() - start < 1
    assert torch.equal(torch.get_rng_state(), state)
    others = adapter.module(adapter.tiny()).state_dict()
    for name, value in adapter.module(one).state_dict().items():
        assert torch.equal(value, others[name]), name


def test_the_prompt_changes_the_image_and_every_text_key_and_value(adapter: Adapter, pipeline: Any) -> None:
    gaps: dict[str, float] = {}
    tokens = encode(adapter, pipeline, *PROMPTS).tokens.shape[1]

    def note(site: Site, value: Any) -> None:
        if site.kind in adapter.text_kv:
            gaps[site.name] = float((value[-2, :tokens] - value[-1, :tokens]).abs().max())

    with ExitStack() as stack:
        record(adapter, pipeline, note, stack)
        result = generate(adapter, pipeline, PROMPTS)
    assert float((result[0] - result[1]).abs().max()) > 1e-3
    assert len(gaps) == 2 * len(layer_table(adapter, pipeline))
    assert min(gaps.values()) > 1e-3


def test_encode_and_predict_give_what_the_pipeline_computes(adapter: Adapter, pipeline: Any) -> None:
    negative = {"negative_prompt": ["", ""]} | ({"true_cfg_scale": 2.0} if adapter.name == "flux" else {})
    calls = denoiser_calls(adapter, pipeline, PROMPTS, **negative)
    call = calls[0]  # the only one, or FLUX's conditional one
    sample = call["sample"] if "sample" in call else call["hidden_states"]
    latents, expected = sample[-2:], call["return"][-2:]
    conditioning = encode(adapter, pipeline, *PROMPTS)
    assert torch.equal(conditioning.tokens, call["encoder_hidden_states"][-2:])
    if adapter.name == "flux":
        side = pipeline.default_sample_size
        latents, expected = unpack(latents, side, side), unpack(expected, side, side)
    timestep = pipeline.scheduler.timesteps[0].expand(2)
    with torch.no_grad():
        found = adapter.predict(pipeline, latents, timestep, conditioning)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_who_makes_the_pooled_vector(adapter: Adapter, pipeline: Any) -> None:
    """DeepFloyd IF's U-Net pools the text tokens; SDXL's module of the same name gets what the encoder pooled."""
    site = inner_pooled(adapter, pipeline)
    assert (site.module if site else None) == {"if": "add_embedding"}.get(adapter.name)


def test_gradients_flow_through_the_text_encoders_to_the_prediction(adapter: Adapter, pipeline: Any) -> None:
    conditioning = adapter.encode_prompts(pipeline, PROMPTS[:1])
    side = pipeline.unet.config.sample_size if hasattr(pipeline, "unet") else pipeline.default_sample_size
    channels = 3 if adapter.name == "if" else pipeline.vae.config.latent_channels
    noise = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    prediction = adapter.predict(pipeline, noise, torch.tensor([500]), conditioning)
    assert prediction.shape[-2:] == noise.shape[-2:]
    torch.autograd.backward(prediction.square().sum())
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        encoder = getattr(pipeline, name, None)
        if encoder is not None:
            assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in encoder.parameters()), name


def test_images_survive_the_scaling_of_latents(adapter: Adapter, pipeline: Any) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = adapter.encode_images(pipeline, images)
        decoded = adapter.decode(pipeline, latents)
        if adapter.name == "if":
            assert torch.equal(decoded, images)
            return
        plain = pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mode()).sample
    assert latents.shape == (2, pipeline.vae.config.latent_channels, 8, 8)
    assert torch.allclose(decoded, plain, atol=1e-4)


def test_sd_reads_velocity_prediction_from_the_scheduler() -> None:
    pipeline = SD.tiny()
    assert SD().prediction(pipeline) == "epsilon"
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    assert SD().prediction(pipeline) == "v_prediction"
    assert SD3().prediction(SD3.tiny()) == "flow"


def seen_branches(adapter: Adapter, pipeline: Any, **settings: Any) -> list[tuple[Branch, ...]]:
    """What the adapter says about every denoiser call of a run of one row."""
    said: list[tuple[Branch, ...]] = []
    call = 0
    step = pipeline.scheduler.step

    def note(module: nn.Module, arguments: Any, named: Any) -> None:
        nonlocal call
        bound = inspect.signature(module.forward).bind(*arguments, **named).arguments
        sample = bound["sample"] if "sample" in bound else bound["hidden_states"]
        said.append(adapter.branches(pipeline, call, len(sample)))
        call += 1

    def stepped(*arguments: Any, **named: Any) -> Any:
        nonlocal call
        call = 0
        return step(*arguments, **named)

    pipeline.scheduler.step = stepped
    handle = adapter.module(pipeline).register_forward_pre_hook(note, with_kwargs=True)
    generate(adapter, pipeline, PROMPTS[:1], **settings)
    handle.remove()
    return said


def test_sd3_skip_layer_guidance_adds_a_call_that_is_not_the_conditional_one() -> None:
    skip = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.6}
    both, extra = (Branch.UNCOND, Branch.COND), (Branch.SKIP,)
    said = seen_branches(SD3(), SD3.tiny(), guidance_scale=5.0, num_inference_steps=4, **skip)
    assert said == [both, both, extra, both, extra, both]
    assert seen_branches(SD3(), SD3.tiny(), guidance_scale=1.0, num_inference_steps=2) == [(Branch.COND,)] * 2


def test_sd3_skip_call_repeats_the_conditional_half() -> None:
    adapter, pipeline = SD3(), SD3.tiny()
    skip = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    _, doubled, extra = denoiser_calls(adapter, pipeline, PROMPTS, num_inference_steps=2, **skip)
    for name in ("hidden_states", "encoder_hidden_states", "pooled_projections"):
        assert torch.equal(extra[name], doubled[name][2:]), name
    assert extra["skip_layers"] == [1]


def test_flux_true_guidance_asks_for_the_prompt_first() -> None:
    adapter, pipeline = Flux(), Flux.tiny()
    said = seen_branches(adapter, pipeline, true_cfg_scale=2.0, negative_prompt=[""], num_inference_steps=2)
    assert said == [(Branch.COND,), (Branch.UNCOND,)] * 2
    cond, uncond = denoiser_calls(adapter, Flux.tiny(), PROMPTS[:1], true_cfg_scale=2.0, negative_prompt=[""])
    assert torch.equal(cond["encoder_hidden_states"], encode(adapter, pipeline, PROMPTS[0]).tokens)
    assert torch.equal(uncond["encoder_hidden_states"], encode(adapter, pipeline, "").tokens)
    assert seen_branches(adapter, Flux.tiny()) == [(Branch.COND,)]


@pytest.mark.parametrize("call, ratio", [(0, 2), (2, 1)])
def test_flux_refuses_a_layout_it_does_not_know(call: int, ratio: int) -> None:
    with pytest.raises(HookError, match=f"call {call + 1} of a step has {ratio} times"):
        Flux().branches(None, call, ratio)


def test_flux_packs_as_the_pipeline_does(pipeline_flux: Any) -> None:
    latents = torch.randn(2, 4, 6, 8)
    packed = pack(latents)
    assert torch.equal(packed, pipeline_flux._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(packed, 6, 8), latents)
    assert torch.equal(unpack(packed, 6, 8), pipeline_flux._unpack_latents(packed, 12, 16, 2))


def test_flux_tells_a_distilled_model_its_guidance() -> None:
    pipeline = Flux.tiny()
    transformer = type(pipeline.transformer)
    pipeline.transformer = transformer.from_config(pipeline.transformer.config, guidance_embeds=True).eval()
    call = denoiser_calls(Flux(), pipeline, PROMPTS)[0]
    conditioning = Flux().encode_prompts(pipeline, PROMPTS)
    assert torch.equal(conditioning.extra["guidance"], call["guidance"])
    latents = unpack(call["hidden_states"], 8, 8)
    with torch.no_grad():
        found = Flux().predict(pipeline, latents, pipeline.scheduler.timesteps[0].expand(2), conditioning)
    assert torch.allclose(pack(found), call["return"], atol=1e-5)


@pytest.mark.parametrize("adapter", [Flux, SD, SDXL], ids=lambda one: one.name)
def test_a_denoiser_that_is_told_the_guidance_is_told_the_runs(adapter: type[Adapter]) -> None:
    """As the pipeline tells it (FLUX.1-dev, LCM), with one call per step."""
    pipeline, denoiser = adapter.tiny(), adapter.denoiser
    told = {"guidance_embeds": True} if adapter is Flux else {"time_cond_proj_dim": 8}
    network = getattr(pipeline, denoiser)
    setattr(pipeline, denoiser, enliven(type(network).from_config(network.config, **told)).eval())
    model = Model(pipeline, adapter())
    call = denoiser_calls(model.adapter, pipeline, PROMPTS, guidance_scale=6.0)[0]
    latents = unpack(call["hidden_states"], 8, 8) if adapter is Flux else call["sample"]
    time = float(pipeline.scheduler.timesteps[0])
    with torch.no_grad():
        six, one = (model_denoiser(model, PROMPTS, scale) for scale in (6.0, 1.0))
        found, other = six(latents, time), one(latents, time)
    expected = unpack(call["return"], 8, 8) if adapter is Flux else call["return"]
    assert six.sides == 1 and torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, other, atol=1e-3)


def test_tiny_is_of_a_class_the_adapter_is_found_by(adapter: Adapter, pipeline: Any) -> None:
    assert type(pipeline).__name__ in adapter.pipelines


@pytest.mark.parametrize("adapter", [DeepFloydIF(), Flux()], ids=["if", "flux"])
def test_text_limits_are_what_the_pipeline_encodes(adapter: Adapter) -> None:
    """Both pipelines take a length of their own, whatever a real T5 tokenizer says it can read."""
    pipeline = adapter.tiny()
    part = "tokenizer" if adapter.name == "if" else "tokenizer_2"
    getattr(pipeline, part).model_max_length = 1000 if adapter.name == "if" else 300
    assert adapter.text_limits(pipeline)[part] == encode(adapter, pipeline, "a sign").tokens.shape[1]
