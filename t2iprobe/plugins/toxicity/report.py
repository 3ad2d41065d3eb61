"""What a benchmark reports: the sentence, the table, the contact sheet and the HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from t2iprobe.core.names import counted
from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.toxicity.gallery import Gallery
from t2iprobe.plugins.toxicity.methods import LOCALIZED, UNGUARDED, Case
from t2iprobe.report.figures import cell_for, grid, wrapped
from t2iprobe.report.sections import Page, ReportTable, Section

SHEET_ROWS = 8
Row = Mapping[str, Any]
#: keys, headings and digits of the table's columns
COLUMNS = (
    ("mse", "MSE", 0),
    ("ssim", "SSIM", 3),
    ("psnr", "PSNR", 1),
    ("ssim_textless", "SSIM outside", 3),
    ("ocr_f1_toxic", "F1 toxic", 2),
    ("ocr_f1_benign", "F1 benign", 2),
    ("toxicity", "toxic", 3),
    ("toxicity_published", "as published", 3),
    ("denoiser_rows_an_image", "rows", 0),
    ("seconds_an_image", "s per image", 2),
)
HEADS = ["method", *(head for _, head, _ in COLUMNS)]
TEXT = (
    "Means, and 95 % intervals over words. MSE, SSIM and PSNR compare with the unguarded picture; outside: where "
    "neither has text. F1 is that of the characters read by OCR, as published. Toxic is the share of pictures whose "
    "text is judged toxic; as published: divided by the share of the words themselves that the judge finds toxic. Rows "
    "are rows through the denoiser per picture, guidance included."
)


def sentence(rows: Sequence[Row], cases: Sequence[Case]) -> str:
    """The answer as a sentence."""
    named = {row["method"]: row for row in rows}
    plain, guard = named[UNGUARDED], named.get(LOCALIZED)
    words = counted(len({case.word for case in cases}), "word")
    count = f"{counted(len(cases), 'picture')} of {words}, 95 % intervals over words"
    unguarded = _percent(plain["toxicity"])
    if guard is None:
        return f"Without a guard {unguarded} of the pictures show toxic text ({count})."
    rows_before, rows_after = plain["denoiser_rows_an_image"], guard["denoiser_rows_an_image"]
    extra = rows_after / rows_before - 1 if rows_before else 0.0
    cost = f"{100 * extra:.0f} % more denoiser rows" if extra >= 1e-6 else "no additional denoiser row"
    ratio = guard["denoiser_calls_a_batch"] / (plain["denoiser_calls_a_batch"] or 1)
    calls = f"{ratio:.2f} x the calls" if ratio > 1 + 1e-6 else "no additional denoiser call"
    return (
        f"The guard leaves toxic text in {_percent(guard['toxicity'])} of the pictures, against {unguarded} without "
        f"it, and SSIM {guard['ssim_textless'][0]:.3f} to the unguarded picture outside the text; {calls}, {cost} "
        f"({count})."
    )


def _percent(value: Sequence[float | None]) -> str:
    mean, low, high = (100 * one for one in Interval.of(value))
    return f"{mean:.0f} % [{low:.0f} %, {high:.0f} %]"


def cells(row: Row, brief: bool = False) -> list[str]:
    """The cells of one row of the table; in a terminal (``brief``) only toxicity keeps its interval."""
    texts = {name: _text(row[name], digits) for name, _, digits in COLUMNS}
    shown = {name: text.partition(" [")[0] if brief and name != "toxicity" else text for name, text in texts.items()}
    return [row["method"], *shown.values()]


def _text(value: Any, digits: int) -> str:
    if isinstance(value, list):
        return Interval.of(value).said(digits)
    return "-" if value is None else f"{value:.{digits}f}"


def sheet(names: Sequence[str], cases: Sequence[Case], gallery: Gallery, words: bool) -> Image.Image:
    """The contact sheet, with one row per case and one column per method.

    Args:
        names: names of the methods.
        cases: the cases, of which the first are shown.
        gallery: has the pictures.
        words: whether the toxic words are shown beside the pictures, or only the rewrites.
    """
    shown = [row for row, case in enumerate(cases) if case.found][:SHEET_ROWS] or list(range(len(cases)))[:SHEET_ROWS]
    rows = []
    for row in shown:
        there = names if cases[row].found else [UNGUARDED] * len(names)
        rows.append((wrapped(_label(row, cases[row], words)), [gallery.image(name, row) for name in there]))
    corner = f"{len(shown)} of {counted(len(cases), 'prompt')}\n{'as given' if words else 'as rewritten'}"
    return grid(names, rows, cell_for(rows[0][1][0]), corner=corner)


def _label(row: int, case: Case, words: bool) -> str:
    if words:
        return f"{case.prompt}\n→ {case.benign}"
    return f"{row}: {case.rewrite}" if case.found else f"case {row}"


def page_of(answer: Mapping[str, Any], picture: Image.Image, command: str) -> Page:
    """The page of the report."""
    table = ReportTable(HEADS, [cells(row) for row in answer["methods"]])
    section = Section("Methods", TEXT, table, figures=[("the same noise", picture)])
    facts = {name: str(answer[name]) for name in ("arch", "layers", "donor", "judge")}
    return Page(f"{answer['model']}: toxic text", answer["sentence"], [section], command, provenance=facts)
