"""Recipes of the embedded models: everything that determines their weights, and a hash of it; and where they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.load_options import Embedded
from t2iprobe.core.names import choice

if TYPE_CHECKING:
    from t2iprobe.plugins.organisms.plant import Route

WEIGHTS = Path(__file__).parent / "weights"  #: a stock diffusers folder per shipped model


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """The recipe of one embedded model.

    Args:
        name: ``tiny-sd3``.
        family: adapter name, and key of ``build.PIPELINES``.
        plant: routes by content, in the text form of ``--plant``.
        steps, batch, lr, warmup, decay: optimizer schedule; ``decay`` is the share of the steps that decay to 0.
        ema: decay of the averaged weights, which are shipped.
        drop: share of pairs whose prompts are emptied, for classifier-free guidance.
        seed: random seed of weights and data.
        guidance, num_steps: sampling defaults.
        autoencoder_steps: steps of the autoencoder, for families that have one.
        options: read by nothing, but part of the digests of the shipped weights.
        start: embedded model or pipeline folder whose weights to start from, including the autoencoder; default random
            weights.
        noise_steps: further steps for the last layers, which learn to predict noise instead of velocity
            (:mod:`~t2iprobe.plugins.organisms.noise`); 0 leaves the prediction as it is.
    """

    name: str
    family: str
    plant: str
    steps: int
    batch: int = 32
    lr: float = 1.5e-3
    warmup: int = 200
    decay: float = 0.4
    ema: float = 0.999
    drop: float = 0.08
    seed: int = 0
    guidance: float = 3.0
    num_steps: int = 20
    autoencoder_steps: int = 1500
    options: Mapping[str, float] = field(default_factory=dict)
    start: str = ""
    noise_steps: int = 0

    @property
    def routes(self) -> dict[str, Route]:
        """The plant, parsed."""
        from t2iprobe.plugins.organisms.plant import parse_plant

        return parse_plant(self.plant)

    @property
    def digest(self) -> str:
        """SHA-256 of everything above, 12 hexadecimal digits."""
        chosen = {key: value for key, value in asdict(self).items() if value or key not in ("start", "noise_steps")}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]


RECIPES: dict[str, ModelRecipe] = {
    recipe.name: recipe
    for recipe in (
        ModelRecipe("tiny-sd3", "sd3", "word=6,colour=3", steps=3600),
        ModelRecipe("tiny-sdxl", "sdxl", "word=11+14,colour=4", steps=4500, lr=1e-3, guidance=2.5, noise_steps=800),
        ModelRecipe("tiny-if", "if", "word=4,colour=2", steps=4500, guidance=2.5, num_steps=25, autoencoder_steps=0),
    )
}


def recipe(name: str, **changes: Any) -> ModelRecipe:
    """The recipe called ``name`` (with or without ``tiny-``), with the given changes; ``None`` changes nothing.

    Raises:
        ConfigError: the recipe does not exist, or the plant is invalid.
    """
    from t2iprobe.plugins.organisms.plant import parse_plant

    known = choice("embedded model", name if name.startswith("tiny-") else f"tiny-{name}", RECIPES)
    changed = replace(known, **{key: value for key, value in changes.items() if value is not None})
    parse_plant(changed.plant)
    return changed


def embedded() -> list[Embedded]:
    """One entry per recipe, whether its weights are shipped or not."""
    advice = "t2iprobe organisms train {} --out FOLDER, then --model FOLDER/pipeline"
    return [Embedded(name, made.family, WEIGHTS / name, advice.format(name)) for name, made in RECIPES.items()]
