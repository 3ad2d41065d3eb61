"""The table of runs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from t2iprobe.viewer.pages import page


def show(request: Request) -> Response:
    """The page."""
    return page("runs.html.j2", "/", folder=str(request.app.state.runs.root))


def listed(request: Request) -> Response:
    """Every run, as JSON."""
    return JSONResponse({"runs": request.app.state.runs.listed()})


ROUTES = [Route("/", show), Route("/api/runs", listed)]
