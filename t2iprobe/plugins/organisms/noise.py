"""Turns a trained SDXL denoiser that predicts velocity into one that predicts noise, as the published one does.

With v the velocity and x the noisy latents, the noise is alpha v + sigma x. At the levels that decide the word this is
nearly a copy of x, and an error of the copy counts 1 / alpha times in the picture. A network that has to learn to copy
through norms and nonlinearities never gets exact enough (docs/explanation/embedded-models.md). So the copy is built in
here by weights alone, and only the last layers, :func:`last_layers`, have to be trained again, to scale the velocity
that they drew by alpha. What enters where stays as planted.
"""

from __future__ import annotations

import math

import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn

GAIN = 16.0  # of the copy: large, so that the optimizer's steps are small beside its weights
OFFSET = 128.0  # its constants: they make the last norm divide by the same number for every input
SCALE = 3.0  # of the last norm
KEPT = 0.1  # share of the drawn velocity to start with: alpha is .07 to 1
RIDGE = 1e-6  # regularisation of the time embedding's fit, relative to the mean square of its inputs


@torch.no_grad()
def predict_noise(pipeline: StableDiffusionXLPipeline) -> None:
    """Let the pipeline predict noise on the published SDXL's levels, in place; its last layers need training then.

    Args:
        pipeline: one that predicts velocity.
    """
    scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="epsilon",
    )
    move_times(pipeline.unet, same_levels(pipeline.scheduler.alphas_cumprod, scheduler.alphas_cumprod))
    copy_input(pipeline.unet)
    pipeline.register_modules(scheduler=scheduler)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        part.requires_grad_(False)
    for module in last_layers(pipeline.unet):
        module.requires_grad_(True)


def last_layers(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The layers behind the last skip connection."""
    block = unet.up_blocks[-1]
    return [block.resnets[-1], block.attentions[-1], unet.conv_norm_out, unet.conv_out]


def same_levels(old: Tensor, new: Tensor) -> Tensor:
    """The times, (time,) float64, at which ``old`` has the noise levels of ``new``, both (time,), alpha squared."""
    known, wanted = (torch.logit(kept.double()).flip(0).contiguous() for kept in (old, new))  # rising
    right = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
    share = (wanted - known[right - 1]) / (known[right] - known[right - 1])
    return (len(known) - right - share).flip(0)


def move_times(unet: UNet2DConditionModel, times: Tensor) -> None:
    """Refit the time embedding's last layer so that time i gives what ``times[i]``, (time,), gave."""
    embedding = unet.time_embedding
    wanted = embedding(unet.time_proj(times)).double()
    hidden = embedding.act(embedding.linear_1(unet.time_proj(torch.arange(len(times))))).double()
    inputs = torch.cat([hidden, torch.ones(len(times), 1, dtype=torch.float64)], dim=1)
    square = inputs.T @ inputs
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    fitted = torch.linalg.solve(square, inputs.T @ wanted)
    embedding.linear_2.weight.copy_(fitted[:-1].T)
    embedding.linear_2.bias.copy_(fitted[-1])


def copy_input(unet: UNet2DConditionModel) -> None:
    """Let the denoiser add its own input, exactly, to :data:`KEPT` of its prediction.

    The input is a linear function of the first skip connection. From there the last shortcut takes each two channels x
    and y to a group of channels that the last norm treats together: x + K, K - x, y - K, -y - K, and zeros. These have
    mean zero and, as K is large, the same variance for every input; the norm's bias then takes K away again, and as
    silu(x) - silu(-x) = x, the last convolution can add them up to x and y.
    """
    last, attention = unet.up_blocks[-1].resnets[-1], unet.up_blocks[-1].attentions[-1]
    norm, width = unet.conv_norm_out, unet.conv_in.out_channels
    size = width // norm.num_groups
    weight, bias = unet.conv_in.weight.flatten(1).double(), unet.conv_in.bias.double()
    taps = unet.conv_in.kernel_size[0] * unet.conv_in.kernel_size[1]
    inverse = torch.linalg.pinv(weight)[taps // 2 :: taps]  # (input channel, channel): the tap in the middle
    spread = math.sqrt(4 / size * (OFFSET**2 + GAIN**2))
    matter = (unet.conv_out.weight.square().sum((0, 2, 3)) * norm.weight.square()).reshape(-1, size).sum(1)
    for part in unet.conv_out.parameters():
        part.mul_(KEPT)
    for channel in range(unet.config.in_channels):
        group = int(matter.argsort()[channel // 2]) * size  # those that matter least
        if channel % 2 == 0:
            clear(slice(group, group + size), last.conv2, last.conv_shortcut, attention.proj_out)
            unet.conv_out.weight[:, group : group + size] = 0.0
        constant = OFFSET if channel % 2 == 0 else -OFFSET
        for place, sign in enumerate((1, -1), start=group + channel % 2 * 2):
            last.conv_shortcut.weight[place, -width:, 0, 0] = sign * GAIN * inverse[channel]
            last.conv_shortcut.bias[place] = constant - sign * GAIN * (inverse[channel] @ bias)
            norm.weight[place] = SCALE
            norm.bias[place] = -SCALE * constant / spread
            unet.conv_out.weight[channel, place, 1, 1] = sign * spread / (SCALE * GAIN)


def clear(channels: slice, *modules: nn.Conv2d | nn.Linear) -> None:
    """Let the modules write nothing to the channels."""
    for module in modules:
        module.weight[channels] = 0.0
        assert module.bias is not None
        module.bias[channels] = 0.0
