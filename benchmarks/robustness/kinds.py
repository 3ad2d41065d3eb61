"""A small run of each kind, and how two answers are compared."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from calls import Called, call
from safetensors.torch import load_file

OPEN, SHUT = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
PAIR = f"--source '{OPEN}' --target '{SHUT}'"
SHORT = "--num-steps 3 --yes --format json"
#: kind of run: its command, which writes the folder of that name
KINDS: Mapping[str, str] = {
    "patch": f"patch --arch sd3 {PAIR} --layers 4-7 {SHORT}",
    "localize": f"localize --arch sd3 --limit 6 --held-out 4 {SHORT}",
    "capture": f"capture --arch sd3 --sites blocks.*.joint_attn.k --prompts prompts.txt {SHORT}",
    "edit": f"edit --arch sd3 {PAIR} --layers 6 --method all {SHORT}",
    "guard-bench": f"guard bench --arch sd3 --layers 6 --words words.txt --seeds 1 {SHORT}",
    "finetune": f"finetune --arch sd3 --layers 6 --data digits --train-steps 6 --limit 2 {SHORT}",
    "invert": "invert run --arch sd3 --limit 4 --method euler --method fixed-point --num-steps 3 --format json",
    "ablate": "invert ablate --arch sd3 --limit 4 --k 0,1 --num-steps 3 --format json",
    "continual": "continual run --arch sd3 --method naive --order 0 --seed 0 --reference base --train-steps 2 "
    f"--samples 1 --workers 1 {SHORT}",
}
#: keys of answers that say when, where, how fast or after how many starts
PASSING = (
    "seconds",
    "time",
    "spent",
    "per_second",
    "there_already",
    "codec",
    "stored_bytes",
    "resumed",
    "images",
    "sessions",
    "started",
    "ended",
)


def furnish(folder: Path) -> None:
    """Write the files that the commands read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text(f"{OPEN}\n{SHUT}\n")
    (folder / "words.txt").write_text("grum\nsned\n")


def run(kind: str, folder: Path, kill_after: float | None = None) -> Called:
    """Run a kind's command in a folder; its run lies in ``folder / kind``."""
    return call(f"{KINDS[kind]} --out {kind}", folder, kill_after)


def reference(kind: str, folder: Path) -> tuple[Called, dict[str, Any]]:
    """An uninterrupted run, and what it answered and wrote.

    Raises:
        RuntimeError: it did not end well.
    """
    furnish(folder)
    called = run(kind, folder)
    if called.verdict != "ran":
        raise RuntimeError(f"{kind}: {called.verdict}: {called.err[-2000:]}")
    return called, answer(called, folder / kind)


def answer(called: Called, folder: Path) -> dict[str, Any]:
    """What a call answered and wrote: its JSON, every array of its stores, its weights and its pictures."""
    written = {}
    for path in sorted(folder.rglob("*")):
        if ".zarr" in str(path.relative_to(folder)):
            continue
        if path.suffix == ".safetensors":  # their header is in any order
            written |= {f"{path.name}/{name}": _digest(value.numpy()) for name, value in load_file(path).items()}
        elif path.suffix == ".png":
            written[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for store in sorted(folder.rglob("*.zarr")):
        for name, array in zarr.open_group(store, mode="r").arrays() if (store / "zarr.json").exists() else ():
            if not any(word in name for word in PASSING):
                written[f"{store.name}/{name}"] = _digest(array[...])
    return {"answer": _lasting(json.loads(called.out)), "written": written}


def _digest(values: Any) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def difference(right: Any, found: Any, where: str = "") -> str:
    """The first place where two answers differ; empty if they are equal."""
    if isinstance(right, dict) and isinstance(found, dict) and right.keys() == found.keys():
        return next(filter(None, (difference(right[key], found[key], f"{where}/{key}") for key in right)), "")
    if isinstance(right, list) and isinstance(found, list) and len(right) == len(found):
        pairs = enumerate(zip(right, found, strict=True))
        return next(filter(None, (difference(*pair, f"{where}/{place}") for place, pair in pairs)), "")
    return "" if right == found else f"{where}: {right!r:.80} became {found!r:.80}"


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if not any(word in key for word in PASSING)}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def copied(folder: Path, place: Path) -> Path:
    """A fresh copy of a folder."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True)
    return place
