"""Wrong values for every option of every command, taken from the commands themselves: one sentence each."""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from calls import call
from kinds import KINDS, OPEN, copied, furnish, reference

Row = tuple[str, str, str]
LONG = "a" * 300
NUMBERS = ("-1", "0", "nan", "inf", "-inf", "1e400", str(2**64), "1.5", "true", "", " ", "x", "1_0", "٣")
TEXTS = ("", " ", "[/red]", "\x1b[31mred", "zzz", LONG, "../..", "/dev/full", "{}", "%s", "a\nb", "list=", "[bold")
#: values that cannot be right for any number of any command
NEVER = {"nan", "inf", "-inf", "1e400", "", " ", "x", "true"}
#: leaf commands, and words that they need beside the option that is tried; RUN is a finished run
BASE = {
    "patch": KINDS["patch"].split(" ", 1)[1],
    "localize": KINDS["localize"].split(" ", 1)[1],
    "capture": KINDS["capture"].split(" ", 1)[1],
    "edit": KINDS["edit"].split(" ", 1)[1],
    "guard bench": KINDS["guard-bench"].split(" ", 2)[2],
    "guard run": f"--arch sd3 --layers 6 --words words.txt --prompt '{OPEN}' --num-steps 2",
    "guard check": f"'{OPEN}'",
    "finetune": KINDS["finetune"].split(" ", 1)[1],
    "invert run": KINDS["invert"].split(" ", 2)[2],
    "invert ablate": KINDS["ablate"].split(" ", 2)[2],
    "invert analyze": "invert", "invert edit": "invert --limit 2", "invert interpolate": "invert --limit 2",
    "continual run": KINDS["continual"].split(" ", 2)[2],
    "continual analyze": "continual", "continual eval": "continual",
    "store info": "capture", "store verify": "capture", "store rm": "capture", "store export": "localize",
    "study status": "localize", "study resume": "localize", "study ls": ".", "report": "localize",
    "sites": "--arch sd3", "organisms check": "tiny-sd3 --limit 4 --num-steps 2",
    "organisms bench": "--limit 3 --held-out 1 --method exhaustive --num-steps 2",
}  # fmt: skip


def inputs(count: int, root: Path, seed: int) -> Iterator[Row]:
    """Try ``count`` wrong values (0: all), each in a folder of its own.

    Yields:
        command, what came of it (``refused``, ``ran``, ``accepted`` if it cannot be right, ``traceback`` …), details.
    """
    ready = root / "ready"
    for kind in ("localize", "capture", "invert", "continual"):
        reference(kind, root / "reference" / kind)
        copied(root / "reference" / kind / kind, ready / kind)
    furnish(ready)
    tries = list(_tries())
    for name, flag, value, number in random.Random(seed).sample(tries, min(count or len(tries), len(tries))):
        folder = copied(ready, root / "tried")
        words = f"{name} {BASE[name]}".rstrip()
        called = call([*shlex.split(words), *([flag] if flag else []), value], folder)
        verdict = called.verdict
        if verdict == "ran" and number and value in NEVER:
            verdict = "accepted"
        yield name, verdict, f"{flag} {value!r:.60}: {called.sentence}"


def _tries() -> Iterator[tuple[str, str, str, bool]]:
    from t2iprobe.cli.app import build

    for name, command in _leaves(typer.main.get_command(build()), ""):
        if name not in BASE:
            continue
        for option in command.params:
            if option.name in ("help", "yes") or getattr(option, "is_flag", False):
                continue
            metavar = str(option.metavar or "")
            number = metavar.startswith(("INTEGER", "NUMBER"))
            flag = option.opts[0] if option.param_type_name == "option" else ""
            for value in NUMBERS if number else TEXTS:
                yield name, flag, value, number


def _leaves(command: Any, name: str) -> Iterator[tuple[str, click.Command]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _leaves(inner, f"{name} {word}".strip())
