"""Edits of activations: :func:`patch`, :func:`ablate`, :func:`steer`, :func:`interpolate`.

An :class:`Intervention` is a pure function of tensors with the sites and the scope it is for. The engine calls it; it
knows no hook.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Activations
from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.core.names import near
from t2iprobe.core.scope import Scope
from t2iprobe.core.sites import Site, Sites

Patterns = str | Site | Sequence[str] | Sequence[Site] | Sites


@dataclass(frozen=True, slots=True)
class HookContext:
    """What an edit knows about the activation it receives.

    Args:
        site: the site.
        step: denoising step.
        branch: branch of classifier-free guidance.
        rows: rows of the generation, one per row of the value.
        batch: all rows of this branch in the current batch, before any edit; :meth:`of` reads donors.
        position: row of the generation -> row of ``batch``.
        evaluation: number of earlier evaluations in this step (second-order schedulers).
        absent: gives (row, ...) of donors that have no row in the batch, because they follow from the text alone.
        lengths: tokens of each row of ``batch``, if they differ; the rest of a row is padding.
    """

    site: Site
    step: int
    branch: Branch
    rows: tuple[int, ...]
    batch: Tensor
    position: Mapping[int, int]
    evaluation: int = 0
    absent: Callable[[Sequence[int]], Tensor] | None = None
    lengths: Sequence[int] = ()

    @property
    def name(self) -> str:
        """The name of the site."""
        return self.site.name

    def of(self, rows: Sequence[int]) -> Tensor:
        """(row, ...) of donors, before any edit.

        Raises:
            HookError: ``rows`` are no donors of the intervention.
        """
        if self.lengths:
            self._check_lengths(rows)
        if all(row in self.position for row in rows) or self.absent is None:
            return picked(self.batch, [self.position[row] for row in rows])
        return self.absent(rows)

    def _check_lengths(self, donors: Sequence[int]) -> None:
        for row, donor in zip(self.rows, donors, strict=False):
            own, other = (self.lengths[self.position[one]] for one in (row, donor))
            if own != other:
                raise ShapeError(
                    f"{self.site.name}: the prompt has {own} tokens and the donor's {other}, and the picture's tokens "
                    "stand right behind them; patch between prompts of equal length, or patch the whole text"
                )


def picked(value: Tensor, places: Sequence[int]) -> Tensor:
    """``value[places]``, without the copy to the device that a list as index takes."""
    first = places[0]
    if list(places) == list(range(first, first + len(places))):
        return value[first : first + len(places)]
    return torch.stack([value[place] for place in places])


Edit = Callable[[Tensor, HookContext], Tensor]


@dataclass(frozen=True, slots=True)
class Intervention:
    """An edit with its sites and scope.

    Args:
        edit: function of (row, ...) and a :class:`HookContext` that returns the same shape.
        sites: names, patterns or sites, or a single one; kept as names and patterns.
        scope: where it acts.
        donors: row -> row that ``edit`` reads with :meth:`HookContext.of`. Both run in one batch (lock-step), unless
            the sites follow from the text alone: then the donor needs no row, see :meth:`Adapter.from_text`.
        label: name in messages.
        lock_step: whether donors run in the same batch even where they need no row, for a sink that reads both there.
        patches: whether it replaces activations by a donor's; only then masks and positions of tokens are edited, too.
    """

    edit: Edit
    sites: Patterns
    scope: Scope = field(default_factory=Scope)
    donors: Mapping[int, int] = field(default_factory=dict)
    label: str = "intervention"
    lock_step: bool = False
    patches: bool = False

    def __post_init__(self) -> None:
        if not callable(self.edit):
            raise ConfigError(f"an edit is a function of a tensor and a HookContext, found {self.edit!r}")
        object.__setattr__(self, "sites", names(self.sites))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The sites, as names and patterns."""
        return names(self.sites)


class ScopeParts(TypedDict, total=False):
    """Parts of a :class:`Scope` as keyword arguments."""

    steps: Collection[int] | int | None
    branches: Collection[Branch | str] | str | None
    tokens: Collection[int] | int | None
    heads: Collection[int] | int | None


