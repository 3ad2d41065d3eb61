"""What ``t2iprobe localize`` and ``t2iprobe patch`` print, and what a run of ``patch`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.cli.console import answers, tell
from t2iprobe.cli.tables import bar, print_table
from t2iprobe.core.names import counted
from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.result import StudyResult
from t2iprobe.report.figures import bar_plot
from t2iprobe.report.folder import RunView
from t2iprobe.report.page import further
from t2iprobe.report.studies import facts, finding_of, study_view

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

ROWS = 20  # most patches in the table of ``localize``
PLANTED = "◆"


def patch_view(path: Path, plugins: Plugins) -> RunView:
    """What a run of ``patch`` shows: as any study, with numbers for every row, and each picture as PNG."""
    result = StudyResult.open(path)
    settings, labels = result.manifest["settings"], {trial.label: trial.label for trial in result.trials}
    left_out = {*settings["set_aside"], *settings["held_out"]}
    numbers = [number for number in range(len(result.pairs)) if number not in left_out]

    def before() -> None:
        runfolder.write_images(path, "images", numbers, labels, result.pictures)

    return study_view(result, plugins, patched, layer_plot, before)


def patched(result: StudyResult, plugins: Plugins) -> dict[str, Any]:
    """The answer of ``patch``: the scores of every layer or site that was patched."""
    clean, details = result.unpatched(), finding_of(result).details
    assert clean is not None
    rows = [_layer(index, one, result) for index, one in enumerate(details["response"])]
    named = [row for row, one in zip(rows, details["response"], strict=True) if one["named"]]
    return {
        **facts(result, plugins),
        "score": result.rank.removesuffix("_target"),
        "clean": {"source": clean[0].plain(), "target": clean[1].plain()},
        "gap": details["gap"],
        "layers": rows,
        "top": [row["index"] for row in sorted(named, key=lambda row: -row["response"][0])],
        "seconds": result.manifest["spent"]["seconds"],
    }


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
        "scores": {name: float(scored.clustered(name)[2].mean()) for name in further(scored)},
    }


def layer_plot(result: StudyResult, plugins: Plugins) -> Image:
    """One bar per patch: its score against the target, with the bounds of the answer, and against the source."""
    answer, details = patched(result, plugins), finding_of(result).details
    labels = [row["label"] for row in details["response"]]
    return bar_plot(
        labels,
        [_scale(row, answer["gap"]) for row in answer["layers"]],
        [row["score_source"] for row in answer["layers"]],
        highlight=[row["label"] for row in details["response"] if row["named"]],
        planted=[str(layer) for layer in answer["planted"] or () if str(layer) in labels],
        title=f"{answer['model']}: {answer['concept']}",
        ylabel=answer["score"],
    )


def _scale(row: Mapping[str, Any], gap: Mapping[str, Any]) -> Interval:
    """The interval of the answer in the unit of the score; a point if there is no interval."""
    mean, low, high = row["response"]
    if mean is None:
        return Interval(*[row["score_target"]] * 3)
    ends = sorted(gap["source"] + way * (gap["target"] - gap["source"]) for way in (low, high))
    return Interval(row["score_target"], *ends)


def print_localized(answer: Mapping[str, Any]) -> None:
    """Print the answer of ``localize`` on stdout: the patches that go furthest, and the sentence."""
    rows = answer["patches"]
    furthest = sorted(rows, key=lambda row: -(row["response"][0] or 0.0))[:ROWS]
    shown = [row for row in rows if row in furthest]
    title = f"{answer['model']}: {answer['method']}, {answer['concept']}"
    if shown:
        cells = [
            (
                row["label"],
                row["score"],
                *_way(row["response"]),
                *_further(answer, row),
                row["pairs"],
                bar(row["response"][0]),
            )
            for row in shown
        ]
        styles = ["bold green" if row["found"] else "" for row in shown]
        others = map(_spaced, answer["further"])
        heads = ("layers patched", _spaced(answer["score"]), "way", "95 % bounds", *others, "pairs", "")
        print_table(heads, cells, title=title, styles=styles)
        left_out = f"; the {len(shown)} of {len(rows)} patches that go furthest" if len(shown) < len(rows) else ""
        tell(f"way: from source (0) to target (1){left_out}", "italic")
    answers.print(answer["sentence"], style="bold")
    if answer["planted"] is not None:
        tell(f"planted: {', '.join(map(str, answer['planted']))}")
    cost = f"{counted(answer['denoiser_calls'], 'denoiser call')}, {counted(answer['denoiser_rows'], 'row')}"
    tell(f"{cost}. Report with pictures: {answer['report']}")


def print_patched(answer: Mapping[str, Any]) -> None:
    """Print the answer of ``patch`` on stdout."""
    score, planted = _spaced(answer["score"]), answer["planted"] or ()
    others = map(_spaced, answer["further"])
    rows = [
        (
            f"{row['index']} {PLANTED if row['index'] in planted else ''}".strip(),
            row["path"],
            row["score_target"],
            *_way(row["response"]),
            row["score_source"],
            row["ssim"],
            *_further(answer, row),
            bar(row["response"][0]),
        )
        for row in answer["layers"]
    ]
    print_table(
        ("layer", "path", f"{score} target", "way", "95 % bounds", f"{score} source", "SSIM", *others, ""),
        rows,
        title=f"{answer['model']}: patching one at a time, {answer['concept']}",
        styles=["bold green" if row["index"] in answer["top"] else "" for row in answer["layers"]],
    )
    known = f"; {PLANTED} planted" if planted else ""
    tell(f"way: from source (0) to target (1), with 95 % bounds that hold for all rows at once{known}", "italic")
    source, target = (answer["clean"][name][0] for name in ("source", "target"))
    tell(f"unpatched: source {source:.2f}, target {target:.2f} against the target's {answer['concept']}")
    answers.print(answer["sentence"], style="bold")
    tell(
        f"{answer['seconds']:.0f} s, {counted(answer['denoiser_calls'], 'denoiser call')}. "
        f"Pictures: {answer['contact_sheet']}, {answer['plot']}, report: {answer['report']}"
    )


def _further(answer: Mapping[str, Any], row: Mapping[str, Any]) -> list[float | None]:
    """The cells of the metrics that were asked for besides."""
    return [row["scores"].get(name) for name in answer["further"]]


def _spaced(score: str) -> str:
    """The name of a score as a heading."""
    return score.replace("_", " ")


def _way(response: Sequence[float | None]) -> tuple[float | None, str | None]:
    """The cells of a response and of its bounds."""
    mean, low, high = response
    return mean, None if low is None or high is None else f"{low:z.2f} to {high:z.2f}"
