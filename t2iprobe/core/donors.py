"""Donors that need no row: what is computed from the text alone is computed from the donor's prompt, and patched.

Text keys and values of a U-Net, for example. The pipeline encodes the donor's prompt as it encodes every other
(:meth:`TextDonors.ask`), but the denoiser is not called; the modules between the prompt and the site are called beside
the run that is patched, while their weights are where they run (:meth:`TextDonors.of`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter, Pipeline
from t2iprobe.core.errors import HookError
from t2iprobe.core.hooks import bound
from t2iprobe.core.interventions import Intervention
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Site, Sites

Inputs = Mapping[str, Any]  #: arguments of a call by name


def text_edits(
    adapter: Adapter, pipeline: Pipeline, sites: Sites, interventions: Sequence[Intervention]
) -> list[Intervention]:
    """The edits whose donors need no row: all of their sites follow from the text, which nothing changes in a donor."""
    matched = [(edit, sites.match(*edit.patterns)) for edit in interventions]
    changing = [edit.scope.rows for edit, hit in matched if any(site.static for site in hit)]
    changed = {row for rows in changing for row in rows or ()}

    def needs_no_row(edit: Intervention, hit: Sites) -> bool:
        if not edit.donors or edit.lock_step or None in changing or changed & set(edit.donors.values()):
            return False
        return all(site.static and adapter.from_text(pipeline, site) for site in hit)

    return [edit for edit, hit in matched if needs_no_row(edit, hit)]


class _Asked(Exception):
    """The denoiser was asked; there is no need to answer."""


@dataclass
class TextDonors:
    """What the denoiser gets of the prompts of some rows, and the activations that follow from it.

    Args:
        pipeline, adapter: the model.
        rows: rows of the generation that are donors without a row of their own.
    """

    pipeline: Pipeline
    adapter: Adapter
    rows: frozenset[int] = frozenset()
    _inputs: dict[tuple[int, Branch], Inputs] = field(default_factory=dict)
    _values: dict[tuple[str, int, Branch], Tensor] = field(default_factory=dict)

    def unknown(self, rows: Iterable[int]) -> list[int]:
        """Those of ``rows`` whose text was not seen yet."""
        seen = {row for row, _ in self._inputs}
        return [row for row in rows if row in self.rows and row not in seen]

    def see(self, call: Inputs, rows: Sequence[int], branches: Sequence[Branch]) -> None:
        """Keep what a denoiser call gets of those of its ``rows`` that are donors; once for each row and branch."""
        total = len(rows) * len(branches)
        for index, (branch, row) in enumerate(itertools.product(branches, rows)):
            if row in self.rows and (row, branch) not in self._inputs:
                self._inputs[row, branch] = self.adapter.rows_of(call, total, slice(index, index + 1))

    def ask(self, arguments: Inputs, rows: Sequence[int]) -> None:
        """Let the pipeline encode the prompts of ``rows`` and stop it before it denoises.

        Args:
            arguments: arguments of the pipeline call for these rows.
            rows: rows of the generation.
        """
        denoiser, calls = self.adapter.module(self.pipeline), 0

        def answer(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            nonlocal calls
            call = bound(denoiser, args, kwargs)
            latents = call[self.adapter.latents_name(self.pipeline)]
            branches = self.adapter.branches(self.pipeline, calls, len(latents) // len(rows))
            self.see(call, rows, branches)
            calls += 1
            if not self.adapter.guides_apart:
                raise _Asked
            return (torch.zeros_like(torch.stack(list(latents))),)  # the other branch comes in a call of its own

        def step(*args: Any, **kwargs: Any) -> Any:
            raise _Asked

        with ExitStack() as stack:
            stack.enter_context(shadowed(denoiser, "forward", answer))
            stack.enter_context(shadowed(self.pipeline.scheduler, "step", step))
            try:
                self.pipeline(**arguments, output_type="latent")
            except _Asked:
                self.pipeline.maybe_free_model_hooks()

    def keep(self, rows: Iterable[int]) -> None:
        """Begin a batch: forget the activations of the last one, and the text of all but these ``rows``."""
        wanted = set(rows)
        self._values.clear()
        self._inputs = {key: call for key, call in self._inputs.items() if key[0] in wanted}

    def of(self, site: Site, branch: Branch, rows: Sequence[int], like: Tensor) -> Tensor:
        """(row, ...) of donor rows at a site, on the device of ``like``; computed the first time in a batch.

        Raises:
            HookError: these rows are no such donors.
        """
        branch = Branch.COND if branch is Branch.SKIP else branch
        missing = [row for row in dict.fromkeys(rows) if (site.name, row, branch) not in self._values]
        if missing:
            self._compute(site, branch, missing, like)
        return torch.stack([self._values[site.name, row, branch] for row in rows])

    def _compute(self, site: Site, branch: Branch, rows: Sequence[int], like: Tensor) -> None:
        calls = [self._inputs.get((row, branch)) for row in rows]
        compute = self.adapter.from_text(self.pipeline, site)
        if compute is None or None in calls:
            raise HookError(f"{site.name}: rows {list(rows)} are not in the batch; name them as donors of the edit")
        value = compute(_each(lambda *parts: _joined(parts).to(like.device), *calls))
        self._values |= {(site.name, row, branch): own for row, own in zip(rows, value, strict=True)}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if all(part.shape[:1] == (1,) for part in parts) else parts[0]


def _each(change: Callable[..., Tensor], *calls: Any) -> Any:
    """``change`` of the tensors at the same place in each of ``calls``, also in dictionaries; the first's otherwise."""
    first = calls[0]
    if isinstance(first, Mapping):
        return {name: _each(change, *(call[name] for call in calls)) for name in first}
    return change(*calls) if isinstance(first, Tensor) else first
