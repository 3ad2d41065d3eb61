"""Keeps what is on the screen as a run: :func:`save`. :mod:`t2iprobe.report.explored` shows such runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2iprobe.core.runs import provenance
from t2iprobe.core.runs.checksums import keep
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.registry.manager import Plugins
from t2iprobe.report.explored import KIND, PICTURES, SCRIPT
from t2iprobe.viewer.explorer.scene import Scene
from t2iprobe.viewer.explorer.script import command, described, python
from t2iprobe.viewer.explorer.studio import OnStep, Studio


def save(
    studio: Studio, scene: Scene, path: Path, plugins: Plugins, loading: Mapping[str, Any], on_step: OnStep
) -> dict[str, Any]:
    """Write the run folder of a scene: its pictures, the script that draws them, and a report; returns the answer.

    Raises:
        ConfigError: the scene does not fit the model, or the folder cannot be made.
        RunExistsError: the folder has another run.
        StoreError: the disk is full.
    """
    drawing = studio.draw(scene, on_step)
    model = studio.model
    facts = provenance.facts(model, scene.given("num_steps", "guidance"))
    words = command(scene, drawing.parts, model.ref, loading, model.steps(scene.num_steps)).line
    sentence = f"{described(scene, drawing.parts, studio.offers[scene.what].title)}: {drawing.sentence}."

    def work(session: RunSession) -> dict[str, Any]:
        session.begin(0, 1)
        files: dict[str, Any] = {f"{PICTURES}/{name}.png": one.png for name, one in drawing.pictures.items()}
        files[SCRIPT] = python(scene, drawing.parts, model.ref, loading, drawing.beside)
        keep(session.path, files)
        session.done()
        return {"sentence": sentence, "moved": drawing.moved}

    settings = {"command": KIND, "scene": scene.given(), **facts["decides"]}
    arguments = {"command": words} if words else {}
    run = RunDefinition(KIND, settings, work, facts, arguments, plugins.versions(), "picture", "save it again")
    execute(run, path)
    return plugins.show(path)
