"""Runs a pipeline once with hooks on: reads and edits the requested activations, and counts calls.

Uses plain torch hooks in one ``ExitStack``; nothing is left behind, even after an error. Guidance doubling is handled
here: a denoiser call is split into its branches, every branch is edited separately, and they are joined again.

Nothing here waits for the device within a step: what is not finite is noted there and looked at once, at the end.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from t2iprobe.core import patterns
from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key, Sink
from t2iprobe.core.contracts.adapter import Adapter, Pipeline
from t2iprobe.core.donors import TextDonors
from t2iprobe.core.errors import HookError, NonFiniteError, ShapeError
from t2iprobe.core.hooks import bound, hook, prediction_of
from t2iprobe.core.interventions import HookContext, Intervention, picked
from t2iprobe.core.preflight import check_module
from t2iprobe.core.scope import DenoiserCall, Scope
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Site, Sites, Stream
from t2iprobe.core.windows import Spans, Window, spans_of, window_of


@dataclass
class Engine:
    """One batch of a run.

    Args:
        pipeline: the pipeline, unchanged except for hooks.
        adapter: adapter of its family.
        sites: all sites of the model.
        rows: rows of the generation in this batch, in batch order.
        interventions: edits, applied in this order.
        reads: sites to keep in ``cache``.
        cache: sink for the activations that are read.
        donors: rows that edits read although they are not in the batch.
        tracing: look at every denoiser call as it ends, to name the site at which NaN or infinity begins.
    """

    pipeline: Pipeline
    adapter: Adapter
    sites: Sites
    rows: tuple[int, ...]
    interventions: Sequence[Intervention]
    reads: Sites
    cache: Sink
    donors: TextDonors
    tracing: bool = False
    on_step: Callable[[int], None] = lambda step: None
    calls: int = 0
    rows_seen: int = 0
    step: int = 0
    evaluation: int = 0
    moment: DenoiserCall | None = None
    seen: set[Branch] = field(default_factory=set)  # branches of this evaluation so far
    inputs: dict[str, Any] = field(default_factory=dict)
    fired: Counter[str] = field(default_factory=Counter)
    applied: Counter[int] = field(default_factory=Counter)
    expected: int = 0
    finite: list[tuple[int, Tensor]] = field(default_factory=list)  # step, and whether its prediction is, on the device

    def __post_init__(self) -> None:
        self.denoiser = self.adapter.module(self.pipeline)
        self.position = {row: index for index, row in enumerate(self.rows)}
        self.edits: dict[str, list[tuple[int, Intervention]]] = {}
        for index, intervention in enumerate(self.interventions):
            for site in self.sites.match(*intervention.patterns):
                self.edits.setdefault(site.name, []).append((index, intervention))
        self.kept = frozenset(self.reads.names)
        self.hooked = [site for site in self.sites if site.name in self.kept or site.name in self.edits]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install hooks and step counter inside a ``with`` block; then check that every site has fired."""
        check_module(self.denoiser, self.hooked)
        with ExitStack() as stack:
            self._tick(stack)
            for site in self.hooked:
                if not site.is_pattern:
                    stack.callback(hook(self.denoiser, site, functools.partial(self._visit, site)))
            if asked := [site for site in self.hooked if site.is_pattern]:
                stack.enter_context(patterns.watched(self.denoiser, asked, self._weigh))
            try:
                yield
            except torch.OutOfMemoryError:
                raise
            except Exception:
                self._check_finite()  # may be why it failed
                raise
        self._check_finite()
        self._check_fired()

    def _tick(self, stack: ExitStack) -> None:
        """Count denoiser calls with a hook, and steps by shadowing ``scheduler.step`` on the instance."""
        scheduler = self.pipeline.scheduler
        original = scheduler.step
        order = int(getattr(scheduler, "order", 1))
        ticks = 0

        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal ticks
            result = original(*args, **kwargs)
            ticks += 1
            self.step, self.evaluation = divmod(ticks, order)
            self.moment = None
            self.on_step(self.step)
            if ticks == len(scheduler.timesteps):  # before NaN is decoded
                self._check_finite()
            return result

        stack.enter_context(shadowed(scheduler, "step", step))
        stack.callback(self.denoiser.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True).remove)
        stack.callback(self.denoiser.register_forward_hook(self._leave, with_kwargs=True).remove)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inputs = bound(module, args, kwargs)
        total = len(self.inputs[self.adapter.latents_name(self.pipeline)])
        call = 0 if self.moment is None else self.moment.call + 1
        ratio, rest = divmod(total, len(self.rows))
        if rest or not ratio:
            raise HookError(f"a denoiser call has {total} rows for {len(self.rows)} requested rows")
        branches = self.adapter.branches(self.pipeline, call, ratio)
        self._check_new(branches, call)
        self.moment = DenoiserCall(self.step, call, branches)
        self.donors.see(self.inputs, self.rows, branches)
        self.calls += 1
        self.rows_seen += total
        self.expected += branches != (Branch.SKIP,)

    def _check_new(self, branches: tuple[Branch, ...], call: int) -> None:
        """Refuse a call that the adapter takes for a branch which this evaluation has had: it would be mislabelled."""
        if not call:
            self.seen.clear()
        if again := next((branch for branch in branches if branch in self.seen and branch != Branch.SKIP), None):
            raise HookError(
                f"call {call + 1} of step {self.step} would be the branch {again} a second time: the pipeline calls "
                f"its denoiser more often than the adapter {self.adapter.name!r} knows of, because of further "
                "guidance (see options=), say; switch that off"
            )
        self.seen.update(branches)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        finite = torch.isfinite(prediction_of(output)).all()
        if self.tracing and not finite:
            raise _non_finite(self.step, f", first at site {self._first_bad_site(module, args, kwargs)}")
        self.finite.append((self.step, finite))

    def _check_finite(self) -> None:
        """Look at all denoiser calls so far; only here does a run wait for the device."""
        steps, flags = [step for step, _ in self.finite], [flag for _, flag in self.finite]
        self.finite.clear()
        bad = [step for step, fine in zip(steps, torch.stack(flags).tolist() if flags else (), strict=True) if not fine]
        if bad:
            raise _non_finite(bad[0])

    def _first_bad_site(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Repeat the call with a probe on every site (only after a failure)."""
        found: list[str] = []

        def probe(site: Site, value: Tensor) -> None:
            window = self._window(site, value)
            if not found and not torch.isfinite(value if window is None else window.take(value)).all():
                found.append(site.name)

        with ExitStack() as stack:
            for site in (site for site in self.sites if not (site.carried or site.is_pattern)):
                stack.callback(hook(module, site, functools.partial(probe, site)))
            module.forward(*args, **kwargs)
        return found[0] if found else "none of the named ones (after the last block)"

    def _visit(self, site: Site, value: Tensor) -> Tensor | None:
        """Read and edit one activation; ``None`` leaves it unchanged."""
        if self.moment is None:  # the module ran outside the denoising loop
            return None
        if not isinstance(value, Tensor):
            raise HookError(f"{site.name} is a {type(value).__name__}, not a tensor; its port needs an element: Out(0)")
        if (window := self._window(site, value)) is None:
            return self._changed(site, value, self.moment)
        new = self._changed(site, window.take(value), self.moment, window.lengths)
        return None if new is None else window.put(value, new)

    def _weigh(self, site: Site, attention: patterns.Attention, result: Tensor) -> Tensor | None:
        """Read and edit the pattern of an attention with this result; ``None`` leaves the result unchanged."""
        if self.moment is None:
            return None
        queries = self._spans(site.queries, attention.query.shape[2])
        keys = self._spans(site.stream, attention.key.shape[2])
        weights = attention.weights(queries, keys)
        lengths = [span.stop - span.start for span in (keys if len(keys) > 1 else queries)]
        new = self._changed(site, weights, self.moment, lengths)
        return None if new is None else attention.moved(result, new - weights, queries, keys)

    def _changed(self, site: Site, value: Tensor, moment: DenoiserCall, lengths: Sequence[int] = ()) -> Tensor | None:
        """Edit one activation, branch by branch, and keep it; ``None`` if nothing changes.

        Args:
            site: the site.
            value: (row, ...), the part that belongs to the site.
            moment: the call of the denoiser.
            lengths: tokens of each row, or one number for all rows.
        """
        if moment.branches != (Branch.SKIP,):
            self.fired[site.name] += 1
        count = len(self.rows)
        if value.shape[0] != count * len(moment.branches):
            raise HookError(
                f"{site.name}: {value.shape[0]} rows for {count} requested rows in {len(moment.branches)} branches"
            )
        new = self._edited(site, value, moment, lengths) if site.name in self.edits else value
        if site.name in self.kept:
            keys = [Key(site.name, moment.step, branch, self.evaluation) for branch in moment.branches]
            if len(lengths) > 1:
                for index in range(len(keys)):
                    _check_equal(site, lengths[index * count : (index + 1) * count])
            self.cache.add(keys, self.rows, new)
        return None if new is value else new

    def _edited(self, site: Site, value: Tensor, moment: DenoiserCall, lengths: Sequence[int]) -> Tensor:
        """``value`` after the edits of each branch; itself, not a copy, if nothing changes."""
        new, count = value, len(self.rows)
        for index, branch in enumerate(moment.branches):
            rows = slice(index * count, (index + 1) * count)
            edited = self._edit(site, branch, value[rows], lengths[rows] if len(lengths) > 1 else ())
            if edited is not None:
                new = value.clone() if new is value else new
                new[rows] = edited
        return new

    def _window(self, site: Site, value: Tensor) -> Window | None:
        """The site's part of an activation; ``None`` if it is all of it."""
        if site.stream == "all":
            return window_of(site, value, ())
        return window_of(site, value, self._text(value.shape[1 + site.axes.index("token")]))

    def _text(self, length: int) -> Sequence[slice]:
        """Where the text stands in a sequence that it shares with the image."""
        return self.adapter.text_spans(self.pipeline, self.inputs, length)

    def _spans(self, stream: Stream, length: int) -> Spans:
        """The tokens of a stream in a sequence."""
        return spans_of(stream, length, () if stream == "all" else self._text(length))

    def _edit(self, site: Site, branch: Branch, value: Tensor, lengths: Sequence[int]) -> Tensor | None:
        """Apply every edit of one branch in order; ``value`` is (row, ...), of ``lengths`` tokens if they differ."""
        result: Tensor | None = None
        for index, intervention in self.edits.get(site.name, ()):
            scope = intervention.scope
            rows = scope.within(self.rows)
            if not rows or not scope.covers(self.step, branch):
                continue
            self.applied[index] += 1
            if site.carried and not intervention.patches:
                continue
            where = [self.position[row] for row in rows]
            result = value.clone() if result is None else result
            own = picked(result, where)
            absent = functools.partial(self._absent, site, branch, value)
            context = HookContext(site, self.step, branch, rows, value, self.position, self.evaluation, absent, lengths)
            new = intervention.edit(own, context)
            if new.shape != own.shape:
                raise ShapeError(f"{intervention.label} at {site.name} gave {tuple(new.shape)} for {tuple(own.shape)}")
            for place, changed in zip(where, _narrow(own, new, site, intervention), strict=True):
                result[place] = changed
        return result

    def _absent(self, site: Site, branch: Branch, like: Tensor, rows: Sequence[int]) -> Tensor:
        """Activations of donors that have no row in the batch; the hooks are not for what this takes."""
        moment, self.moment = self.moment, None
        try:
            return self.donors.of(site, branch, rows, like)
        finally:
            self.moment = moment

    def _check_fired(self) -> None:
        always = (site for site in self.hooked if not site.optional)
        silent = [site.name for site in always if self.fired[site.name] != self.expected]
        if silent:
            raise HookError(
                f"{len(silent)} of {len(self.hooked)} sites did not fire once per denoiser call ({self.expected}), "
                f"first {silent[0]} with {self.fired[silent[0]]}: an attention processor that bypasses the module, a "
                "compiled block or a skipped layer can cause this"
            )
        for index, edit in enumerate(self.interventions):
            if not self.applied[index] and edit.scope.within(self.rows):
                raise HookError(
                    f"{edit.label} on {', '.join(edit.patterns)} was never applied: its scope ({_said(edit.scope)}) "
                    f"covers none of the {self.step} steps and branches of this run"
                )


def _check_equal(site: Site, lengths: Sequence[int]) -> None:
    """Refuse to cache rows of different length, whose padding would look like tokens."""
    if len(set(lengths)) > 1:
        raise HookError(
            f"{site.name}: the prompts of this batch have {min(lengths)} to {max(lengths)} tokens, and the picture's "
            "tokens stand right behind each prompt's; cache prompts of equal length, or one at a time (batch_size=1)"
        )


def _non_finite(step: int, where: str = "") -> NonFiniteError:
    return NonFiniteError(
        f"NaN or infinity in the denoiser at step {step}{where}; try another dtype (float32, or bfloat16 instead of "
        "float16)"
    )


def _said(scope: Scope) -> str:
    """The steps and branches of a scope in words."""
    parts = {"steps": scope.steps, "branches": scope.branches}
    return ", ".join(
        f"all {name}" if listed is None else f"{name} {', '.join(map(str, listed)) or 'none'}"
        for name, listed in parts.items()
    )


def _narrow(own: Tensor, new: Tensor, site: Site, intervention: Intervention) -> Tensor:
    """``new`` inside the tokens and heads of the scope, ``own`` elsewhere."""
    scope = intervention.scope
    if scope.tokens is not None:
        if "token" not in site.axes:
            raise HookError(f"{site.name} has no token axis (it has {', '.join(site.axes)}), so no tokens to select")
        axis = 1 + site.axes.index("token")
        mask = _mask(tuple(scope.tokens), own.shape[axis], f"token of {site.name}", own.device)
        new = torch.where(_along(mask, axis, own), new, own)
    if scope.heads is not None:
        if site.heads is None:
            raise HookError(f"{site.name} has no heads; choose q, k, v, z or pattern of an attention")
        mask = _mask(tuple(scope.heads), site.heads, f"head of {site.name}", own.device)
        if "head" in site.axes:
            mask = _along(mask, 1 + site.axes.index("head"), own)
        else:
            mask = mask.repeat_interleave(own.shape[-1] // site.heads)
        new = torch.where(mask, new, own)
    return new


def _along(mask: Tensor, axis: int, value: Tensor) -> Tensor:
    """A mask of one axis of ``value``, shaped to broadcast against it."""
    return mask.view([-1 if place == axis else 1 for place in range(value.ndim)])


@functools.lru_cache(maxsize=512)
def _mask(chosen: tuple[int, ...], size: int, what: str, device: torch.device) -> Tensor:
    wrong = [index for index in chosen if not 0 <= index < size]
    if wrong:
        raise HookError(f"no {what} has number {wrong[0]}; there are {size}, numbered from 0")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(chosen)] = True
    return mask.to(device)
