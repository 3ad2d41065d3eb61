"""Libraries of the extra ``t2iprobe[metrics]`` and the weights they download, with advice where they are missing.

All of them need torchvision, so they are imported only when a metric is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from t2iprobe.core.errors import ConfigError, ModelError


def library(name: str, what: str) -> ModuleType:
    """Import the module ``name``, which ``what`` needs.

    Raises:
        ConfigError: it, or torchvision, which it imports, is not installed, or torchvision does not match torch.
    """
    try:
        importlib.import_module("torchvision")
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ConfigError(f"{what} needs {missing}, which is not installed: pip install 't2iprobe[metrics]'") from error
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"{what} needs a torchvision that matches this torch, and importing it failed: install both from "
            f"the same index ({' '.join(str(error).split())[:120]})"
        ) from error


@contextmanager
def downloading(weights: str, what: str, put: str) -> Iterator[None]:
    """Advise what to do when weights are not present and cannot be downloaded.

    Raises:
        ModelError: the download failed.
    """
    try:
        yield
    except OSError as error:  # includes urllib's errors
        raise ModelError(f"{what} needs {weights}, which could not be downloaded ({error}): {put}") from error
