"""Models without text, for inversion only: class-conditional DiT, and unconditional latent and pixel diffusion.

They have no site that a text method could read or patch, so they are not among the package's architectures, and only
the commands of ``t2iprobe invert`` take them. Prompts are class numbers or ImageNet names for DiT, and empty for the
others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)
from torch import Tensor, nn

from t2iprobe.core.contracts.adapter import Adapter, Conditioning, Pipeline
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.sites import Site

CLASSES, NONE = 1000, 1000  # number of DiT's classes, which is also the label for "no class"
TINY_CODER: dict[str, Any] = {
    "block_out_channels": (8, 8), "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


class ImageOnly(Adapter):
    """What these models share: no sites, and no text."""

    text_entry = ()
    text_kv = ()
    #: the prompts that a run cycles through when none are named
    prompts: ClassVar[tuple[str, ...]] = ("",)

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """No sites."""
        return iter(())

    def pixels_per_latent(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.pixels_per_latent`; these pipelines leave it to their autoencoder."""
        coder = getattr(pipeline, "vae", None) or getattr(pipeline, "vqvae", None)
        return 1 if coder is None else int(2 ** (len(coder.config.block_out_channels) - 1))

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """No conditioning."""
        return Conditioning(torch.zeros(len(prompts), 1, 1))

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        prediction: Tensor = pipeline.unet(latents, timestep, return_dict=False)[0]
        return prediction


class Pixels(ImageOnly):
    """``DDPMPipeline`` and ``DDIMPipeline``: pixels in -1..1 (also the paper's ADM, if its weights are converted)."""

    name = "ddpm"
    pipelines = frozenset({"DDPMPipeline", "DDIMPipeline"})
    denoiser = "unet"

    @classmethod
    def tiny(cls) -> DDPMPipeline:
        """A tiny model of 16 x 16 pixels."""
        return DDPMPipeline(_tiny_unet(16), DDIMScheduler(clip_sample=False))

    @classmethod
    def full_size(cls) -> nn.Module:
        """google/ddpm-cifar10-32's U-Net."""
        with torch.device("meta"):
            return UNet2DModel(
                sample_size=32, block_out_channels=(128, 256, 256, 256), layers_per_block=2, attention_head_dim=None,
                down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
                downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
            )  # fmt: skip

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """The pixels themselves are denoised."""
        return images

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """The pixels themselves are denoised."""
        return latents


class Latents(ImageOnly):
    """``LDMPipeline``: unconditional latent diffusion over a vector-quantised autoencoder (CelebA-HQ)."""

    name = "ldm"
    pipelines = frozenset({"LDMPipeline"})
    denoiser = "unet"

    @classmethod
    def tiny(cls) -> LDMPipeline:
        """A tiny model of 16 x 16 pixels and 8 x 8 latents."""
        unet = _tiny_unet(8)
        coder = VQModel(**TINY_CODER, latent_channels=3, num_vq_embeddings=16, scaling_factor=1.0)
        return LDMPipeline(coder, unet, DDIMScheduler(clip_sample=False))

    @classmethod
    def full_size(cls) -> nn.Module:
        """CompVis/ldm-celebahq-256's U-Net."""
        with torch.device("meta"):
            return UNet2DModel(
                sample_size=64, block_out_channels=(224, 448, 672, 896), layers_per_block=2, attention_head_dim=32,
                down_block_types=("DownBlock2D", *("AttnDownBlock2D",) * 3),
                up_block_types=(*("AttnUpBlock2D",) * 3, "UpBlock2D"),
            )  # fmt: skip

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """Latents before they are quantised, because the model was trained on those."""
        latents: Tensor = pipeline.vqvae.encode(images).latents * pipeline.vqvae.config.scaling_factor
        return latents

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """Decode as the pipeline does."""
        images: Tensor = pipeline.vqvae.decode(latents / pipeline.vqvae.config.scaling_factor).sample
        return images


class ByClass(ImageOnly):
    """``DiTPipeline``: a diffusion transformer over classes; the empty prompt is its null class."""

    name = "dit"
    pipelines = frozenset({"DiTPipeline"})
    denoiser = "transformer"
    prompts = tuple(map(str, range(CLASSES)))

    @classmethod
    def tiny(cls) -> DiTPipeline:
        """A tiny model of 16 x 16 pixels and 8 x 8 latents that predicts noise and a learned variance."""
        torch.manual_seed(0)
        coder = AutoencoderKL(**TINY_CODER, latent_channels=4)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        )  # fmt: skip
        return DiTPipeline(transformer, coder, DDIMScheduler(clip_sample=False), {0: "tench, Tinca tinca"})

    @classmethod
    def full_size(cls) -> nn.Module:
        """DiT-XL/2 at 256 pixels; in diffusers each block has its own embedding of time and class."""
        with torch.device("meta"):
            return DiTTransformer2DModel(out_channels=8, attention_bias=True)

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """The labels of the classes that the prompts name."""
        labels = [label_of(pipeline, prompt) for prompt in prompts]
        return Conditioning(torch.tensor(labels, device=pipeline._execution_device))

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`; the learned variance is the second half of the channels."""
        labels = conditioning.tokens
        output = pipeline.transformer(latents, timestep=timestep.long(), class_labels=labels, return_dict=False)
        prediction: Tensor = output[0]
        return prediction


def _tiny_unet(side: int) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=side, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


def label_of(pipeline: Pipeline, prompt: str) -> int:
    """The label of a class, by number or by a name that the pipeline knows; the empty prompt means the null class.

    Raises:
        ConfigError: there is no such class.
    """
    if not prompt:
        return NONE
    if prompt.isdecimal() and int(prompt) < CLASSES:
        return int(prompt)
    known: dict[str, int] = dict(pipeline.labels or {})
    if prompt not in known:
        raise ConfigError(f"no class {prompt!r}; classes are 0 to {CLASSES - 1} or names{near(prompt, known)}")
    return known[prompt]


FAMILIES: tuple[type[ImageOnly], ...] = (Pixels, Latents, ByClass)


def family_of(pipeline: Any) -> ImageOnly | None:
    """The family of a pipeline without text; ``None`` where it is none of them."""
    kind = type(pipeline).__name__
    return next((family() for family in FAMILIES if kind in family.pipelines), None)
