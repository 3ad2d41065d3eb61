"""The run folder of a guard command: whether it has this run already, how another one differs, and the work in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import say_finished, stopping
from t2iprobe.core.errors import RunExistsError
from t2iprobe.core.names import counted
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.registry.manager import Plugins

SMALL = 50_000_000  # a denoiser with fewer parameters takes many rows at once
SHOWN = 3  # the largest number of differences that are listed
#: settings that are digests of texts, and what one of these texts is called
TEXTS = {"prompts": "prompt", "words": "word"}
#: what is said of settings whose values mean nothing to a reader
UNSHOWN = {"list": "the word list has other lines", "weights": "the model has other weights"}
#: options that are not called like their setting
OPTIONS = {"start": "--start-step", "height": "--resolution", "detectors": "--detector"}
#: what the answers of the commands must have, by command
NEEDS: Mapping[str, Mapping[str, type]] = {
    "guard run": {"prompts": list, "denoiser_calls": int, "denoiser_rows": int, "normal_rows": int},
    "guard bench": {"methods": list, "sentence": str, "model": str},
}
DIGEST = re.compile(r"[:,]file=[0-9a-f]{16}")  # in place of a file's name, see digests.deciding


def finished(path: Path, asked: Mapping[str, Any], plugins: Plugins) -> dict[str, Any] | None:
    """The answer of a run that is already done; ``None`` if it still has to be run or to go on.

    Raises:
        RunExistsError: the folder has another run.
    """
    check(path, asked)
    manifest = runfolder.existing(path, asked, partly=True)
    if manifest is None or manifest["state"] != runfolder.FINISHED:
        runfolder.check(path)
        return None
    say_finished(path)
    return dict(plugins.answer(path, NEEDS[asked["command"]]))


def worked(
    path: Path,
    asked: Mapping[str, Any],
    work: Callable[[RunSession], Mapping[str, Any]],
    model: Model,
    generation: Mapping[str, Any],
    plugins: Plugins,
) -> dict[str, Any]:
    """Start the run in the folder ``path``, or go on with it there; returns the answer.

    ``work`` gives the manifest a ``sentence`` and an ``answer``, from which everything that is looked at is made.
    """
    facts = provenance.facts(model, generation)
    settings = {**asked, **facts["decides"]}
    run = RunDefinition(
        "guard",
        settings,
        work,
        facts,
        asked["asked"],
        plugins.versions(),
        "picture",
        disposable=False,  # because it has the refusals on record
        check=lambda place: check(place, settings),
    )
    execute(run, path, stopping("the batch in flight"))
    return dict(plugins.show(path))


def check(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder with another run, in words that show no text.

    Args:
        path: the folder.
        settings: everything that decides the result, as far as it is known.

    Raises:
        RunExistsError: the folder has another run.
    """
    if not (path / runfolder.MANIFEST).is_file():
        return
    old, new = runfolder.read_manifest(path)["settings"], json.loads(json.dumps(settings))
    instead = "choose another --out, or delete that folder"
    if old.get("command") != new["command"]:
        kind = f"run of `t2iprobe {old['command']}`" if old.get("command") else "run of another kind"
        raise RunExistsError(f"{path} has a {kind}, not one of `t2iprobe {new['command']}`; {instead}")
    found = list(_differences({key: old.get(key) for key in new}, new))
    if found:
        more = f"; {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise RunExistsError(f"{path} has a run with other settings ({'; '.join(found[:SHOWN])}{more}); {instead}")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old.get("key") != new.get("key"):
        yield "its texts were noted with the secret of another user or machine, and cannot be compared"
        return
    for key in {**old, **new}:
        one, other = old.get(key), new.get(key)
        if one == other or key == "width":  # the width is the height's
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other)
        elif key in TEXTS:
            yield _texts(TEXTS[key], one or [], other or [])
        else:
            yield UNSHOWN.get(key) or _values(OPTIONS.get(key, f"--{key.replace('_', '-')}"), _text(one), _text(other))


def _texts(noun: str, old: Sequence[str], new: Sequence[str]) -> str:
    if len(old) != len(new):
        return f"{counted(len(old), noun)} there, {len(new)} now"
    if sorted(old) == sorted(new):
        return f"the same {counted(len(old), noun)} in another order"
    other = sum(one != another for one, another in zip(old, new, strict=True))
    return f"{other} of {counted(len(old), noun)} {'differs' if other == 1 else 'differ'}"


def _values(option: str, old: str, new: str) -> str:
    return f"{option} {new}, which has changed" if old == new else f"{option} {old} there, {new} now"


def _text(value: Any) -> str:
    """A setting as it was given, but without the digest of a file."""
    listed = value if isinstance(value, list) else [value]
    return (
        DIGEST.sub(" with a file", ", ".join(str(one) for one in listed if one not in (None, "", "None")))
        or "not given"
    )
