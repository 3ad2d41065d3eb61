"""Plots of sweeps: along a path between pictures, over settings, and through training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from t2iprobe.plugins.inversion.ablate import replaced
from t2iprobe.plugins.inversion.analyze import TRUE
from t2iprobe.plugins.inversion.plots import COLOURS, GREY, canvas, colour, dress, short
from t2iprobe.report.figures import FAINT, INK

Found = Mapping[str, Any]
ALONG = {
    "frechet": "Fréchet distance to the run's pictures\n(principal components of pixels)",
    "ssim_to_noise": "SSIM to the picture\nbetween true noises",
    "ssim_to_morph": "SSIM to the same\nbetween pixels",
    "diversity": "Diversity over pairs\n(mean |difference|)",
    "contrast": "Contrast of a picture",
    "read": "Text read right (F1)",
    "fid": "FID",
    "kid": "KID",
}


def interpolation_plot(found: Found) -> Image.Image:
    """Each measure along the path, for latents and for true noise."""
    names = [name for name in ALONG if name in found["rows"][0]]
    columns = min(3, len(names))
    whats = list(dict.fromkeys(row["what"] for row in found["rows"]))
    with canvas(columns, -(-len(names) // columns), height=2.9) as drawn:
        for axes, name in zip(drawn.panels, names, strict=False):
            for what in whats:
                rows = [row for row in found["rows"] if row["what"] == what]
                values = [np.nan if row[name] is None else row[name] for row in rows]
                hue = colour(what, found["methods"])
                axes.plot([row["share"] for row in rows], values, "o-", ms=3.5, color=hue, label=short(what))
            dress(axes, ALONG[name], "share of the second")
        for axes in drawn.panels[len(names) :]:
            axes.set_visible(False)
        drawn.legend(drawn.panels[0])
    return drawn.image


def edit_plot(found: Found) -> Image.Image:
    """What edits keep of the picture, whether they show what was asked for, and how much variations differ."""
    keys = {
        "ssim_to_source": "SSIM to the picture before",
        "ssim_to_noise": "SSIM to the edit from true noise",
        "read": "New text read right (F1)",
        "variations": f"Variations of one picture\n(a = {found['mix']:g})",
    }
    names = [name for name in keys if found["rows"][0].get(name) is not None]
    nothing = [None] * 3
    with canvas(len(names), width=2 + 3 * len(names), height=0.8 + 0.4 * len(found["rows"])) as drawn:
        for number, (axes, name) in enumerate(zip(drawn.panels, names, strict=True)):
            rows = found["rows"]
            values = np.array([row.get(name) or nothing for row in rows], np.float64)
            spread = np.abs(values[:, 1:] - values[:, :1]).T
            hues = [colour(row["what"], found["methods"]) for row in rows]
            style = {"ecolor": INK, "elinewidth": 1, "capsize": 2}
            axes.barh(range(len(rows)), values[:, 0], xerr=spread, color=hues, error_kw=style)
            axes.set_yticks(range(len(rows)), [short(row["what"]) for row in rows] if not number else [""] * len(rows))
            axes.invert_yaxis()
            dress(axes, keys[name])
    return drawn.image


def k_plot(rows: Sequence[Found]) -> Image.Image | None:
    """The numbers against how many steps forward diffusion replaces; ``None`` if only one k was measured."""
    known = [(row, replaced(row["method"])) for row in rows if row["method"] != TRUE]
    lines: dict[tuple[int, float], list[tuple[float, Found]]] = {}
    for row, k in known:
        if k is not None:
            lines.setdefault((row["num_steps"], row["guidance"]), []).append((100 * k / row["num_steps"], row))
    if not lines or max(map(len, lines.values())) < 2:
        return None
    panels = {
        "excess": "Correlation over the floor",
        "std": "Spread of the latent (noise: 1)",
        "reconstruction": "Reconstruction: mean |error|",
        "noise_cosine": "Cosine to the true noise",
    }
    with canvas(4, width=13.5) as drawn:
        for number, ((steps, scale), line) in enumerate(sorted(lines.items())):
            line.sort(key=lambda one: one[0])
            for axes, (name, title) in zip(drawn.panels, panels.items(), strict=True):
                values = [np.nan if row[name] is None else row[name] for _, row in line]
                label = f"T = {steps}" + (f", w = {scale:g}" if scale != 1 else "")
                axes.plot([share for share, _ in line], values, "o-", ms=4, color=COLOURS[number % 8], label=label)
                dress(axes, title, "% of the steps replaced")
        references = [row for row in rows if row["method"] == TRUE]
        drawn.panels[0].axhline(np.mean([row["excess"] for row in references]), color=GREY, ls="--", lw=1)
        drawn.panels[1].axhline(1, color=GREY, ls="--", lw=1)
        drawn.legend(drawn.panels[0])
    return drawn.image


def methods_plot(rows: Sequence[Found]) -> Image.Image:
    """The methods: how normal their latents are against how well the picture is reconstructed."""
    shown = [row for row in rows if row["method"] != TRUE and row["reconstruction"] is not None]
    names = list(dict.fromkeys(row["method"] for row in shown))
    noise = np.mean([row["excess"] for row in rows if row["method"] == TRUE])
    with canvas(2, width=12, height=4.4) as drawn:
        first, second = drawn.panels
        for row in shown:
            hue = COLOURS[names.index(row["method"]) % len(COLOURS)]
            mark = "os^Dv*PX"[names.index(row["method"]) // len(COLOURS) % 8]
            label = row["method"] if row is next(one for one in shown if one["method"] == row["method"]) else None
            first.plot(row["reconstruction"], row["excess"], mark, color=hue, label=label)
            if row["noise_error"] is not None:
                second.plot(row["reconstruction"], row["noise_error"], mark, color=hue)
        first.axhline(noise, color=FAINT, ls="--", lw=1)
        dress(first, "Correlation over the floor (dashed: true noise)", "reconstruction: mean |error|", "excess")
        dress(second, "Distance to the true noise", "reconstruction: mean |error|", "mean |latent − noise|")
        drawn.legend(first)
    return drawn.image


PANELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "P1: pictures against the last checkpoint's": (
        "p1", ("cka", "svcca", "knn", "ssim", "embedding"),
    ),
    "P2: angles of noise, image, latent": ("p2", ("angle_noise", "angle_image", "angle_latent")),
    "P2: distances": ("p2", ("image_latent", "noise_latent", "noise_image")),
    "P2: noise and image find each other": (
        "p2", ("noise_to_image_l2", "image_to_noise_l2", "noise_to_image_pearson", "image_to_noise_pearson"),
    ),
    "P3: angles, the last's pictures": ("p3", ("angle_noise", "angle_image", "angle_latent")),
    "P3: latents against the last's": ("p3", ("latent_cka", "latent_knn", "latent_correlation")),
    "P3: the last's pictures made again (SSIM)": ("p3", ("ssim_by_itself", "ssim_by_last")),
    "P2: correlation over the floor, |latent − noise|": ("p2", ("excess", "noise_error")),
}  # fmt: skip


def training_plot(found: Found) -> Image.Image:
    """All curves through the training, with a diamond where each saturates."""
    steps, curves = found["steps"], found["pooled"] or _single(found)
    with canvas(4, 2, width=15, height=3.4) as drawn:
        for axes, (title, (protocol, names)) in zip(drawn.panels, PANELS.items(), strict=True):
            for number, name in enumerate(name for name in names if f"{protocol}.{name}" in curves):
                key, hue = f"{protocol}.{name}", COLOURS[number]
                mean, std = (
                    np.array([np.nan if v is None else v for v in curves[key][part]]) for part in ("mean", "std")
                )
                axes.plot(steps, mean, "o-", ms=3, color=hue, label=name.replace("_", " "))
                if np.isfinite(std).any():
                    axes.fill_between(steps, mean - std, mean + std, color=hue, alpha=0.15, linewidth=0)
                settled = found["saturation"].get(key)
                if settled is not None:
                    axes.plot([settled], [mean[steps.index(settled)]], "D", ms=7, mfc="none", mec=hue)
            axes.set_xscale("log")
            dress(axes, title, "training step")
            axes.legend(frameon=False, fontsize=7.5)
    return drawn.image


def _single(found: Found) -> dict[str, dict[str, list[float | None]]]:
    first = next(iter(found["curves"].values()))
    return {name: {"mean": list(values), "std": [None] * len(values)} for name, values in first.items()}
