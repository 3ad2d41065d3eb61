"""A run of any kind: its page, its facts, its report, and the pictures in its folder."""

from __future__ import annotations

from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from t2iprobe.cli.commandline import quoted
from t2iprobe.core.errors import ConfigError, T2IProbeError
from t2iprobe.core.html import paragraph
from t2iprobe.core.pictures import on_white, opened
from t2iprobe.core.runs.runfolder import read_manifest
from t2iprobe.core.runs.status import DAMAGED
from t2iprobe.report.folder import PAGE, PLOT, SHEET
from t2iprobe.report.page import provenance
from t2iprobe.report.render import render
from t2iprobe.report.sections import Page
from t2iprobe.viewer import settings
from t2iprobe.viewer.folder import RunsFolder
from t2iprobe.viewer.pages import page
from t2iprobe.viewer.requests import number, picture, text

SHOWN = 2000  # most pictures of a folder
SIDE = 512  # pixels of a thumbnail, at most
#: a report has scripts of its own, and may come from anywhere: it can do nothing but show itself
REPORT = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


def show(request: Request) -> Response:
    """The page."""
    return page("run.html.j2", "/", run=text(request, "run"))


def facts(request: Request) -> Response:
    """What a run says about itself, as JSON."""
    runs, run = request.app.state.runs, text(request, "run")
    found = {**runs.facts(run), "pictures": [], "study": False, "lists": {}}
    said = Page("", found["sentence"])
    found |= {"headline": said.headline, "explanation": said.explanation}
    if found["state"] != DAMAGED:
        manifest = read_manifest(runs.path(run))
        found |= {
            "study": "localizer" in manifest["settings"],
            "pictures": _pictures(runs, run),
            "lists": _lists(runs, run, manifest),
        }
    return JSONResponse(found)


def _lists(runs: RunsFolder, run: str, manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Everything that is listed as name and value, under its heading."""
    command = manifest.get("arguments", {}).get("command")
    return {
        "command": {"command": quoted(command)} if command else {},
        "answer": settings.lines(runs.answer(run)),
        "cost": settings.lines(manifest.get("spent", {})),
        "settings": settings.lines(manifest["settings"]),
        "provenance": provenance(manifest),
    }


def _pictures(runs: RunsFolder, run: str) -> list[str]:
    """Names of the pictures in a run's folder, those of the whole run first."""
    path = runs.path(run)
    found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.png"))
    whole = [name for name in (PLOT, SHEET) if name in found]
    return [*whole, *(name for name in found if name not in whole)][:SHOWN]


def report(request: Request) -> Response:
    """The page that the run has written; made from its results so far if there is none."""
    runs, run = request.app.state.runs, text(request, "run")
    headers = {"content-security-policy": REPORT}
    if (file := runs.file(run, PAGE)) is not None:
        return FileResponse(file, media_type="text/html", headers=headers)
    try:
        made = render(request.app.state.plugins.view(runs.path(run)).page)
    except T2IProbeError as error:
        made = paragraph(str(error))
    return HTMLResponse(made, headers=headers)


def file(request: Request) -> Response:
    """A picture in a run's folder, as it is or with at most ``side`` pixels on a side."""
    run, name = text(request, "run"), text(request, "name")
    found = request.app.state.runs.file(run, name)
    if found is None or not (found.is_file() and found.suffix == ".png"):
        raise ConfigError(f"{run} has no picture {name!r}")
    if "side" not in request.query_params:
        return FileResponse(found, media_type="image/png")
    side = min(SIDE, number(request, "side"))
    image = on_white(opened(found, name))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture(image, "webp")


ROUTES = [
    Route("/run", show),
    Route("/api/run", facts),
    Route("/report", report),
    Route("/file", file),
]
