"""The web app of ``t2iprobe view``: :func:`app`.

::

    app.py            puts the app together
    access.py         who may ask: token, host and origin of a request; the headers of every answer
    server.py         runs the app until Ctrl-C
    folder.py         the runs that are served, by name
    studies.py        studies that are open for reading
    settings.py       settings as lines, and in which of them two runs differ
    requests.py       what endpoints read from an address and answer with
    pages.py          HTML from templates/, and the sections of the navigation
    explorer/         what the explorer draws, without web: models, pictures, scripts, runs that it saves
    routes/runs.py    each file: the pages of one part with what their scripts fetch, as a list ROUTES
    templates/        one template per page, each extends shell.html.j2
    static/           ES modules, one per page and part of a page, formatted by prettier --print-width 120; viewer.css

A page is an HTML skeleton, and its module fills it with JSON from ``/api/…``. There is no build step, and a strict
Content-Security-Policy: scripts and styles come from ``static/`` only, so no ``style=`` and no ``onclick=``; a script
may set ``element.style``. A text from a run goes into a page by ``textContent``, never by ``innerHTML``.

An endpoint is a plain ``def``, which Starlette calls in a thread, because it reads files. It finds ``runs``
(:class:`.RunsFolder`), ``studies`` (:class:`.OpenStudies`), ``studios`` (:class:`.Studios`) and ``plugins`` in
``request.app.state``. Errors of ours and of the system become ``{"error": sentence}``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from t2iprobe.core.errors import T2IProbeError
from t2iprobe.registry.manager import Plugins
from t2iprobe.viewer.access import LOCAL, Access
from t2iprobe.viewer.explorer.studios import Studios
from t2iprobe.viewer.folder import RunsFolder
from t2iprobe.viewer.routes import compare, explorer, run, study
from t2iprobe.viewer.routes import runs as table
from t2iprobe.viewer.studies import OpenStudies

STATIC = Path(__file__).parent / "static"


def app(
    runs: Path,
    plugins: Plugins,
    token: str,
    hosts: Sequence[str] = LOCAL,
    models: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Starlette:
    """The web app.

    Args:
        runs: folder with run folders, or one run folder; nothing outside it is served.
        plugins: plugins that know the kinds of runs.
        token: the secret in the address, which becomes a cookie.
        hosts: names of the machine that a request may use, beside addresses in numbers.
        models: models to explore beside the embedded ones, with their loading arguments, by name.
    """
    studios = Studios(plugins, models)

    @asynccontextmanager
    async def ending(made: Starlette) -> AsyncIterator[None]:
        yield
        studios.close()

    made = Starlette(
        routes=[
            *table.ROUTES,
            *run.ROUTES,
            *study.ROUTES,
            *compare.ROUTES,
            *explorer.ROUTES,
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Access, token=token, hosts=hosts)],
        exception_handlers=dict.fromkeys((T2IProbeError, OSError), _explained),
        lifespan=ending,
    )
    made.state.runs, made.state.plugins = RunsFolder(runs), plugins
    made.state.studies, made.state.studios = OpenStudies(made.state.runs), studios
    return made


def _explained(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)
