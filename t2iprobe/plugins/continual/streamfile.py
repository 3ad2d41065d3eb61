"""A stream from a TOML file, and everything about a stream that can be refused before a model is loaded."""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.pictures import opened
from t2iprobe.core.textfile import read_text
from t2iprobe.plugins.continual.streams import Picture, Task, TaskStream

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
CONCEPT = "{X}"  # in prompts: the task's token
LEAST = 2  # fewest pictures to train on


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskPart(_Part):
    """``[[tasks]]``: one concept; folders are looked for next to the file."""

    name: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    token: str | None = Field(default=None, min_length=1)
    train: str
    references: str | None = None
    prompts: list[str] | None = None


class StreamFile(_Part):
    """A stream file.

    Args:
        name: name of the stream; the file's name if not given.
        prompts: prompts for every task after training, with ``{X}`` in place of its token.
        generic: prompts that ask for none of the concepts.
        allow_overlap: whether a picture may be both trained on and a reference.
        tasks: the tasks in their configured order.
    """

    name: str | None = None
    prompts: list[str] = []
    generic: list[str] = []
    allow_overlap: bool = False
    tasks: list[TaskPart]


def read(path: Path) -> TaskStream:
    """The stream in a TOML file, checked.

    Raises:
        ConfigError: the file cannot be read or contains something unknown, or the stream is refused.
    """
    try:
        found = tomllib.loads(read_text(path, "the stream"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    file = _parsed(found, path)
    tasks = tuple(_task(one, file.prompts, path) for one in file.tasks)
    stream = TaskStream(file.name or path.stem, tasks, tuple(file.generic))
    check(stream, allow_overlap=file.allow_overlap)
    return stream


def _parsed(found: Mapping[str, Any], path: Path) -> StreamFile:
    try:
        return StreamFile.model_validate(found)
    except ValidationError as error:
        # a misspelt key is also reported as a missing one, and its name is the better hint
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise ConfigError(f"{path}: {_explained(first['loc'], first['type'], first['msg'], first['input'])}") from None


def _explained(place: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    where = ".".join(map(str, place))
    if kind == "extra_forbidden":
        known: type[BaseModel] = TaskPart if place[0] == "tasks" else StreamFile
        return f"unknown key {where!r}{near(str(place[-1]), known.model_fields)}"
    if kind == "missing":
        return f'{where} is missing; a task has name, prompt and train, such as train = "pictures/teapot"'
    return f"{where}: {message[0].lower()}{message[1:]}, found {value!r}"


def _task(part: TaskPart, prompts: Sequence[str], path: Path) -> Task:
    asked = [*(part.prompts if part.prompts is not None else prompts)]
    if part.token is None and any(CONCEPT in one for one in asked):
        raise ConfigError(f"{path}: the task {part.name} has no token to stand for {CONCEPT} in the prompts; add one")
    return Task(
        part.name,
        part.prompt,
        pictures(path.parent / part.train, f"{path}: the task {part.name}, train"),
        pictures(path.parent / part.references, f"{path}: the task {part.name}, references") if part.references else (),
        part.token,
        prompts=tuple(one.replace(CONCEPT, part.token or "") for one in asked),
    )


def pictures(folder: Path, what: str) -> tuple[Path, ...]:
    """The pictures in a folder, sorted by name.

    Raises:
        ConfigError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        siblings = [one.name for one in folder.parent.iterdir() if one.is_dir()] if folder.parent.is_dir() else []
        raise ConfigError(f"{what}: there is no folder {folder}{near(folder.name, siblings) if siblings else ''}")
    found = tuple(sorted(one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES))
    if not found:
        raise ConfigError(f"{what}: no picture in {folder}; they end in {', '.join(sorted(SUFFIXES))}")
    return found


def check(stream: TaskStream, *, allow_overlap: bool = False) -> None:
    """Refuse a stream that would spoil a run.

    Raises:
        ConfigError: there are no tasks, two tasks share a name or token, pictures are too few or unreadable, or one of
            them is both trained on and a reference.
    """
    if not stream.tasks:
        raise ConfigError(f"the stream {stream.name} has no task")
    _check_unique("name", [task.name for task in stream.tasks])
    _check_unique("token", [task.token for task in stream.tasks if task.token is not None])
    for task in stream.tasks:
        if len(task.images) < LEAST:
            raise ConfigError(
                f"the task {task.name} has {len(task.images)} picture to train on; a LoRA would learn the picture and "
                f"not the concept, so give at least {LEAST}"
            )
        if task.captions and len(task.captions) != len(task.images):
            raise ConfigError(f"the task {task.name} has {len(task.images)} pictures and {len(task.captions)} captions")
        for one in (*task.images, *task.references):
            _check_picture(task, one)
        if not allow_overlap:
            _check_disjoint(task)


def _check_unique(what: str, values: Sequence[str]) -> None:
    twice = [value for value, times in Counter(map(str.casefold, values)).items() if times > 1]
    if twice:
        raise ConfigError(
            f"two tasks have the {what} {twice[0]!r}; what the second one learns would overwrite the first"
        )


def _check_picture(task: Task, picture: Picture) -> None:
    """Decode the whole picture, because a truncated file has an intact header."""
    if not isinstance(picture, get_args(Picture)):
        raise ConfigError(f"the task {task.name}: a picture is an image or a path, found {type(picture).__name__}")
    if isinstance(picture, Image.Image):
        return
    opened(picture, f"the task {task.name}: {picture}")


def _check_disjoint(task: Task) -> None:
    known = _digests(task.images)
    for digest, name in _digests(task.references).items():
        if digest in known:
            other = known[digest]
            raise ConfigError(
                f"the task {task.name}: {other} is trained on and {name} is a reference, and they are one picture; "
                "take other references, or write allow_overlap = true (as the paper's objects do)"
            )


def _digests(pictures: Iterable[Picture]) -> dict[str, str]:
    return {_digest(one): one.name if isinstance(one, Path) else f"picture {i}" for i, one in enumerate(pictures)}


def _digest(picture: Picture) -> str:
    data = picture.read_bytes() if isinstance(picture, Path) else picture.tobytes() + repr(picture.size).encode()
    return hashlib.sha256(data).hexdigest()


def record(stream: TaskStream) -> dict[str, Any]:
    """The stream as recorded in a manifest: what decides the result, with digests for the pictures."""
    return {
        "name": stream.name,
        "generic": list(stream.generic),
        "tasks": [
            {
                "name": task.name,
                "prompt": task.prompt,
                "token": task.token,
                "captions": list(task.captions),
                "prompts": list(task.asked),
                "images": [_digest(one)[:16] for one in task.images],
                "references": [_digest(one)[:16] for one in task.references],
            }
            for task in stream.tasks
        ],
    }
