"""What an edit would act on and cost, on the published configuration of an architecture; no weights are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.models import PUBLISHED
from t2iprobe.core.contracts.adapter import count_parameters, layer_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice
from t2iprobe.core.trials import ranges
from t2iprobe.plugins.editing import options
from t2iprobe.plugins.editing.job import check_places, check_starts, methods_of, pairs_of
from t2iprobe.plugins.editing.options import SWAP, EditOptions
from t2iprobe.plugins.editing.sweep import EditMethod

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
    of = asked.filled({"model": PUBLISHED.get(asked.arch)})
    pairs, listed = len(pairs_of(of, plugins)), options.editors(asked, plugins)
    check_places(asked)
    check_starts(listed, asked.starts, asked.num_steps)
    adapter = choice("architecture", asked.arch, plugins.adapters())()
    model = Model(adapter.published(), adapter)
    layers = asked.chosen_layers(model)
    methods = methods_of(model, listed, layers, asked.starts)
    images = pairs * (2 + sum(one.editor.pictures for one in methods))
    rows = images * asked.num_steps * model.guided({"guidance": asked.guidance})
    where = _places(model, layers)
    return {
        "arch": adapter.name,
        "model": asked.model or f"{adapter.name}, published configuration",
        "inferred": adapter.inferred,
        **where,
        "pairs": pairs,
        "methods": [_method(one, asked.num_steps) for one in methods],
        "pictures": images,
        "denoiser_rows": rows,
        "generation": asked.generation,
        "sentence": (
            f"{adapter.name}: layer{'s' * (len(layers) > 1)} {ranges(layers)} of {model.layers} "
            f"({where['paths'][0]}{', …' * (len(layers) > 1)}), {where['parameters']:,} K/V parameters = "
            f"{where['share']:.2%}; {', '.join([*(one.label for one in methods), SWAP])} on {pairs} pairs of "
            f"{asked.num_steps} steps: {images:,} pictures with their donors, {rows:,} denoiser rows"
        ),
    }


def _places(model: Model, layers: Sequence[int]) -> dict[str, Any]:
    """Where the layers are and how large they are, counted as in `t2iprobe sites`."""
    table = layer_table(model.adapter, model.pipeline)
    parameters = sum(table[layer].parameters for layer in layers)
    return {
        "layers": list(layers),
        "paths": [table[layer].path for layer in layers],
        "parameters": parameters,
        "share": parameters / count_parameters(model.denoiser),
    }


def _method(one: EditMethod, steps: int) -> dict[str, Any]:
    """A method's entry; ``steps_edited`` is the paper's t_s."""
    return {
        "method": one.label,
        "start": one.start,
        "steps_edited": steps - one.start,
        "sites": len(one.sites),
        "pictures_a_pair": one.editor.pictures,
    }
