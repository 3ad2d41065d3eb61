"""A pipeline whose activations can be read and edited: :class:`Model`, above all :meth:`Model.run`."""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Never

import torch
from PIL.Image import Image
from torch import Tensor, nn

from t2iprobe.core.arguments import OWN, check_options, count, options_of, spread, with_negative
from t2iprobe.core.batch_room import AtOnce, Room
from t2iprobe.core.batches import Batches, batches, first_batch, takes
from t2iprobe.core.cache import ActivationCache, Activations, ActivationStream
from t2iprobe.core.contracts.adapter import Adapter, Pipeline
from t2iprobe.core.donors import text_edits
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.hooks import call_parameters
from t2iprobe.core.html import sheet, table
from t2iprobe.core.interventions import Intervention, Patterns, edits_of, names
from t2iprobe.core.measuring import StepWatch
from t2iprobe.core.model_memory import ModelMemory
from t2iprobe.core.names import counted, near
from t2iprobe.core.placement import Placement, stored
from t2iprobe.core.seeds import check_seed
from t2iprobe.core.sites import Sites

OnStep = Callable[[int, int], None]  # rows in the batch, steps done


@dataclass(frozen=True, slots=True)
class Generation:
    """What to generate: one row per prompt and seed.

    Args:
        prompts: one per row; empty where ``options`` has ``prompt_embeds`` (and ``pooled_prompt_embeds``) instead.
        seeds: one per row; rows with equal seeds start from (and, with stochastic samplers, keep getting) equal noise.
        num_steps, guidance, height, width: ``None`` takes the model's default.
        options: further arguments of the pipeline call, the same for every row; prompts, embeddings and the pictures
            for a ControlNet may be one per row.
        latents: (row, ...) initial latents instead of noise, such as the result of an inversion.

    Raises:
        ConfigError: the numbers of prompts, seeds and latents differ, there are both prompts and embeddings or neither,
            or a number is invalid.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    num_steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    latents: Tensor | None = None

    def __post_init__(self) -> None:
        prompts: Any = self.prompts  # callers without types may pass anything
        if isinstance(prompts, str):
            raise ConfigError(f"a generation takes a tuple of prompts, found a single one: write ({prompts!r},)")
        if self.options.get("prompt_embeds") is not None:
            if any(self.prompts):
                raise ConfigError("a row is made from a prompt or from prompt_embeds; give one of them")
            object.__setattr__(self, "prompts", self.prompts or ("",) * len(self.seeds))
        if len(self.prompts) != len(self.seeds):
            raise ConfigError(f"{len(self.prompts)} prompts and {len(self.seeds)} seeds; each row needs one of each")
        if not self.prompts:
            raise ConfigError("a generation needs at least one prompt, or prompt_embeds among its options")
        if self.latents is not None and len(self.latents) != len(self.prompts):
            raise ConfigError(
                f"{len(self.prompts)} prompts start from {len(self.latents)} rows of latents; pass one row per prompt"
            )
        object.__setattr__(self, "seeds", tuple(map(check_seed, self.seeds)))
        for name in ("num_steps", "height", "width"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, count(name, value))

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the work for a row: guidance, size and options."""
        return {name: getattr(self, name) for name in ("guidance", "height", "width", "options")}


@dataclass(frozen=True, slots=True)
class Run:
    """The result of :meth:`Model.run`.

    Args:
        images: one per row.
        cache: the requested activations.
        denoiser_calls: denoiser calls, including those of batches that ran out of memory.
        denoiser_rows: rows through the denoiser, including guidance, repeated donors and such batches.
        seconds: wall-clock time.
        upscaling_seconds: the part of ``seconds`` that the upscaler took, 0 without one.
        prompts: the prompt of each image.
    """

    images: list[Image]
    cache: ActivationCache
    denoiser_calls: int
    denoiser_rows: int
    seconds: float
    upscaling_seconds: float = 0.0
    prompts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Run({counted(len(self.images), 'image')}, {self.cache!r}, "
            f"{counted(self.denoiser_calls, 'denoiser call')}, {self.seconds:.1f} s)"
        )

    def _repr_html_(self) -> str:
        """The images with their prompts, and what was cached."""
        cached = self.cache._repr_html_() if len(self.cache) else ""
        return sheet(self.images, self.prompts or [""] * len(self.images)) + cached


