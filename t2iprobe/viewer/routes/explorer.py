"""The explorer: its page, and what its script asks for. Drawing is done in the thread of :class:`.Studios`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from t2iprobe.core.errors import ConfigError, T2IProbeError
from t2iprobe.registry.manager import Plugins
from t2iprobe.viewer.explorer.scene import CONCEPTS, Scene
from t2iprobe.viewer.explorer.studios import Check, Studios, SupersededError
from t2iprobe.viewer.folder import RunsFolder
from t2iprobe.viewer.pages import page
from t2iprobe.viewer.requests import FOREVER

if TYPE_CHECKING:
    from t2iprobe.viewer.explorer.studio import Drawing, OnStep, Studio

EXAMPLES = 8  # pairs of prompts that are suggested
Work = Callable[["Studio", "OnStep"], Mapping[str, Any]]


def show(request: Request) -> Response:
    """The page."""
    return page("explorer.html.j2", "/explore", models=list(_studios(request).loading))


async def board(request: Request) -> Response:
    """What a model has to choose from, which loads the model, as lines of JSON."""
    plugins: Plugins = request.app.state.plugins
    query = request.query_params
    model, steps = query.get("model", ""), query.get("num_steps", "")
    if steps and not (steps.isascii() and steps.isdigit() and 0 < int(steps) <= 1_000):
        raise ConfigError(f"steps are a number from 1 to 1,000, found {steps!r:.20}")

    def work(studio: Studio, on_step: OnStep) -> Mapping[str, Any]:
        return {**studio.board(int(steps) if steps else None), "examples": examples(model, plugins)}

    return _lines(request, query.get("page", ""), model, work)


def examples(model: str, plugins: Plugins) -> list[dict[str, Any]]:
    """Pairs of prompts that the model was made for."""
    found = []
    for concept in CONCEPTS:
        try:
            found += plugins.prompt_set(plugins.own_prompt_set(model), limit=EXAMPLES, concept=concept)
        except ConfigError:  # a prompt set need not have each concept
            continue
    return [{"source": pair.source, "target": pair.target, "seed": pair.seed} for pair in found]


async def draw(request: Request) -> Response:
    """The pictures of a scene, as lines of JSON: how far it is, and at last the pictures' names."""
    asked = await _asked(request)

    def work(studio: Studio, on_step: OnStep) -> Mapping[str, Any]:
        drawing = studio.draw(asked.scene, on_step)
        return _facts(studio, asked.scene, drawing, asked.loading)

    return _lines(request, asked.page, asked.model, work)


async def attention(request: Request) -> Response:
    """Where a word of the prompts is read, as lines of JSON like those of :func:`draw`."""
    asked = await _asked(request)

    def work(studio: Studio, on_step: OnStep) -> Mapping[str, Any]:
        found = studio.attention(asked.scene, asked.word, on_step)
        return {"maps": {which: one.name for which, one in found.items()}}

    return _lines(request, asked.page, asked.model, work)


async def save(request: Request) -> Response:
    """Keep a scene as a run, as lines of JSON like those of :func:`draw`, at last with the run's name."""
    from t2iprobe.viewer.explorer.saved import save as saved

    asked = await _asked(request)
    runs: RunsFolder = request.app.state.runs
    name, path = asked.name, runs.new(asked.name)

    def work(studio: Studio, on_step: OnStep) -> Mapping[str, Any]:
        saved(studio, asked.scene, path, request.app.state.plugins, asked.loading, on_step)
        return {"run": name}

    return _lines(request, asked.page, asked.model, work)


def picture(request: Request) -> Response:
    """A picture that was drawn lately."""
    found = _studios(request).picture(request.path_params["name"])
    if found is None:
        return JSONResponse({"error": "that picture is no longer kept; change something, and it is drawn again"}, 404)
    return Response(found.png, media_type="image/png", headers=FOREVER)


def _facts(studio: Studio, scene: Scene, drawing: Drawing, loading: Mapping[str, Any]) -> dict[str, Any]:
    from t2iprobe.viewer.explorer.script import command, described, python

    model = studio.model
    words = command(scene, drawing.parts, model.ref, loading, model.steps(scene.num_steps))
    return {
        "pictures": {name: one.name for name, one in drawing.pictures.items()},
        "moved": drawing.moved,
        "rows": drawing.rows,
        "seconds": drawing.seconds,
        "sentence": described(scene, drawing.parts, studio.offers[scene.what].title),
        "python": python(scene, drawing.parts, model.ref, loading, drawing.beside),
        "command": words.line,
        "file": words.picture,
        "missing": words.missing,
    }


ASKED = "page", "model", "name", "word"


class Asked:
    """What a page asks for: a scene of a model.

    Raises:
        ConfigError: it is not that.
    """

    def __init__(self, body: Any, studios: Studios) -> None:
        if not isinstance(body, dict) or not isinstance(body.get("scene"), dict):
            raise ConfigError("a request has a model and a scene")
        self.page, self.model, self.name, self.word = (str(body.get(key, "")) for key in ASKED)
        self.scene = Scene(**body["scene"])
        self.loading = studios.loading.get(self.model, {})


async def _asked(request: Request) -> Asked:
    try:
        body = await request.json()
    except ValueError:
        raise ConfigError("a request is a JSON object") from None
    return Asked(body, _studios(request))


def _lines(request: Request, page: str, model: str, work: Work) -> Response:
    """Let a studio work, and answer with lines of JSON: its steps, then its answer or the sentence of its error."""
    lines: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def stepped(check: Check, what: str, step: int, steps: int) -> None:
        check()
        lines.put({"what": what, "step": step, "steps": steps})

    future = _studios(request).ask(page, model, lambda studio, check: work(studio, partial(stepped, check)))
    future.add_done_callback(lambda done: lines.put(None))

    def answered() -> Iterator[str]:
        while (line := lines.get()) is not None:
            yield json.dumps(line) + "\n"
        last: dict[str, Any]
        try:
            last = {"done": future.result()}
        except SupersededError:
            last = {"superseded": True}
        except T2IProbeError as error:
            last = {"error": str(error)}
        except Exception as error:  # of a library, say; the page has to say something
            logging.getLogger(__name__).exception("the explorer")
            last = {"error": f"{type(error).__name__}: {error}; the terminal says where"}
        yield json.dumps(last) + "\n"

    return StreamingResponse(answered(), media_type="application/x-ndjson")


def _studios(request: Request) -> Studios:
    found: Studios = request.app.state.studios
    return found


ROUTES = [
    Route("/explore", show),
    Route("/api/explore/board", board),
    Route("/api/explore/draw", draw, methods=["POST"]),
    Route("/api/explore/attention", attention, methods=["POST"]),
    Route("/api/explore/save", save, methods=["POST"]),
    Route("/api/explore/pictures/{name}.png", picture),
]
