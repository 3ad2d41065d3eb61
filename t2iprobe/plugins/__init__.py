"""Methods and sources, one package each. ``hookimpl`` marks a plugin's functions."""

from __future__ import annotations

from t2iprobe.plugins.hookspecs import hookimpl

__all__ = ["hookimpl"]
