"""Registers the loader of folders, files and hub ids. It comes last, so that another source may claim a name first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from t2iprobe.core.contracts.adapter import Adapter, Pipeline
    from t2iprobe.core.load_options import LoadOptions


@hookimpl(trylast=True)
def t2iprobe_load_pipeline(ref: str, options: LoadOptions, adapters: Mapping[str, type[Adapter]]) -> Pipeline | None:
    """A folder, a file, or a hub id ``owner/name``."""
    from t2iprobe.plugins.hub.load import load

    return load(ref, options, adapters)
