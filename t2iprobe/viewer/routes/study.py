"""A study: trials and pairs, and of their scores and pictures those that are on the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError, DamagedError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.planted import planted_layers
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.trials import Trial, ranges, source, target
from t2iprobe.report.page import charted, patched, subject, trial_views
from t2iprobe.viewer.explorer.scene import BRANCHES
from t2iprobe.viewer.requests import number, numbers, picture, text

SIDE = 192  # pixels of a thumbnail, at most
TOGETHER = 32  # most trials and pairs of one request


def study(request: Request) -> Response:
    """Trials, pairs and names of scores, as JSON."""
    run = text(request, "run")
    version, result = request.app.state.studies.version(run), _result(request)
    labels = [trial.label for trial in result.trials]
    return JSONResponse(
        {
            "version": version,
            "answers": result.answers,
            "rank": result.rank,
            "scores": list(result.scores),
            "trials": labels,
            "columns": _columns(result),
            "ends": [labels.index(one.label) for one in (source(), target()) if one.label in labels],
            "scene": _scene(request, result),
            "pairs": [asdict(Pair(*one)) for one in result.manifest["settings"]["pairs"]],
        }
    )


def _columns(result: StudyResult) -> list[dict[str, Any]]:
    """The patches in the order in which they are shown: those of the report's chart, then all others."""
    rows = {trial.label: row for row, trial in enumerate(result.trials)}
    chart = charted(result.trials, len(result.finding.ranking) if result.finding else 0)
    shown = {trial.label: trial for trial in [*chart, *(trial for trial in result.trials if trial.sites)]}
    return [
        {"row": rows[label], "label": label, "path": patched(trial.sites), "scene": _patch(result, trial)}
        for label, trial in shown.items()
    ]


def _scene(request: Request, result: StudyResult) -> dict[str, Any] | None:
    """What the explorer needs to make the study's pictures again, beside prompts and patch; ``None`` if it cannot."""
    model, settings = subject(result)[0], result.manifest["settings"].get("generation") or {}
    known = model in request.app.state.studios.loading and settings.keys() <= {"num_steps", "guidance"}
    return {"model": model, **settings} if known else None


def _patch(result: StudyResult, trial: Trial) -> dict[str, str] | None:
    """A patch of text keys and values as the explorer's board has it; ``None`` for other patches."""
    scope, settings = trial.scope, result.manifest["settings"].get("generation") or {}
    text = all(site.rpartition(".")[2] in ("k", "v") for site in trial.sites)
    if not text or scope.tokens is not None or trial.direction != "into_source" or trial.num_steps is not None:
        return None
    steps = range(settings.get("num_steps", 0)) if scope.steps is None else scope.steps
    cells = f"{ranges(trial.layers)}:{ranges(steps)}".replace("+", ",")
    heads = "" if scope.heads is None else ",".join(map(str, sorted(scope.heads)))
    both = {Branch.COND, Branch.UNCOND}  # the explorer's runs have no others
    acts = both.intersection(scope.branches or both)
    branch = next((name for name, ones in BRANCHES.items() if acts == set(ones or both)), None)
    return {"cells": cells, "heads": heads, "branch": branch} if branch else None


def effects(request: Request) -> Response:
    """How far each patch goes from source to target, with its interval, by label; only of those that have answers."""
    result = _result(request)
    finding = result.finding
    planted = planted_layers(*subject(result), request.app.state.plugins.models()) or ()
    trials = [trial for trial in result.trials if trial.sites]
    views = trial_views(result, trials, finding.stated() if finding else {}, finding.layers if finding else (), planted)
    found = {
        view.label: {
            "way": view.response.plain(),
            "ssim": view.ssim if math.isfinite(view.ssim) else None,
            "pairs": view.pairs,
            "overlap": view.overlap,
            "planted": view.planted,
        }
        for view in views
    }
    return JSONResponse({"effects": found})


def cells(request: Request) -> Response:
    """One score of some trials on some pairs, a list by pair; ``null`` where there is no answer."""
    result = _result(request)
    trials, pairs = (numbers(request, name, TOGETHER) for name in ("trials", "pairs"))
    name = text(request, "score")
    if name not in result.scores or max(trials) >= len(result.trials) or max(pairs) >= len(result.pairs):
        raise ConfigError(f"{text(request, 'run')} has no such score, trial or pair")
    values = result.scores[name][np.ix_(trials, pairs)].T
    return JSONResponse({"cells": [[_plain(value) for value in row] for row in values]})


def cell(request: Request) -> Response:
    """Every score of a trial, of the source and of the target on a pair."""
    result, pair = _result(request), number(request, "pair")
    trial = _trials(request, result)[0]
    labels = [one.label for one in result.trials]
    shown = {"source": source(trial.num_steps), "patched": trial, "target": target(trial.num_steps)}
    rows = {key: labels.index(one.label) if one.label in labels else None for key, one in shown.items()}
    if pair >= len(result.pairs):
        raise ConfigError(f"there is no pair {pair}")
    found = {
        name: {key: None if row is None else _plain(values[row, pair]) for key, row in rows.items()}
        for name, values in result.scores.items()
    }
    return JSONResponse({"scores": found})


def strip(request: Request) -> Response:
    """Thumbnails of some trials on a pair, side by side in squares; empty where there is none that can be read."""
    result, side = _result(request), min(SIDE, number(request, "side"))
    labels, pair = [trial.label for trial in _trials(request, result)], number(request, "pair")
    shown = Image.new("RGBA", (side * len(labels), side))
    for place, image in enumerate(_readable(result, labels, pair)):
        if image is not None:
            small = _fitted(image, side)
            shown.paste(small, (place * side + (side - small.width) // 2, (side - small.height) // 2))
    return picture(shown, "webp")


def _readable(result: StudyResult, labels: Sequence[str], pair: int) -> list[Image.Image | None]:
    """The pictures, without those that are damaged: one of them does not hide the others."""
    try:
        return list(result.pictures(labels, pair))
    except DamagedError:
        return [None] if len(labels) == 1 else [one for label in labels for one in _readable(result, [label], pair)]


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side as given; a small one keeps hard pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def whole(request: Request) -> Response:
    """The picture of a trial on a pair, as it was made."""
    result = _result(request)
    image = result.images(_trials(request, result)[0], number(request, "pair"))
    if image is None:
        raise ConfigError("there is no picture of this trial and pair")
    return picture(image)


def _result(request: Request) -> StudyResult:
    found: StudyResult = request.app.state.studies.get(text(request, "run"))
    return found


def _trials(request: Request, result: StudyResult) -> Sequence[Trial]:
    """The trials that a request names by their rows."""
    rows = numbers(request, "trials", TOGETHER)
    if wrong := next((row for row in rows if row >= len(result.trials)), None):
        raise ConfigError(f"there is no trial {wrong}")
    return [result.trials[row] for row in rows]


def _plain(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


ROUTES = [
    Route("/api/study", study),
    Route("/api/study/effects", effects),
    Route("/api/study/cells", cells),
    Route("/api/study/cell", cell),
    Route("/api/study/strip", strip),
    Route("/api/study/picture", whole),
]
