"""Switch off the progress bars of the libraries that load and save pipelines, for a while, and an empty warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging as transformers_logging

from t2iprobe.core.unsaid import unsaid


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide "Loading pipeline components", "Loading weights" and "Writing model shards" inside a ``with`` block.

    And "There are modules in … that should be kept in float32: []", which diffusers says of most networks in half
    precision.
    """
    downloads_silent = are_progress_bars_disabled()  # transformers changes this setting too
    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        with unsaid("kept in float32: []", "diffusers.models.modeling_utils"):
            yield
    finally:
        with warnings.catch_warnings():
            # transformers enables those of downloads too, which HF_HUB_DISABLE_PROGRESS_BARS=1 answers with a warning
            warnings.simplefilter("ignore", UserWarning)
            for library in shown:
                library.enable_progress_bar()
        if downloads_silent:
            disable_progress_bars()
