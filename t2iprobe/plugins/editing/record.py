"""What an edit run leaves behind: the JSON object, pictures, the contact sheet and its part of a report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from t2iprobe.core.pictures import opened
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.checksums import check, keep
from t2iprobe.core.study.result import StudyResult, finding_as_json
from t2iprobe.plugins.editing.comparison import SWAP, EditComparison, said
from t2iprobe.plugins.editing.sweep import SECONDS, SOURCE, TARGET
from t2iprobe.report.sections import Cell, ReportTable, Section

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
    (SECONDS, "s an image", 2),
)


def answer_of(result: StudyResult, facts: Mapping[str, Any]) -> dict[str, Any]:
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
        **facts,
    }


def write(result: StudyResult, photo: Image.Image | None) -> None:
    """Write the contact sheet, and every picture as PNG, next to the study's own files."""
    from t2iprobe.report.figures import SheetRow, contact_sheet

    labels = [trial.label for trial in result.trials]
    named = {SOURCE: "reconstruction" if photo is not None else SOURCE, TARGET: SWAP}
    pictures = [[result.images(label, number) for label in labels] for number in range(len(result.pairs))]
    whole = [[image for image in row if image is not None] for row in pictures]
    shutil.rmtree(result.path / PICTURES, ignore_errors=True)
    runfolder.write_images(result.path, PICTURES, dict(enumerate(whole)), [named.get(label, label) for label in labels])
    shown = [SOURCE] if photo is not None else []
    shown += [label for label in labels if label not in (SOURCE, TARGET)]
    pairs = result.manifest["settings"]["pairs"]
    rows = [
        SheetRow(
            f"{pairs[number][3]}\n→ {pairs[number][4]}",
            photo if photo is not None else images[SOURCE],
            images[TARGET],
            [images[label] for label in shown],
        )
        for number, row in enumerate(whole[:SHEET_ROWS])
        for images in [dict(zip(labels, row, strict=True))]
    ]
    sheet = contact_sheet(rows, [named.get(label, label) for label in shown], cell=_cell(whole))
    keep(result.path, {SHEET: sheet})


def write_answer(result: StudyResult, answer: Mapping[str, Any]) -> None:
    """Write ``result.json`` last, because it marks that everything else is there."""
    keep(result.path, {ANSWER: answer})


def _cell(rows: Sequence[Sequence[Image.Image]]) -> int:
    """Size in pixels of a picture on the sheet: a multiple of a small picture's, so that its pixels stay square."""
    side = max(rows[0][0].size)
    return 128 // side * side if side <= 64 else min(256, max(128, side))


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
    figures = [("source, clean target, and the edits", opened(check(path)))] if path.is_file() else []
    yield Section("Text edits", text, ReportTable(heads, cells), figures=figures)


def folder_of(model: str) -> Path:
    """The folder of a run unless another one is given."""
    return Path("runs") / f"edit-{Path(model).name}"