def patch(
    donor: Activations | Mapping[int, int],
    sites: Patterns,
    *,
    scope: Scope | None = None,
    rows: Mapping[int, int] | None = None,
    **parts: Unpack[ScopeParts],
) -> Intervention:
    """Activation patching (Vig et al. 2020; Meng et al., arXiv 2202.05262): replace an activation with a donor's.

    Args:
        donor: a cache or store; or ``{row: donor row}``, which run in lock-step and need no cache. A donor that is not
            wanted as a picture takes no row at all where the sites follow from its prompt alone.
        sites: names, patterns or sites.
        scope: where to patch; only rows among the keys of ``donor`` or ``rows``, if one is a mapping.
        rows: for a cached donor, ``{row: row of the cache}``; by default row i takes row i, or the only row.
        **parts: ``steps=``, ``branches=``, ``tokens=`` and ``heads=`` of the :class:`Scope`, instead of ``scope``.

    Raises:
        ConfigError: ``donor`` is something else, or a part of the scope is unknown, impossible or given twice.
    """
    _check_donor(donor)
    scope = _scope(scope, parts)
    if isinstance(donor, Mapping):
        chosen = {row: donor[row] for row in scope.within(donor)}
        scope = replace(scope, rows=tuple(chosen))
        return Intervention(_lock_step(chosen), sites, scope, chosen, "patch (lock-step)", patches=True)
    if rows is not None:
        scope = replace(scope, rows=scope.within(rows))
    return Intervention(_cached(donor, rows), sites, scope, label="patch (cached)", patches=True)


def ablate(
    sites: Patterns,
    *,
    kind: Literal["zero", "mean", "resample"] = "zero",
    scope: Scope | None = None,
    donors: Mapping[int, int] | None = None,
    reference: Activations | None = None,
    **parts: Unpack[ScopeParts],
) -> Intervention:
    """Remove an activation: by zero, by a mean, or by another row's (resample ablation).

    No kind depends on which rows share a batch.

    Args:
        sites: names, patterns or sites.
        kind: with a ``reference``, ``mean`` is the mean over its rows, position by position (mean ablation as in Wang
            et al., arXiv 2211.00593); without one, each row's own mean over its tokens or positions, per channel.
        scope: where to ablate.
        donors: for ``resample``, ``{row: row to take from}``.
        reference: for ``mean``, a cache or store of the same sites and steps.
        **parts: see :func:`patch`.

    Raises:
        ConfigError: ``resample`` without ``donors``, or ``reference`` for another kind than ``mean``.
    """
    scope = _scope(scope, parts)
    if reference is not None and kind != "mean":
        raise ConfigError(f"reference= is for mean ablation; {kind} ablation takes none")
    if kind == "resample":
        if not donors:
            raise ConfigError("resample ablation needs donors={row: row to take from}")
        return patch(donors, sites, scope=scope)
    if not isinstance(reference, Activations | None):
        raise ConfigError(f"reference= takes a cache or a store, found {_a(reference)}")
    edit = _zero if kind == "zero" else _own_mean if reference is None else _reference_mean(reference)
    return Intervention(edit, sites, scope, label=f"ablate ({kind})")


def steer(
    direction: Tensor,
    sites: Patterns,
    *,
    strength: float = 1.0,
    scope: Scope | None = None,
    **parts: Unpack[ScopeParts],
) -> Intervention:
    """Add ``strength * direction``; the direction broadcasts against (token, channel), the same for every row.

    ``steps=``, ``branches=``, ``tokens=`` and ``heads=`` are those of the :class:`Scope`, see :func:`patch`.
    """

    moved = {direction.device: direction}  # a copy to the device waits for it, so once

    def edit(value: Tensor, hook: HookContext) -> Tensor:
        if any(size != 1 for size in direction.shape[: 1 - value.ndim]):
            raise ShapeError(
                f"steer at {hook.site.name}: one row has {tuple(value.shape[1:])}, the direction "
                f"{tuple(direction.shape)}; to steer rows apart, give each a scope=Scope(rows=…)"
            )
        if value.device not in moved:
            moved[value.device] = direction.to(value.device)
        return value + strength * moved[value.device].to(value)

    return Intervention(edit, sites, _scope(scope, parts), label="steer")


def interpolate(
    donor: Activations | Mapping[int, int],
    sites: Patterns,
    alpha: float,
    *,
    scope: Scope | None = None,
    rows: Mapping[int, int] | None = None,
    **parts: Unpack[ScopeParts],
) -> Intervention:
    """``(1 - alpha) * own + alpha * donor``: 0 changes nothing, 1 is :func:`patch`."""
    inner = patch(donor, sites, scope=scope, rows=rows, **parts)

    def edit(value: Tensor, hook: HookContext) -> Tensor:
        return torch.lerp(value, inner.edit(value, hook), alpha)

    return Intervention(edit, inner.sites, inner.scope, inner.donors, "interpolate")


def names(sites: Patterns) -> tuple[str, ...]:
    """Names and patterns of sites.

    Raises:
        ConfigError: ``sites`` is something else.
    """
    found: Any = sites  # callers without types may pass anything
    listed = (found,) if isinstance(found, str | Site) or not isinstance(found, Iterable) else tuple(found)
    for site in listed:
        if not isinstance(site, str | Site):
            raise ConfigError(f"sites are names or patterns, such as 'blocks.6.joint_attn.k', or sites; found {site!r}")
    return tuple(site.name if isinstance(site, Site) else site for site in listed)


