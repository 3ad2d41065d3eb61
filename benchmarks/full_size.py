"""Full-size pipelines with random weights, built on the device: they draw noise, and cost what the real ones cost.

Denoiser, autoencoder and text encoders have the published configurations; the tokenizers are small ones that read any
word, because the published vocabularies cannot be had offline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    IFPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from t2iprobe.architectures import tiny_parts
from t2iprobe.architectures.deepfloyd import LENGTH, DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.contracts.adapter import Adapter

CLIP_VOCABULARY, T5_VOCABULARY = 49408, 32128


@dataclass(frozen=True)
class FullSize:
    """A published model.

    Args:
        adapter: of its family.
        build: makes the pipeline on the current default device and in the current default dtype.
        side: pixels a side.
        guidance: scale that it is used with.
    """

    adapter: type[Adapter]
    build: Callable[[], Any]
    side: int = 1024
    guidance: float = 5.0


@contextmanager
def placed(device: str, dtype: torch.dtype) -> Iterator[None]:
    """New modules are made on ``device`` and in ``dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def built(name: str, device: str, dtype: torch.dtype, without: Sequence[str] = ()) -> DiffusionPipeline:
    """The model ``name`` of :data:`MODELS` with random weights on ``device``, but for components it can do without."""
    with placed(device, dtype):
        pipeline = MODELS[name].build()
    for part in set(without) & set(pipeline.components):
        pipeline.register_modules(**{part: None, part.replace("text_encoder", "tokenizer"): None})
    return tiny_parts.quiet(pipeline if device == "meta" else pipeline.to(device, dtype))


def scheduler(kind: type[Any], **config: Any) -> Any:
    """A scheduler, whose tables lie on the CPU."""
    with torch.device("cpu"):
        return kind(**config)


def denoiser(adapter: type[Adapter], **changes: Any) -> nn.Module:
    """The published denoiser, or one that differs from it by ``changes`` of its configuration."""
    published = adapter.full_size()
    with torch.no_grad():
        return type(published).from_config({**published.config, **changes}).eval()


def clip_l() -> CLIPTextConfig:
    """OpenAI's CLIP ViT-L/14, which SD, SDXL, SD3 and FLUX read."""
    return CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=2,
        eos_token_id=3,
    )


def clip_g(layers: int = 32) -> CLIPTextConfig:
    """OpenCLIP's ViT-bigG/14, the second one of SDXL and SD3, or as wide with fewer layers."""
    return CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=layers,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
        bos_token_id=2,
        eos_token_id=3,
    )


def t5_xxl(layers: int = 24) -> T5EncoderModel:
    """The encoder of T5 v1.1 XXL, which SD3, FLUX and IF read: 4.8 billion parameters, or as wide with fewer layers."""
    config = T5Config(
        vocab_size=T5_VOCABULARY,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=layers,
        num_heads=64,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def autoencoder(channels: int, scaling: float, shift: float | None = None, **more: Any) -> AutoencoderKL:
    """The autoencoder of Stable Diffusion and its successors, by latent channels."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        scaling_factor=scaling,
        shift_factor=shift,
        **more,
    ).eval()


def clip_tokenizer() -> Any:
    """77 tokens, as CLIP's."""
    return tiny_parts.tokenizer(start=True, length=77)


def sd() -> StableDiffusionPipeline:
    """SD 1.5."""
    return StableDiffusionPipeline(
        vae=autoencoder(4, 0.18215, sample_size=512),
        text_encoder=CLIPTextModel(clip_l()).eval(),
        tokenizer=clip_tokenizer(),
        unet=denoiser(SD),
        scheduler=scheduler(DDIMScheduler, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    """SDXL base 1.0."""
    return StableDiffusionXLPipeline(
        vae=autoencoder(4, 0.13025, sample_size=1024, force_upcast=True),
        text_encoder=CLIPTextModel(clip_l()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(clip_g()).eval(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=denoiser(SDXL),
        scheduler=scheduler(EulerDiscreteScheduler, beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )


def sd3(short: bool = False, **changes: Any) -> StableDiffusion3Pipeline:
    """SD3 medium, or another model of the family by ``changes`` of its transformer.

    Args:
        short: whether the large text encoders have one layer, as wide as theirs.
        changes: settings of the transformer.
    """
    return StableDiffusion3Pipeline(
        transformer=denoiser(SD3, **changes),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=autoencoder(16, 1.5305, 0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(clip_l()).eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_g(1 if short else 32)).eval(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_xxl(1 if short else 24),
        tokenizer_3=tiny_parts.tokenizer(start=False, length=256),
    )


def sd35_large() -> StableDiffusion3Pipeline:
    """SD3.5 large: 38 blocks, 8 billion parameters."""
    return sd3(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm")


def flux() -> FluxPipeline:
    """FLUX.1-dev."""
    return FluxPipeline(
        transformer=denoiser(Flux),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(16, 0.3611, 0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(clip_l()).eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_xxl(),
        tokenizer_2=tiny_parts.tokenizer(start=False, length=512),
    )


def deepfloyd() -> IFPipeline:
    """IF-I-XL."""
    return IFPipeline(
        tokenizer=tiny_parts.tokenizer(start=False, length=LENGTH),
        text_encoder=t5_xxl(),
        unet=denoiser(DeepFloydIF),
        scheduler=scheduler(DDPMScheduler, beta_schedule="squaredcos_cap_v2", variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


MODELS = {
    "sd-1.5": FullSize(SD, sd, side=512, guidance=7.5),
    "sdxl": FullSize(SDXL, sdxl),
    "sd3-medium": FullSize(SD3, sd3),
    "sd3.5-large": FullSize(SD3, sd35_large),
    "flux.1-dev": FullSize(Flux, flux, guidance=3.5),
    "if-i-xl": FullSize(DeepFloydIF, deepfloyd, side=64),
}
