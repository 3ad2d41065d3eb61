"""The viewer's server: who may ask, and what is served."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from t2iprobe.core.runs.runfolder import write_manifest
from t2iprobe.registry.manager import Plugins
from t2iprobe.viewer.app import app

TOKEN = "secret"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one run, and a run beside it that is nobody's business."""
    for place in ("runs/words", "other"):
        (tmp_path / place).mkdir(parents=True)
        write_manifest(tmp_path / place, {"kind": "edit", "settings": {}, "state": "finished"})
    return tmp_path / "runs"


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
        ({"origin": "http://127.0.0.1:8000"}, 405),
        ({"host": "evil.example"}, 421),
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
