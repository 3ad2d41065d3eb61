"""Several processes on one run: each takes the arms that are free (see ``run``). This module is light to import."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.continual.options import ContinualOptions
    from t2iprobe.registry.manager import Plugins

SMALL = 50_000_000  # parameters; smaller denoisers leave a CPU's cores idle
MOST = 4  # processes, if nobody sets their number


@dataclass(frozen=True)
class Shared:
    """What all processes of a run have done, counted together.

    Args:
        steps: steps of trainings.
        pictures: pictures of samplings; parts of a picture count.
    """

    steps: Any
    pictures: Any

    @classmethod
    def new(cls) -> Shared:
        """Counters at zero."""
        context = multiprocessing.get_context("spawn")
        return cls(context.Value("d", 0.0), context.Value("d", 0.0))

    def stepped(self) -> int:
        """Count one more step, and return how many there are."""
        with self.steps:
            self.steps.value += 1
            return int(self.steps.value)

    def drew(self, pictures: float) -> int:
        """Count more pictures, and return how many there are."""
        with self.pictures:
            self.pictures.value += pictures
            return round(self.pictures.value)


def usual(model: Model) -> int:
    """Number of processes if nobody sets it: one per core for a small model on a CPU, otherwise one."""
    small = sum(one.numel() for one in model.denoiser.parameters()) < SMALL
    on_cpu = model.pipeline._execution_device.type == "cpu"
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
def helping(asked: ContinualOptions, count: int, share: int, shared: Shared, plugins: type[Plugins]) -> Iterator[None]:
    """Run further processes within a ``with``; one that fails leaves its arms to the others.

    Args:
        asked: the options.
        count: number of processes.
        share: threads of each process.
        shared: counters of what they have done.
        plugins: the class of the plugins; every process makes its own.
    """
    context = multiprocessing.get_context("spawn")
    given = (asked, share, shared, plugins)
    helpers = [context.Process(target=_help, args=given, daemon=True) for _ in range(count)]
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


def _help(asked: ContinualOptions, threads: int, shared: Shared, plugins: type[Plugins]) -> None:
    """What a helper process does: the same run, without output."""
    import torch

    from t2iprobe.cli.console import libraries_quiet, notes
    from t2iprobe.core.errors import T2IProbeError
    from t2iprobe.plugins.continual.options import build
    from t2iprobe.plugins.continual.run import ContinualCallbacks

    torch.set_num_threads(threads)
    notes.quiet = True
    try:
        with libraries_quiet():
            run = build(asked, plugins())
            evaluations = run.learner.model.evaluations(run.sampler.settings.get("num_steps"))
            callbacks = ContinualCallbacks(
                on_step=lambda step, loss: _done(shared.stepped()),
                on_picture_step=lambda rows, step: _done(shared.drew(rows / evaluations)),
            )
            run.work(callbacks)
    except (T2IProbeError, KeyboardInterrupt):
        raise SystemExit(1) from None


def _done(count: int) -> None:
    """Do nothing with a count, since the first process shows it."""
