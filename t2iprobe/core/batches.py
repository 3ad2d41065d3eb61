"""Divides the rows of a generation into batches and runs them: :class:`Batches`."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from torch import Tensor

from t2iprobe.core.arguments import texts_of
from t2iprobe.core.cache import ActivationCache, ActivationStream, Sink
from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.donors import TextDonors
from t2iprobe.core.engine import Engine
from t2iprobe.core.errors import ModelError, NonFiniteError, T2IProbeError
from t2iprobe.core.interventions import Intervention
from t2iprobe.core.measuring import HighWater, device_memory
from t2iprobe.core.names import counted
from t2iprobe.core.noise import own_noise, own_posterior
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Sites

if TYPE_CHECKING:
    from t2iprobe.core.model import Generation, Model, OnStep

#: bytes that decoding may take however little denoising took: small pictures are decoded together
DECODING = 10**9

Takes = Mapping[int, Set[int]]  # row -> rows whose activations are patched into it


def takes(interventions: Iterable[Intervention], free: Iterable[Intervention] = ()) -> Takes:
    """Which rows are patched in lock-step from which other rows; the donors of the edits in ``free`` need no row."""
    taken: defaultdict[int, set[int]] = defaultdict(set)
    apart = set(map(id, free))
    for intervention in interventions:
        for row, donor in intervention.donors.items() if id(intervention) not in apart else ():
            taken[row].add(donor)
    return taken


def first_batch(rows: Sequence[int], taken: Takes, size: int) -> tuple[int, ...]:
    """As many of ``rows``, in order, as fit with their donors; the first row is never separated from its donors."""
    batch: set[int] = set()
    for row in rows:
        grown = _closure(row, taken, batch)
        if batch and len(grown) > size:
            break
        batch = grown
    return tuple(sorted(batch))


def batches(rows: Sequence[int], taken: Takes, size: int) -> Iterator[tuple[int, ...]]:
    """Batches that contain every row once, and donors as often as needed."""
    left = list(rows)
    while left:
        batch = first_batch(left, taken, size)
        yield batch
        left = [row for row in left if row not in batch]


def _closure(row: int, taken: Takes, batch: Set[int]) -> set[int]:
    """``batch``, ``row`` and every row that it is patched from, directly or indirectly."""
    closure, queue = set(batch), [row]
    while queue:
        if (row := queue.pop()) not in closure:
            closure.add(row)
            queue.extend(taken.get(row, ()))
    return closure


@dataclass
class Batches:
    """One :meth:`Model.run`, batch by batch; batches shrink when one does not fit into memory."""

    model: Model
    generation: Generation
    interventions: Sequence[Intervention]
    reads: Sites
    on_step: OnStep
    into: ActivationStream | None = None

    def __post_init__(self) -> None:
        self.cache = ActivationCache(len(self.generation.prompts))
        self.images: dict[int, Image] = {}
        self.calls = self.rows = 0
        self.device = self.model.device
        self.text_edits = self.model.text_edits(self.interventions)
        donors = frozenset(donor for edit in self.text_edits for donor in edit.donors.values())
        self.donors = TextDonors(self.model.pipeline, self.model.adapter, donors)
        self.upscaling = 0.0
        self.decoding = False  # whether the current batch has got as far as the decoder

    def run(self, rows: Sequence[int], size: int | None) -> None:
        """Run ``rows`` in batches of at most ``size`` rows, donors that need a row included; default as many as fit.

        Raises:
            T2IProbeError: the smallest possible batch does not fit.
        """
        taken, model, settings = takes(self.interventions, self.text_edits), self.model, self.generation.settings
        left = list(rows)
        while left:
            batch = first_batch(left, taken, model.memory.at_once(settings, size, self.device).rows)
            self.donors.keep(self._text_donors(left))
            if self._fits(batch):
                left = [row for row in left if row not in batch]
            elif len(batch) > len(first_batch(left, taken, 1)) and not self.decoding:  # decoding has its own slices
                model.room.shrink(model.memory.work(settings), len(batch))
            elif not model.memory.make_room(self.decoding):
                raise T2IProbeError(
                    f"out of memory with {counted(len(batch), 'row')} in a batch, the fewest that can run together; "
                    "use a smaller resolution, a smaller dtype or, for a patch, a cached donor"
                )

    def _text_donors(self, rows: Iterable[int]) -> list[int]:
        """Donors of ``rows`` that need no row, each once."""
        return list(dict.fromkeys(edit.donors[row] for edit in self.text_edits for row in rows if row in edit.donors))

    def _fits(self, batch: tuple[int, ...]) -> bool:
        """Run a batch and report whether it fit; if not, nothing of it is kept."""
        try:
            self._run_batch(batch)
        except torch.OutOfMemoryError:
            if self.into is not None:
                self.into.discard(batch)
            # offloaded by component, the denoiser would stay on the device beside the text encoders
            for pipeline in filter(None, (self.model.pipeline, self.model.upscaler)):
                pipeline.maybe_free_model_hooks()
            return False
        return True

    def _run_batch(self, rows: tuple[int, ...]) -> None:
        """Run one batch through the pipeline; failed attempts are counted, too."""
        model, self.decoding = self.model, False
        self.water = HighWater(self.device)
        cache = ActivationCache(self.cache.rows)
        engine = self._engine(rows, self.reads, cache if self.into is None else self.into)
        engine.on_step = lambda step: self._stepped(len(rows), step)
        arguments = model.arguments(self.generation, rows)
        self._ask_donors(rows)
        try:
            images = self._denoised(engine, arguments)
        except NonFiniteError as error:
            raise self._traced(rows) or error from None
        if not self.decoding:
            self._learn(len(rows))
        if model.upscaler is not None:
            images = self._upscaled(images, texts_of(arguments), arguments["generator"])
        if other := next((image for image in images if not isinstance(image, Image)), None):
            kind = type(model.pipeline).__name__
            raise ModelError(f"{kind} gives a {type(other).__name__} for each prompt where a picture is expected")
        opaque = [image.convert("RGB") if image.mode == "RGBA" else image for image in images]
        self.images.update(zip(rows, opaque, strict=True))
        self.cache.extend(cache)

    def _stepped(self, rows: int, step: int) -> None:
        self.water.step()
        self.on_step(rows, step)

    def _learn(self, rows: int) -> int:
        """Remember what denoising these rows took; returns the bytes at its peak, 0 where they are not measured."""
        took = self.water.bytes
        if took is not None:
            self.model.memory.learn(self.generation.settings, rows, took)
        return took or 0

    def _engine(self, rows: tuple[int, ...], reads: Sites, cache: Sink) -> Engine:
        model = self.model
        return Engine(model.pipeline, model.adapter, model.sites, rows, self.interventions, reads, cache, self.donors)

    def _denoised(self, engine: Engine, arguments: dict[str, Any]) -> Any:
        """What the pipeline makes of a batch."""
        pipeline, kind = self.model.pipeline, "pil" if self.model.upscaler is None else "pt"
        try:
            with (
                self.model.adapter.prepared(pipeline, arguments),
                self._running(pipeline, arguments["generator"]),
                engine.installed(),
            ):
                return pipeline(**arguments, output_type=kind)[0]  # the pictures, whatever their name in the output
        finally:
            self.calls += engine.calls
            self.rows += engine.rows_seen

    def _traced(self, rows: tuple[int, ...]) -> NonFiniteError | None:
        """Repeat a batch that was not finite to learn where that begins; ``None`` if it is finite this time."""
        engine = self._engine(rows, Sites(()), ActivationCache(self.cache.rows))
        engine.tracing = True
        try:
            self._denoised(engine, self.model.arguments(self.generation, rows))
        except NonFiniteError as error:
            return error
        return None

    def _ask_donors(self, rows: Sequence[int]) -> None:
        """Have the prompts of donors encoded that have no row in this batch, nor had one in an earlier one."""
        donors = [donor for donor in self.donors.unknown(self._text_donors(rows)) if donor not in rows]
        if donors:
            arguments = self.model.arguments(self.generation, donors)
            with (
                self.model.adapter.prepared(self.model.pipeline, arguments),
                self._running(self.model.pipeline, arguments["generator"]),
            ):
                self.donors.ask(arguments, donors)

    @contextmanager
    def _running(self, pipeline: Pipeline, generators: Sequence[torch.Generator]) -> Iterator[None]:
        """Prepare a pipeline for the run: no progress bar, no gradients, and a noise generator for each row."""
        device = self.device if pipeline is self.model.pipeline else pipeline._execution_device
        with ExitStack() as stack:
            stack.enter_context(quiet(pipeline))
            stack.enter_context(torch.no_grad())  # inference mode would taint whatever a hook keeps for gradients
            stack.enter_context(own_noise(pipeline.scheduler, generators, device))
            if (vae := getattr(pipeline, "vae", None)) is not None:
                stack.enter_context(own_posterior(vae, generators))
                stack.enter_context(shadowed(vae, "decode", self._decoding(vae, vae.decode, generators)))
            yield

    def _decoding(
        self, vae: Any, decode: Callable[..., Any], generators: Sequence[torch.Generator]
    ) -> Callable[..., Any]:
        """A decoder that takes no more memory than denoising did, if it can, and never runs out of it in vain."""

        @functools.wraps(decode)
        def sliced(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("return_dict", True):
                return decode(latents, *args, **kwargs)

            def make(part: slice) -> Tensor:
                own = {name: value[part] if name == "generator" else value for name, value in kwargs.items()}
                with tiled(vae, latents) if self.model.memory.tiles else nullcontext():
                    return decode(latents[part], *args, **own)[0]

            self.decoding = True
            work, most = ("decode", *latents.shape[1:]), self._decoded_at_once(self._learn(len(latents)))
            return (torch.cat(self.model.room.sliced(work, len(latents), make, generators, most)),)

        return sliced

    def _decoded_at_once(self, denoising: int) -> int | None:
        """How many pictures are decoded together, given the bytes that a GPU held at the peak of denoising."""
        each, held = self.model.memory.picture_bytes(self.generation.settings), device_memory(self.water.device).held
        return each and max(1, max(denoising - held, DECODING) // each)

    def _upscaled(self, images: Tensor, texts: Mapping[str, Any], generators: Sequence[torch.Generator]) -> list[Image]:
        """Upscale one batch without hooks; each row's noise continues where the pipeline's ended."""
        began, model = time.perf_counter(), self.model

        def make(part: slice) -> list[Image]:
            own = generators[part]
            said = {name: value[part] for name, value in texts.items()}
            with self._running(model.upscaler, own):
                return model.adapter.upscale(model.pipeline, model.upscaler, images[part], said, own, model.upscaling)

        try:
            parts = model.room.sliced(("upscale", *images.shape[1:]), len(images), make, generators)
        finally:
            self.upscaling += time.perf_counter() - began
        return [image for part in parts for image in part]


@contextmanager
def tiled(vae: Any, latents: Tensor) -> Iterator[None]:
    """Decode in overlapping tiles of half a side inside a ``with`` block."""
    side = max(latents.shape[-2:]) // 2
    pixels = side * vae.tile_sample_min_size // vae.tile_latent_min_size
    with (
        shadowed(vae, "use_tiling", True),
        shadowed(vae, "tile_latent_min_size", side),
        shadowed(vae, "tile_sample_min_size", pixels),
    ):
        yield


def quiet(pipeline: Pipeline) -> AbstractContextManager[None]:
    """Switch off the pipeline's progress bar inside a ``with`` block; restored afterwards."""
    name = "_progress_bar_config"
    return shadowed(pipeline, name, {**getattr(pipeline, name, {}), "disable": True})
