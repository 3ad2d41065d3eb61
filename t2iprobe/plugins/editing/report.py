"""What an edit run leaves behind: the JSON object, pictures, the contact sheet and its part of a report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from t2iprobe.core.pictures import opened
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.checksums import check, keep
from t2iprobe.core.study.result import StudyResult, finding_as_json
from t2iprobe.plugins.editing.comparison import SWAP, EditComparison, said
from t2iprobe.plugins.editing.sweep import SECONDS, SOURCE, TARGET
from t2iprobe.report.sections import Cell, ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

SHEET_ROWS = 8
SHEET, ANSWER, PICTURES, PAGE = "contact_sheet.png", "result.json", "pictures", "report.html"
#: scores in the report's table: name, column head, digits
COLUMNS = (
    ("ocr_f1_target", "F1 to target", 2),
    ("ocr_f1_source", "F1 to source", 2),
    ("ocr_distance_target", "edit distance", 2),
    ("clip_t_target", "CLIP-T", 2),
    ("ssim", "SSIM", 3),
    ("psnr", "PSNR", 1),
    ("mse", "MSE", 0),
    ("ssim_textless", "SSIM outside", 3),
    ("psnr_textless", "PSNR outside", 1),
    ("mse_textless", "MSE outside", 1),
    (SECONDS, "s per image", 2),
)


def write(result: StudyResult, photo: Image.Image | None, plugins: Plugins) -> dict[str, Any]:
    """Write what the run leaves besides its scores; returns the JSON object, which is written last as a mark."""
    answer = answer_of(result)
    _write_pictures(result, photo)
    plugins.write_report(result)
    keep(result.path, {ANSWER: answer})
    return answer


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
        "run": str(result.path),
        "contact_sheet": str(result.path / SHEET),
        "report": str(result.path / PAGE),
    }


def _write_pictures(result: StudyResult, photo: Image.Image | None) -> None:
    """Write the contact sheet, and every picture as PNG, next to the study's own files."""
    from t2iprobe.report.figures import CELL, cell_for, grid, thumbnail, wrapped

    named = {SOURCE: SOURCE if photo is None else "reconstruction", TARGET: SWAP}
    names = {trial.label: named.get(trial.label, trial.label) for trial in result.trials}
    pairs = result.manifest["settings"]["pairs"]
    shutil.rmtree(result.path / PICTURES, ignore_errors=True)
    runfolder.write_images(result.path, PICTURES, range(len(pairs)), names, result.images)
    first = {} if photo is None else {"photo": photo}
    rows, cell = [], CELL
    for number, pair in enumerate(pairs[:SHEET_ROWS]):
        made = [image for label in names if (image := result.images(label, number)) is not None]
        cell = cell_for(made[0])
        rows.append(
            (wrapped(f"{pair[3]}\n→ {pair[4]}"), [thumbnail(image, cell) for image in [*first.values(), *made]])
        )
    keep(result.path, {SHEET: grid([*first, *names.values()], rows, cell)})


def sections(result: StudyResult) -> Iterator[Section]:
    """The sections of a report, if the study is an edit run."""
    if result.manifest["settings"].get("localizer", {}).get("name") != EditComparison.name or result.finding is None:
        return
    rows = result.finding.details["methods"]
    shown = [one for one in COLUMNS if one[0] in rows[0]]
    heads = ["method", *(head for _, head, _ in shown)]
    prompts = len(set(result.clusters))
    cells: list[list[Cell]] = [
        [row["method"], *(said(row[name], digits, prompts) for name, _, digits in shown)] for row in rows
    ]
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
    path = result.path / SHEET
    figures = [("source, clean target and edits", opened(check(path)))] if path.is_file() else []
    yield Section("Text edits", text, ReportTable(heads, cells), figures=figures)
