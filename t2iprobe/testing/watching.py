"""Independent observations for the laws: torch hooks of their own, beside the engine's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2iprobe.core.hooks import prediction_of
from t2iprobe.core.model import Model, Run
from t2iprobe.core.sites import Site


def event(site: Site) -> tuple[str, str]:
    """The module of a site, and whether it is read on entry or on exit."""
    return site.module, site.port.side


def firing_order(model: Model, prompt: str) -> dict[tuple[str, str], int]:
    """When each site's module was first entered and left, by hooks of our own in an otherwise plain run."""
    order: dict[tuple[str, str], int] = {}

    def note(event: tuple[str, str], *_: Any) -> None:
        order.setdefault(event, len(order))

    with ExitStack() as stack:
        for path, side in {event(site) for site in model.sites.match("*")}:
            module, hook = model.denoiser.get_submodule(path), functools.partial(note, (path, side))
            handle = module.register_forward_pre_hook(hook) if side == "in" else module.register_forward_hook(hook)
            stack.callback(handle.remove)
        model.run(prompt, num_steps=1)
    return order


@contextmanager
def first_output(model: Model) -> Iterator[list[Tensor]]:
    """Collects the denoiser's outputs, call by call, inside a ``with`` block."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(prediction_of(output).detach())

    handle = model.denoiser.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def entry_by_itself(model: Model, entry: Sequence[Site], run: Run, prompt: str) -> dict[str, Tensor]:
    """The text entry in one call of ``predict`` on the output of ``encode_prompts``, by hooks of our own."""
    adapter, pipeline = model.adapter, model.pipeline
    width, height = run.images[0].size
    like = next(model.denoiser.parameters())
    latents = adapter.encode_images(pipeline, torch.zeros(1, 3, height, width).to(like))
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for site in entry:
            stack.callback(_keep_first(model, site, found).remove)
        timestep = pipeline.scheduler.timesteps[:1].to(like.device)
        adapter.predict(pipeline, latents, timestep, adapter.encode_prompts(pipeline, [prompt]))
    return found


def _keep_first(model: Model, site: Site, found: dict[str, Tensor]) -> Any:
    module = model.denoiser.get_submodule(site.module)
    key = site.port.key

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        bound = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs).arguments
        found[site.name] = bound[str(key)].detach()

    def after(module: nn.Module, args: Any, output: Any) -> None:
        found[site.name] = (output if key is None else output[key]).detach()

    if site.port.side == "in":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def marks(model: Model) -> tuple[int, bool, Any]:
    """Number of hooks on all modules of the pipeline, whether ``scheduler.step`` is shadowed, and torch's attention."""
    parts = [part for part in model.pipeline.components.values() if isinstance(part, nn.Module)]
    modules = [module for part in parts for module in part.modules()]
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
    return hooks, "step" in vars(model.pipeline.scheduler), functional.scaled_dot_product_attention
