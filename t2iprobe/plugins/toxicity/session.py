"""The run folder of a guard command: what decides the run, whether it is there already, how another one differs.

Prompts and words are in the manifest as digests: equal texts have equal digests, and a dictionary attack is not
possible. They are keyed with a secret of the user's that is kept outside every run folder: :func:`key_file`. With the
same secret a run can be resumed and compared with others, but a run folder that is passed on says nothing about its
texts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import say_finished, stopping
from t2iprobe.cli.options import RunOptions
from t2iprobe.core.errors import ConfigError, RunExistsError
from t2iprobe.core.names import counted, with_settings
from t2iprobe.core.option_groups import FREE
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute

if TYPE_CHECKING:
    from t2iprobe.core.command_options import Options
    from t2iprobe.core.model import Model
    from t2iprobe.registry.manager import Plugins

SIZE = 32  # length of the secret in bytes
SHOWN = 3  # the largest number of differences that are listed
#: options that do not decide the result, or that are kept in another form
UNDECIDING = {
    *RunOptions.model_fields, *FREE, "arch", "model", "preset", "prompt", "prompts", "words", "limit", "time_limit",
    "audit", "audit_text", "show_words",
}  # fmt: skip
#: settings that are digests of texts, and what one of these texts is called
TEXTS = {"prompts": "prompt", "words": "word", "list": "word-list line"}
#: what the answers of the commands must have, by command
NEEDS: Mapping[str, Mapping[str, type]] = {
    "guard run": {"prompts": list, "denoiser_calls": int, "denoiser_rows": int, "normal_rows": int},
    "guard bench": {"methods": list, "sentence": str, "model": str},
}
DIGEST = re.compile(r"[:,]file=[0-9a-f]{16}")  # in place of a file's name, see _without_name


def deciding_settings(command: str, ref: str, options: Options, **more: Any) -> dict[str, Any]:
    """The settings of a run: everything that decides the result, as far as it is known without a model.

    Args:
        command: the command, such as ``guard run``.
        ref: reference of the model.
        options: its options.
        more: what the result depends on besides; texts of :data:`TEXTS` are replaced by their digests.

    Raises:
        ConfigError: the secret cannot be read or made.
    """
    more = {name: digests(value) if name in TEXTS else value for name, value in more.items()}
    chosen = {"model": ref, "key": key_name(), **options.model_dump(mode="json", exclude=UNDECIDING), **more}
    for name in ("detector", "judge", "rewriter"):
        if value := chosen.get(name):
            chosen[name] = [_without_name(one) for one in ([value] if isinstance(value, str) else value)]
    return {"command": command, "options": chosen}


def finished(path: Path, settings: Mapping[str, Any], plugins: Plugins) -> dict[str, Any] | None:
    """The answer of a run that is already done; ``None`` if it still has to be run or to go on.

    Raises:
        RunExistsError: the folder has another run.
    """
    check(path, settings)
    manifest = runfolder.existing(path, settings, partly=True)
    if manifest is None or manifest["state"] != runfolder.FINISHED:
        runfolder.check(path)
        return None
    say_finished(path)
    return dict(plugins.answer(path, NEEDS[settings["command"]]))


def execute_guard(
    path: Path,
    deciding: Mapping[str, Any],
    work: Callable[[RunSession], Mapping[str, Any]],
    model: Model,
    generation: Mapping[str, Any],
    plugins: Plugins,
) -> dict[str, Any]:
    """Start the run in the folder ``path``, or go on with it there; returns the answer.

    ``work`` gives the manifest a ``sentence`` and an ``answer``, from which report, contact sheet and answer are made.
    """
    facts = provenance.facts(model, generation)
    settings = {**deciding, **facts["decides"]}
    run = RunDefinition(
        "guard",
        settings,
        work,
        facts,
        deciding["options"],
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
        settings: see :func:`deciding_settings`.

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
    differing = list(_differences(old.get("options", {}), new["options"]))
    if differing:
        more = f"; {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        listed = "; ".join(differing[:SHOWN])
        raise RunExistsError(f"{path} has a run with other settings ({listed}{more}); {instead}")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old.get("key") != new.get("key"):
        yield "its texts were recorded with the secret of another user or machine, and cannot be compared"
        return
    for name in {**old, **new}:
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        if name in TEXTS:
            yield _texts(TEXTS[name], before or [], now or [])
        else:
            option, there, here = f"--{name.removesuffix('_run').replace('_', '-')}", _text(before), _text(now)
            changed = f"{here}, which has changed" if there == here else f"{there} there, {here} now"
            yield f"{option} {changed}"


def _texts(noun: str, old: Sequence[str], new: Sequence[str]) -> str:
    if len(old) != len(new):
        return f"{counted(len(old), noun)} there, {len(new)} now"
    if sorted(old) == sorted(new):
        return f"the same {counted(len(old), noun)} in another order"
    other = sum(one != another for one, another in zip(old, new, strict=True))
    return f"{other} of {counted(len(old), noun)} {'differs' if other == 1 else 'differ'}"


def _text(value: Any) -> str:
    """A setting as it was given, but without the digest of a file."""
    listed = value if isinstance(value, list) else [value]
    given = ", ".join(str(one) for one in listed if one not in (None, ""))
    return DIGEST.sub(" with a file", given) or "not given"


def key_file() -> Path:
    """Where the secret is kept: ``t2iprobe/guard.key`` in ``$XDG_STATE_HOME``, by default ``~/.local/state``."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "t2iprobe" / "guard.key"


def digests(texts: Sequence[str]) -> list[str]:
    """Digests that tell texts apart in a manifest without showing them.

    Raises:
        ConfigError: the secret cannot be read or made.
    """
    key = _key()
    return [_digest(text.encode(), key) for text in texts]


def key_name() -> str:
    """A name that tells secrets apart without showing them."""
    return _digest(b"", _key())


def _without_name(reference: str) -> str:
    """``NAME[:key=value,…]`` with a digest of the file's content instead of its name: another list is another run."""
    name, settings = with_settings(reference)
    if "file" in settings:
        with suppress(OSError):  # whatever reads the file will report that it is not there
            settings["file"] = _digest(Path(settings["file"]).expanduser().read_bytes(), _key())
    listed = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}:{listed}" if listed else name


def _digest(content: bytes, key: bytes) -> str:
    return hashlib.blake2b(content, key=key, digest_size=8).hexdigest()


def _key() -> bytes:
    file = key_file()
    try:
        if not file.exists():
            _make(file)
        secret = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the key for the digests of prompts cannot be stored in {file} ({error.strerror or error}); "
            "set XDG_STATE_HOME to a folder you can write to"
        ) from error
    if len(secret) != SIZE:
        raise ConfigError(f"{file} does not contain a secret of {SIZE} bytes; delete it, and a new one is made")
    return secret


def _make(file: Path) -> None:
    """Make the secret, whole or not at all and readable only by its owner; another process may be doing the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as opened:
            opened.write(secrets.token_bytes(SIZE))
        with suppress(FileExistsError):
            os.link(part, file)
    finally:
        part.unlink(missing_ok=True)
