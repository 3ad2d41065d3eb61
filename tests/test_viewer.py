"""The viewer's server: who may ask, what is served, and how little of a study is read for it."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import simulation
from PIL import Image
from shell import invoke
from starlette.testclient import TestClient

from t2iprobe.core.runs.runfolder import read_manifest, write_manifest
from t2iprobe.core.scope import Scope
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.study.stored_results import RecordedResults
from t2iprobe.core.trials import Trial
from t2iprobe.registry.manager import Plugins
from t2iprobe.viewer import server
from t2iprobe.viewer.app import app
from t2iprobe.viewer.routes import study

TOKEN = "secret"
EDIT = {"kind": "edit", "settings": {"strength": 0.5, "model": "tiny"}, "state": "finished", "sentence": "Done."}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one run, and a run beside it that is nobody's business."""
    for place in ("runs/words", "other"):
        (tmp_path / place).mkdir(parents=True)
        write_manifest(tmp_path / place, EDIT)
    Image.new("RGB", (4, 4)).save(tmp_path / "other/plot.png")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study."""
    place = tmp_path_factory.mktemp("runs")
    simulation.study(count=10).run(place / "study")
    return place


def client(runs: Path, query: str = f"?token={TOKEN}") -> TestClient:
    """A browser that has opened the printed address."""
    made = TestClient(app(runs, Plugins(installed=False), TOKEN), base_url="http://127.0.0.1:8000")
    made.get(f"/{query}")
    return made


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong"])
def test_without_the_token_nothing_is_served(runs: Path, query: str) -> None:
    for path in ("/", "/api/runs", "/static/viewer.css", "/nothing"):
        answer = client(runs, query).get(path)
        assert answer.status_code == 403 and "words" not in answer.text


def test_the_token_becomes_a_cookie(runs: Path) -> None:
    answer = client(runs, "").get(f"/?token={TOKEN}")
    assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert client(runs).get("/api/runs").json()["runs"][0]["name"] == "words"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 405),
        ({"host": "localhost:8000"}, 405),
        ({"host": "[::1]:8000"}, 405),
        ({"origin": "http://127.0.0.1:8000"}, 405),
        ({"host": "evil.example"}, 421),
        ({"host": ""}, 421),
        ({"host": "127.0.0.1.evil.example:8000"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_other_hosts_and_origins_are_refused(runs: Path, headers: dict[str, str], status: int) -> None:
    asked = client(runs)
    assert asked.post("/api/runs", params={"token": TOKEN}, headers=headers).status_code == status


def test_answers_have_a_strict_policy(runs: Path) -> None:
    policy = client(runs).get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_a_report_can_do_nothing_but_show_itself(runs: Path) -> None:
    (runs / "words/report.html").write_text("<script>1</script>")
    policy = client(runs).get("/report?run=words").headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")


@pytest.mark.parametrize(
    "name", ["../other", "words/../../other", "/etc", "link", "inside/link", "", ".", "a\0b", "nope"]
)
def test_no_name_leads_out_of_the_folder(runs: Path, name: str) -> None:
    (runs / "link").symlink_to(runs.parent / "other")
    (runs / "inside").mkdir()
    (runs / "inside/link").symlink_to(runs.parent / "other")
    asked = client(runs)
    for path in ("/api/run", "/report", "/api/study", "/file"):
        assert asked.get(path, params={"run": name, "name": "plot.png"}).status_code == 400
    assert [one["name"] for one in asked.get("/api/runs").json()["runs"]] == ["words"]


@pytest.mark.parametrize("name", ["../../other/plot.png", "plot.png", "manifest.json", "up/plot.png"])
def test_no_file_leads_out_of_its_run(runs: Path, name: str) -> None:
    (runs / "words/plot.png").symlink_to(runs.parent / "other/plot.png")
    (runs / "words/up").symlink_to(runs.parent / "other")
    answer = client(runs).get("/file", params={"run": "words", "name": name})
    assert answer.status_code == 400 and "has no picture" in answer.json()["error"]


def test_a_study_whose_pictures_are_elsewhere_is_not_followed(runs: Path, measured: Path) -> None:
    shutil.copytree(measured / "study", runs.parent / "away")
    asked, away = client(runs), runs.parent / "away/study.zarr"
    manifest = read_manifest(measured / "study")
    write_manifest(runs / "words", {**manifest, "store": str(away)})
    assert "outside the folder" in asked.get("/api/study?run=words").json()["error"]
    write_manifest(runs / "words", manifest)
    (runs / "words/study.zarr").symlink_to(away)
    assert asked.get("/api/study?run=words").status_code == 400
    (runs / "words/study.zarr").unlink()
    shutil.copytree(away, runs / "words/study.zarr", ignore=shutil.ignore_patterns("images"))
    (runs / "words/study.zarr/images").symlink_to(away / "images")
    assert "leads out" in asked.get("/api/study?run=words").json()["error"]


def test_the_command_prints_an_address_that_opens(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(server, "serve", lambda app, taken: served.append(app))
    said = invoke("view", runs, "--no-open", "--format", "json")
    url = json.loads(said.stdout)["url"]
    assert TestClient(served[0]).get(url).status_code == 200 and not said.stderr
    said = invoke("view", runs, "--no-open", "--host", "0.0.0.0")
    assert "every machine" in " ".join(said.stderr.split()) and "127.0.0.1" not in said.stdout


def test_the_command_says_what_it_lacks(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not a folder" in str(invoke("view", runs / "no").exception)
    with server.listening("127.0.0.1", 0) as taken:
        busy = invoke("view", runs, "--port", taken.getsockname()[1])
    assert "already in use" in str(busy.exception)
    monkeypatch.setitem(sys.modules, "t2iprobe.viewer.server", None)
    monkeypatch.delattr("t2iprobe.viewer.server")
    assert "pip install 't2iprobe[view]'" in str(invoke("view", runs).exception)


def test_a_damaged_run_says_why_and_hides_no_other(runs: Path) -> None:
    (runs / "broken").mkdir()
    (runs / "broken/manifest.json").write_text("{")
    broken, words = client(runs).get("/api/runs").json()["runs"]
    assert broken["state"] == "damaged" and "manifest.json" in broken["error"]
    assert words["sentence"] == "Done." and not words["error"]
    assert "cannot be read" in client(runs).get("/api/run?run=broken").json()["error"]


def test_a_run_folder_itself_can_be_shown(runs: Path) -> None:
    asked = client(runs / "words")
    assert [one["name"] for one in asked.get("/api/runs").json()["runs"]] == ["words"]
    assert asked.get("/api/run?run=words").json()["headline"] == "Done."
    assert asked.get("/api/run?run=other").status_code == 400


def test_names_are_text(runs: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    (runs / "words").rename(runs / name)
    assert name not in client(runs).get("/run", params={"run": name}).text


def test_two_runs_are_compared_by_what_differs(runs: Path) -> None:
    (runs / "again").mkdir()
    write_manifest(runs / "again", {**EDIT, "settings": {"strength": 0.7, "model": "tiny"}})
    assert client(runs).get("/api/compare?a=words&b=again").json()["settings"] == [["strength", "0.5", "0.7"]]


@pytest.mark.parametrize(
    "query",
    ["study/cells?score=ssim&trials=0&pairs=99", "study/cells?score=x&trials=0&pairs=0", "study/strip?trials=-1&pair=0",
     "study/strip?trials=99&pair=0&side=9", "study/picture?trials=0&pair=99", "study/cell?trials=&pair=0", "study"],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence(measured: Path, query: str) -> None:
    run = "" if query == "study" else "&run=study"
    answer = client(measured).get(f"/api/{query}{run}")
    assert answer.status_code == 400 and answer.json()["error"]


def test_only_pictures_that_are_shown_are_read(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[Sequence[str], int]] = []
    images = RecordedResults.images

    def noted(self: Any, labels: Sequence[str], pair: int) -> Iterator[Image.Image | None]:
        read.append((list(labels), pair))
        return images(self, labels, pair)

    monkeypatch.setattr(RecordedResults, "images", noted)
    asked = client(measured)
    study = asked.get("/api/study?run=study").json()
    effects = asked.get("/api/study/effects?run=study").json()["effects"]
    assert len(study["pairs"]) == 10 and {"0", "5"} <= effects.keys()
    cells = asked.get("/api/study/cells?run=study&score=ssim&trials=2,3&pairs=0,9").json()["cells"]
    assert cells[0][0] == pytest.approx(simulation.number(0, "0", "ssim")) and cells[1] == [None, None]  # 9 is held out
    assert not read
    strip = asked.get("/api/study/strip?run=study&pair=4&trials=2,3&side=16")
    assert read == [(["0", "1"], 4)] and "immutable" in strip.headers["cache-control"]


def test_a_patch_is_what_the_explorer_has_on_its_board(measured: Path) -> None:
    result = StudyResult.open(measured / "study")
    result.manifest["settings"]["generation"] = {"num_steps": 4}  # type: ignore[index]
    early = Trial("x", ("b.6.k", "b.6.v", "b.7.k"), (6, 7, 9), scope=Scope(steps=range(2), branches="cond", heads=1))
    assert study._patch(result, early) == {"cells": "6,7,9:0,1", "heads": "1", "branch": "cond"}
    assert study._patch(result, Trial("x", ("b.6.v",), (6,))) == {"cells": "6:0-3", "heads": "", "branch": "both"}
    both = Trial("x", ("b.6.v",), (6,), scope=Scope(branches=("uncond", "cond")))
    assert study._patch(result, both) == {"cells": "6:0-3", "heads": "", "branch": "both"}
    assert study._patch(result, Trial("x", ("b.6.z",), (6,))) is None


def test_a_damaged_picture_hides_no_other(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured / "study", tmp_path / "study")
    file = next((tmp_path / "study/study.zarr/images").glob("c.0.4.*"))
    file.write_bytes(b"\xff" * 40 + file.read_bytes()[40:])
    asked = client(tmp_path)
    answers = [asked.get(f"/api/study/picture?run=study&pair=4&trials={row}") for row in range(4)]
    assert {answer.status_code for answer in answers} == {200, 400}
    assert "damaged" in next(answer.json()["error"] for answer in answers if answer.status_code == 400)
    strip = asked.get("/api/study/strip?run=study&pair=4&trials=0,1,2,3&side=16")
    image = Image.open(io.BytesIO(strip.content)).convert("RGBA")
    shown = [image.crop((16 * row, 0, 16 * row + 16, 16)).getchannel("A").getextrema()[1] > 0 for row in range(4)]
    assert shown == [answer.status_code == 200 for answer in answers]
