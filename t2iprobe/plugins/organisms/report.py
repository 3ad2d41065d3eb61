"""Tables of ``t2iprobe organisms``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from t2iprobe.plugins.organisms.bench import GradedAnswer
    from t2iprobe.plugins.organisms.check import CheckReport


def _table(title: str, *columns: str, **options: Any) -> Table:
    return Table(*columns, title=title, box=SIMPLE_HEAD, pad_edge=False, **options)


def model_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """The embedded models and how well their plants hold, in per cent: word/colour."""
    table = _table("Embedded models", "model", "plant", "weights", "clean", "transfer", "elsewhere", "words")
    for model in models:
        cells = ["-"] * 4
        if measured := model["measured"]:
            findings = [measured["findings"][content] for content in ("word", "colour")]
            shares = [(finding["clean"]["mean"], finding["transfer"], finding["elsewhere"]) for finding in findings]
            cells = ["/".join(map(_percent, both)) for both in zip(*shares, strict=True)] + [str(measured["words"])]
        table.add_row(model["name"], model["plant"], model["weights"], *cells)
    return table


def check_table(ref: str, report: CheckReport) -> Table:
    """The measurements in per cent, planted sites in bold; ``letters`` are the partner's, one by one."""
    clean = ", ".join(
        f"{name} {finding.clean.mean:.1%} ({finding.clean.low:.1%}-{finding.clean.high:.1%})"
        for name, finding in report.findings.items()
    )
    verdict = "holds" if report.passed else "does not hold"
    word, colour = ("own word", "partner's word", "letters", "changed"), ("own colour", "partner's colour", "changed")
    title = f"{ref}: {report.plant}, {report.words} held-out pairs"
    table = _table(title, "patched", *word, *colour, caption=f"clean: {clean}; the plant {verdict}")
    planted = [finding.answer for finding in report.findings.values()]
    sites = {*planted, *(layer for label in planted for layer in label.split("+"))}
    for row in report.rows:
        letters = " ".join(map(_percent, row.letters_partner))
        shares = (row.word_changed, row.colour_own, row.colour_partner, row.colour_changed)
        cells = (_percent(row.word_own), _percent(row.word_partner), letters, *map(_percent, shares))
        table.add_row(row.label, *cells, style="bold" if row.label in sites else "")
    return table


def bench_table(rows: Sequence[GradedAnswer]) -> Table:
    """What each method found; wrong answers in red."""
    scores = ("recall", "precision", "AUROC", "rows", "seconds")
    table = _table("Planted layers, found by method", "model", "concept", "method", "found", "planted", *scores)
    for row in rows:
        layers = (", ".join(map(str, named)) for named in (row.found, row.planted))
        shares = (f"{row.recall:.2f}", f"{row.precision:.2f}", "-" if row.auroc is None else f"{row.auroc:.2f}")
        cells = (row.model, row.concept, row.method, *layers, *shares, f"{row.denoiser_rows:,}", f"{row.seconds:.0f}")
        table.add_row(*cells, style="" if row.right else "red")
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f}".removesuffix(".0")
