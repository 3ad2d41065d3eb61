"""What is looked at in a run folder, the same for every kind of run: :func:`write` and :func:`answer_in`.

::

    result.json        the answer: the object that the command prints with --format json
    report.html        the page, with everything that is worth seeing
    contact_sheet.png  pictures with their labels, as many as a sheet holds
    plot.png           the main figure

A kind of run says what they show in a :class:`RunView`, made from its folder alone. The answer is written last: where
it is, the others are. Everything can be made again from the run's own files; see ``t2iprobe report``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.core.errors import LockedError, T2IProbeError
from t2iprobe.core.pictures import opened
from t2iprobe.core.runs.checksums import check, keep, read_json, settle
from t2iprobe.core.runs.files import write as write_file
from t2iprobe.core.runs.lock import lock, waiting_lock
from t2iprobe.report.render import render
from t2iprobe.report.sections import Page

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

ANSWER, PAGE, SHEET, PLOT = "result.json", "report.html", "contact_sheet.png", "plot.png"
#: keys of an answer that say where the files are
PLACES = {"report": PAGE, "contact_sheet": SHEET, "plot": PLOT}


@dataclass(frozen=True)
class RunView:
    """What a run shows.

    Args:
        page: the page; it includes sheet and plot, or has something better in their place.
        answer: the answer, without the places of files; ``None`` while the run is not finished.
        sheet: the contact sheet; ``None`` if the run makes no pictures.
        plot: the main figure; ``None`` if there is nothing to draw.
        before: writes further files that are made from the run's own.
    """

    page: Page
    answer: Mapping[str, Any] | None = None
    sheet: Image | None = None
    plot: Image | None = None
    before: Callable[[], None] = field(default=lambda: None)


#: makes the view of a run from its folder
View = Callable[[Path, "Plugins"], RunView]


def write(path: Path, view: RunView) -> dict[str, Any] | None:
    """Write what a run shows into its folder, each file whole or not at all; of an unfinished run, only the page.

    Returns:
        The answer; ``None`` if the run is not finished.

    Raises:
        StoreError: the disk is full or gone.
    """
    page = render(view.page)
    if view.answer is None:
        try:
            with lock(path):
                keep(path, {PAGE: page})
        except LockedError:  # it is going on, and its checksums are its own
            write_file(path / PAGE, page)
        return None
    with waiting_lock(path):
        view.before()
        drawn = {name: image for name, image in ((SHEET, view.sheet), (PLOT, view.plot)) if image is not None}
        keep(path, {**drawn, PAGE: page})
        places = {key: str(path / name) if name in (PAGE, *drawn) else None for key, name in PLACES.items()}
        keep(path, {ANSWER: {**rounded(view.answer), "run": str(path), **places}})
        settle(path, (*drawn, PAGE, ANSWER))
    return answer_in(path)


def rounded(value: Any) -> Any:
    """A JSON value whose numbers have six digits, as many as scores are exact to: 0.9999995 is 1."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def answer_in(path: Path, needs: Mapping[str, type] | None = None) -> dict[str, Any] | None:
    """The answer in a run folder, with the places that its files have now; ``None`` if there is none yet.

    Args:
        path: the run folder.
        needs: see :func:`read_json`.

    Raises:
        DamagedError: it is not what was written.
    """
    if not (path / ANSWER).is_file():
        return None
    answer = read_json(path / ANSWER, needs)
    if not PLACES.keys() <= answer.keys():  # what the run has kept of it, before a kill
        return None
    places = {key: answer.get(key) and str(path / name) for key, name in PLACES.items()}
    return {**answer, "run": str(path), **places}


def sentence_in(path: Path) -> str:
    """The sentence of the answer in a run folder; empty if there is none that can be read."""
    with suppress(T2IProbeError):
        return str((answer_in(path) or {}).get("sentence", ""))
    return ""


def write_page(page: Page, out: Path) -> Path:
    """Write a page elsewhere, whole or not at all."""
    write_file(out, render(page))
    return out


def kept(path: Path, name: str) -> Image | None:
    """A picture that is in the folder; ``None`` if it is not there.

    Raises:
        DamagedError: it is not what was written.
    """
    return opened(check(path / name)) if (path / name).is_file() else None
