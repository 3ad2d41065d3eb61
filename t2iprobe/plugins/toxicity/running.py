"""``t2iprobe guard run``: pictures of prompts, guarded; each is kept as it comes, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import notes
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.layers import chosen
from t2iprobe.cli.models import load, reference
from t2iprobe.cli.progress import progress
from t2iprobe.core.names import counted
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.lock import LOCK, lock
from t2iprobe.plugins.toxicity import conflicts
from t2iprobe.plugins.toxicity.audit import Audit
from t2iprobe.plugins.toxicity.digests import digests, key_name
from t2iprobe.plugins.toxicity.donors import WAYS
from t2iprobe.plugins.toxicity.gallery import Chunk, Gallery
from t2iprobe.plugins.toxicity.guard import Guard, check_start
from t2iprobe.plugins.toxicity.policy import Decision
from t2iprobe.plugins.toxicity.settings import deciding
from t2iprobe.plugins.toxicity.sheet import NAME as SHEET
from t2iprobe.plugins.toxicity.sheet import ROWS, sheet

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.toxicity.options import GuardRunOptions
    from t2iprobe.registry.manager import Plugins

GUARDED = "guarded"  # the folder of the pictures
SMALL = 50_000_000  # parameters of a denoiser that takes many rows at once
RESULT, REPORT = "result.json", "report.html"


def draw(order: GuardRunOptions, plugins: Plugins) -> dict[str, Any]:
    """Do it, or go on with it, or show what is done, or only what it would take; the answer is the JSON object.

    Raises:
        ConfigError: something that was asked for cannot be, or takes hours and nobody said yes.
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
    layers = chosen(loaded, order.layers, order.from_run)
    guard = Guard(loaded, layers, built, way=order.donor, start=order.start, audit=log)  # type: ignore[arg-type]
    gallery = Gallery(path)
    todo = _todo(decisions, gallery)
    told = plan(guard, order, decisions, len(todo))
    if order.plan:
        return told
    notes.print(f"plan: {told['sentence']}", highlight=False)
    agree(order.yes, told["seconds"])
    with kept(path, settings, loaded, order.generation, plugins) as more:
        _make(guard, order, decisions, todo, gallery)
        _show(decisions, gallery, path / SHEET)
        answer = _answer(guard, order, decisions, gallery)
        more["sentence"] = verdicts(answer)
        (path / RESULT).write_text(json.dumps(answer, indent=1) + "\n")
    return placed(answer, path)


def verdicts(answer: Mapping[str, Any]) -> str:
    """What became of the prompts, in words."""
    return f"{answer['passed']} as they are, {answer['rewritten']} rewritten, {answer['refused']} refused"


def placed(answer: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The answer of a run with where its files lie, those that it has."""
    files = {"contact_sheet": path / SHEET, "report": path / REPORT}
    return {**answer, "run": str(path)} | {name: str(file) if file.is_file() else None for name, file in files.items()}


def _show(decisions: Sequence[Decision], gallery: Gallery, place: Path) -> None:
    """The first pictures with the prompts that the localized layers got; none where all are refused."""
    there = sorted(gallery.done(GUARDED))
    rows = [(f"{row}: {decisions[row].rewrite}", [gallery.image(GUARDED, row)]) for row in there[:ROWS]]
    if rows:
        sheet(["guarded"], rows, len(decisions)).save(place)


@contextmanager
def kept(
    path: Path, asked: Mapping[str, Any], model: Model, generation: Mapping[str, Any], plugins: Plugins
) -> Iterator[dict[str, Any]]:
    """The run folder ``path``, locked and with a manifest that says how far it is, for the length of a ``with``.

    Gives a dict for what is to be added to the manifest at the end.
    """
    facts = provenance.facts(model, generation)
    settings = {**asked, **facts["decides"]}
    conflicts.check(path, settings)
    runfolder.existing(path, settings)
    runfolder.make(path)
    with lock(path):
        found = runfolder.existing(path, settings)  # another process may have begun meanwhile
        versions = {row.name: row.version for row in plugins.listing() if row.status == "ok"}
        with runfolder.noted(
            path, provenance.begun(settings, facts, found, arguments=asked["asked"], plugins=versions)
        ) as more:
            yield more
        (path / LOCK).unlink(missing_ok=True)  # whoever holds the old file finds everything there


def finished(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer of a run that is done already; ``None`` where it is to be run, or to go on."""
    conflicts.check(path, asked)
    found = runfolder.existing(path, asked, partly=True)
    if found is None or found["state"] != runfolder.FINISHED:
        runfolder.check(path)
        return None
    notes.print(f"{path} holds this run already; showing it (delete the folder to run it again)", highlight=False)
    done: dict[str, Any] = json.loads((path / RESULT).read_text())
    return placed(done, path)


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
    """Pictures that are not there yet."""
    done = gallery.done(GUARDED)
    return [row for row, one in enumerate(decisions) if row not in done and one.verdict != "refused"]


def _make(
    guard: Guard, order: GuardRunOptions, decisions: Sequence[Decision], todo: Sequence[int], gallery: Gallery
) -> None:
    if guard.audit is not None and not gallery.chunks:
        for row, one in enumerate(decisions):
            if one.verdict == "refused":
                guard.audit.write(one, row=row, seed=order.seed + row, model=guard.ref)
    size = order.batch_size or batch_of(guard.model)
    with progress(len(todo), guard.evaluations(order.generation.get("num_steps")), "drawing") as on_step:
        for first in range(0, len(todo), size):
            rows = todo[first : first + size]
            prompts, seeds = [order.texts[row] for row in rows], [order.seed + row for row in rows]
            generation = guard.generation(prompts, seeds, **order.generation)
            taken = [decisions[row] for row in rows]
            made = guard.run_decided(generation, taken, numbers=rows, batch_size=2 * size, on_step=on_step)
            chunk = Chunk(GUARDED, tuple(rows), made.denoiser_calls, made.denoiser_rows, made.seconds)
            gallery.add(chunk, made.images)


def batch_of(model: Model) -> int:
    """Pictures at once, unless asked otherwise."""
    return 64 if sum(p.numel() for p in model.denoiser.parameters()) < SMALL else 4


def plan(guard: Guard, order: GuardRunOptions, decisions: Sequence[Decision], todo: int) -> dict[str, Any]:
    """What will be done and what it takes, as a JSON object with a sentence.

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
    """The JSON object, without the prompts."""
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
