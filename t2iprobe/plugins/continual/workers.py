"""Several processes on one run: each takes the arms that are free (see ``run``). Light to import."""

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

SMALL = 50_000_000  # parameters of a denoiser that leaves a processor's cores idle
MOST = 4  # processes where nobody says


@dataclass(frozen=True)
class Shared:
    """What all processes of a run have done, counted together.

    Args:
        steps: of trainings.
        pictures: of samplings; parts of one count.
    """

    steps: Any
    pictures: Any

    @classmethod
    def new(cls) -> Shared:
        """Nothing yet."""
        context = multiprocessing.get_context("spawn")
        return cls(context.Value("d", 0.0), context.Value("d", 0.0))

    def stepped(self) -> int:
        """One step more; how many there are."""
        with self.steps:
            self.steps.value += 1
            return int(self.steps.value)

    def drew(self, pictures: float) -> int:
        """Pictures more; how many there are."""
        with self.pictures:
            self.pictures.value += pictures
            return round(self.pictures.value)


def usual(model: Model) -> int:
    """Processes where nobody says: a core each for a small model on a processor, else one."""
    small = sum(one.numel() for one in model.denoiser.parameters()) < SMALL
    on_cpu = model.pipeline._execution_device.type == "cpu"
    return max(1, min(MOST, os.cpu_count() or 1)) if small and on_cpu else 1


@contextmanager
def threads(processes: int) -> Iterator[int]:
    """A fair share of the cores for each of so many processes, for the length of a ``with``; gives the share."""
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
    """Processes beside this one, for the length of a ``with``; one that fails leaves its arms to the others.

    Args:
        asked: the options.
        count: how many.
        share: threads of each.
        shared: what they count.
        plugins: the class; every process makes its own.
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
                one.join(60)  # it got the interrupt as well and keeps what it has
                one.terminate()


def _help(asked: ContinualOptions, threads: int, shared: Shared, plugins: type[Plugins]) -> None:
    """A process: the same run, without words."""
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
    """The chief shows it."""
