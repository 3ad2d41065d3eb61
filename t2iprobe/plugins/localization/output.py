"""What ``t2iprobe localize`` and ``t2iprobe patch`` answer: the JSON object, what is printed, and further files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from t2iprobe.cli.console import answers, tell
from t2iprobe.core.names import counted

if TYPE_CHECKING:
    from t2iprobe.core.contracts.localizer import Finding
    from t2iprobe.core.statistics import Interval
    from t2iprobe.core.study.question import Question
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins

SHEET_ROWS = 6
BAR = 20
ANSWER = "result.json"


def _facts(result: StudyResult, question: Question, plugins: Plugins) -> dict[str, Any]:
    """What the answers of both commands have."""
    from t2iprobe.core.planted import planted_layers

    settings, spent = result.manifest["settings"], result.manifest["spent"]
    return {
        "model": question.model,
        "arch": settings["adapter"],
        "concept": question.concept,
        "planted": planted_layers(question.model, question.concept, plugins.models()),
        "sentence": _finding(result).sentence,
        "pairs": len(result.pairs),
        "clusters": len(set(result.clusters)),
        "set_aside": settings["set_aside"],
        "denoiser_calls": spent["calls"],
        "denoiser_rows": spent["rows"],
    }


def _finding(result: StudyResult) -> Finding:
    assert result.finding is not None
    return result.finding


def localized(result: StudyResult, question: Question, plugins: Plugins) -> dict[str, Any]:
    """The answer of ``localize`` as a JSON object."""
    from t2iprobe.core.study.result import finding_as_json

    finding = finding_as_json(_finding(result))
    confirmed = bool(finding["layers"]) and "confirmed" in finding["details"]
    return _facts(result, question, plugins) | {"method": question.method, "confirmed": confirmed} | finding


def print_localized(answer: Mapping[str, Any]) -> None:
    """Print the answer of ``localize`` on stdout."""
    answers.print(answer["sentence"], style="bold")
    if answer["planted"] is not None:
        tell(f"planted: {', '.join(map(str, answer['planted']))}")
    cost = f"{counted(answer['denoiser_calls'], 'denoiser call')}, {counted(answer['denoiser_rows'], 'row')}"
    tell(f"{cost}. Report with pictures: {answer['report']}")


def patched(result: StudyResult, question: Question, plugins: Plugins) -> dict[str, Any]:
    """The answer of ``patch`` as a JSON object, and in ``result.json``, which is written after all other files.

    Raises:
        DamagedError: ``result.json`` is not what was written.
        StoreError: the disk is full or gone.
    """
    from t2iprobe.core.runs.checksums import read_json

    file = result.path / ANSWER
    answer: dict[str, Any] = read_json(file) if file.is_file() else _written(result, question, plugins)
    return answer


def _written(result: StudyResult, question: Question, plugins: Plugins) -> dict[str, Any]:
    clean, details = result.unpatched(), _finding(result).details
    assert clean is not None
    rows = [_layer(index, one, result) for index, one in enumerate(details["response"])]
    named = [row for row, one in zip(rows, details["response"], strict=True) if one["named"]]
    answer = _facts(result, question, plugins) | {
        "score": result.rank.removesuffix("_target"),
        "clean": {"source": clean[0].plain(), "target": clean[1].plain()},
        "gap": details["gap"],
        "layers": rows,
        "top": [row["index"] for row in sorted(named, key=lambda row: -row["response"][0])],
        "seconds": result.manifest["spent"]["seconds"],
    }
    _write(result, answer)
    return answer


def _layer(index: int, row: Mapping[str, Any], result: StudyResult) -> dict[str, Any]:
    trial = result.trials[2 + index]  # after the unpatched source and target
    scored = result.scored([trial])
    return {
        "index": index if trial.layer is None else trial.layer,
        "site": ", ".join(trial.sites),
        "path": row["path"],
        "score_target": float(scored.clustered(scored.rank)[2].mean()),
        "score_source": float(scored.clustered(scored.against)[2].mean()),
        "response": [row["mean"], row["low"], row["high"]],
        "ssim": float(scored.clustered("ssim")[2].mean()),
    }


def _write(result: StudyResult, answer: Mapping[str, Any]) -> None:
    """Write contact sheet, bar plot, pictures and then the answer next to the study's own files.

    Raises:
        StoreError: the disk is full or gone.
    """
    from t2iprobe.core.pairs import Pair
    from t2iprobe.core.runs import runfolder
    from t2iprobe.core.runs.checksums import keep
    from t2iprobe.report.figures import SheetRow, bar_plot, contact_sheet, thumbnail

    labels, settings = [trial.label for trial in result.trials], result.manifest["settings"]
    left_out = {*settings["set_aside"], *settings["held_out"]}
    numbers = [number for number in range(len(result.pairs)) if number not in left_out]
    runfolder.write_images(result.path, "images", numbers, {label: label for label in labels}, result.images)
    highlight = [row["label"] for row in _finding(result).details["response"] if row["named"]]
    sheet = []
    for number in numbers[:SHEET_ROWS]:
        pair = Pair(*settings["pairs"][number])
        made = (result.images(label, number) for label in labels)
        shown, aimed, *patched = (thumbnail(image) for image in made if image is not None)
        sheet.append(SheetRow(f"{pair.source_word}\n→ {pair.target_word}", shown, aimed, patched))
    bars = bar_plot(
        labels[2:],
        [_scale(row, answer["gap"]) for row in answer["layers"]],
        [row["score_source"] for row in answer["layers"]],
        highlight=highlight,
        planted=[str(layer) for layer in answer["planted"] or () if str(layer) in labels],
        title=f"{answer['model']}: {answer['concept']}",
        ylabel=answer["score"],
    )
    keep(result.path, {"contact_sheet.png": contact_sheet(sheet, labels[2:], highlight), "layers.png": bars})
    keep(result.path, {ANSWER: answer})


def _scale(row: Mapping[str, Any], gap: Mapping[str, Any]) -> Interval:
    """The interval of the answer in the unit of the score; a point if there is no interval."""
    from t2iprobe.core.statistics import Interval

    mean, low, high = row["response"]
    if mean is None:
        return Interval(*[row["score_target"]] * 3)
    ends = sorted(gap["source"] + way * (gap["target"] - gap["source"]) for way in (low, high))
    return Interval(row["score_target"], *ends)


def print_patched(answer: Mapping[str, Any]) -> None:
    """Print the answer of ``patch`` on stdout."""
    score = answer["score"]
    table = Table(
        box=None,
        header_style="bold",
        title=f"{answer['model']}: patching one at a time, {answer['concept']}",
        caption="way: from source to target, with 95 % bounds that hold for all rows at once",
    )
    table.add_column("layer", no_wrap=True)
    table.add_column("path", overflow="fold")
    for name in (f"{score} target", "way", "95 % bounds", f"{score} source", "SSIM"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    planted = answer["planted"] or ()
    for row in answer["layers"]:
        style = "bold green" if row["index"] in answer["top"] else ""
        mark = " (planted)" if row["index"] in planted else ""
        way, low, high = row["response"]
        table.add_row(
            f"{row['index']}{mark}",
            row["path"],
            f"{row['score_target']:.2f}",
            "-" if way is None else f"{way:.2f}",
            "-" if way is None else f"{low:.2f} to {high:.2f}",
            f"{row['score_source']:.2f}",
            f"{row['ssim']:.2f}",
            "█" * round(BAR * max(0.0, min(1.0, way or 0.0))),
            style=style,
        )
    answers.print(table)
    source, target = (answer["clean"][name][0] for name in ("source", "target"))
    tell(f"unpatched: source {source:.2f}, target {target:.2f} against the target's {answer['concept']}")
    answers.print(answer["sentence"], style="bold")
    tell(
        f"{answer['seconds']:.0f} s, {counted(answer['denoiser_calls'], 'denoiser call')}. "
        f"Pictures: {answer['run']}/contact_sheet.png, {answer['run']}/layers.png"
    )
