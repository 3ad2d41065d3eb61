"""Two runs side by side."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.runs.runfolder import read_manifest
from t2iprobe.viewer import settings
from t2iprobe.viewer.pages import page
from t2iprobe.viewer.requests import text


def show(request: Request) -> Response:
    """The page."""
    return page("compare.html.j2", "/", runs=[text(request, side) for side in "ab"])


def compared(request: Request) -> Response:
    """Facts about two runs, and the settings and answers in which they differ, as JSON."""
    runs, names = request.app.state.runs, [text(request, side) for side in "ab"]
    manifests = [_manifest(runs, name) for name in names]
    asked = [{"model": one.get("model"), **one.get("settings", {})} for one in manifests]
    answers = [runs.answer(name) for name in names]
    return JSONResponse(
        {
            "runs": [runs.facts(name) for name in names],
            "settings": settings.differing(*asked),
            "answers": settings.differing(*answers),
            "cost": settings.differing(*(one.get("spent", {}) for one in manifests)),
        }
    )


def _manifest(runs: Any, name: str) -> dict[str, Any]:
    """The manifest of a run; empty if it cannot be read, which its facts explain."""
    path = runs.path(name)
    try:
        return read_manifest(path)
    except T2IProbeError:
        return {}


ROUTES = [Route("/compare", show), Route("/api/compare", compared)]
