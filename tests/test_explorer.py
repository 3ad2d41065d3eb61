"""The explorer of ``t2iprobe view``: what it draws, what it does not draw again, and what it writes down."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shell import invoke

import t2iprobe as t2i
from t2iprobe.core.attention_maps import word_maps
from t2iprobe.core.errors import ConfigError, RunExistsError
from t2iprobe.registry.manager import Plugins
from t2iprobe.viewer.explorer.offers import offers, patterns
from t2iprobe.viewer.explorer.scene import Scene, cells_of
from t2iprobe.viewer.explorer.script import Command, command, python
from t2iprobe.viewer.explorer.studio import Drawing, Studio
from t2iprobe.viewer.explorer.studios import Studios, SupersededError

PAIR: dict[str, Any] = {
    "source": 'a red framed sign that says "OPEN"',
    "target": 'a red framed sign that says "SHUT"',
    "num_steps": 3,
}
ROW = 3 * 2  # denoiser rows of a picture: steps and branches of guidance


@pytest.fixture(scope="module")
def models() -> Mapping[str, t2i.Model]:
    return {family: t2i.load(f"tiny-{family}") for family in ("sd3", "sdxl")}


@pytest.fixture(params=["sd3", "sdxl"])
def model(request: pytest.FixtureRequest, models: Mapping[str, t2i.Model]) -> t2i.Model:
    return models[request.param]


@pytest.fixture
def sd3(models: Mapping[str, t2i.Model]) -> t2i.Model:
    return models["sd3"]


def scene(**more: Any) -> Scene:
    return Scene(**{**PAIR, **more})


def drawn(studio: Studio, shown: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Drawing, bytes]:
    """What a studio draws, and the pixels that the copied Python draws."""
    drawing = studio.draw(shown)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(t2i, "load", lambda ref: studio.model)
    exec(python(shown, drawing.parts, studio.model.ref, {}, drawing.beside), {})
    return drawing, Image.open(folder / "picture.png").tobytes()


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("sd3", {}),
        ("sd3", {"cells": "5,6:0,2;7:1", "branch": "cond", "heads": (0,)}),
        ("sd3", {"cells": "6:0", "mode": "scale", "factor": 3.0, "what": "self_attn.v"}),
        ("sd3", {"cells": "0-8:0-2", "mode": "zero"}),
        ("sdxl", {"cells": "6:0-2"}),
        ("sdxl", {"cells": "6:1-2", "what": "mlp.out"}),
        ("sdxl", {"cells": "6:0-2", "mode": "mean", "heads": (1,)}),
        ("sdxl", {"cells": "6:0-2", "what": "self_attn.pattern"}),
    ],
)
def test_the_copied_python_draws_the_picture(
    models: Mapping[str, t2i.Model],
    family: str,
    change: Mapping[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing, pixels = drawn(Studio(models[family]), scene(**change), tmp_path, monkeypatch)
    assert drawing.result.image.tobytes() == pixels
    assert (drawing.result.image.tobytes() != drawing.source.image.tobytes()) == bool(change)


def test_only_what_changed_runs_again(model: t2i.Model) -> None:
    studio = Studio(model)
    assert studio.draw(scene()).rows == 2 * ROW
    first = studio.draw(scene(cells="6:0-2"))
    again = model.adapter.name == "sd3"  # whose keys depend on the step: the target runs once more, to be kept
    assert first.rows == (2 if again else 1) * ROW and first.beside != again
    assert studio.draw(scene(cells="6:0-1;7:2", heads=(0,))).rows == ROW
    assert studio.draw(scene(cells="6:0-2", mode="zero")).rows == ROW
    assert studio.draw(scene(cells="6:0-2")).rows == 0
    assert studio.draw(scene(cells="6:0-2", seed=1)).rows == (3 * ROW)


def test_a_donor_too_large_to_keep_runs_beside_the_source(
    sd3: t2i.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = Studio(sd3, most=1000)
    drawing, pixels = drawn(studio, scene(cells="6:0-2"), tmp_path, monkeypatch)
    assert drawing.beside and drawing.rows == 4 * ROW and drawing.result.image.tobytes() == pixels
    assert studio.draw(scene(cells="7:0-2")).rows == 2 * ROW


@pytest.mark.parametrize(
    ("cells", "more", "picture"),
    [
        ("6:0-1", {"branch": "cond"}, "images/pair-000/6.png"),
        ("5-6:1-2", {}, "images/pair-000/localized from step 1.png"),
    ],
)
@pytest.mark.usefixtures("blank_figures")
def test_the_copied_command_draws_the_picture(
    sd3: t2i.Model, cells: str, more: Mapping[str, Any], picture: str, tmp_path: Path
) -> None:
    shown = scene(cells=cells, **more)
    drawing = Studio(sd3).draw(shown)
    words = command(shown, drawing.parts, "tiny-sd3", {}, 3)
    assert words.picture == picture
    invoke(*shlex.split(words.line)[1:], "--out", str(tmp_path / "run"))
    assert Image.open(tmp_path / "run" / picture).convert("RGB").tobytes() == drawing.result.image.tobytes()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cells": "6:0-2", "mode": "zero"}, "keys and values"),
        ({"cells": "6:0;7:1"}, "same steps"),
        ({"cells": "6:0", "source": "a sign", "target": "a bird"}, "quoted text or a colour"),
        ({"cells": "6,7:0-1"}, "no command"),
    ],
)
def test_what_no_command_can_do_is_said(sd3: t2i.Model, change: Mapping[str, Any], why: str) -> None:
    shown = scene(**change)
    found: Command = command(shown, Studio(sd3).read(shown)[1], "tiny-sd3", {}, 3)
    assert not found.line and why in found.missing


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cells": "99:0"}, "at layer 99"),
        ({"cells": "6:3"}, "no step 3"),
        ({"cells": "6:0", "heads": (9,)}, "no head 9"),
        ({"cells": "6:0", "what": "mlp.out", "heads": (0,)}, "no head 0"),
        ({"cells": "6:0", "target": None}, "takes activations from a target"),
        ({"what": "mlp.outt"}, "did you mean mlp.out"),
        ({"source": "sign " * 400}, "shorten"),
    ],
)
def test_what_the_model_cannot_do_is_one_sentence(sd3: t2i.Model, change: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Studio(sd3).draw(scene(**change))


@pytest.mark.parametrize("cells", ["6", "6:", "6:0-", "a:0", "6:0-99999999", "6:2-1"])
def test_cells_that_are_none(cells: str) -> None:
    with pytest.raises(ConfigError, match="cells"):
        scene(cells=cells)


def test_cells_are_read_in_any_order() -> None:
    assert cells_of("7:3,1-2;6,7:9") == {6: (9,), 7: (1, 2, 3, 9)}


def test_patterns_match_what_is_offered(model: t2i.Model) -> None:
    for offer in offers(model).values():
        listed = list(offer.sites)
        for layers in (listed, listed[1:2], listed[::2]):
            wanted = {site.name for layer in layers for site in offer.sites[layer]}
            found = {site.name for site in model.sites.match(*patterns(offer, layers)) if not site.carried}
            assert found == wanted


def test_a_saved_scene_is_a_run(sd3: t2i.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2iprobe.viewer.explorer.saved import save

    studio, plugins, path = Studio(sd3), Plugins(installed=False), tmp_path / "tried"
    answer = save(studio, scene(cells="6:0-2"), path, plugins, {}, lambda *step: None)
    assert answer["sentence"].startswith("Keys and values of the text come from the target in layer 6 at all steps: ")
    assert "explore" in invoke("study", "ls", str(tmp_path)).stdout
    assert invoke("store", "verify", str(path)).exit_code == 0
    (path / "report.html").unlink()
    assert "layer 6" in invoke("report", str(path)).stdout
    _, pixels = drawn(studio, scene(cells="6:0-2"), tmp_path, monkeypatch)
    assert Image.open(path / "images" / "result.png").tobytes() == pixels
    with pytest.raises(RunExistsError):
        save(studio, scene(cells="7:0-2"), path, plugins, {}, lambda *step: None)


def test_a_word_lights_up_where_the_chosen_layers_read_it(model: t2i.Model) -> None:
    studio = Studio(model)
    maps = studio.attention(scene(cells="6:0-2", heads=(0,)), "open")
    assert list(maps) == ["source"] and maps["source"].image.size == (32, 32)
    wanted = word_maps(model, PAIR["source"], "open", num_steps=3).combined(layers=[6], heads=[0])[0].clamp(min=0)
    grey = np.asarray(maps["source"].image, np.float32) / 255
    assert np.allclose(grey, wanted / wanted.max(), atol=1 / 255)
    assert list(studio.attention(scene(), "sign")) == ["source", "target"]
    with pytest.raises(ConfigError, match="neither prompt has the word 'bird'"):
        studio.attention(scene(), "bird")


def test_a_later_request_takes_the_place_of_an_earlier_one() -> None:
    studios = Studios(Plugins(installed=False), {})
    studios._studios["tiny-sd3"] = object()  # type: ignore[assignment]
    begun: list[Any] = []

    def endless(studio: Any, check: Any) -> None:
        begun.append(studio)
        while True:
            check()

    with contextlib.closing(studios):
        first = studios.ask("page", "tiny-sd3", endless)
        waiting = studios.ask("page", "tiny-sd3", endless)
        other = studios.ask("another page", "tiny-sd3", lambda studio, check: "drawn")
        last = studios.ask("page", "tiny-sd3", lambda studio, check: "drawn")
        assert (other.result(10), last.result(10)) == ("drawn", "drawn") and len(begun) <= 1
        for given_up in (first, waiting):
            with pytest.raises(SupersededError):
                given_up.result(10)
        with pytest.raises(ConfigError, match="tiny-sd3"):
            studios.ask("page", "../etc", endless)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser without scripts, on a folder of runs."""
    from starlette.testclient import TestClient

    from t2iprobe.viewer.app import app

    made = app(tmp_path_factory.mktemp("runs"), Plugins(installed=False), "secret")
    with TestClient(made, base_url="http://127.0.0.1:8000") as client:
        client.get("/?token=secret")
        yield client


