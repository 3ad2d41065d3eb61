"""What an edit would act on and cost, on the published configuration of an architecture; no weights are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2iprobe.cli.models import PUBLISHED, published_layers
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.editing.job import check_places, check_starts, methods_of, pairs_of
from t2iprobe.plugins.editing.options import SWAP, EditOptions, editors

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


def planned(asked: EditOptions, plugins: Plugins) -> dict[str, Any]:
    """The JSON object of a plan.

    Raises:
        ConfigError: no architecture or no number of steps is named, or something does not fit.
    """
    if asked.arch is None:
        raise ConfigError("--plan looks at the published configuration of an architecture: give --arch")
    if asked.num_steps is None or asked.guidance is None:
        raise ConfigError("--plan loads no model that would say how it samples: give --num-steps and --guidance")
    pairs = len(pairs_of(asked.filled({"model": PUBLISHED.get(asked.arch)}), plugins))
    listed, steps = editors(asked, plugins), asked.num_steps
    check_places(asked)
    check_starts(listed, asked.starts, steps)
    model, layers, said = published_layers(asked, asked.arch, plugins)
    methods = methods_of(model, listed, tuple(layers["layers"]), asked.starts)
    images = pairs * (2 + sum(one.editor.pictures for one in methods))
    rows = images * steps * model.guided({"guidance": asked.guidance})
    return {
        **layers,
        "model": asked.model or f"{asked.arch}, published configuration",
        "inferred": model.adapter.inferred,
        "pairs": pairs,
        "methods": [
            {
                "method": one.label,
                "start": one.start,
                "steps_edited": steps - one.start,  # the paper's t_s
                "sites": len(one.sites),
                "pictures_a_pair": one.editor.pictures,
            }
            for one in methods
        ],
        "pictures": images,
        "denoiser_rows": rows,
        "generation": asked.generation,
        "sentence": (
            f"{said}; {', '.join([*(one.label for one in methods), SWAP])} on {pairs} pairs of {steps} steps: "
            f"{images:,} pictures with their donors, {rows:,} denoiser rows"
        ),
    }
