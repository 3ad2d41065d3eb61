"""Several processes on one run: each takes the arms that are free (see ``run``). This module is light to import."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.continual.options import ContinualOptions
    from t2iprobe.plugins.continual.run import ContinualCallbacks, ContinualRun
    from t2iprobe.registry.manager import Plugins

SMALL = 50_000_000  # parameters; smaller denoisers leave a CPU's cores idle
MOST = 4  # processes, if the user does not set their number


class SharedCounts:
    """What all processes of a run have done together: training steps, and pictures (parts of a picture count)."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.steps: Any = context.Value("d", 0.0)
        self.pictures: Any = context.Value("d", 0.0)

    def callbacks(
        self, run: ContinualRun, update: Callable[[], object] = lambda: None, **more: Any
    ) -> ContinualCallbacks:
        """Callbacks that count what a process does, and call ``update`` each time."""
        from t2iprobe.plugins.continual.run import ContinualCallbacks

        evaluations = run.learner.model.evaluations(run.sampling.settings.get("num_steps"))

        def count(counter: Any, amount: float) -> None:
            with counter:
                counter.value += amount
            update()

        return ContinualCallbacks(
            on_step=lambda step, loss: count(self.steps, 1),
            on_picture_step=lambda rows, step: count(self.pictures, rows / evaluations),
            **more,
        )


def usual(model: Model) -> int:
    """Number of processes by default: one per core for a small model on a CPU, otherwise one."""
    small = sum(parameter.numel() for parameter in model.denoiser.parameters()) < SMALL
    on_cpu = model.device.type == "cpu"
    return max(1, min(MOST, os.cpu_count() or 1)) if small and on_cpu else 1


@contextmanager
def threads(processes: int) -> Iterator[int]:
    """Within a ``with``, give each of so many processes a fair share of the cores; yields the share."""
    import torch

    before, share = torch.get_num_threads(), max(1, (os.cpu_count() or 1) // processes)
    if processes > 1:
        torch.set_num_threads(share)
    try:
        yield share
    finally:
        torch.set_num_threads(before)


@contextmanager
def helping(
    options: ContinualOptions, count: int, share: int, shared: SharedCounts, plugins: type[Plugins]
) -> Iterator[None]:
    """Run further processes within a ``with``; one that fails leaves its arms to the others.

    Args:
        options: the options.
        count: number of processes.
        share: threads of each process.
        shared: counters of what they have done.
        plugins: the class of the plugins; every process makes its own.
    """
    context = multiprocessing.get_context("spawn")
    helpers = [context.Process(target=_help, args=(options, share, shared, plugins), daemon=True) for _ in range(count)]
    try:
        for one in helpers:
            one.start()
        yield
        for one in helpers:
            one.join()
    finally:
        for one in helpers:
            if one.is_alive():
                one.join(60)  # it received the interrupt as well and keeps what it has
                one.terminate()


def _help(options: ContinualOptions, threads: int, shared: SharedCounts, plugins: type[Plugins]) -> None:
    """What a helper process does: the same run, without output."""
    import torch

    from t2iprobe.cli.console import libraries_quiet, silent
    from t2iprobe.core.errors import T2IProbeError
    from t2iprobe.plugins.continual.options import build

    torch.set_num_threads(threads)
    try:
        with silent(), libraries_quiet():
            run = build(options, plugins())
            run.work(shared.callbacks(run))
    except (T2IProbeError, KeyboardInterrupt):
        raise SystemExit(1) from None