def last(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    return found


def test_the_server_draws_and_saves(asked: Any) -> None:
    board = last(asked.get("/api/explore/board", params={"model": "tiny-sd3", "num_steps": "3"}))["done"]
    assert board["steps"] == 3 and board["offers"][0]["heads"]["6"] == 4 and board["examples"]
    body = {"model": "tiny-sd3", "page": "1", "scene": {**PAIR, "cells": "6:0-2"}}
    lines = asked.post("/api/explore/draw", json=body).text.splitlines()
    found = json.loads(lines[-1])["done"]
    assert json.loads(lines[0]) == {"what": "source", "step": 1, "steps": 3} and found["rows"] == 3 * ROW
    picture = asked.get(f"/api/explore/pictures/{found['pictures']['result']}.png")
    assert picture.headers["content-type"] == "image/png" and "immutable" in picture.headers["cache-control"]
    assert last(asked.post("/api/explore/save", json={**body, "name": "tried"})) == {"done": {"run": "tried"}}
    assert [one["name"] for one in asked.get("/api/runs").json()["runs"]] == ["tried"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "../somewhere"}, "no model to explore"),
        ({"scene": {"source": "a", "colour": "red"}}, "no option 'colour'"),
        ({"scene": []}, "a model and a scene"),
        ({"name": "../outside"}, "name"),
    ],
)
def test_requests_that_make_no_sense(asked: Any, change: Mapping[str, Any], sentence: str) -> None:
    body = {"model": "tiny-sd3", "page": "1", "name": "fine", "scene": PAIR, **change}
    answer = asked.post("/api/explore/save", json=body)
    assert answer.status_code == 400 and sentence in answer.json()["error"]


def test_errors_of_drawing_are_sentences(asked: Any) -> None:
    body = {"model": "tiny-sd3", "scene": {**PAIR, "cells": "6:0", "mode": "scale", "factor": 1e38}}
    assert "NaN or infinity" in last(asked.post("/api/explore/draw", json=body))["error"]
