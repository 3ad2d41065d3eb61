"""Registers the loader of folders and hub ids. It comes last, so that another source may claim a name first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Pipeline
    from t2iprobe.core.options import LoadOptions


@hookimpl(trylast=True)
def t2iprobe_load_pipeline(ref: str, options: LoadOptions) -> Pipeline | None:
    """A folder, or a hub id ``owner/name``."""
    from t2iprobe.plugins.hub.load import load

    return load(ref, options)
