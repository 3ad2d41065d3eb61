"""The table of runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from t2iprobe.viewer.folder import RunsFolder
from t2iprobe.viewer.pages import page


def show(request: Request) -> Response:
    """The page."""
    return page("runs.html.j2", "/", folder=str(request.app.state.runs.root))


def listed(request: Request) -> Response:
    """Every run, as JSON."""
    runs: RunsFolder = request.app.state.runs
    return JSONResponse({"runs": [_facts(runs, name) for name in runs.names()]})


def _facts(runs: RunsFolder, name: str) -> dict[str, Any]:
    facts = {**asdict(runs.state(name)), "name": name}
    del facts["path"]
    return facts


ROUTES = [Route("/", show), Route("/api/runs", listed)]
