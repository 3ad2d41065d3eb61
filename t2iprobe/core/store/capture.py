"""Captures activations of a generation into a store: :func:`plan` estimates the cost, :func:`capture` runs it.

Batches that are already in the store are not run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from t2iprobe.core.arguments import EMBEDDINGS, TEXTS, options_of
from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key, by_branch
from t2iprobe.core.contracts.adapter import TIMES
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import Patterns, names
from t2iprobe.core.model import Generation, Model, OnStep
from t2iprobe.core.store import codecs, keys, verify
from t2iprobe.core.store.layout import Layout, SiteLayout
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.store.writer import ActivationWriter

SAMPLE = 16 << 20  # bytes of activations on which compression is measured
PIECE = 256 << 10
SHARE = 0.25  # compression may take this fraction of the model's time in parallel
RUN = "capture"


@dataclass(frozen=True)
class CapturePlan:
    """Contents and cost of a capture.

    Args:
        layout: what the capture holds.
        raw: uncompressed bytes of all activations.
        stored: expected bytes on disk, from the sample.
        seconds: expected time.
        rows: rows through the denoiser.
        dtypes: dtypes of the activations.
    """

    layout: Layout
    raw: int
    stored: int
    seconds: float
    rows: int
    dtypes: tuple[str, ...]


class CaptureProbe:
    """A sink that records shapes and a sample of the values of a run of one row and two steps."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._piece = min(PIECE, max(4096, SAMPLE // (6 * len(layout.entries))))
        self.bytes_a_row: dict[Key, int] = {}
        self.dtypes: dict[str, None] = {}
        self.sample: list[NDArray[Any]] = []

    @property
    def static(self) -> frozenset[str]:
        """See :class:`~t2iprobe.core.cache.ActivationStream`."""
        return self._layout.static

    def add(self, keys: Sequence[Key], rows: Sequence[int], value: Tensor) -> None:
        """See :class:`~t2iprobe.core.cache.Sink`."""
        for key, own in zip(keys, by_branch(value, keys), strict=True):
            self._add(key, rows, own)

    def _add(self, key: Key, rows: Sequence[int], value: Tensor) -> None:
        if not self._layout.has(key.branch) or (key.site in self.static and (key.step or key.evaluation)):
            return
        value = codecs.storable(value)
        self.bytes_a_row[key] = value[0].nbytes
        self.dtypes[str(value.dtype).removeprefix("torch.")] = None
        flat = value.detach().flatten()[: self._piece // value.element_size()].cpu().clone()
        self.sample.append(codecs.rounded(codecs.to_numpy(flat), flat.dtype, self._layout.round_bits))

    def discard(self, rows: Sequence[int]) -> None:
        """Do nothing: a single row is never split."""


def layout_of(
    model: Model,
    generation: Generation,
    sites: Patterns,
    *,
    steps: Sequence[int] | None = None,
    branches: Sequence[Branch] | None = None,
    batch: int = 8,
    round_bits: int | None = None,
    static: bool = True,
) -> Layout:
    """The layout of a capture of ``sites``.

    Args:
        model: the model.
        generation: what is generated.
        sites: names or patterns.
        steps: denoising steps to keep; default all.
        branches: branches of guidance to keep; default all.
        batch: rows per batch.
        round_bits: mantissa bits to keep; default all, which is exact.
        static: store step-independent sites only once; not valid if edits make them depend on the step.

    Raises:
        SiteError: a pattern matches no site.
        ConfigError: the run does not have a step, or the number of bits is invalid.
    """
    codecs.check_round_bits(round_bits)
    count = model.steps(generation.num_steps, generation.options)
    wanted = tuple(sorted(set(range(count) if steps is None else steps)))
    wrong = [step for step in wanted if not 0 <= step < count]
    if wrong or not wanted:
        what = f"steps {', '.join(map(str, wrong[:8]))}" if wrong else "no steps"
        raise ConfigError(
            f"cannot capture {what}: this run has steps 0-{count - 1}; choose among them or raise num_steps"
        )
    units = -(-len(generation.prompts) // batch)
    return Layout(
        tuple(SiteLayout(site.name, site.axes, site.static and static) for site in model.sites.match(*names(sites))),
        generation.prompts,
        generation.seeds,
        wanted,
        None if branches is None else tuple(map(str, branches)),
        -(-len(generation.prompts) // units),  # equal batches, so that the chunks of the last one are no smaller
        round_bits=round_bits,
    )


def plan(model: Model, generation: Generation, layout: Layout) -> CapturePlan:
    """Measure the cost of the capture on a short generation, and choose the compression."""
    probe = CaptureProbe(layout)
    short = _one_row(model, generation)
    model.run(short, cache=[entry.name for entry in layout.entries], into=probe)
    settings = {name: getattr(short, name) for name in ("guidance", "height", "width")}
    settings["options"] = {name: value for name, value in short.options.items() if name not in EMBEDDINGS}
    told = {name: getattr(generation, name) for name in ("num_steps", "guidance", "options")}
    calls = model.rows(told)
    count = model.evaluations(generation.num_steps, generation.options)
    more = calls - count * model.guided(told)  # of skip-layer guidance, which a short run may not have
    raw = layout.rows * sum(size * _times(key, layout, model, count, more) for key, size in probe.bytes_a_row.items())
    cost = model.probe(settings, layout.batch)
    seconds = cost.seconds(layout.rows * calls, layout.rows)
    codec = codecs.choose(probe.sample, raw / (SHARE * seconds))
    packing = raw / codec.speed if codec.speed else 0.0
    stored = math.ceil(raw * codec.ratio)
    plan = replace(layout, codec=codec)
    return CapturePlan(plan, raw, stored, max(seconds, packing), layout.rows * calls, tuple(probe.dtypes))


def _one_row(model: Model, generation: Generation) -> Generation:
    """The first row of a generation, with two steps; a text among its options then serves any number of rows."""
    first = options_of(model.pipeline, generation.options, [0])
    several = {name for name in TEXTS if isinstance(first.get(name), list)}
    return replace(
        generation,
        prompts=generation.prompts[:1],
        seeds=generation.seeds[:1],
        num_steps=2,
        options={name: value[0] if name in several else value for name, value in first.items() if name not in TIMES},
        latents=None if generation.latents is None else generation.latents[:1],
    )


def capture(
    model: Model,
    generation: Generation,
    layout: Layout,
    where: keys.Where,
    *,
    run: str = RUN,
    batch_size: int | None = None,
    on_step: OnStep = lambda rows, step: None,
    on_skip: Callable[[int], None] = lambda rows: None,
    on_unit: Callable[[int], None] = lambda rows: None,
    on_images: Callable[[Sequence[int], Sequence[Image]], None] = lambda rows, images: None,
) -> ActivationStore:
    """Run and write what the store lacks; see :class:`~t2iprobe.core.store.writer.ActivationWriter`.

    Args:
        model: the model.
        generation: what is generated.
        layout: from :func:`layout_of` or :func:`plan`.
        where: the store.
        run: name of the run in the store.
        batch_size: largest number of rows at once in the model; default a unit's.
        on_step: progress callback.
        on_skip: called with the number of rows that are already there.
        on_unit: called after each unit with its number of rows, once they are on disk; an exception ends the run.
        on_images: called before that, with the numbers of the rows and their pictures.

    Raises:
        RunExistsError: the store holds something else under this name.
        StoreError: the store cannot be written.
    """
    with ActivationWriter(where, run, layout) as writer:
        sites = [entry.name for entry in layout.entries]
        on_skip(sum(len(writer.layout.unit_rows(unit)) for unit in writer.committed))
        if writer.continued and writer.todo:
            verify.sweep_up(where, run)
        for unit in writer.todo:
            with writer.unit(unit) as rows:
                made = model.run(
                    generation, cache=sites, into=writer, rows=rows, batch_size=batch_size, on_step=on_step
                )
                on_images(rows, made.images)
            on_unit(len(rows))
    return ActivationStore(where, run)


def _times(key: Key, layout: Layout, model: Model, count: int, more: int) -> int:
    """How often the activation at ``key``, from the first step of a short run, occurs in the whole run.

    Args:
        key: its address.
        layout: what is kept.
        model: the model.
        count: how often the run evaluates the denoiser.
        more: further calls, each of the conditional branch with some layers skipped; of them, as large a part as of
            the steps is taken to be kept.
    """
    if key.step:
        return 0
    if key.site in layout.static:
        return 1
    order = int(getattr(model.pipeline.scheduler, "order", 1))
    own = sum(step * order + key.evaluation < count for step in layout.steps)
    repeated = key.branch is Branch.COND and layout.has(Branch.SKIP)
    return own + (more * own // count if repeated else 0)
