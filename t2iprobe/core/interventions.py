"""Edits of activations: :func:`patch`, :func:`ablate`, :func:`steer`, :func:`interpolate`.

An :class:`Intervention` is a pure function of tensors with the sites and the scope it is for. The engine calls it; it
knows no hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from t2iprobe.core.cache import Activations
from t2iprobe.core.contracts.adapter import Branch
from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.core.scope import Scope
from t2iprobe.core.sites import Site, Sites

Patterns = str | Site | Sequence[str] | Sequence[Site] | Sites


@dataclass(frozen=True, slots=True)
class HookContext:
    """What an edit is told about the value it gets.

    Args:
        site: the site.
        step: denoising step.
        branch: part of classifier-free guidance.
        rows: which rows of the generation the value holds.
        batch: every row of this branch in the running batch, before any edit.
        position: row of the generation -> row of ``batch``.
        evaluation: evaluations of this step before this one (second-order schedulers).
    """

    site: Site
    step: int
    branch: Branch
    rows: tuple[int, ...]
    batch: Tensor
    position: Mapping[int, int]
    evaluation: int = 0


Edit = Callable[[Tensor, HookContext], Tensor]


class Donor(Protocol):
    """Anything activations can be read from: an ``ActivationCache``, a store on disk."""

    def fetch(self, site: str, step: int, branch: Branch, rows: Sequence[int], evaluation: int = 0) -> Tensor:
        """(row, ...) of the donor's rows, in one evaluation of a step."""
        ...

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...


