"""Tables of ``t2iprobe organisms``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import tell
from t2iprobe.cli.tables import NONE, print_table

if TYPE_CHECKING:
    from t2iprobe.plugins.organisms.bench import GradedAnswer
    from t2iprobe.plugins.organisms.check import CheckReport


def print_models(models: Sequence[Mapping[str, Any]]) -> None:
    """Print the embedded models and how well their plants hold, in per cent: word/colour."""
    rows = []
    for model in models:
        cells = [NONE] * 4
        if measured := model["measured"]:
            findings = [measured["findings"][content] for content in ("word", "colour")]
            shares = [(finding["clean"]["mean"], finding["transfer"], finding["elsewhere"]) for finding in findings]
            cells = ["/".join(map(_percent, both)) for both in zip(*shares, strict=True)] + [str(measured["words"])]
        rows.append((model["name"], model["plant"], model["weights"], *cells))
    heads = ("model", "plant", "weights", "clean", "transfer", "elsewhere", "words")
    print_table(heads, rows, title="Embedded models")


def print_check(ref: str, report: CheckReport) -> None:
    """Print the measurements in per cent, planted sites in bold; ``letters`` are the partner's, one by one."""
    clean = ", ".join(
        f"{name} {finding.clean.mean:.1%} ({finding.clean.low:.1%}-{finding.clean.high:.1%})"
        for name, finding in report.findings.items()
    )
    verdict = "holds" if report.passed else "does not hold"
    word, colour = ("own word", "partner's word", "letters", "changed"), ("own colour", "partner's colour", "changed")
    planted = [finding.answer for finding in report.findings.values()]
    sites = {*planted, *(layer for label in planted for layer in label.split("+"))}
    rows = []
    for row in report.rows:
        letters = " ".join(map(_percent, row.letters_partner))
        shares = (row.word_changed, row.colour_own, row.colour_partner, row.colour_changed)
        cells = (_percent(row.word_own), _percent(row.word_partner), letters, *map(_percent, shares))
        rows.append((row.label, *cells))
    title = f"{ref}: {report.plant}, {report.words} held-out pairs"
    styles = ["bold" if row.label in sites else "" for row in report.rows]
    print_table(("patched", *word, *colour), rows, title=title, styles=styles)
    tell(f"clean: {clean}; the plant {verdict}")


def print_bench(rows: Sequence[GradedAnswer]) -> None:
    """Print what each method found; wrong answers in red."""
    scores = ("recall", "precision", "AUROC", "rows", "seconds")
    heads, cells = ("model", "concept", "method", "found", "planted", *scores), []
    for row in rows:
        layers = (", ".join(map(str, named)) for named in (row.found, row.planted))
        spent = f"{row.denoiser_rows:,}", f"{row.seconds:.0f}"
        cells.append((row.model, row.concept, row.method, *layers, row.recall, row.precision, row.auroc, *spent))
    styles = ["" if row.right else "red" for row in rows]
    print_table(heads, cells, title="Planted layers, found by method", styles=styles)


def _percent(share: float | None) -> str:
    return NONE if share is None or math.isnan(share) else f"{100 * share:.1f}".removesuffix(".0")
