"""What a benchmark leaves: the JSON answer, the sentence, the contact sheet and the HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from t2iprobe.core.names import counted
from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.toxicity.benchmark import MethodRow
from t2iprobe.plugins.toxicity.gallery import Gallery
from t2iprobe.plugins.toxicity.methods import LOCALIZED, UNGUARDED, Case
from t2iprobe.plugins.toxicity.sheet import ROWS
from t2iprobe.plugins.toxicity.sheet import sheet as drawn
from t2iprobe.report.sections import Cell, Page, ReportTable, Section

#: headings and digits of the table's columns
COLUMNS = (("mse", "MSE", 0), ("ssim", "SSIM", 3), ("psnr", "PSNR", 1), ("ssim_textless", "SSIM outside", 3))


def answer_of(rows: Sequence[MethodRow], cases: Sequence[Case], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The answer as a JSON object."""
    return {
        **facts,
        "cases": len(cases),
        "clusters": len({case.word for case in cases}),
        "detected": sum(case.found for case in cases),
        "methods": [_line(row) for row in rows],
        "sentence": sentence(rows, cases),
    }


def _line(row: MethodRow) -> dict[str, Any]:
    published = None if row.toxic_published is None else row.toxic_published.plain()
    return {
        "method": row.method,
        **{name: value.plain() for name, value in row.similar.items()},
        "ocr_f1_toxic": row.f1_toxic.plain(),
        "ocr_f1_benign": row.f1_benign.plain(),
        "toxicity": row.toxic.plain(),
        "toxicity_published": published,
        "denoiser_rows_an_image": row.rows,
        "denoiser_calls_a_batch": row.calls,
        "seconds_an_image": row.seconds,
    }


def sentence(rows: Sequence[MethodRow], cases: Sequence[Case]) -> str:
    """The answer as a sentence."""
    named = {row.method: row for row in rows}
    plain, guard = named[UNGUARDED], named.get(LOCALIZED)
    words = counted(len({case.word for case in cases}), "word")
    count = f"{counted(len(cases), 'picture')} of {words}, 95 % intervals over words"
    if guard is None:
        return f"Without a guard {_percent(plain.toxic)} of the pictures show toxic text ({count})."
    extra = guard.rows / plain.rows - 1 if plain.rows else 0.0
    cost = "no denoiser row more" if extra < 1e-6 else f"{100 * extra:.0f} % more denoiser rows"
    calls = (
        "no denoiser call more" if guard.calls <= plain.calls + 1e-6 else f"{guard.calls / plain.calls:.2f} x the calls"
    )
    return (
        f"The guard leaves toxic text in {_percent(guard.toxic)} of the pictures, against {_percent(plain.toxic)} "
        f"without it, and SSIM {guard.similar['ssim_textless'].mean:.3f} to the unguarded picture outside the text; "
        f"{calls}, {cost} ({count})."
    )


def _percent(value: Interval) -> str:
    return f"{100 * value.mean:.0f} % [{100 * value.low:.0f} %, {100 * value.high:.0f} %]"


def heads() -> list[str]:
    """The headings of the table."""
    return [
        "method",
        *(head for _, head, _ in COLUMNS),
        "F1 toxic",
        "F1 benign",
        "toxic",
        "as published",
        "rows",
        "s an image",
    ]


def cells(row: MethodRow) -> list[Cell]:
    """The cells of one row of the table."""
    published = "-" if row.toxic_published is None else _number(row.toxic_published, 3)
    return [
        row.method,
        *(_number(row.similar[name], digits) for name, _, digits in COLUMNS),
        _number(row.f1_toxic, 2),
        _number(row.f1_benign, 2),
        _number(row.toxic, 3),
        published,
        f"{row.rows:.0f}",
        f"{row.seconds:.2f}",
    ]


def brief(row: MethodRow) -> list[Cell]:
    """The same row without intervals, for a terminal; only toxicity keeps its interval."""
    line = cells(row)
    short = [str(cell).partition(" [")[0] for cell in line]
    toxic = heads().index("toxic")
    return [*short[:toxic], line[toxic], *short[toxic + 1 :]]


def _number(value: Interval, digits: int) -> str:
    return value.said(digits)


def sheet(names: Sequence[str], cases: Sequence[Case], gallery: Gallery, words: bool) -> Image.Image:
    """The contact sheet, with one row per case and one column per method.

    Args:
        names: names of the methods.
        cases: the cases, of which the first are shown.
        gallery: holds the pictures.
        words: whether the toxic words are shown beside the pictures, or only the rewrites.
    """
    shown = [row for row, case in enumerate(cases) if case.found][:ROWS] or list(range(len(cases)))[:ROWS]
    rows = []
    for row in shown:
        there = names if cases[row].found else [UNGUARDED] * len(names)
        rows.append((_label(row, cases[row], words), [gallery.image(name, row) for name in there]))
    return drawn(names, rows, len(cases), "as given" if words else "as rewritten")


def _label(row: int, case: Case, words: bool) -> str:
    if words:
        return f"{case.prompt}\n→ {case.benign}"
    return f"{row}: {case.rewrite}" if case.found else f"case {row}"


def page_of(answer: Mapping[str, Any], rows: Sequence[MethodRow], picture: Image.Image, command: str) -> Page:
    """The page of the report."""
    text = (
        "Means, and 95 % intervals over words. MSE, SSIM and PSNR compare with the unguarded picture, outside: where "
        "neither has text; F1 is that of "
        "the characters read by OCR, as published; toxic is the share of pictures whose text is judged toxic, and as "
        "published that over the share of the words themselves which the judge takes for toxic. Rows are rows through "
        "the denoiser, guidance included, for each picture."
    )
    return Page(
        f"{answer['model']}: toxic text",
        answer["sentence"],
        [
            Section(
                "Methods",
                text,
                ReportTable(heads(), [cells(row) for row in rows]),
                figures=[("the same noise", picture)],
            )
        ],
        command,
        provenance={name: str(answer[name]) for name in ("arch", "layers", "donor", "judge")},
    )
