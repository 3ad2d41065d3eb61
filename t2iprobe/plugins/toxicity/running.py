"""``t2iprobe guard run``: guarded pictures of prompts; each is kept as it comes, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import notes, stopping
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.models import load, reference
from t2iprobe.cli.progress import progress
from t2iprobe.core.names import counted
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.checksums import keep, read_json
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.plugins.toxicity import conflicts
from t2iprobe.plugins.toxicity.audit import Audit
from t2iprobe.plugins.toxicity.digests import deciding, digests, key_name
from t2iprobe.plugins.toxicity.donors import WAYS
from t2iprobe.plugins.toxicity.gallery import Chunk, Gallery
from t2iprobe.plugins.toxicity.guard import Guard, check_start
from t2iprobe.plugins.toxicity.policy import Decision
from t2iprobe.plugins.toxicity.sheet import NAME as SHEET
from t2iprobe.plugins.toxicity.sheet import ROWS, sheet

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.toxicity.options import GuardRunOptions
    from t2iprobe.registry.manager import Plugins

GUARDED = "guarded"  # the folder of the pictures
SMALL = 50_000_000  # a denoiser with fewer parameters takes many rows at once
RESULT, REPORT = "result.json", "report.html"


def draw(order: GuardRunOptions, plugins: Plugins) -> dict[str, Any]:
    """Run it, go on with it, show what is done, or only say what it would take; returns the JSON answer.

    Raises:
        ConfigError: something that was asked for is impossible, or takes hours and ``--yes`` was not given.
    """
    texts, built = order.texts, order.policy(plugins)
    decisions = [built.decide(prompt) for prompt in texts]
    ref = reference(order.arch, order.model, plugins)
    path = order.out or Path("runs") / f"guard-{Path(ref).name}"
    settings = {"command": "guard run", "asked": _settings(ref, order)}
    if (done := finished(path, settings)) is not None:
        return done
    loaded = load(order, plugins, order.upscaler)
    log = Audit(order.audit or path / "audit.jsonl", order.audit_text)
    layers = order.chosen_layers(loaded)
    guard = Guard(loaded, layers, built, way=order.donor, start=order.start, audit=log)  # type: ignore[arg-type]
    told = plan(guard, order, decisions, len(_todo(decisions, Gallery(path))))
    if order.plan:
        return told
    notes.print(f"plan: {told['sentence']}", highlight=False)
    agree(order.yes, told["seconds"])

    def work(session: RunSession) -> dict[str, Any]:
        gallery = Gallery(path)  # another process may have begun in the meantime
        drawn = sum(one.verdict != "refused" for one in decisions)
        session.begin(len(gallery.done(GUARDED)), drawn)
        _make(guard, order, decisions, _todo(decisions, gallery), gallery, session)
        _show(decisions, gallery, path)
        answer = _answer(guard, order, decisions, gallery)
        keep(path, {RESULT: answer})
        return {"sentence": verdicts(answer)}

    return worked(path, settings, work, loaded, order.generation, plugins)


def verdicts(answer: Mapping[str, Any]) -> str:
    """A sentence that says what became of the prompts."""
    return f"{answer['passed']} as they are, {answer['rewritten']} rewritten, {answer['refused']} refused"


def placed(answer: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The answer of a run, with the paths of those files that it has."""
    files = {"contact_sheet": path / SHEET, "report": path / REPORT}
    return {**answer, "run": str(path)} | {name: str(file) if file.is_file() else None for name, file in files.items()}


def _show(decisions: Sequence[Decision], gallery: Gallery, path: Path) -> None:
    """The first pictures with the prompts that the localized layers got; none if all prompts are refused."""
    there = sorted(gallery.done(GUARDED))
    rows = [(f"{row}: {decisions[row].rewrite}", [gallery.image(GUARDED, row)]) for row in there[:ROWS]]
    if rows:
        keep(path, {SHEET: sheet(["guarded"], rows, len(decisions))})


def worked(
    path: Path,
    asked: Mapping[str, Any],
    work: Callable[[RunSession], Mapping[str, Any]],
    model: Model,
    generation: Mapping[str, Any],
    plugins: Plugins,
) -> dict[str, Any]:
    """Run it in the folder ``path``, or go on with it there; returns the answer, which ``work`` has kept."""
    facts = provenance.facts(model, generation)
    settings = {**asked, **facts["decides"]}
    versions = plugins.versions()
    run = RunDefinition(
        "guard",
        settings,
        work,
        facts,
        asked["asked"],
        versions,
        "picture",
        disposable=False,  # because it has the refusals on record
        check=lambda place: conflicts.check(place, settings),
    )
    stop = stopping("the batch in flight")
    execute(run, path, stop)
    return placed(read_json(path / RESULT), path)


