"""What ``t2iprobe patch`` answers: the JSON object, the table, the sentence, and the files of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from t2iprobe.terminal.console import answers

if TYPE_CHECKING:
    from t2iprobe.cli.patch import Job
    from t2iprobe.core.scoring import LayerScore, Scored
    from t2iprobe.core.sweep import Cost, Measured

SHEET_ROWS = 6
BAR = 20


def answer_of(job: Job, scored: Scored, cost: Cost, seconds: float) -> dict[str, Any]:
    """The JSON object."""
    from t2iprobe.loading import planted

    model, concept = job.model, job.scorer.concept
    card = planted(model.pipeline)
    content = "word" if concept == "text" else concept
    found = scored.found()
    return {
        "model": model.ref,
        "arch": model.adapter.name,
        "concept": concept,
        "planted": card["layers"].get(content) if card else None,
        "score": scored.rank.removesuffix("_target"),
        "clean": {"source": list(scored.floor), "target": list(scored.ceiling)},
        "layers": [_layer(job, one) for one in scored.trials()],
        "top": [_index(job, one) for one in found],
        "sentence": sentence(job, scored, found),
        "pairs": len(job.pairs),
        "seconds": round(seconds, 2),
        "denoiser_calls": cost.calls,
        "denoiser_rows": cost.rows,
    }


def _index(job: Job, one: LayerScore) -> int:
    layer = job.trials[one.index].layer
    return one.index if layer is None else layer


def _layer(job: Job, one: LayerScore) -> dict[str, Any]:
    trial = job.trials[one.index]
    modules = [job.model.sites.named(name).module for name in trial.sites]
    return {
        "index": _index(job, one),
        "site": trial.label if len(trial.sites) == 1 else ", ".join(trial.sites),
        "path": modules[0] if len(modules) == 1 else modules[0].rpartition(".")[0],
        "score_target": one.target.mean,
        "score_source": one.source.mean,
        "ci": [one.target.low, one.target.high],
        "response": list(one.response),
        "ssim": one.ssim,
    }


def sentence(job: Job, scored: Scored, found: Sequence[LayerScore]) -> str:
    """The answer in words, with how sure it is."""
    what = f"the {job.scorer.concept}"
    unit = "site" if job.trials[0].layer is None or len(job.trials[0].sites) == 1 else "layer"
    count = f"{len(job.pairs)} pair{'s' if len(job.pairs) > 1 else ''}"
    if not found:
        return (
            f"No single {unit} stands out: none moves the score of {what} by more than a tenth of the way to the "
            f"target's (source {scored.floor.mean:.2f}, target {scored.ceiling.mean:.2f}, {count}, 95 % intervals)."
        )
    names = [job.trials[one.index].label for one in found]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    moves = "; ".join(
        f"{unit} {name} goes {one.response.mean:.0%} of the way from the source to the target "
        f"[{one.response.low:.0%}, {one.response.high:.0%}]"
        for name, one in zip(names[:4], found, strict=False)
    )
    verb = "writes" if len(names) == 1 else "write"
    plural = unit if len(names) == 1 else f"{unit}s"
    caution = "; one pair gives no interval, use more" if len(job.pairs) == 1 else ""
    return f"{plural.capitalize()} {listed} {verb} {what}: {moves} ({count}{caution})."


def write(folder: Path, job: Job, scored: Scored, kept: Sequence[Measured], answer: Mapping[str, Any]) -> None:
    """Contact sheet, bar plot, images, scores and ``result.json``."""
    from t2iprobe.core import runfolder
    from t2iprobe.plugins.figures import SheetRow, bar_plot, contact_sheet

    labels = [trial.label for trial in job.trials]
    highlight = [str(label) for one in scored.found() for label in [job.trials[one.index].label]]
    pictures = [list(measured.images.values()) for measured in sorted(kept, key=lambda one: one.pair)]
    sheet = [
        SheetRow(f"{pair.source_word}\n→ {pair.target_word}", source, target, patched)
        for pair, (source, target, *patched) in list(zip(job.pairs, pictures, strict=True))[:SHEET_ROWS]
    ]
    contact_sheet(sheet, labels, highlight).save(folder / "contact_sheet.png")
    bar_plot(
        folder / "layers.png",
        labels,
        [one.target for one in scored.trials()],
        [one.source.mean for one in scored.trials()],
        highlight=highlight,
        planted=[str(layer) for layer in answer["planted"] or () if str(layer) in labels],
        title=f"{answer['model'] or answer['arch']}: {answer['concept']}",
        ylabel=answer["score"],
    )
    rows = ["source", "target", *labels]
    runfolder.write_images(folder / "images", pictures, rows)
    runfolder.write_scores(folder, scored.scores, rows, [f"{p.source_word}->{p.target_word}" for p in job.pairs])
    (folder / "result.json").write_text(json.dumps(answer, indent=1) + "\n")


def show(answer: Mapping[str, Any]) -> None:
    """Table and sentence on stdout."""
    score = answer["score"]
    table = Table(
        box=None, header_style="bold", title=f"{answer['model']}: patching one at a time, {answer['concept']}"
    )
    table.add_column("layer", no_wrap=True)
    table.add_column("path", overflow="fold")
    for name in (f"{score} target", "95 % CI", "source", "SSIM"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    planted = answer["planted"] or ()
    for row in answer["layers"]:
        style = "bold green" if row["index"] in answer["top"] else ""
        mark = " (planted)" if row["index"] in planted else ""
        low, high = row["ci"]
        table.add_row(
            f"{row['index']}{mark}",
            row["path"],
            f"{row['score_target']:.2f}",
            f"{low:.2f}–{high:.2f}",
            f"{row['score_source']:.2f}",
            f"{row['ssim']:.2f}",
            "█" * round(BAR * max(0.0, min(1.0, row["score_target"]))),
            style=style,
        )
    answers.print(table)
    clean = answer["clean"]
    answers.print(
        f"unpatched: source {clean['source'][0]:.2f}, target {clean['target'][0]:.2f} "
        f"to the target's {answer['concept']}",
        highlight=False,
    )
    answers.print(f"[bold]{answer['sentence']}[/]", highlight=False)
    answers.print(
        f"{answer['seconds']:.0f} s, {answer['denoiser_calls']:,} denoiser calls. "
        f"Pictures: {answer['run']}/contact_sheet.png, {answer['run']}/layers.png",
        highlight=False,
    )
