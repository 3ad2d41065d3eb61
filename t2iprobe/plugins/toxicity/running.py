"""``t2iprobe guard run``: guarded pictures of prompts; each is kept as it comes, so that a run can be resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import say
from t2iprobe.cli.cost import agree, time_text
from t2iprobe.cli.models import load, reference
from t2iprobe.cli.progress import progress
from t2iprobe.core.model import Run
from t2iprobe.core.names import counted
from t2iprobe.core.runs.engine import RunSession
from t2iprobe.plugins.toxicity.donors import DONORS
from t2iprobe.plugins.toxicity.gallery import GUARDED, Gallery
from t2iprobe.plugins.toxicity.guard import Audit, Guard, check_start
from t2iprobe.plugins.toxicity.policy import Decision
from t2iprobe.plugins.toxicity.session import deciding_settings, execute_guard, finished

if TYPE_CHECKING:
    from t2iprobe.plugins.toxicity.options import GuardRunOptions
    from t2iprobe.registry.manager import Plugins


def draw(options: GuardRunOptions, plugins: Plugins) -> dict[str, Any]:
    """Draw the guarded pictures, resume, show what is done, or only plan; returns the JSON answer.

    Raises:
        ConfigError: an option is impossible, or the run takes hours and ``--yes`` was not given.
    """
    policy = options.policy(plugins)
    decisions = [policy.decide(prompt) for prompt in options.texts]
    ref = reference(options.arch, options.model, plugins)
    path = options.out or Path("runs") / f"guard-{Path(ref).name}"
    settings = deciding_settings("guard run", ref, options, detector=options.named, prompts=options.texts)
    if (done := finished(path, settings, plugins)) is not None:
        return done
    model = load(options, plugins, options.upscaler)
    log = Audit(options.audit or path / "audit.jsonl", options.audit_text)
    layers = options.chosen_layers(model)
    guard = Guard(model, layers, policy, donor=options.donor, start_step=options.start_step, audit=log)  # type: ignore[arg-type]
    planned = plan(guard, options, decisions, len(_missing(decisions, Gallery(path))))
    if options.plan:
        return planned
    say(f"plan: {planned['sentence']}")
    agree(options.yes, planned["seconds"])

    def work(session: RunSession) -> dict[str, Any]:
        gallery = Gallery(path)  # another process may have drawn some in the meantime
        _draw_missing(guard, options, decisions, gallery, session)
        answer = _answer(guard, options, decisions, gallery)
        return {"sentence": answer["sentence"], "answer": answer}

    return execute_guard(path, settings, work, model, options.generation, plugins)


def _missing(decisions: Sequence[Decision], gallery: Gallery) -> list[int]:
    """The numbers of the pictures that are still to be drawn."""
    done = gallery.done(GUARDED)
    return [row for row, decision in enumerate(decisions) if row not in done and decision.verdict != "refused"]


def _draw_missing(
    guard: Guard, options: GuardRunOptions, decisions: Sequence[Decision], gallery: Gallery, session: RunSession
) -> None:
    refused = [row for row, decision in enumerate(decisions) if decision.verdict == "refused"]
    session.begin(len(gallery.done(GUARDED)), len(decisions) - len(refused))
    if guard.audit is not None and not gallery.chunks:
        for row in refused:
            guard.audit.write(decisions[row], row=row, seed=options.seed + row, model=guard.ref)
    rows, size = _missing(decisions, gallery), guard.model.at_once(options.generation, options.batch_size).rows
    with progress(len(rows), guard.evaluations(options.num_steps), "drawing") as on_step:

        def run(chunk: Sequence[int]) -> Run:
            prompts, seeds = [options.texts[row] for row in chunk], [options.seed + row for row in chunk]
            generation = guard.generation(prompts, seeds, **options.generation)
            taken = [decisions[row] for row in chunk]
            return guard.run_decided(generation, taken, numbers=chunk, batch_size=2 * size, on_step=on_step)

        gallery.fill(GUARDED, rows, size, run, session)


def plan(guard: Guard, options: GuardRunOptions, decisions: Sequence[Decision], pictures: int) -> dict[str, Any]:
    """What will be done and what it takes, as a JSON object that includes a sentence.

    Raises:
        ConfigError: the guard would start after the last step.
    """
    steps = guard.steps(options.num_steps)
    check_start(options.start_step, steps)
    count = Counter(decision.verdict for decision in decisions)
    rewritten, refused = count["rewritten"], count["refused"]
    rows, seconds = 0, 0.0
    sentence = f"nothing to draw ({refused} of {counted(len(decisions), 'prompt')} refused)"
    if pictures:
        probe = guard.probe(options.generation, pictures)
        rows = (pictures + guard.donation.rows(rewritten)) * guard.rows(options.generation)
        seconds = probe.seconds(rows, pictures)
        sentence = (
            f"{counted(pictures, 'picture')} of {counted(steps, 'step')}; "
            f"{counted(rewritten, 'prompt')} rewritten, {refused} refused; "
            f"layers {', '.join(map(str, guard.layers_guarded))}, donor {guard.donor} ({DONORS[guard.donor]}); "
            f"at most {counted(rows, 'denoiser row')}, {time_text(seconds)}"
        )
    return {
        "pictures": pictures,
        "rewritten": rewritten,
        "refused": refused,
        "layers": list(guard.layers_guarded),
        "donor": guard.donor,
        "denoiser_rows": rows,
        "seconds": round(seconds, 1),
        "sentence": sentence,
    }


def _answer(guard: Guard, options: GuardRunOptions, decisions: Sequence[Decision], gallery: Gallery) -> dict[str, Any]:
    """The answer as a JSON object, without the prompts."""
    count = Counter(decision.verdict for decision in decisions)
    chunks = gallery.chunks
    prompts = counted(len(decisions), "prompt")
    passed, rewritten, refused = (count[verdict] for verdict in ("pass", "rewritten", "refused"))
    return {
        "model": guard.ref,
        "arch": guard.adapter.name,
        "layers": list(guard.layers_guarded),
        "donor": guard.donor,
        "sentence": f"{prompts}: {passed} as they are, {rewritten} rewritten, {refused} refused",
        "prompts": [
            {
                "row": row,
                "verdict": decision.verdict,
                "rewrite": decision.rewrite,
                "reason": decision.reason,
                "picture": None if decision.verdict == "refused" else gallery.path(GUARDED, row),
            }
            for row, decision in enumerate(decisions)
        ],
        "passed": passed,
        "rewritten": rewritten,
        "refused": refused,
        "denoiser_calls": sum(chunk.calls for chunk in chunks),
        "denoiser_rows": sum(chunk.denoiser_rows for chunk in chunks),
        "normal_rows": (passed + rewritten) * guard.rows(options.generation),
        "seconds": round(sum(chunk.seconds for chunk in chunks), 2),
    }
