"""The plugin hooks of API 1. Each docstring is the contract; nothing in the denoising loop goes through them.

A plugin is a module (or object) with functions of these names, marked with :data:`hookimpl`. Functions may leave out
arguments. They run when the kind is first asked for, so heavy imports belong inside them: importing a plugin must not
import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import typer

    from t2iprobe.core.adapter import Adapter, Pipeline
    from t2iprobe.core.metric import Metric, Reader
    from t2iprobe.core.options import LoadOptions

PROJECT = "t2iprobe"
API = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def t2iprobe_register_adapters() -> list[type[Adapter]]:  # type: ignore[empty-body]
    """Architectures.

    Each class has a ``name`` that no other adapter has; ``pipelines`` are the names of the diffusers classes it serves,
    and no other adapter may serve them.
    """


@hookspec(firstresult=True)
def t2iprobe_load_pipeline(ref: str, options: LoadOptions) -> Pipeline | None:
    """A source of weights: the pipeline that ``ref`` means, on the device and in the dtype of ``options``.

    ``None`` says "not mine", and the next plugin is asked. What is the plugin's own but cannot be loaded is a
    ``ModelError`` that tells what to do. The hub's loader comes last: it takes folders and ``owner/name``.
    """


@hookspec
def t2iprobe_register_metrics() -> list[type[Metric]]:  # type: ignore[empty-body]
    """Numbers per image. Each class has a ``name`` that no other metric has; it is the name of the score array."""


@hookspec
def t2iprobe_register_readers() -> list[type[Reader]]:  # type: ignore[empty-body]
    """Engines that read the text in an image (OCR). Each class has a ``name`` that no other reader has."""


@hookspec
def t2iprobe_register_prompt_sets() -> list[type[Any]]:  # type: ignore[empty-body]
    """Sources of prompt pairs. Each class has a ``name`` that no other prompt set has."""


@hookspec
def t2iprobe_register_commands() -> dict[str, typer.Typer]:  # type: ignore[empty-body]
    """Command groups by name: ``{"ocr": app}`` becomes ``t2iprobe ocr …``.

    Runs for ``t2iprobe --help``, so neither it nor the module of the commands may import torch.
    """
