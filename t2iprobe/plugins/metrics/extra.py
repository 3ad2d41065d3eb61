"""Libraries of the extra ``t2iprobe[metrics]``, and the weights that they download: what to do where they are missing.

All of them need torchvision, so they are imported when a metric is first used and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from t2iprobe.core.errors import ConfigError, ModelError


def library(name: str, what: str) -> ModuleType:
    """The module ``name``, which ``what`` needs.

    Raises:
        ConfigError: it, or torchvision below it, is not installed, or torchvision does not fit torch.
    """
    try:
        importlib.import_module("torchvision")
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ConfigError(f"{what} needs {missing}, which is not installed: pip install 't2iprobe[metrics]'") from error
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"{what} needs a torchvision that fits this torch, and importing it failed: install both from "
            f"one index ({' '.join(str(error).split())[:120]})"
        ) from error


@contextmanager
def downloading(weights: str, what: str, put: str) -> Iterator[None]:
    """Says what to do when weights can be neither found nor downloaded.

    Raises:
        ModelError: so it is.
    """
    try:
        yield
    except OSError as error:  # urllib's errors are
        raise ModelError(f"{what} needs {weights}, which could not be fetched ({error}): {put}") from error
