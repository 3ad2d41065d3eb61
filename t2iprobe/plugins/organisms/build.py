"""Untrained pipelines of the embedded models: stock diffusers classes with tiny configurations."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    IFPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, SIZE

LENGTH = 18  # tokens per prompt: the template needs 14
IF_LENGTH = 77  # IFPipeline pads to it regardless of the tokenizer
LATENT = 8  # latent channels, and latent cells per side
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")
TEMPLATE = ("a", "sign", "that", "says", *COLOURS, *LAYOUTS)
MARK = "▁"  # what Unigram writes for a space; a quoted word never starts with one, so "SIGN" stays four letters


def vocabulary() -> list[tuple[str, float]]:
    """Tokens with their scores; the special tokens keep the indices of :data:`SPECIAL`."""
    single = [MARK, f'{MARK}"', '"', *string.ascii_letters, *string.digits]
    return [
        *((token, 0.0) for token in SPECIAL),
        *((token, -5.0) for token in single),
        *((MARK + word, -1.0) for word in TEMPLATE),
    ]


def tokenizer(length: int, *, start: bool) -> PreTrainedTokenizerFast:
    """A tokenizer for up to ``length`` tokens: one for each template word and one for each letter.

    One Unigram model serves T5 and CLIP encoders; only the special tokens differ. It is case-sensitive, and reads "an"
    before a vowel as "a", so that all colours have prompts of the same length. ``start`` prepends ``<s>``, as CLIP
    does.
    """
    unigram = Tokenizer(Unigram(vocabulary(), unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    unigram.normalizer = normalizers.Replace(Regex(r"\ban(?= [aeiou])"), "a")
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    unigram.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram,
        model_max_length=length,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
    )


def autoencoder() -> AutoencoderKL:
    """32 x 32 x 3 pixels to 8 x 8 x 8 latents."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=LATENT,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
        force_upcast=False,
    )


def clip_config(width: int) -> CLIPTextConfig:
    """A two-layer CLIP text encoder; diffusers reads the output of its first layer."""
    return CLIPTextConfig(
        vocab_size=len(vocabulary()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=32,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
    )


def t5(ordered: bool = False) -> T5EncoderModel:
    """A two-layer T5 encoder.

    Args:
        ordered: initialise head k to look k tokens back, so that letters of a word get their positions. T5 encodes
            positions only by its relative bias, which is initially flat, and there may be no CLIP encoder beside it.
    """
    config = T5Config(
        vocab_size=len(vocabulary()),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=SPECIAL.index("<pad>"),
        eos_token_id=SPECIAL.index("</s>"),
    )
    encoder = T5EncoderModel(config)
    if ordered:
        bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        with torch.no_grad():
            for head in range(config.num_heads):
                bias.weight[head + 1, head] += 6.0  # bucket k is k tokens back
    return encoder


def sd3() -> StableDiffusion3Pipeline:
    """Twelve joint blocks, flow matching."""
    transformer = SD3Transformer2DModel(
        sample_size=LATENT,
        patch_size=1,
        in_channels=LATENT,
        out_channels=LATENT,
        num_layers=12,
        attention_head_dim=20,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=80,
        pooled_projection_dim=64,
        pos_embed_max_size=LATENT,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        vae=autoencoder(),
        text_encoder=CLIPTextModelWithProjection(clip_config(32)),
        tokenizer=tokenizer(LENGTH, start=True),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(32)),
        tokenizer_2=tokenizer(LENGTH, start=True),
        text_encoder_3=t5(),
        tokenizer_3=tokenizer(LENGTH, start=False),
    )


def sdxl() -> StableDiffusionXLPipeline:
    """Seventeen cross-attention layers, velocity prediction on a schedule that ends in (almost) pure noise.

    Once trained, it is turned into a model that predicts noise, as SDXL does (:mod:`~.noise`). Trained to predict noise
    from the start, swapped halves of a word got mixed up (docs/explanation/embedded-models.md).
    """
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=LATENT,
        out_channels=LATENT,
        block_out_channels=(80, 112),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=2,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),  # diffusers' name for the number of heads in SDXL
        cross_attention_dim=80,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    scheduler = DDIMScheduler(
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(clip_config(40)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(40)),
        tokenizer=tokenizer(LENGTH, start=True),
        tokenizer_2=tokenizer(LENGTH, start=True),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def deepfloyd() -> IFPipeline:
    """Eight added-KV attention layers in pixel space, DDPM with learned variance.

    The schedule is linear, not IF's cosine: at 32 x 32 pixels, letters remain visible at most levels of a cosine. It
    predicts velocity, not IF's noise: where the word is still undecided, a noise prediction differs from the noisy
    picture by only a few thousandths, and the word was never learned from those (docs/explanation/embedded-models.md).
    """
    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=6,
        block_out_channels=(16, 32, 96),
        down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        layers_per_block=(1, 2, 3),
        attention_head_dim=16,
        cross_attention_dim=64,
        encoder_hid_dim=64,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        cross_attention_norm="group_norm",
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        act_fn="silu",
    )
    sharpen(unet)
    scheduler = DDPMScheduler(
        beta_schedule="linear",
        prediction_type="v_prediction",
        variance_type="learned_range",
        timestep_spacing="trailing",
        clip_sample=True,
    )
    return IFPipeline(
        tokenizer=tokenizer(IF_LENGTH, start=False),
        text_encoder=t5(ordered=True),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def sharpen(unet: UNet2DConditionModel, gain: float = 2.0) -> None:
    """Scale up the initial queries, text keys and text values.

    Only 4 of an attention's 141 keys (77 text tokens, most of them padding, and 64 pixels) carry letters. With this and
    group norm on the text, the colour was learned about three times sooner.
    """
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if re.search(r"attentions\.\d+\.(to_q|add_k_proj|add_v_proj)\.weight$", name):
                parameter.mul_(gain)


PIPELINES: dict[str, Callable[[], Any]] = {"sd3": sd3, "sdxl": sdxl, "if": deepfloyd}
