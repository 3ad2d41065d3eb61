"""A guarded model: :class:`Guard` is used like the model, and draws no toxic text."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ConfigError, GuardError
from t2iprobe.core.interventions import Intervention
from t2iprobe.core.model import CostProbe, Generation, Model, Run
from t2iprobe.plugins.toxicity.donors import Donation, Donor, chosen_donor
from t2iprobe.plugins.toxicity.policy import Decision, Policy


class Guard(Model):
    """A guarded model.

    :meth:`run` checks every prompt first. If it finds toxic text, the localized layers get the rewrite and the rest of
    the model gets the unchanged prompt: the picture stays, the text does not. A prompt without toxic text runs exactly
    as without a guard, bit for bit. ``guard.pipeline`` itself is not guarded.

    Args:
        model: the model.
        layers: its localized layers.
        policy: what is toxic, and how it is rewritten.
        donor: how the rewrite gets to the layers, see :mod:`.donors`.
        start_step: denoising step from which they get it; 0 is at pure noise.
        audit: log of the decisions.

    Raises:
        ConfigError: there are no layers, the model does not have some of them, or its family does not allow the donor.
    """

    def __init__(
        self,
        model: Model,
        layers: Sequence[int],
        policy: Policy,
        *,
        donor: Donor = "auto",
        start_step: int = 0,
        audit: Audit | None = None,
    ) -> None:
        super().__init__(
            model.pipeline,
            model.adapter,
            ref=model.ref,
            defaults=model.defaults,
            upscaler=model.upscaler,
            upscaling=model.upscaling,
        )
        if not layers:
            raise ConfigError(
                "a guard needs the layers that write the text, as `t2iprobe localize` finds them: layers=[6]"
            )
        if wrong := [layer for layer in layers if not 0 <= layer < model.n_layers]:
            raise ConfigError(f"no layer {wrong[0]} to guard; the model has the layers 0-{model.n_layers - 1}")
        policy.prepare()
        self.model, self.policy, self.audit = model, policy, audit
        self.layers_guarded = tuple(sorted(set(layers)))
        self.donor = chosen_donor(model, donor)
        self.donation = Donation(model, self.layers_guarded, self.donor, start_step)

    def __repr__(self) -> str:
        return f"Guard({self.model!r}, layers={list(self.layers_guarded)}, donor={self.donor})"

    def decide(self, prompts: str | Sequence[str]) -> list[Decision]:
        """Decide what becomes of each prompt, without making a picture or writing to the log."""
        listed = [prompts] if isinstance(prompts, str) else prompts
        known = {prompt: self.policy.decide(prompt) for prompt in dict.fromkeys(listed)}
        return [known[prompt] for prompt in listed]

    def run_generation(self, generation: Generation, **arguments: Any) -> Run:
        """What :meth:`Model.run` does, with every prompt checked first. Edits come before the guard's own.

        Raises:
            GuardError: a prompt is refused, or the audit log cannot be written; no picture is made, of any prompt.
        """
        return self.run_decided(generation, self.decide(generation.prompts), **arguments)

    def run_decided(
        self,
        generation: Generation,
        decisions: Sequence[Decision],
        *,
        interventions: Sequence[Intervention] = (),
        rows: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        **rest: Any,
    ) -> Run:
        """The same as :meth:`run`, with decisions that were already made for these prompts, one per row.

        Args:
            generation, interventions, rows, rest: as in :meth:`run`.
            decisions: the result of :meth:`decide`.
            numbers: the numbers of the rows in the log; by default counted from 0.
        """
        if [decision.prompt for decision in decisions] != list(generation.prompts):
            raise ConfigError("a guarded run needs one decision per row, for the row's own prompt")
        unseen = [name for name in generation.options if "prompt" in name and not name.startswith("negative")]
        if unseen:
            raise ConfigError(
                f"the guard checks the prompts of a generation, but not its option {unseen[0]}; leave it out"
            )
        check_start(self.donation.start, self.steps(generation.num_steps, generation.options))
        self._record(generation, decisions, numbers or range(len(decisions)))
        _check_refused(decisions)
        rewrites = {row: decision.rewrite for row, decision in enumerate(decisions) if decision.verdict == "rewritten"}
        wanted = tuple(range(len(decisions))) if rows is None else tuple(rows)
        if not rewrites:
            return self.model.run(generation, interventions=interventions, rows=wanted, **rest)
        if self.donor == "stream" and (interventions or rest.get("cache") or rest.get("into")):
            raise ConfigError("the donor stream runs blocks twice, so it excludes a cache and other edits; use row")
        mine = [_own_rows(edit, len(decisions)) for edit in interventions]
        with self.donation.edits(generation, rewrites) as (donated, edits):
            return self.model.run(donated, interventions=[*mine, *edits], rows=wanted, **rest)

    def probe(self, settings: Mapping[str, Any], images: int) -> CostProbe:
        """See :meth:`Model.probe`; it probes the model without its guard."""
        return self.model.probe(settings, images)

    def _record(self, generation: Generation, decisions: Sequence[Decision], numbers: Sequence[int]) -> None:
        if self.audit is None:
            return
        facts = {"model": self.ref, "layers": list(self.layers_guarded), "donor": self.donor}
        for row, decision in enumerate(decisions):
            self.audit.write(decision, row=numbers[row], seed=generation.seeds[row], **facts)


def check_start(start: int, steps: int) -> None:
    """Refuse a start after the last step, which would guard nothing.

    Raises:
        ConfigError: the start is after the last step.
    """
    if not 0 <= start < steps:
        raise ConfigError(f"the guard starts at step {start}, but this generation has the steps 0-{steps - 1}")


def _check_refused(decisions: Sequence[Decision]) -> None:
    refused = [row for row, decision in enumerate(decisions) if decision.verdict == "refused"]
    if refused:
        reasons = Counter(decisions[row].reason for row in refused)
        listed_reasons = "; ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in reasons.items())
        listed = ", ".join(map(str, refused[:8])) + (", …" if len(refused) > 8 else "")
        rows = f"row{'s' if len(refused) > 1 else ''} {listed}"
        raise GuardError(f"the guard refuses {rows} of {len(decisions)}: {listed_reasons}; no picture is made")


def _own_rows(edit: Intervention, count: int) -> Intervention:
    """Restrict an intervention on all rows to the rows that were asked for, so that it leaves the donors alone."""
    if edit.scope.rows is not None:
        return edit
    return replace(edit, scope=replace(edit.scope, rows=tuple(range(count))))


@dataclass(frozen=True)
class Audit:
    """A log of decisions: one line of JSON per prompt, written before its picture is made.

    By default it contains no text of a prompt, only a digest that can be compared within one process, and the spans,
    kinds and scores of the hits.

    Args:
        path: the file; lines are added at its end.
        text: whether the prompt and its rewrite are logged as well.
    """

    path: Path
    text: bool = False
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def write(self, decision: Decision, **facts: Any) -> None:
        """Write one line.

        Raises:
            GuardError: the line cannot be written; no picture is made without its line.
        """
        line = json.dumps(self.line(decision) | facts, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise GuardError(
                f"the audit log {self.path} cannot be written ({reason}), so no picture is made"
            ) from error

    def line(self, decision: Decision) -> dict[str, Any]:
        """The line of the log for a decision."""
        digest = hashlib.blake2b(decision.prompt.encode(), key=self._key, digest_size=8).hexdigest()
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "prompt_digest": digest,
            "prompt_length": len(decision.prompt),
            **decision.facts(),
        }
        return facts | ({"prompt": decision.prompt, "rewrite": decision.rewrite} if self.text else {})
