"""For every test: no network, one thread, and no plugin that happens to be installed beside the package."""

from __future__ import annotations

import gc
import os
import random
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

# before anything imports huggingface_hub or torch
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
gc.set_threshold(50_000, 20, 50)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking the imported libraries again and again: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _plain_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings must not change what is tested."""
    monkeypatch.setenv("T2IPROBE_DISABLE_PLUGINS", "all")
    monkeypatch.delenv("T2IPROBE_TRACE_PLUGINS", raising=False)


@pytest.fixture(autouse=True)
def _same_chance_every_time() -> None:
    """What a test draws without a generator of its own is the same in every run, so that a failure can be repeated."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are neither laid out nor painted, which takes longer than most commands that leave one."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: None)


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept for a user between runs is not kept in the developer's home."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; a test that asks for it is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()
