"""What ``t2iprobe patch`` answers: the JSON object, the table, and the files beside the study's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from t2iprobe.core.names import counted
from t2iprobe.terminal.console import answers

if TYPE_CHECKING:
    from PIL.Image import Image

    from t2iprobe.core.scoring import LayerScore, Scored
    from t2iprobe.core.study.file import StudyFile
    from t2iprobe.core.study.result import Result
    from t2iprobe.core.trials import Trial
    from t2iprobe.plugins.manager import Plugins

SHEET_ROWS = 6
BAR = 20
ANSWER = "result.json"


def answer_of(result: Result, file: StudyFile, plugins: Plugins, seconds: float) -> dict[str, Any]:
    """The JSON object."""
    from t2iprobe.loading import planted_layers

    assert result.finding is not None
    scored, trials, spent = _scored(result), _patched(result), result.manifest["spent"]
    rows = result.finding.details["response"]
    return {
        "model": file.model.ref,
        "arch": result.manifest["settings"]["adapter"],
        "concept": file.pairs.concept,
        "planted": planted_layers(file.model.ref, file.pairs.concept, plugins),
        "score": scored.rank.removesuffix("_target"),
        "clean": {"source": list(scored.floor), "target": list(scored.ceiling)},
        "layers": [_layer(trials[one.index], one, rows[one.index]) for one in scored.trials()],
        "top": [_index(trials[one.index], one) for one in scored.found()],
        "sentence": result.finding.sentence,
        "pairs": len(result.pairs),
        "seconds": round(seconds, 2),
        "denoiser_calls": spent["calls"],
        "denoiser_rows": spent["rows"],
    }


def _patched(result: Result) -> list[Trial]:
    """The trials but for the unpatched source and target, which were asked first."""
    return result.trials[2:]


def _scored(result: Result) -> Scored:
    from t2iprobe.core.scoring import Scored

    names = result.manifest["scores"]
    return Scored(result.scores, names[0], names[1])


def _index(trial: Trial, one: LayerScore) -> int:
    return one.index if trial.layer is None else trial.layer


def _layer(trial: Trial, one: LayerScore, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": _index(trial, one),
        "site": ", ".join(trial.sites),
        "path": row["path"],
        "score_target": one.target.mean,
        "score_source": one.source.mean,
        "ci": [one.target.low, one.target.high],
        "response": [row["mean"], row["low"], row["high"]],
        "ssim": one.ssim,
    }


def kept(result: Result) -> dict[str, Any] | None:
    """The answer that is there already, which is written last."""
    file = result.path / ANSWER
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return found


def write(result: Result, answer: Mapping[str, Any]) -> None:
    """Contact sheet, bar plot, pictures and then the answer, beside the study's own files.

    Raises:
        StoreError: the disk is full or gone.
    """
    from t2iprobe.core import runfolder
    from t2iprobe.core.disk import explained
    from t2iprobe.core.pairs import Pair
    from t2iprobe.plugins.figures import SheetRow, bar_plot, contact_sheet

    scored, labels = _scored(result), [trial.label for trial in result.trials]
    pairs = [Pair(*values) for values in result.manifest["settings"]["pairs"]]
    pictures = [[_picture(result, label, pair) for label in labels] for pair in range(len(result.pairs))]
    highlight = [labels[2 + one.index] for one in scored.found()]
    sheet = [
        SheetRow(f"{pair.source_word}\n→ {pair.target_word}", source, target, patched)
        for pair, (source, target, *patched) in list(zip(pairs, pictures, strict=True))[:SHEET_ROWS]
    ]
    runfolder.write_images(result.path / "images", pictures, labels)
    with explained(str(result.path)):
        contact_sheet(sheet, labels[2:], highlight).save(result.path / "contact_sheet.png")
        bar_plot(
            result.path / "layers.png",
            labels[2:],
            [one.target for one in scored.trials()],
            [one.source.mean for one in scored.trials()],
            highlight=highlight,
            planted=[str(layer) for layer in answer["planted"] or () if str(layer) in labels],
            title=f"{answer['model']}: {answer['concept']}",
            ylabel=answer["score"],
        )
        part = result.path / f"{ANSWER}.part"
        part.write_text(json.dumps(answer, indent=1) + "\n")
        part.replace(result.path / ANSWER)


def _picture(result: Result, label: str, pair: int) -> Image:
    found = result.images(label, pair)
    assert found is not None
    return found


def show(answer: Mapping[str, Any]) -> None:
    """Table and sentence on stdout."""
    score = answer["score"]
    table = Table(
        box=None,
        header_style="bold",
        title=f"{answer['model']}: patching one at a time, {answer['concept']}",
        caption="95 % CI: of the score, a plain bootstrap of the pairs seen" if answer["pairs"] > 1 else None,
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
            f"{low:.2f}–{high:.2f}" if answer["pairs"] > 1 else "-",
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
        f"{answer['seconds']:.0f} s, {counted(answer['denoiser_calls'], 'denoiser call')}. "
        f"Pictures: {answer['run']}/contact_sheet.png, {answer['run']}/layers.png",
        highlight=False,
    )
