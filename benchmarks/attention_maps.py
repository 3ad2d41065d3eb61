"""Does attending agree with causing? Attention maps of the word and the colour on the embedded models, by layer.

    python benchmarks/attention_maps.py [--prompts 16] [--models tiny-sd3 tiny-sdxl tiny-if]

An AUROC is the chance that the map is higher at a random pixel of what the word draws than at one elsewhere: 0.5 is
chance. Letters are where the prompt's letters cover a pixel, the colour is the rest of the panel. Prints a table in
Markdown, with 95 % intervals over prompts.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

import t2iprobe as t2i
from t2iprobe.core.attention_maps import word_maps
from t2iprobe.core.planted import planted_layers
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, LETTERS, PANEL, SIZE, WORD_LENGTH, Sign, coverage
from t2iprobe.core.statistics import Interval, interval
from t2iprobe.registry.manager import Plugins

MODELS = ("tiny-sd3", "tiny-sdxl", "tiny-if")
Mask = NDArray[np.bool_]


def auroc(scores: NDArray[np.float32], mask: Mask) -> float:
    """Area under the receiver operating characteristic; ties count half."""
    inside, outside = scores[mask], scores[~mask]
    return float(mannwhitneyu(inside, outside).statistic / (inside.size * outside.size))


def drawn(sign: Sign) -> dict[str, Mask]:
    """Where a sign has its letters and its colour."""
    panel, letters = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    rows = slice(LAYOUTS[sign.layout], LAYOUTS[sign.layout] + PANEL)
    panel[rows], letters[rows] = True, coverage(sign.word)[..., 0] > 0.5
    return {"text": letters, "colour": panel & ~letters}


def signs(count: int) -> list[Sign]:
    """Random signs, the same for every model."""
    rng = random.Random(0)
    return [
        Sign("".join(rng.choices(LETTERS, k=WORD_LENGTH)), rng.choice(list(COLOURS)), rng.choice(list(LAYOUTS)))
        for _ in range(count)
    ]


def measured(model: t2i.Model, concept: str, prompts: int) -> dict[int | None, Interval]:
    """AUROC of each layer's map, and of all layers' together under ``None``."""
    values: dict[int | None, list[float]] = {}
    for seed, sign in enumerate(signs(prompts)):
        maps = word_maps(model, sign.prompt, sign.word if concept == "text" else sign.colour, seed=seed, num_steps=5)
        mask = drawn(sign)[concept]
        for layer in (*maps.maps, None):
            found = maps.combined(layers=None if layer is None else [layer])[0].numpy()
            values.setdefault(layer, []).append(auroc(found, mask))
    return {layer: interval(one) for layer, one in values.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--models", nargs="+", default=MODELS)
    args = parser.parse_args()
    print("| model | map of | planted layer: AUROC, rank | highest layer | all layers together | layers above 0.5 |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        model = t2i.load(name)
        for concept in ("text", "colour"):
            found = measured(model, concept, args.prompts)
            together = found.pop(None)
            order = sorted(found, key=lambda layer: -found[layer].mean)
            planted = planted_layers(name, concept, Plugins().models()) or []
            own = "; ".join(f"{one}: {said(found[one])}, {order.index(one) + 1} of {len(order)}" for one in planted)
            above = sum(one.low > 0.5 for one in found.values())
            best = f"{order[0]}: {said(found[order[0]])}"
            print(f"| `{name}` | {concept} | {own} | {best} | {said(together)} | {above} of {len(order)} |", flush=True)


def said(one: Interval) -> str:
    """An estimate with its interval."""
    return f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"


if __name__ == "__main__":
    main()
