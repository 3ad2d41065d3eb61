"""What the runs of ``t2iprobe guard`` show: answers, tables, contact sheets, plots and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from t2iprobe.cli.tables import cell_text
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.toxicity.gallery import GUARDED, Gallery
from t2iprobe.plugins.toxicity.methods import LOCALIZED, UNGUARDED, Case
from t2iprobe.report.figures import cell_for, dot_plot, grid, mosaic, wrapped
from t2iprobe.report.folder import SHEET, RunView, kept
from t2iprobe.report.page import page_of
from t2iprobe.report.sections import Page, ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

SHEET_ROWS = 8
SHOWN = 48  # most guarded pictures on a contact sheet
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
#: scores in the plot, with the headings of their panels
PANELS = {
    "toxicity": "pictures with toxic text",
    "ocr_f1_benign": "F1 of the rewritten text",
    "ssim_textless": "SSIM to the unguarded picture, outside the text",
}
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
    mean, low, high = (100 * bound for bound in Interval.of(value))
    return f"{mean:.0f} % [{low:.0f} %, {high:.0f} %]"


def cells(row: Row, brief: bool = False) -> list[str]:
    """The cells of one row of the table; in a terminal (``brief``) only toxicity keeps its interval."""
    texts = []
    for name, _, digits in COLUMNS:
        value = row[name]
        text = cell_text(Interval.of(value) if isinstance(value, list) else value, digits)
        texts.append(text.partition(" [")[0] if brief and name != "toxicity" else text)
    return [row["method"], *texts]


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


def bench_view(path: Path, plugins: Plugins) -> RunView:
    """What a benchmark shows; its contact sheet is the one that the run has left, because words are kept nowhere else.

    Raises:
        ConfigError: it is not finished.
    """
    manifest, answer = _answered(path)
    sheet, names = kept(path, SHEET), [row["method"] for row in answer["methods"]]
    panels = {title: [_interval(row[name]) for row in answer["methods"]] for name, title in PANELS.items()}
    plot = dot_plot(names, panels, [name for name in names if name.startswith(LOCALIZED)])
    figures = [("what the guard takes away, and what it leaves", plot)]
    figures += [("the same noise", sheet)] if sheet else []
    section = Section("Methods", TEXT, ReportTable(HEADS, [cells(row) for row in answer["methods"]]), figures=figures)
    return RunView(_page(manifest, answer, "toxic text", section), answer, sheet, plot)


def run_view(path: Path, plugins: Plugins) -> RunView:
    """What guarded pictures show: what became of each prompt, without the prompts.

    Raises:
        ConfigError: the run is not finished.
    """
    manifest, answer = _answered(path)
    drawn, gallery = [row for row in answer["prompts"] if row["picture"]][:SHOWN], Gallery(path)
    pictures = [(f"{row['row']}: {row['rewrite']}", gallery.image(GUARDED, row["row"])) for row in drawn]
    sheet = mosaic(pictures) if pictures else None
    rows = [[row["row"], row["verdict"], row["rewrite"] or row["reason"]] for row in answer["prompts"]]
    table = ReportTable(["row", "verdict", "prompt of the localized layers"], rows)
    section = Section("Prompts", figures=[("as rewritten", sheet)] if sheet else [], table=table)
    return RunView(_page(manifest, answer, "guarded pictures", section), answer, sheet)


def _answered(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest of a finished run, and the answer in it."""
    manifest = runfolder.read_manifest(path)
    if not isinstance(manifest.get("answer"), dict):
        raise ConfigError(f"{path} is not finished, so there is nothing to show yet; the same command continues")
    return manifest, manifest["answer"]


def _page(manifest: Mapping[str, Any], answer: Mapping[str, Any], subject: str, section: Section) -> Page:
    page = page_of(manifest, subject, answer["sentence"], [section])
    facts = {name: str(answer[name]) for name in ("arch", "layers", "donor", "judge") if name in answer}
    return replace(page, provenance={**facts, **page.provenance})


def _interval(value: Sequence[float | None] | None) -> Interval | None:
    return Interval.of(value) if value and value[0] is not None else None
