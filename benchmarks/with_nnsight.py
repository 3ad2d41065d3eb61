"""The same patch written with nnsight (``pip install nnsight``), for comparison: :func:`patched`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL.Image import Image


class Pipeline(torch.nn.Module):
    """A built pipeline as one module, which is what nnsight wraps."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                self.add_module(name, part)

    def forward(self, **arguments: Any) -> Any:
        """Generate."""
        return self.pipeline(**arguments)


def patched(
    pipeline: Any, denoiser: str, modules: Mapping[int, list[str]], arguments: dict[str, Any], steps: int, branches: int
) -> list[Image]:
    """Pictures of which row ``i`` takes the last row's outputs of ``modules[i]`` at every step.

    Args:
        pipeline: a built pipeline.
        denoiser: name of its denoiser.
        modules: paths within the denoiser, by row.
        arguments: of the pipeline call, for all rows.
        steps: denoising steps.
        branches: guidance branches in one call of the denoiser.
    """
    from nnsight import NNsight

    wrapped = NNsight(Pipeline(pipeline))
    last, found = len(arguments["prompt"]) - 1, None
    outputs = [
        (row, envoy_at(getattr(wrapped, denoiser), path))
        for row, path in sorted(((row, path) for row, paths in modules.items() for path in paths))
    ]
    with torch.no_grad(), wrapped.trace(**arguments) as tracer:
        for _ in tracer.iter[:steps]:
            for row, envoy in outputs:
                value = envoy.output
                for branch in range(branches):
                    value[branch * (last + 1) + row] = value[branch * (last + 1) + last]
        found = wrapped.output.save()
    return list(found.images)


def envoy_at(envoy: Any, path: str) -> Any:
    """The envoy of a module below another's."""
    for part in path.split("."):
        envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
    return envoy
