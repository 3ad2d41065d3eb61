"""Autoencoders of the tiny pipelines: FLUX.2's, and those made for video, whose latents have an axis of one frame."""

from __future__ import annotations

from typing import Any

import diffusers

from t2iprobe.architectures.tiny_parts import CHANNELS, LATENT


def settings(downsamplings: int, channels: int) -> dict[str, Any]:
    """Two resolutions for each halving of the side."""
    return {
        "base_dim": 8,
        "z_dim": channels,
        "dim_mult": [1] * (downsamplings + 1),
        "num_res_blocks": 1,
        "temperal_downsample": [False] * downsamplings,
        "latents_mean": [0.0] * channels,
        "latents_std": [1.0] * channels,
    }


def qwen_autoencoder(downsamplings: int = 1) -> diffusers.AutoencoderKLQwenImage:
    """Qwen-Image's autoencoder."""
    return diffusers.AutoencoderKLQwenImage(**settings(downsamplings, CHANNELS)).eval()


def wan_autoencoder(downsamplings: int = 1) -> diffusers.AutoencoderKLWan:
    """Wan's autoencoder."""
    return diffusers.AutoencoderKLWan(**settings(downsamplings, CHANNELS)).eval()


def flux2_autoencoder(downsamplings: int = 1) -> diffusers.AutoencoderKLFlux2:
    """FLUX.2's autoencoder, whose latents are normalised by running statistics."""
    blocks = downsamplings + 1
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(16,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=LATENT * 2**downsamplings,
    ).eval()
