"""Kandinsky 3 (Arkhipkin et al., arXiv 2312.03511): a U-Net of its own with cross-attention to FLAN-UL2's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Conditioning, Pipeline
from t2iprobe.core.shadow import shadowed


class Kandinsky3(ProbedAdapter):
    """Adapter of ``Kandinsky3Pipeline``.

    The pipeline cuts all prompts of a batch behind the longest one, and the network also reads the mean of what is
    left. Here prompts keep all 128 tokens, and the mean is that of a prompt by itself, so that a picture is what the
    pipeline draws of this prompt alone. The pipeline's guidance scale is one less than other pipelines' for the same
    guidance.
    """

    name: ClassVar[str] = "kandinsky3"
    pipelines: ClassVar[frozenset[str]] = frozenset({"Kandinsky3Pipeline"})
    hub_id: ClassVar[str] = "kandinsky-community/kandinsky-3"
    denoiser = "unet"
    half = "float16"
    text_kv = ("cross_attn.k", "cross_attn.v")
    side = 1024
    sides = 64
    published_facts = MappingProxyType({"vae_scale_factor": 8})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.Kandinsky3Pipeline:
        """Twelve layers at four resolutions, as the network assumes; a cell is 8 pixels, as the pipeline assumes."""
        pipeline = diffusers.Kandinsky3Pipeline(
            tokenizer=parts.tokenizer(start=False, length=128),
            text_encoder=parts.t5(32),
            unet=parts.enliven(
                diffusers.Kandinsky3UNet(
                    in_channels=parts.CHANNELS,
                    time_embedding_dim=16,
                    groups=4,
                    attention_head_dim=8,
                    layers_per_block=2,
                    block_out_channels=(16, 16, 16, 16),
                    cross_attention_dim=16,
                    encoder_hid_dim=32,
                )
            ),
            scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
            movq=tiny_movq(downsamplings=3),
        )
        pipeline.default_sample_size = parts.LATENT
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The U-Net of the three-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.Kandinsky3UNet()

    def pixels_per_latent(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.pixels_per_latent`."""
        return 8

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`."""

        def whole(*args: Any, _cut_context: bool = True, **kwargs: Any) -> Any:
            return encode(*args, **kwargs)

        encode, pooling = pipeline.encode_prompt, pipeline.unet.add_time_condition
        with shadowed(pipeline, "encode_prompt", whole), shadowed(pooling, "forward", partial(pooled, pooling)):
            yield

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        with self.prepared(pipeline, {}):
            return super().predict(pipeline, latents, timestep, conditioning)

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`."""
        latents: Tensor = pipeline.movq.encode(images).latents
        return latents

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """See :meth:`Adapter.decode`."""
        images: Tensor = pipeline.movq.decode(latents, force_not_quantize=True).sample
        return images


def pooled(pooling: Any, time: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
    """What the network adds to the embedded time: attention from the mean of each prompt to its tokens.

    Args:
        pooling: the module that does so, from the mean of all tokens.
        time: (row, channel).
        context: (row, token, channel).
        context_mask: (row, 1, token), 0 where a token counts.
    """
    counts = (context_mask == 0).sum(-1).clamp(max=context.shape[1] - 1) + 1  # one behind the last, as the pipeline
    ours = torch.arange(context.shape[1], device=context.device) < counts
    mean = (context * ours.unsqueeze(-1)).sum(1, keepdim=True) / counts.unsqueeze(-1)
    found: Tensor = pooling.attention(mean.to(context), context, context_mask.to(context))
    return time + found.squeeze(1)


def tiny_movq(downsamplings: int) -> diffusers.VQModel:
    """An autoencoder whose latents also steer the decoder's normalisation."""
    blocks = downsamplings + 1
    return diffusers.VQModel(
        block_out_channels=(32,) * blocks,  # the least that this normalisation takes
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=parts.CHANNELS,
        vq_embed_dim=parts.CHANNELS,
        num_vq_embeddings=16,
        norm_num_groups=8,
        norm_type="spatial",
    ).eval()
