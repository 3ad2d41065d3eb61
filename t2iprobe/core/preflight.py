"""Refuses models on which a hook would be silently ignored."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from t2iprobe.core.compiling import BlockCall
from t2iprobe.core.errors import HookError
from t2iprobe.core.sites import Site


def check_module(denoiser: nn.Module, sites: Iterable[Site]) -> None:
    """Check the denoiser and every module on the path to a site.

    Raises:
        HookError: one of them is compiled, fused or missing.
    """
    _compiled(denoiser, "the denoiser")
    if getattr(denoiser, "is_cache_enabled", False):
        raise HookError(
            "the denoiser reuses results of earlier steps (enable_cache), so an edit may be ignored; "
            "call disable_cache() first"
        )
    seen: set[str] = set()
    for site in sites:
        path = ""
        for part in site.module.split(".") if site.module else ():
            path = f"{path}.{part}".lstrip(".")
            if path not in seen:
                seen.add(path)
                _look(denoiser, path, site)


def _look(denoiser: nn.Module, path: str, site: Site) -> None:
    try:
        module = denoiser.get_submodule(path)
    except AttributeError:
        raise HookError(f"{site.name}: the model has no module {path!r}; the adapter does not match it") from None
    _compiled(module, path)
    if _fused(module):
        raise HookError(
            f"{path} has fused projections, so {site.name} would never run; call unfuse_qkv_projections() first"
        )


def _fused(module: nn.Module) -> bool:
    """Whether q, k and v currently come from one projection.

    diffusers' older attention keeps its flag after ``unfuse_qkv_projections``; there the processor is decisive.
    """
    processor = type(getattr(module, "processor", None)).__name__
    newer = hasattr(module, "unfuse_projections")
    return bool(getattr(module, "fused_projections", False)) and (newer or processor.startswith("Fused"))


def _compiled(module: nn.Module, what: str) -> None:
    # a hook registered after the first compiled call fires 0 times, silently (pytorch#117758)
    call = getattr(module, "_compiled_call_impl", None)
    if (call is not None and not isinstance(call, BlockCall)) or hasattr(module, "_orig_mod"):
        raise HookError(
            f"{what} is compiled by torch.compile, which may drop hooks silently; load it uncompiled, or with "
            "compile=True"
        )
