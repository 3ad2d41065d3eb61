"""A stream from a TOML file, and everything about a stream that can be refused before a model is loaded."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from t2iprobe.core.command_options import Options, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted, near
from t2iprobe.core.pictures import opened
from t2iprobe.plugins.continual.streams import Picture, Task, TaskStream
from t2iprobe.training.dataset import SUFFIXES

CONCEPT = "{X}"  # in prompts: the task's token
LEAST = 2  # fewest pictures to train on


class TaskPart(Options):
    """``[[tasks]]``: one concept; folders are looked for next to the file."""

    name: str = option(help="Name of the concept.")
    prompt: str = option(help="Prompt that its pictures are trained with.")
    token: str | None = option(None, help="The words that stand for it in a prompt, such as sks teapot.")
    train: str = option(help="Folder of the pictures to train on, such as pictures/teapot.")
    references: str | None = option(None, help="Folder of the pictures that results are compared with.")
    prompts: list[str] | None = option(None, help="Prompts for it after training, in place of the stream's.")


class StreamFile(Options):
    """A stream file."""

    name: str | None = option(None, help="Name of the stream; default: the file's name.")
    prompts: list[str] = option([], help="Prompts for every task after training, with {X} in place of its token.")
    generic: list[str] = option([], help="Prompts that mention none of the concepts.")
    allow_overlap: bool = option(False, help="Whether a picture may be both trained on and a reference.")
    tasks: list[dict[str, Any]] = option(help="The tasks in their configured order, each as [[tasks]].")


def read(path: Path) -> TaskStream:
    """The stream in a TOML file, checked.

    Raises:
        ConfigError: the file cannot be read or contains something unknown, or the stream is refused.
    """
    file = StreamFile.from_toml(path, "the stream")
    parts = [TaskPart.from_table(task, f"{path}, task {number}") for number, task in enumerate(file.tasks, 1)]
    stream = TaskStream(
        file.name or path.stem, tuple(_task(part, file.prompts, path) for part in parts), tuple(file.generic)
    )
    check(stream, allow_overlap=file.allow_overlap)
    return stream


def _task(part: TaskPart, prompts: Sequence[str], path: Path) -> Task:
    asked = prompts if part.prompts is None else part.prompts
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
        siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise ConfigError(f"{what}: there is no folder {folder}{near(folder.name, siblings) if siblings else ''}")
    files = tuple(sorted(one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES))
    if not files:
        raise ConfigError(f"{what}: no pictures in {folder}; supported are {', '.join(sorted(SUFFIXES))}")
    return files


def check(stream: TaskStream, *, allow_overlap: bool = False) -> None:
    """Refuse a stream that would spoil a run.

    Raises:
        ConfigError: there are no tasks, two tasks share a name or token, pictures are too few or unreadable, or one of
            them is both trained on and a reference.
    """
    if not stream.tasks:
        raise ConfigError(f"the stream {stream.name} has no tasks")
    _check_unique("name", [task.name for task in stream.tasks])
    _check_unique("token", [task.token for task in stream.tasks if task.token is not None])
    for task in stream.tasks:
        if len(task.images) < LEAST:
            raise ConfigError(
                f"the task {task.name} has {counted(len(task.images), 'picture')} to train on; a LoRA would learn the "
                f"picture instead of the concept, so provide at least {LEAST}"
            )
        if task.captions and len(task.captions) != len(task.images):
            raise ConfigError(f"the task {task.name} has {len(task.images)} pictures and {len(task.captions)} captions")
        for one in (*task.images, *task.references):
            if isinstance(one, Path):
                opened(one, f"the task {task.name}: {one}")  # decodes it, as a truncated file has an intact header
        if not allow_overlap:
            _check_disjoint(task)


def _check_unique(what: str, values: Sequence[str]) -> None:
    value, times = Counter(map(str.casefold, values)).most_common(1)[0] if values else ("", 1)
    if times > 1:
        raise ConfigError(f"two tasks have the {what} {value!r}; learning the second would overwrite the first")


def _check_disjoint(task: Task) -> None:
    trained = _digests(task.images)
    for digest, name in _digests(task.references).items():
        if digest in trained:
            raise ConfigError(
                f"the task {task.name}: {trained[digest]}, which is trained on, and the reference {name} are the same "
                "picture; use other references, or set allow_overlap = true (as the paper's objects do)"
            )


def _digests(pictures: Iterable[Picture]) -> dict[str, str]:
    return {
        _digest(picture): picture.name if isinstance(picture, Path) else f"picture {i}"
        for i, picture in enumerate(pictures)
    }


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
                "prompts": list(task.eval_prompts),
                "images": [_digest(picture)[:16] for picture in task.images],
                "references": [_digest(reference)[:16] for reference in task.references],
            }
            for task in stream.tasks
        ],
    }
