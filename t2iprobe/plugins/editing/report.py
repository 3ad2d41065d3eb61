"""What an edit run shows: the JSON object, pictures, contact sheet, plot and page."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.result import StudyResult, finding_as_json
from t2iprobe.plugins.editing.comparison import KEPT, SWAP, said
from t2iprobe.plugins.editing.sweep import SECONDS, SOURCE, TARGET
from t2iprobe.report.figures import CELL, cell_for, dot_plot, grid, thumbnail, wrapped
from t2iprobe.report.folder import RunView, kept
from t2iprobe.report.page import study_page
from t2iprobe.report.sections import ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

SHEET_ROWS = 8
PICTURES, PHOTO = "images", "photo.png"
#: scores in the table of methods after those of the text: heading and digits
COLUMNS = {
    "ocr_distance_target": ("edit distance", 2),
    "clip_t_target": ("CLIP-T", 2),
    "share_of_clean": ("share of the clean target's", 2),
    "ssim": ("SSIM", 3),
    "psnr": ("PSNR", 1),
    "mse": ("MSE", 0),
    "ssim_textless": ("SSIM outside", 3),
    "psnr_textless": ("PSNR outside", 1),
    "mse_textless": ("MSE outside", 1),
    SECONDS: ("s per image", 2),
}


def table_of(rows: Sequence[Mapping[str, Any]], prompts: int) -> ReportTable:
    """One row per method, with what is read in its pictures, and how far they are from the unedited ones.

    Args:
        rows: rows of the answer.
        prompts: number of pairs of prompts.
    """
    rank = next(name for name in rows[0] if name.endswith("_target")).removesuffix("_target")
    sides = {f"{rank}_{side}": (f"{rank.replace('_', ' ')} to {side}", 2) for side in ("target", "source")}
    columns = sides | {name: column for name, column in COLUMNS.items() if name in rows[0]}
    cells = [
        [row["method"], *(said(row[name], digits, prompts) for name, (_, digits) in columns.items())] for row in rows
    ]
    return ReportTable(["method", *(head for head, _ in columns.values())], cells)


def view(path: Path, plugins: Plugins) -> RunView:
    """What an edit run shows, finished or not."""
    result = StudyResult.open(path)
    page = study_page(result, plugins)
    if result.finding is None:
        return RunView(page)
    photo = kept(path, PHOTO)
    unedited = SOURCE if photo is None else "reconstruction"
    names = {trial.label: {SOURCE: unedited, TARGET: SWAP}.get(trial.label, trial.label) for trial in result.trials}
    sheet, plot = _sheet(result, photo, names), _plot(result)
    drawn = [("source, clean target and edits", sheet), ("what is written, and what is kept", plot)]
    page = replace(page, sections=[_section(result, drawn), *page.sections])

    def before() -> None:
        shutil.rmtree(path / PICTURES, ignore_errors=True)
        pairs = range(len(result.manifest["settings"]["pairs"]))
        runfolder.write_images(path, PICTURES, pairs, names, result.pictures)

    return RunView(page, answer_of(result), sheet, plot, before)


def answer_of(result: StudyResult) -> dict[str, Any]:
    """The JSON object of an edit run."""
    assert result.finding is not None
    finding, settings = finding_as_json(result.finding), result.manifest["settings"]
    return {
        "model": result.manifest["model"],
        "arch": settings["adapter"],
        "layers": finding["layers"],
        "sentence": finding["sentence"],
        "pairs": len(settings["pairs"]),
        "clusters": len(set(result.clusters)),
        "methods": finding["details"]["methods"],
        "response": finding["response"],
        "text_box": settings["localizer"]["text_box"],
        "generation": settings["generation"],
        "denoiser_calls": result.manifest["spent"]["calls"],
        "denoiser_rows": result.manifest["spent"]["rows"],
    }


def _sheet(result: StudyResult, photo: Image | None, names: Mapping[str, str]) -> Image:
    """The contact sheet: one row per pair, one column per trial, by the names it has there."""
    first = {} if photo is None else {"photo": photo}
    rows, cell = [], CELL
    for number, pair in enumerate(result.manifest["settings"]["pairs"][:SHEET_ROWS]):
        made = [image for label in names if (image := result.images(label, number)) is not None]
        cell = cell_for(made[0])
        rows.append(
            (wrapped(f"{pair[3]}\n→ {pair[4]}"), [thumbnail(image, cell) for image in [*first.values(), *made]])
        )
    return grid([*first, *names.values()], rows, cell)


def _plot(result: StudyResult) -> Image:
    """Every method by what is read of the target, and by what is kept outside the text."""
    assert result.finding is not None
    rows = result.finding.details["methods"]
    panels = {result.rank.replace("_", " "): result.rank, "share of the clean target's score": "share_of_clean"}
    panels["SSIM to the unedited picture, outside the text"] = KEPT
    single = len(set(result.clusters)) == 1  # which has no interval, as the table says
    values = {
        title: [Interval(row[name][0], math.nan, math.nan) if single else Interval.of(row[name]) for row in rows]
        for title, name in panels.items()
    }
    highlight = [row["method"] for row in rows if row["method"].startswith("localized")]
    return dot_plot([row["method"] for row in rows], values, highlight)


def _section(result: StudyResult, drawn: Sequence[tuple[str, Image]]) -> Section:
    assert result.finding is not None
    rows = result.finding.details["methods"]
    prompts = len(set(result.clusters))
    box = f"{100 * rows[0]['text_area'][0]:.0f} %"
    interval = (
        f"Mean and 95 % interval over {prompts} pairs of prompts"
        if prompts > 1
        else "One pair of prompts, so no intervals"
    )
    text = (
        f"{interval}. Outside: with the box of the text black in both pictures, the same box for every method of a "
        f"pair; it covers {box} of the picture on average. Pictures are compared with the unedited one; prompt-swap is "
        "the clean target."
    )
    return Section("Text edits", text, table_of(rows, prompts), figures=drawn)