@dataclass(frozen=True, slots=True)
class Intervention:
    """An edit, the sites it is for and the scope it acts in.

    Args:
        edit: takes (row, ...) and a :class:`HookContext`, gives back the same shape.
        sites: names, patterns or sites; a single one may stand by itself. Kept as names and patterns.
        scope: where it acts.
        donors: row -> row of the same batch that ``edit`` reads (lock-step); the engine keeps both in one batch.
        label: for messages.
    """

    edit: Edit
    sites: Patterns
    scope: Scope = field(default_factory=Scope)
    donors: Mapping[int, int] = field(default_factory=dict)
    label: str = "intervention"

    def __post_init__(self) -> None:
        if not callable(self.edit):
            raise ConfigError(f"an edit is a function of a tensor and a HookContext, found {self.edit!r}")
        object.__setattr__(self, "sites", names(self.sites))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The sites, as names and patterns."""
        return names(self.sites)


def patch(
    donor: Donor | Mapping[int, int],
    sites: Patterns,
    *,
    scope: Scope | None = None,
    rows: Mapping[int, int] | None = None,
) -> Intervention:
    """Activation patching (Vig et al. 2020; Meng et al., arXiv 2202.05262): put a donor's activation in place.

    Args:
        donor: a cache or store; or ``{row: donor row}`` of the same batch, which run in lock-step and cost no memory.
        sites: names, patterns or sites.
        scope: where to patch; among the keys of ``donor`` or ``rows`` where one is a mapping.
        rows: for a cached donor, ``{row: row of the cache}``; without it, row i takes row i, or the only row there is.
    """
    scope = scope or Scope()
    if isinstance(donor, Mapping):
        chosen = {row: donor[row] for row in scope.within(donor)}
        return Intervention(_lock_step(chosen), names(sites), _with_rows(scope, chosen), chosen, "patch (lock-step)")
    if rows is not None:
        scope = _with_rows(scope, scope.within(rows))
    return Intervention(_cached(donor, rows), names(sites), scope, label="patch (cached)")


def ablate(
    sites: Patterns,
    *,
    kind: Literal["zero", "mean", "resample"] = "zero",
    scope: Scope | None = None,
    donors: Mapping[int, int] | None = None,
    reference: Donor | None = None,
) -> Intervention:
    """Remove an activation: by zero, by a mean, or by another row's (resample ablation).

    No kind depends on which rows share a batch.

    Args:
        sites: names, patterns or sites.
        kind: ``mean`` is, with a ``reference``, the mean over its rows, place by place (mean ablation as in Wang et
            al., arXiv 2211.00593); without one, each row's own mean over its tokens or places, channel by channel.
        scope: where to ablate.
        donors: for ``resample``, ``{row: row to take from}``.
        reference: for ``mean``, a cache or store of the same sites and steps.

    Raises:
        ConfigError: ``resample`` without ``donors``, or ``reference`` for another kind than ``mean``.
    """
    if reference is not None and kind != "mean":
        raise ConfigError(f"reference= is what a mean is taken over; ablation by {kind} has none")
    if kind == "resample":
        if not donors:
            raise ConfigError("resample ablation needs donors={row: row to take from}")
        return patch(donors, sites, scope=scope)
    edit = _zero if kind == "zero" else _own_mean if reference is None else _reference_mean(reference)
    return Intervention(edit, names(sites), scope or Scope(), label=f"ablate ({kind})")


def steer(direction: Tensor, sites: Patterns, *, strength: float = 1.0, scope: Scope | None = None) -> Intervention:
    """Add ``strength * direction``; the direction broadcasts against (token, channel), the same for every row."""

    def edit(value: Tensor, hook: HookContext) -> Tensor:
        if any(size != 1 for size in direction.shape[: 1 - value.ndim]):
            raise ShapeError(
                f"steer at {hook.site.name}: one row has {tuple(value.shape[1:])}, the direction "
                f"{tuple(direction.shape)}; steer rows apart with scope=Scope(rows=...)"
            )
        return value + strength * direction.to(value)

    return Intervention(edit, names(sites), scope or Scope(), label="steer")


def interpolate(
    donor: Donor | Mapping[int, int],
    sites: Patterns,
    alpha: float,
    *,
    scope: Scope | None = None,
    rows: Mapping[int, int] | None = None,
) -> Intervention:
    """``(1 - alpha) * own + alpha * donor``: 0 changes nothing, 1 is :func:`patch`."""
    inner = patch(donor, sites, scope=scope, rows=rows)

    def edit(value: Tensor, hook: HookContext) -> Tensor:
        return torch.lerp(value, inner.edit(value, hook), alpha)

    return Intervention(edit, inner.sites, inner.scope, inner.donors, "interpolate")


def names(sites: Patterns) -> tuple[str, ...]:
    """Site names and patterns out of whatever was given.

    Raises:
        ConfigError: it is something else.
    """
    given: Any = sites  # whatever a caller without types gives
    listed = (given,) if isinstance(given, str | Site) or not isinstance(given, Iterable) else tuple(given)
    for one in listed:
        if not isinstance(one, str | Site):
            raise ConfigError(f"sites are names or patterns, such as 'blocks.6.joint_attn.k', or sites; found {one!r}")
    return tuple(one.name if isinstance(one, Site) else one for one in listed)


def edits_of(donor: Activations | None, interventions: Sequence[Intervention]) -> list[Intervention]:
    """The edits of a run: what is patched in as a whole, and the others.

    Args:
        donor: the ``patch`` of :meth:`Model.run`.
        interventions: the others; a single one is refused, as a string of sites would be.

    Raises:
        ConfigError: one of them is something else, or the donor is empty.
    """
    if isinstance(interventions, Intervention) or not isinstance(interventions, Iterable):
        raise ConfigError("interventions= takes a list: interventions=[t2i.ablate(…)]")
    listed = list(interventions)
    for one in listed:
        if not isinstance(one, Intervention):
            raise ConfigError(f"interventions= takes what t2i.patch, ablate, steer and so on give, found {one!r}")
    if donor is None:
        return listed
    _check_donor(donor)
    if not donor.sites:
        raise ConfigError("patch= holds no activations; name what to keep in the run that it is of: cache='blocks.*'")
    return [patch(donor, donor.sites), *listed]


def _check_donor(donor: object) -> None:
    if not isinstance(donor, Activations):
        hint = "give its .cache" if hasattr(donor, "cache") else "t2i.patch makes an intervention of other donors"
        raise ConfigError(f"patch= takes a cache or a store, found a {type(donor).__name__}; {hint}")


def _with_rows(scope: Scope, rows: Iterable[int]) -> Scope:
    return Scope(scope.steps, scope.branches, tuple(rows), scope.tokens, scope.heads)


def _lock_step(donors: Mapping[int, int]) -> Edit:
    def edit(value: Tensor, hook: HookContext) -> Tensor:
        return hook.batch[[hook.position[donors[row]] for row in hook.rows]]

    return edit


def _cached(donor: Donor, rows: Mapping[int, int] | None) -> Edit:
    def edit(value: Tensor, hook: HookContext) -> Tensor:
        if rows is not None:
            wanted = [rows[row] for row in hook.rows]
        else:
            wanted = [0 if donor.rows == 1 else row for row in hook.rows]
        found = donor.fetch(hook.site.name, hook.step, hook.branch, wanted, hook.evaluation)
        if found.shape != value.shape:
            raise ShapeError(
                f"patch at {hook.site.name}: the donor has {tuple(found.shape)}, the run {tuple(value.shape)}; "
                "prompts must be padded to the same length and images have the same size"
            )
        return found.to(value)

    return edit


def _zero(value: Tensor, hook: HookContext) -> Tensor:
    return torch.zeros_like(value)


def _own_mean(value: Tensor, hook: HookContext) -> Tensor:
    axes = [axis for axis, name in enumerate(hook.site.axes, 1) if name != "channel"]
    if not axes:
        raise ConfigError(
            f"{hook.site.name} has no tokens that a mean could be taken over; give ablate() a reference= of other rows"
        )
    return value.mean(dim=axes, keepdim=True).expand_as(value)


def _reference_mean(reference: Donor) -> Edit:
    every = _cached(reference, None)

    def edit(value: Tensor, hook: HookContext) -> Tensor:
        rows = tuple(range(reference.rows))
        like = value[:1].expand(len(rows), *value.shape[1:])
        return every(like, replace(hook, rows=rows)).mean(dim=0, keepdim=True).expand_as(value)

    return edit
