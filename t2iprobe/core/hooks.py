"""Torch hooks on sites: :func:`hook` puts a function on the argument or result that a site's port names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from t2iprobe.core.errors import HookError
from t2iprobe.core.sites import Site


@functools.lru_cache(maxsize=512)
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


@functools.lru_cache(maxsize=512)
def _argument_names(forward: Callable[..., Any]) -> list[str]:
    return list(_parameters(forward))[1:]


def call_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a pipeline's call, looked up once for its class: a plan asks for them hundreds of times."""
    return _parameters(type(pipeline).__call__)


def argument_names(module: nn.Module) -> list[str]:
    """The names of a module's arguments; a LoRA layer takes those of its base layer, its own being ``*args``."""
    base = getattr(module, "base_layer", None)
    return _argument_names(type(base if isinstance(base, nn.Module) else module).forward)


def _own_name(module: nn.Module, name: str) -> str:
    """The module's own name for an argument: quantised linear layers call ``input`` ``x`` or ``inputs``."""
    base = getattr(module, "base_layer", module)
    return argument_names(module)[0] if name == "input" and isinstance(base, nn.Linear) else name


def bound(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name."""
    return dict(zip(argument_names(module), args, strict=False)) | dict(kwargs)


def prediction_of(output: Any) -> Tensor:
    """What a denoiser predicts, (row, ...), of what it returns."""
    found = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
    return found if isinstance(found, Tensor) else torch.stack(found)


def _replace(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if name in kwargs:
        return args, kwargs | {name: value}
    index = argument_names(module).index(name)
    return (*args[:index], value, *args[index + 1 :]), kwargs


def hook(denoiser: nn.Module, site: Site, visit: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Hook the site's current module (a LoRA wraps modules: the path stays, the object changes); returns the undo."""
    target, key = denoiser.get_submodule(site.module), site.port.key

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = _own_name(module, str(key))
        value = bound(module, args, kwargs).get(name)
        if value is None and site.optional:
            return None
        if value is None:
            raise HookError(f"{site.name}: {type(module).__name__} got no argument {name!r} in this call")
        if not isinstance(value, tuple):
            new: Any = visit(value)
        else:  # an IP-Adapter's pictures are handed on beside the text
            new = None if (text := visit(value[0])) is None else (text, *value[1:])
        return None if new is None else _replace(module, args, kwargs, name, new)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        if key is None:
            return visit(output)
        assert isinstance(key, int)
        if isinstance(output, Tensor):
            raise HookError(f"{site.name}: {type(module).__name__} returns one tensor, so its port is Out()")
        new = visit(output[key])
        return None if new is None else (*output[:key], new, *output[key + 1 :])

    if site.port.side == "in":
        return target.register_forward_pre_hook(before, with_kwargs=True).remove
    return target.register_forward_hook(after).remove