def finished(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer of a run that is already done; ``None`` if it still has to be run or to go on."""
    conflicts.check(path, asked)
    found = runfolder.existing(path, asked, partly=True)
    if found is None or found["state"] != runfolder.FINISHED:
        runfolder.check(path)
        return None
    notes.print(f"{path} holds this run already; showing it (delete the folder to run it again)", highlight=False)
    return placed(read_json(path / RESULT), path)


def _settings(ref: str, order: GuardRunOptions) -> dict[str, Any]:
    """Everything that decides the result."""
    return {
        "model": ref,
        "upscaler": order.upscaler,
        "dtype": order.dtype,
        "key": key_name(),
        "prompts": digests(order.texts),
        "policy": {
            "detectors": [deciding(one) for one in order.named],
            "rewriter": deciding(order.rewriter),
            "where": order.where,
        },
        "layers": order.layers or str(order.from_run),
        "donor": order.donor,
        "start": order.start,
        "seed": order.seed,
        "generation": order.generation,
    }


def _todo(decisions: Sequence[Decision], gallery: Gallery) -> list[int]:
    """The pictures that are still missing."""
    done = gallery.done(GUARDED)
    return [row for row, one in enumerate(decisions) if row not in done and one.verdict != "refused"]


def _make(
    guard: Guard,
    order: GuardRunOptions,
    decisions: Sequence[Decision],
    todo: Sequence[int],
    gallery: Gallery,
    session: RunSession,
) -> None:
    if guard.audit is not None and not gallery.chunks:
        for row, one in enumerate(decisions):
            if one.verdict == "refused":
                guard.audit.write(one, row=row, seed=order.seed + row, model=guard.ref)
    size = order.batch_size or batch_of(guard.model)
    with progress(len(todo), guard.evaluations(order.generation.get("num_steps")), "drawing") as on_step:
        for first in range(0, len(todo), size):
            session.check()
            rows = todo[first : first + size]
            prompts, seeds = [order.texts[row] for row in rows], [order.seed + row for row in rows]
            generation = guard.generation(prompts, seeds, **order.generation)
            taken = [decisions[row] for row in rows]
            made = guard.run_decided(generation, taken, numbers=rows, batch_size=2 * size, on_step=on_step)
            chunk = Chunk(GUARDED, tuple(rows), made.denoiser_calls, made.denoiser_rows, made.seconds)
            gallery.add(chunk, made.images)
            session.done(len(rows), **chunk.cost)


def batch_of(model: Model) -> int:
    """How many pictures are made at once by default."""
    return 64 if sum(p.numel() for p in model.denoiser.parameters()) < SMALL else 4


def plan(guard: Guard, order: GuardRunOptions, decisions: Sequence[Decision], todo: int) -> dict[str, Any]:
    """What will be done and what it takes, as a JSON object that includes a sentence.

    Raises:
        ConfigError: it would guard nothing.
    """
    num_steps = order.num_steps
    check_start(order.start, guard.steps(num_steps))
    count = {verdict: sum(one.verdict == verdict for one in decisions) for verdict in ("rewritten", "refused")}
    told = {"pictures": todo, **count, "layers": list(guard.layers_guarded), "donor": guard.way}
    if not todo:
        refused = f"{count['refused']} of {counted(len(decisions), 'prompt')} refused"
        return told | {"denoiser_rows": 0, "seconds": 0.0, "sentence": f"nothing to draw ({refused})"}
    probe = guard.probe(order.generation)
    extra = count["rewritten"] if guard.way == "row" else 0
    rows = (todo + extra) * guard.evaluations(num_steps) * guard.guided(order.generation)
    seconds = probe.seconds_a_row * rows + probe.seconds_an_image * todo
    sentence = (
        f"{counted(todo, 'picture')} of {counted(guard.steps(num_steps), 'step')}; "
        f"{counted(count['rewritten'], 'prompt')} rewritten, {count['refused']} refused; "
        f"layers {', '.join(map(str, guard.layers_guarded))}, donor {guard.way} ({WAYS[guard.way]}); "
        f"at most {counted(rows, 'denoiser row')}, about {duration(seconds)}"
    )
    return told | {"denoiser_rows": rows, "seconds": round(seconds, 1), "sentence": sentence}


def _answer(guard: Guard, order: GuardRunOptions, decisions: Sequence[Decision], gallery: Gallery) -> dict[str, Any]:
    """The answer as a JSON object, without the prompts."""
    verdicts = [one.verdict for one in decisions]
    branches = guard.guided(order.generation)
    evaluations = guard.evaluations(order.generation.get("num_steps"))
    drawn = len(verdicts) - verdicts.count("refused")
    return {
        "model": guard.ref,
        "arch": guard.adapter.name,
        "layers": list(guard.layers_guarded),
        "donor": guard.way,
        "prompts": [_line(row, one, gallery) for row, one in enumerate(decisions)],
        "passed": verdicts.count("pass"),
        "rewritten": verdicts.count("rewritten"),
        "refused": verdicts.count("refused"),
        "denoiser_calls": sum(chunk.calls for chunk in gallery.chunks),
        "denoiser_rows": sum(chunk.denoiser_rows for chunk in gallery.chunks),
        "normal_rows": drawn * branches * evaluations,
        "seconds": round(sum(chunk.seconds for chunk in gallery.chunks), 2),
    }


def _line(row: int, decision: Decision, gallery: Gallery) -> dict[str, Any]:
    drawn = decision.verdict != "refused"
    return {
        "row": row,
        "verdict": decision.verdict,
        "rewrite": decision.rewrite,
        "reason": decision.reason,
        "picture": gallery.path(GUARDED, row) if drawn else None,
    }