def edits_of(donor: Activations | None, interventions: Sequence[Intervention]) -> list[Intervention]:
    """The edits of a run: the patch of a whole donor, then the others.

    Args:
        donor: the ``patch`` of :meth:`Model.run`.
        interventions: a list of interventions.

    Raises:
        ConfigError: an argument has the wrong type, or the donor is empty.
    """
    if isinstance(interventions, Intervention) or not isinstance(interventions, Iterable):
        raise ConfigError("interventions= takes a list: interventions=[t2i.ablate(…)]")
    edits = list(interventions)
    for edit in edits:
        if not isinstance(edit, Intervention):
            raise ConfigError(f"interventions= takes results of t2i.patch, t2i.ablate and so on, found {edit!r}")
    if donor is None:
        return edits
    found: Any = donor  # callers without types may pass anything
    if isinstance(found, Intervention):
        raise ConfigError("patch= takes a cache or a store; put an Intervention into interventions=[…]")
    if not isinstance(found, Activations):
        hint = "pass its .cache" if hasattr(found, "cache") else "t2i.patch makes an intervention of other donors"
        raise ConfigError(f"patch= takes a cache or a store, found {_a(found)}; {hint}")
    if not donor.sites:
        raise ConfigError("patch= contains no activations; run its generation with cache='blocks.*' or other sites")
    return [patch(donor, donor.sites), *edits]


def _check_donor(donor: Any) -> None:
    """Refuse a donor that could only fail in a hook, after seconds of sampling."""
    if isinstance(donor, Activations | Mapping):
        return
    hint = "pass its .cache" if hasattr(donor, "cache") else "write t2i.patch(run.cache, 'blocks.6.joint_attn.k')"
    raise ConfigError(f"a donor is a cache, a store or {{row: donor row}}, found {_a(donor)}; {hint}")


def _a(value: object) -> str:
    """The type of a value, with an article."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def _scope(scope: Scope | None, parts: ScopeParts) -> Scope:
    """The scope with the parts that were given beside it.

    Raises:
        ConfigError: there is no such part, it is given twice, or it is impossible.
    """
    for name in parts:
        if name not in ScopeParts.__annotations__:
            raise ConfigError(f"a scope has no {name!r}{near(name, ScopeParts.__annotations__)}")
        if scope is not None and getattr(scope, name) is not None:
            raise ConfigError(f"{name} is given twice, in scope= and as {name}=; leave one out")
    given: Any = parts  # a scope makes tuples of single numbers and branches
    return replace(scope or Scope(), **given)


def _lock_step(donors: Mapping[int, int]) -> Edit:
    def edit(value: Tensor, hook: HookContext) -> Tensor:
        return hook.of([donors[row] for row in hook.rows])

    return edit


def _cached(donor: Activations, rows: Mapping[int, int] | None) -> Edit:
    def edit(value: Tensor, hook: HookContext) -> Tensor:
        if rows is not None:
            wanted = [rows[row] for row in hook.rows]
        else:
            wanted = [0 if donor.rows == 1 else row for row in hook.rows]
        patched = donor.fetch(hook.site.name, hook.step, hook.branch, wanted, hook.evaluation)
        if patched.shape != value.shape:
            raise ShapeError(
                f"patch at {hook.site.name}: the donor has {tuple(patched.shape)}, the run {tuple(value.shape)}; "
                "prompts must be padded to the same length and images must have the same size"
            )
        if value.device.type == "cuda":
            patched = patched.pin_memory()  # so that the copy does not wait for the device
        return patched.to(value.device, value.dtype, non_blocking=True)

    return edit


def _zero(value: Tensor, hook: HookContext) -> Tensor:
    return torch.zeros_like(value)


def _own_mean(value: Tensor, hook: HookContext) -> Tensor:
    axes = [axis for axis, name in enumerate(hook.site.axes, 1) if name != "channel"]
    if not axes:
        raise ConfigError(
            f"{hook.site.name} has no tokens to average over; pass reference=, a cache of other rows, to ablate()"
        )
    return value.mean(dim=axes, keepdim=True).expand_as(value)


def _reference_mean(reference: Activations) -> Edit:
    every = _cached(reference, None)

    def edit(value: Tensor, hook: HookContext) -> Tensor:
        rows = tuple(range(reference.rows))
        like = value[:1].expand(len(rows), *value.shape[1:])
        return every(like, replace(hook, rows=rows)).mean(dim=0, keepdim=True).expand_as(value)

    return edit
