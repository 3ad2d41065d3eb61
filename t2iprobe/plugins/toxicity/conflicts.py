"""Says in words how a run folder's settings differ from those asked for; texts, kept only as digests, are not shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import RunExistsError
from t2iprobe.core.names import counted, with_settings
from t2iprobe.core.runs import runfolder

SHOWN = 3  # the largest number of differences that are listed
#: settings that are digests of texts, and what one of these texts is called
TEXTS = {"prompts": "prompt", "words": "word"}
#: settings that may name a file and hold its digest instead
NAMED = {"detectors": "--detector", "rewriter": "--rewriter", "judge": "--judge"}
OPTIONS = {"start": "--start-step", "height": "--resolution"}  # all other options are called like their setting


def check(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another run; for everything else see :func:`t2iprobe.core.runs.runfolder.existing`.

    Args:
        path: the folder.
        settings: everything that decides the result, as far as it is known.

    Raises:
        RunExistsError: the folder holds another run.
    """
    if not (path / runfolder.MANIFEST).is_file():
        return
    old, new = runfolder.read_manifest(path)["settings"], json.loads(json.dumps(settings))
    instead = "choose another --out, or delete that folder"
    if old.get("command") != new["command"]:
        kind = f"run of `t2iprobe {old['command']}`" if old.get("command") else "run of another kind"
        raise RunExistsError(f"{path} holds a {kind}, not one of `t2iprobe {new['command']}`; {instead}")
    found = list(_differences({key: old.get(key) for key in new}, new))
    if found:
        more = f"; {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise RunExistsError(f"{path} holds a run with other settings ({'; '.join(found[:SHOWN])}{more}); {instead}")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old.get("key") != new.get("key"):
        yield "its texts were noted with the secret of another user or machine, and cannot be compared"
        return
    for key in {**old, **new}:
        one, other = old.get(key), new.get(key)
        if one == other or (key == "list" and old.get("words") != new.get("words")) or key == "width":
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other)
        else:
            yield _said(key, one, other)


def _said(key: str, old: Any, new: Any) -> str:
    if key in TEXTS:
        return _texts(TEXTS[key], old or [], new or [])
    if key == "list":
        return "the word list has other lines"
    if key == "weights":
        return "the model has other weights"
    if key in NAMED:
        return _named(NAMED[key], old, new)
    option = OPTIONS.get(key, f"--{key.replace('_', '-')}")
    return f"{option} {_value(old)} there, {_value(new)} now"


def _texts(noun: str, old: Sequence[str], new: Sequence[str]) -> str:
    if len(old) != len(new):
        return f"{counted(len(old), noun)} there, {len(new)} now"
    if sorted(old) == sorted(new):
        return f"the same {counted(len(old), noun)} in another order"
    other = sum(one != another for one, another in zip(old, new, strict=True))
    return f"{other} of {counted(len(old), noun)} {'differs' if other == 1 else 'differ'}"


def _named(option: str, old: Any, new: Any) -> str:
    before, now = (
        ", ".join(map(_fileless, [value] if isinstance(value, str) else value or [])) for value in (old, new)
    )
    if before == now:
        return f"{option} {now}, which holds something else now"
    return f"{option} {before or 'not given'} there, {now or 'not given'} now"


def _fileless(text: str) -> str:
    """``NAME:key=value`` without the digest of its file."""
    name, settings = with_settings(text)
    kept = ",".join(f"{key}={value}" for key, value in settings.items() if key != "file")
    return f"{name}:{kept}" if kept else f"{name} with a file" if "file" in settings else name


def _value(value: Any) -> str:
    return "not given" if value in (None, "", "None") else str(value)
