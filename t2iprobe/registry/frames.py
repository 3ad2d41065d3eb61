"""Tables for pandas and xarray, which are imported only when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from t2iprobe.core.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame


def framed(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Rows as a table.

    Raises:
        ConfigError: pandas is not installed.
    """
    return library("pandas").DataFrame(list(rows))


def library(name: str) -> Any:
    """A library that is not a dependency.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"this needs {name}: pip install {name}") from None
