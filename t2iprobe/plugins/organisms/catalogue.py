"""Lists the embedded models and their folders. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from t2iprobe.core.options import Embedded
from t2iprobe.plugins.organisms.recipes import RECIPES, ModelRecipe

WEIGHTS = Path(__file__).parent / "weights"


def embedded() -> list[Embedded]:
    """One entry per recipe, whether its weights are shipped or not."""
    return [_entry(recipe) for recipe in RECIPES.values()]


def _entry(recipe: ModelRecipe) -> Embedded:
    train = f"t2iprobe organisms train {recipe.name} --out FOLDER"
    return Embedded(recipe.name, recipe.family, WEIGHTS / recipe.name, f"{train}, then --model FOLDER/pipeline")
