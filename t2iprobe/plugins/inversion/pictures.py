"""Picture sheets: noise, image, latent, plain mask, errors, and grids of what was made from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.plugins.inversion.analysis.plain import Mask
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.report.figures import grid, wrapped

SPAN = 3.0  # standard deviations from black to white
ROWS, COLUMNS = 6, 15  # most rows and columns of a sheet

Numbers = NDArray[Any]


def shown(state: Numbers) -> Image.Image:
    """(channel, y, x) as a picture of its first three channels: 0 is grey, three standard deviations are white."""
    channels = state[:3] if len(state) >= 3 else np.repeat(state[:1], 3, 0)
    levels = np.clip(0.5 + channels / (2 * SPAN), 0, 1)
    return Image.fromarray((255 * levels).round().astype(np.uint8).transpose(1, 2, 0))


def heat(values: Numbers, top: float) -> Image.Image:
    """(y, x) as a heat map from 0 (black) to ``top``."""
    import matplotlib

    colours = matplotlib.colormaps["magma"](np.clip(values / (top or 1), 0, 1))[..., :3]
    return Image.fromarray((255 * colours).round().astype(np.uint8))


def masked(mask: NDArray[np.bool_]) -> Image.Image:
    """A mask (y, x) as a picture with plain areas in yellow."""
    return Image.fromarray(np.where(mask[..., None], (255, 212, 59), (40, 42, 50)).astype(np.uint8))


def rebuilt(runs: Sequence[Inverted]) -> Image.Image:
    """For some rows of several runs: the image, each method's latent, and the picture sampled from it.

    Args:
        runs: the runs, with the same prompts.
    """
    heads, columns = [], []
    for run in runs:
        several = f"\n{run.steps} steps" if len(runs) > 1 else ""
        rows = range(min(ROWS, len(run.rows)))
        part = run.part(rows)  # so that no other latents are read
        heads.append(f"image{several}")
        columns.append([part.picture("source", row) for row in rows])
        for arm in part.arms:
            heads += [f"{arm}\nlatent", f"{arm}\nrebuilt"]
            columns += [[shown(latent) for latent in part.latent(arm)], [part.picture(arm, row) for row in rows]]
    lines = zip(*columns[:COLUMNS], strict=False)
    labels = map(wrapped, runs[0].prompts)
    return grid(heads[:COLUMNS], [(label, line) for label, line in zip(labels, lines, strict=False)], cell=112)


def overview(run: Inverted, mask: Mask, arm: str, count: int = ROWS) -> Image.Image:
    """For some rows: noise, image, latent, its distance from the noise, plain areas, and the reconstruction."""
    latent, rebuilt = run.latent(arm), run.rebuilt(arm)
    noise_error = np.abs(latent - run.noise).mean(1)
    image_error = np.abs(rebuilt - run.clean).mean(1)
    rows = []
    for row in range(min(count, len(run.rows))):
        pictures = [
            shown(run.noise[row]),
            run.picture("source", row),
            shown(latent[row]),
            heat(noise_error[row], float(np.quantile(noise_error, 0.99))),
            masked(mask[row]),
            run.picture(arm, row),
            heat(image_error[row], float(np.quantile(image_error, 0.99))),
        ]
        rows.append((wrapped(run.prompts[row]), pictures))
    noise = "true noise" if run.sampled else "drawn noise"
    heads = [noise, "image", "latent", "|latent −\nnoise|", "plain areas", "rebuilt", "|rebuilt −\nimage|"]
    return grid(heads, rows)
