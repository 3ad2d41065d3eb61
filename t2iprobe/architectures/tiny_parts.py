"""Parts of the tiny pipelines: tokenizer, text encoders, autoencoder; random weights, built offline.

They draw noise, not pictures, but a prompt clearly changes the noise at every layer.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Built = TypeVar("Built", bound=diffusers.DiffusionPipeline)

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
WORDS = ("a", "an", "the", "of", "on", "in", "and", "with", "sign", "that", "says")
LENGTH = 24  # tokens per prompt
LATENT = 8  # latent cells per side
CHANNELS = 4  # latent channels


LETTERS = string.ascii_letters + string.digits
TOKENS = dict.fromkeys([*SPECIAL, *LETTERS, *string.punctuation, *(f"##{letter}" for letter in LETTERS), *WORDS])
VOCABULARY = {token: index for index, token in enumerate(TOKENS)}  # other words are spelled letter by letter


def tokenizer(*, start: bool, length: int = LENGTH, **settings: Any) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer for up to ``length`` tokens; ``start`` prepends ``<s>``, as CLIP does."""
    fast = Tokenizer(WordPiece(VOCABULARY, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>",
        special_tokens=[(token, VOCABULARY[token]) for token in ("<s>", "</s>")],
    )
    names = {f"{role}_token": token for role, token in zip(("pad", "unk", "bos", "eos"), SPECIAL, strict=True)}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=length, **names, **settings)


def clip_config(width: int, length: int = LENGTH) -> transformers.CLIPTextConfig:
    """Two layers: SDXL and SD3 read the output of the first one in diffusers, SD and FLUX that of the second."""
    return transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        projection_dim=width,
        pad_token_id=VOCABULARY["<pad>"],
        bos_token_id=VOCABULARY["<s>"],
        eos_token_id=VOCABULARY["</s>"],
    )


def clip(width: int, length: int = LENGTH) -> transformers.CLIPTextModel:
    """A CLIP text encoder of up to ``length`` tokens."""
    return enliven(transformers.CLIPTextModel(clip_config(width, length)))


def clip_with_projection(width: int, length: int = LENGTH) -> transformers.CLIPTextModelWithProjection:
    """A CLIP text encoder of up to ``length`` tokens with a projected pooled vector."""
    return enliven(transformers.CLIPTextModelWithProjection(clip_config(width, length)))


def t5_settings(width: int, vocabulary: int = len(VOCABULARY)) -> dict[str, Any]:
    """Sizes of two layers of T5 or of its multilingual kin."""
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": width // 2,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 2,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": VOCABULARY["<pad>"],
        "eos_token_id": VOCABULARY["</s>"],
    }


def t5(width: int, vocabulary: int = len(VOCABULARY)) -> transformers.T5EncoderModel:
    """A T5 encoder of two layers; its default initialisation lets enough signal through."""
    return transformers.T5EncoderModel(transformers.T5Config(**t5_settings(width, vocabulary))).eval()


def autoencoder(downsamplings: int = 1, channels: int = CHANNELS, **settings: Any) -> diffusers.AutoencoderKL:
    """8 x 8 x ``channels`` latents from pixels that are ``2 ** downsamplings`` times finer."""
    blocks = downsamplings + 1
    return diffusers.AutoencoderKL(
        block_out_channels=(16,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=LATENT * 2**downsamplings,
        force_upcast=False,
        **settings,
    ).eval()


def unet(**settings: Any) -> diffusers.UNet2DConditionModel:
    """A U-Net of two resolutions on latents, both with cross-attention, unless the settings say otherwise."""
    shape = {"sample_size": LATENT, "in_channels": CHANNELS, "out_channels": CHANNELS, "layers_per_block": 1}
    widths = {"block_out_channels": (16, 32), "cross_attention_dim": 32, "norm_num_groups": 8, "attention_head_dim": 2}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    return enliven(diffusers.UNet2DConditionModel(**shape | widths | blocks | settings))


@torch.no_grad()
def enliven(module: nn.Module) -> nn.Module:
    """Set random weights that let a signal through: no zero-initialised gate or output, no tiny embedding."""
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            part.weight.normal_()
        elif isinstance(part, nn.Linear | nn.Conv2d):
            part.weight.normal_(std=part.weight[0].numel() ** -0.5)
    return module.eval()


@contextmanager
def seeded() -> Iterator[None]:
    """Make the weights built inside reproducible; the caller's random state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def quiet(pipeline: Built) -> Built:
    """The pipeline without progress bars."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reproducible(build: Callable[..., Built]) -> Callable[..., Built]:
    """Make a function that builds a pipeline do so with reproducible weights, and without progress bars."""

    @functools.wraps(build)
    def built(*args: Any) -> Built:
        with seeded():
            return quiet(build(*args))

    return built