@dataclass(frozen=True, slots=True)
class CostProbe:
    """The cost of a generation on this machine.

    Args:
        seconds_a_row: seconds per row of a denoiser call.
        seconds_an_image: seconds per picture for what runs once: text encoders, decoder, upscaler.
    """

    seconds_a_row: float
    seconds_an_image: float

    def seconds(self, rows: float, images: float) -> float:
        """Seconds for so many rows of denoiser calls and so many pictures."""
        return rows * self.seconds_a_row + images * self.seconds_an_image


class Model:
    """A diffusers pipeline with named, hookable sites.

    Args:
        pipeline: a built diffusers pipeline; it is used as it is, and hooks are removed after each run.
        adapter: the adapter of its family.
        ref: the name it was loaded by.
        defaults: sampling settings for generations that do not set them (``num_steps``, ``guidance``, …).
        upscaler: a pipeline that enlarges every picture, with the row's own prompt and noise. It is never hooked.
        upscaling: arguments of the upscaler's call (``num_inference_steps``, ``guidance_scale``, …).

    Raises:
        ModelError: the upscaler does not belong to the pipeline.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        adapter: Adapter,
        *,
        ref: str = "",
        defaults: Mapping[str, Any] | None = None,
        upscaler: Pipeline | None = None,
        upscaling: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipeline, self.adapter, self.ref = pipeline, adapter, ref
        self.defaults = dict(defaults or {})
        self.upscaler, self.upscaling = upscaler, dict(upscaling or {})
        self.memory = ModelMemory(self)
        #: what was decided while loading; nothing for a pipeline that was built elsewhere
        self.placement: Placement | None = None
        self.few_steps = ""
        self.loras: tuple[str, ...] = ()
        if upscaler is not None:
            adapter.check_upscaler(pipeline, upscaler)

    def __repr__(self) -> str:
        kind = type(self.pipeline).__name__
        named = f"{self.ref}: {kind}" if self.ref else kind
        return f"Model({named}, adapter={self.adapter.name}, layers={self.n_layers}, sites={len(self.sites)})"

    def _repr_html_(self) -> str:
        weight = next(self.denoiser.parameters())
        facts = {
            "model": self.ref or "a pipeline object",
            "pipeline": type(self.pipeline).__name__,
            "adapter": self.adapter.name,
            "text-attention layers": self.n_layers,
            "sites": len(self.sites),
            "pictures": " × ".join(map(str, self.picture_size())),
            **({"loaded": str(self.placement)} if self.placement else {}),
            "weights": f"{self.weight_bytes / 1e6:,.0f} MB, {weight.dtype}, {weight.device}".replace("torch.", ""),
        }
        return table(("", ""), facts.items())

    @property
    def room(self) -> Room:
        """How many rows fit into memory, for each kind of work."""
        return self.memory.room

    @property
    def denoiser(self) -> nn.Module:
        """The network that is called every step."""
        return self.adapter.module(self.pipeline)

    @cached_property
    def sites(self) -> Sites:
        """Every site, in forward order."""
        return Sites(self.adapter.sites(self.pipeline))

    def text_sites(self, layer: int) -> Sites:
        """Text keys and values of one layer: what a localization patches together."""
        return Sites(site for site in self.sites if site.layer == layer and site.kind in self.adapter.text_kv)

    @property
    def n_layers(self) -> int:
        """How many text-attention layers there are."""
        return len({site.layer for site in self.sites if site.kind in self.adapter.text_kv})

    def generation(
        self,
        prompts: str | Sequence[str] | None,
        seed: int | Sequence[int] = 0,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Generation:
        """A :class:`Generation`; one seed (and one negative prompt) serves every prompt, or there is one each.

        Without prompts, ``options`` has their embeddings.
        """
        if prompts is None:
            embeddings = (options or {}).get("prompt_embeds")
            prompts = [""] * (0 if embeddings is None else len(embeddings))
        listed = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        seeds = tuple(seed) if isinstance(seed, Iterable) else (seed,) * len(listed)
        return Generation(listed, seeds, options=with_negative(options, negative_prompt), **settings)

    def run(
        self,
        prompts: str | Sequence[str] | Generation | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        options: Mapping[str, Any] | None = None,
        latents: Tensor | None = None,
        cache: Patterns = (),
        patch: Activations | None = None,
        interventions: Sequence[Intervention] = (),
        into: ActivationStream | None = None,
        rows: Sequence[int] | None = None,
        batch_size: int | None = None,
        on_step: OnStep = lambda rows, step: None,
        **unknown: Never,
    ) -> Run:
        """Generate, keeping and editing activations on the way.

        Args:
            prompts: a prompt, a list of prompts (one per row), or a :class:`Generation`, which has all other settings;
                nothing if ``options`` has their embeddings.
            seed: seed of the noise, one for all rows or one per row; default 0.
            num_steps, guidance, height, width: default the model's own; sides in pixels.
            negative_prompt: what guidance leads away from, one for all rows or one per row; default nothing.
            options: further arguments of the pipeline call, such as ``{"clip_skip": 1}``; ``prompt_embeds`` (and
                ``pooled_prompt_embeds``, where the pipeline takes it) in place of prompts; ``image`` for a ControlNet.
            latents: (row, ...) initial latents instead of noise.
            cache: sites to keep (names or patterns).
            patch: a cache or store whose activations replace those of the run at all of its sites: row i takes row i,
                or its only row. It is applied before ``interventions``; :func:`t2iprobe.patch` selects sites, steps,
                rows and more.
            interventions: edits, applied in this order; the cache keeps values after edits.
            into: a sink that gets the activations as they are computed, instead of the run's cache; a store's writer.
            rows: rows whose images are returned (others run only if these are patched from them, and not even then if
                what is patched follows from the text alone); default all.
            batch_size: largest number of rows at once; default as many as fit, see :meth:`at_once`. Out of memory
                halves it, also for later runs of this model.
            on_step: progress callback.
            **unknown: refused, with the name that an argument of the pipeline call has here.

        Raises:
            ConfigError: arguments that do not exist or have the wrong type, impossible rows or options, settings beside
                a generation, or a scheduler whose noise does not depend on seeds.
            SiteError: a pattern matches no site.
            HookError: a hook would not fire, or did not.
            ShapeError: a patched activation has another shape.
            NonFiniteError: NaN or infinity in the denoiser.
        """
        if unknown:
            raise ConfigError(self._unknown(next(iter(unknown))))
        settings = {
            "seed": seed, "num_steps": num_steps, "guidance": guidance, "negative_prompt": negative_prompt,
            "height": height, "width": width, "options": options, "latents": latents,
        }  # fmt: skip
        generation = self._made(prompts, {name: value for name, value in settings.items() if value is not None})
        edits = edits_of(patch, interventions)
        return self.run_generation(
            generation, cache=cache, interventions=edits, into=into, rows=rows, batch_size=batch_size, on_step=on_step
        )

    def run_generation(
        self,
        generation: Generation,
        *,
        cache: Patterns,
        interventions: Sequence[Intervention],
        into: ActivationStream | None,
        rows: Sequence[int] | None,
        batch_size: int | None,
        on_step: OnStep,
    ) -> Run:
        """:meth:`run` of a generation and a list of edits; a subclass overrides it."""
        count = len(generation.prompts)
        check_options(self.pipeline, generation.options, count)
        for names_of in self.adapter.needed_options(self.pipeline):
            if not any(generation.options.get(name) is not None for name in names_of):
                raise ConfigError(f"{type(self.pipeline).__name__} needs {names_of[0]}: options={{{names_of[0]!r}: …}}")
        self._check_negative(generation)
        self._check_truncation(generation)
        self.picture_size({"height": generation.height, "width": generation.width})
        _check_rows(count, interventions, rows or ())
        _check_static(into, interventions)
        patterns = names(cache)
        reads = self.sites.match(*patterns) if patterns else Sites(())
        state = Batches(self, generation, interventions, reads, on_step, into)
        wanted = tuple(range(count)) if rows is None else tuple(rows)
        began = time.perf_counter()
        state.run(wanted, batch_size)
        images = [state.images[row] for row in wanted]
        texts = tuple(generation.prompts[row] for row in wanted)
        return Run(images, state.cache, state.calls, state.rows, time.perf_counter() - began, state.upscaling, texts)

    def _unknown(self, name: str) -> str:
        """What to write instead of an argument that :meth:`run` does not have."""
        if name in OWN:
            return f"run takes no {name}=; {OWN[name]}"
        if name in call_parameters(self.pipeline):
            return f"run takes no {name}=; pass it to the pipeline with options={{{name!r}: …}}"
        own = set(inspect.signature(Model.run).parameters) - {"self", "unknown"}
        return f"run takes no {name}={near(name, own)}"

    def _made(self, prompts: Any, settings: dict[str, Any]) -> Generation:
        """A generation as it is, or one of these prompts with these settings."""
        if isinstance(prompts, Generation):
            if settings:
                raise ConfigError(
                    f"{', '.join(settings)} beside a Generation, which has settings of its own; set them there, or "
                    "pass the prompts instead"
                )
            return prompts
        if prompts is None:
            return self.generation(None, **settings)
        listed = [prompts] if isinstance(prompts, str) or not isinstance(prompts, Iterable) else list(prompts)
        for prompt in listed:
            if not isinstance(prompt, str):
                found = f"{prompt!r} of type {type(prompt).__name__}"
                raise ConfigError(f"run takes a prompt, a list of prompts or a Generation, found {found}")
        return self.generation(listed, **settings)

    def batches(
        self,
        generation: Generation,
        interventions: Sequence[Intervention] = (),
        rows: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> list[tuple[int, ...]]:
        """Batches of such a run, as far as it is known what fits; donors are in every batch that needs them."""
        wanted = range(len(generation.prompts)) if rows is None else rows
        size = self.at_once(generation.settings, batch_size).rows
        return list(batches(wanted, takes(interventions, self.text_edits(interventions)), size))

    def rows_at_once(self, interventions: Sequence[Intervention], rows: Sequence[int]) -> tuple[int, ...]:
        """``rows`` with the donors that have to run beside them."""
        return first_batch(rows, takes(interventions, self.text_edits(interventions)), sys.maxsize)

    def text_edits(self, interventions: Sequence[Intervention]) -> list[Intervention]:
        """The edits whose donors need no row, see :func:`t2iprobe.core.donors.text_edits`."""
        return text_edits(self.adapter, self.pipeline, self.sites, interventions)

    def at_once(self, settings: Mapping[str, Any], batch_size: int | None = None) -> AtOnce:
        """How many pictures with these settings run together: as many as fit, or as many as are asked for.

        What a picture takes is estimated before the first batch, and measured on a GPU from then on.
        """
        return self.memory.at_once(settings, batch_size)

    def steps(self, num_steps: int | None = None, options: Mapping[str, Any] | None = None) -> int:
        """Number of denoising steps of a generation with ``num_steps`` and ``options``, as :class:`Scope` counts."""
        order = int(getattr(self.pipeline.scheduler, "order", 1))
        return -(-self.evaluations(num_steps, options) // order)

    def evaluations(self, num_steps: int | None = None, options: Mapping[str, Any] | None = None) -> int:
        """How often such a generation evaluates the denoiser; a second-order scheduler does so twice per step."""
        return self.adapter.timesteps(self.pipeline, count("num_steps", self._number(num_steps)), options or {})

    def _number(self, num_steps: int | None) -> int | None:
        """The number of steps that the pipeline is called with, ``None`` if nothing says it."""
        known = (num_steps, self.defaults.get("num_steps"), self._own().get("num_inference_steps"))
        return next((one for one in known if one is not None), None)

    def guided(self, settings: Mapping[str, Any] | None = None) -> int:
        """Rows of the denoiser per row of a generation with these settings, one for each branch of guidance."""
        return self.adapter.guidance_branches(self.pipeline, self._called_with(settings or {}))

    def calls(self, settings: Mapping[str, Any] | None = None) -> int:
        """Number of denoiser calls for a batch of such a generation."""
        evaluations, extra = self._counts(settings or {})
        return evaluations * (self.guided(settings) if self.adapter.guides_apart else 1) + extra

    def rows(self, settings: Mapping[str, Any] | None = None) -> int:
        """Number of rows through the denoiser for each row of such a generation."""
        evaluations, extra = self._counts(settings or {})
        return evaluations * self.guided(settings) + extra

    def _counts(self, settings: Mapping[str, Any]) -> tuple[int, int]:
        """Evaluations of the denoiser, and calls beyond those."""
        evaluations = self.evaluations(settings.get("num_steps"), settings.get("options"))
        return evaluations, self.adapter.extra_calls(self.pipeline, self._called_with(settings), evaluations)

    def _called_with(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline call that decide its cost, defaults included."""
        number = settings.get("num_steps") or self.defaults.get("num_steps")
        steps = {"num_inference_steps": number} if number else {}
        own = {**self._own(), **self.adapter.settings(self.pipeline)}
        return {**own, **self._guidance(settings.get("guidance")), **steps, **(settings.get("options") or {})}

    def _guidance(self, scale: float | None) -> dict[str, Any]:
        """Arguments of the pipeline call for this scale, else for the model's own; empty if neither is set."""
        scale = scale if scale is not None else self.defaults.get("guidance")
        return {} if scale is None else self.adapter.guidance(self.pipeline, scale)

    def _own(self) -> dict[str, Any]:
        """Defaults of the arguments of the pipeline call."""
        parameters = call_parameters(self.pipeline).values()
        return {one.name: one.default for one in parameters if one.default is not one.empty}

    def probe(self, settings: Mapping[str, Any], images: int) -> CostProbe:
        """The cost of a generation on this machine, measured on two short ones with two steps.

        From them the model also learns what a picture takes on a GPU, see :meth:`at_once`.

        Args:
            settings: settings of the generation.
            images: number of pictures that will be drawn; the short ones are at most as many, and two to five.
        """
        short, rows = {**settings, "num_steps": 2}, max(1, min(4, images - 1))
        self.run(self.generation(["a"], 0, **short))  # the first call warms up
        watch = StepWatch(self.device)
        run = self.run(self.generation(["a"] * rows, 0, **short), on_step=watch)
        each = watch.seconds_a_row / self.guided(settings)
        once = max(0.0, run.seconds - each * run.denoiser_rows)
        return CostProbe(each, once / rows)

    @property
    def device(self) -> torch.device:
        """The device that computes, also where offloaded weights are elsewhere; the CPU for a model without weights.

        diffusers looks for it in every module, so what needs it often asks once.
        """
        return getattr(self.pipeline, "_execution_device", torch.device("cpu"))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of every component, including the upscaler's, each counted once."""
        pipelines = (self.pipeline, self.upscaler) if self.upscaler is not None else (self.pipeline,)
        parts = [part for one in pipelines for part in one.components.values() if isinstance(part, nn.Module)]
        weights = {id(inner): inner for part in parts for weight in part.parameters() for inner in stored(weight)}
        return sum(weight.nbytes for weight in weights.values())

    def image_bytes(self, settings: Mapping[str, Any]) -> int:
        """Bytes of one final picture, uncompressed; with an upscaler, of an upscaled one."""
        upscaled = self.upscaler is not None
        height, width = self.adapter.picture_size(self.upscaler) if upscaled else self.picture_size(settings)
        return height * width * 3

    def picture_size(self, settings: Mapping[str, Any] | None = None) -> tuple[int, int]:
        """Height and width in pixels of the pictures of a generation, before any upscaler.

        Args:
            settings: settings of the generation; ``height`` and ``width`` may be missing or ``None``.

        Raises:
            ConfigError: the model cannot draw pictures of the requested size.
        """
        sides = [(settings or {}).get(side) or self.defaults.get(side) for side in ("height", "width")]
        own = (0, 0) if all(sides) else self.adapter.picture_size(self.pipeline)
        height, width = (int(side or default) for side, default in zip(sides, own, strict=True))
        multiple = self.adapter.size_multiple(self.pipeline)
        if height % multiple or width % multiple:
            fitting = multiple * max(round(min(height, width) / multiple), 1)
            raise ConfigError(
                f"pictures of {height} × {width} pixels were requested; this model needs sides that are multiples of "
                f"{multiple}, such as {fitting}"
            )
        return height, width

    def _check_negative(self, generation: Generation) -> None:
        """Refuse a negative prompt that would have no effect."""
        settings = {"guidance": generation.guidance, "options": generation.options}
        given = generation.options.get("negative_prompt") or (), generation.options.get("negative_prompt_embeds")
        if (any(given[0]) or given[1] is not None) and self.guided(settings) == 1:
            raise ConfigError(
                "a negative prompt works through classifier-free guidance, and this generation of "
                f"{self.adapter.name} has none: raise the guidance scale above 1 (a model distilled with guidance has "
                "none at any scale), or leave the negative prompt out"
            )

    def _check_truncation(self, generation: Generation) -> None:
        for prompt in dict.fromkeys(generation.prompts):
            if cut := self.adapter.truncated(self.pipeline, prompt):
                warnings.warn(f"the text encoder does not read all of {prompt!r}: {cut!r} is cut off", stacklevel=4)

    def arguments(self, generation: Generation, rows: Sequence[int]) -> dict[str, Any]:
        """Arguments of the pipeline call for some rows of a generation."""
        settings = {
            "num_inference_steps": generation.num_steps or self.defaults.get("num_steps"),
            "height": generation.height or self.defaults.get("height"),
            "width": generation.width or self.defaults.get("width"),
        }
        given = {key: value for key, value in settings.items() if value is not None}
        given |= self._guidance(generation.guidance)
        # the CPU's generator gives the same noise on every machine
        generators = [torch.Generator("cpu").manual_seed(generation.seeds[row]) for row in rows]
        prompts = [generation.prompts[row] for row in rows]
        if generation.latents is not None:
            dtype = next(p.dtype for p in self.denoiser.parameters() if p.is_floating_point())
            given |= self.adapter.starting(self.pipeline, generation.latents[list(rows)].to(dtype))
        options = spread(options_of(self.pipeline, generation.options, rows), len(rows))
        inputs = {**self.adapter.settings(self.pipeline), **self.adapter.inputs(self.pipeline, prompts)}
        for name in ("prompt", "negative_prompt"):
            if options.get(f"{name}_embeds") is not None:
                inputs.pop(name, None)
        return {**inputs, **given, **options, "generator": generators}


def _check_rows(count: int, interventions: Sequence[Intervention], wanted: Sequence[int]) -> None:
    """Check that all rows exist: an edit of a row that does not would be ignored silently."""
    named: list[tuple[str, Iterable[int]]] = [("rows", wanted)]
    for edit in interventions:
        named += [(f"scope of {edit.label}", edit.scope.rows or ()), (f"donors of {edit.label}", edit.donors.values())]
    for what, rows in named:
        if wrong := [row for row in rows if not 0 <= row < count]:
            raise ConfigError(f"{what}: no row {wrong[0]}; the generation has {count}, numbered from 0")


def _check_static(into: ActivationStream | None, interventions: Sequence[Intervention]) -> None:
    if into is not None and into.static and interventions:
        raise ConfigError(
            f"{min(into.static)} is stored once, as the same at every step, but edits may change that; "
            "use a layout with static=False"
        )
