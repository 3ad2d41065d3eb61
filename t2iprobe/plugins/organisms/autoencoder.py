"""Trains the autoencoder whose recipe the latent embedded models share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from t2iprobe.plugins.organisms.build import autoencoder
from t2iprobe.plugins.organisms.data import random_signs, tensor

BATCH = 48  # pictures a step
MEASURED = 512  # pictures whose latents give the scale


def train_autoencoder(steps: int, seed: int, tick: Callable[[int, float], None], silent: float = 0.0) -> AutoencoderKL:
    """Train with L1 + MSE and a little KL, decoding from slightly noised latents so that small errors stay small.

    Args:
        steps: optimiser steps of :data:`BATCH` pictures.
        seed: random seed of weights and pictures.
        tick: called with the step and the loss.
        silent: share of the pairs with one sign without a word; an autoencoder that never saw such signs draws letters
            on them.

    Returns:
        The autoencoder, its ``scaling_factor`` and ``shift_factor`` measured so that latents are (0, 1) overall.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = autoencoder().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        pictures = tensor(random_signs(rng, BATCH, silent))
        posterior = model.encode(pictures).latent_dist
        latents: Tensor = posterior.mode()
        noisy = latents + 0.1 * latents.detach().std() * torch.randn_like(latents)
        error = model.decode(noisy).sample - pictures
        loss = error.abs().mean() + error.square().mean() + 1e-4 * latents.square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        tick(step + 1, loss.item())
    with torch.no_grad():
        latents = model.encode(tensor(random_signs(rng, MEASURED, silent))).latent_dist.mode()
    model.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
    return model.eval()
