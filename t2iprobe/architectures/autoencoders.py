"""From pictures to latents as the denoiser gets them, and back, by every convention of diffusers' autoencoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def encode(vae: Any, images: Tensor) -> Tensor:
    """Latents (row, channel, y, x) of images (row, 3, y, x) in -1..1; the mode of a distribution."""
    output = vae.encode(images.unsqueeze(2) if of_video(vae) else images)
    posterior = getattr(output, "latent_dist", None)
    latents = output[0] if posterior is None else posterior.mode()
    latents = latents.squeeze(2) if of_video(vae) else latents
    if of_squares(vae):
        latents = functional.pixel_unshuffle(latents, 2)
    mean, deviation = statistics(vae, latents)
    return (latents - mean) / deviation


def decode(vae: Any, latents: Tensor) -> Tensor:
    """The inverse of :func:`encode`, up to the autoencoder's error."""
    mean, deviation = statistics(vae, latents)
    latents = latents * deviation + mean
    if of_squares(vae):
        latents = functional.pixel_shuffle(latents, 2)
    images = vae.decode(latents.unsqueeze(2) if of_video(vae) else latents, return_dict=False)[0]
    return images.squeeze(2) if of_video(vae) else images


def of_video(vae: nn.Module) -> bool:
    """Whether it is made for videos; a picture is one of a single frame."""
    config: Any = getattr(vae, "config", {})
    return "temperal_downsample" in config or any(isinstance(module, nn.Conv3d) for module in vae.modules())


def of_squares(vae: nn.Module) -> bool:
    """Whether each cell that the denoiser gets is a square of 2 x 2 of the autoencoder's (FLUX.2's)."""
    return isinstance(getattr(vae, "bn", None), nn.BatchNorm2d)


def statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is subtracted from the autoencoder's latents and what they are then divided by, both (1, channel, 1, 1)."""
    config, each = vae.config, (1, -1, 1, 1)
    if of_squares(vae):
        variance = vae.bn.running_var.view(each) + config.batch_norm_eps
        return vae.bn.running_mean.view(each).to(like), variance.sqrt().to(like)
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    scale = config.get("scaling_factor") or 1.0
    if mean is not None and deviation is not None:
        return torch.tensor(mean).view(each).to(like), torch.tensor(deviation).view(each).to(like)
    return torch.tensor(config.get("shift_factor") or 0.0).to(like), torch.tensor(1 / scale).to(like)
