"""A disk that fills up: one sentence, and with room again the same command ends with the answer it would have given.

Needs Linux and the right to mount a ``tmpfs`` in a namespace of its own (``unshare --map-root-user --mount``).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kinds import KINDS, answer, difference, furnish, reference, run

Row = tuple[str, str, str]
SAID = re.compile("no space left|B free")  # at the end of the disk, or foreseen before the start
INSIDE = "T2IPROBE_ROBUSTNESS_NAMESPACE"


def enter() -> None:
    """Start this program again in a namespace where it may mount file systems."""
    if INSIDE not in os.environ:
        words = ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv]
        os.execvpe("unshare", words, {**os.environ, INSIDE: "yes"})


def disks(count: int, root: Path, seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Iterator[Row]:
    """Run each kind on ``count`` disks that are too small, each then made large enough.

    Yields:
        kind, what came of it (``lost nothing`` or what went wrong), and the details.
    """
    rng = random.Random(seed)
    for kind in kinds:
        _, right = reference(kind, root / "reference" / kind)
        needed = sum(path.stat().st_size for path in (root / "reference" / kind / kind).rglob("*") if path.is_file())
        for number in range(count):
            place = root / "disk"
            place.mkdir(exist_ok=True)
            size = int(rng.uniform(0.02, 0.95) * needed) // 4096 * 4096 + 8192
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
            try:
                yield kind, *_filled(kind, place, right, f"disk {number} of {size} bytes, {needed} needed")
            finally:
                subprocess.run(["umount", "--lazy", str(place)], check=True)
    shutil.rmtree(root / "disk", ignore_errors=True)


def _filled(kind: str, place: Path, right: object, what: str) -> tuple[str, str]:
    furnish(place)
    full = run(kind, place)
    if full.verdict not in ("refused", "ran") or (full.verdict == "refused" and not SAID.search(full.err)):
        return full.verdict if full.verdict != "refused" else "misleading", f"{what}: {full.sentence}"
    subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
    again = run(kind, place)
    if again.verdict != "ran":
        return f"then {again.verdict}", f"{what}: {again.sentence}"
    lost = difference(right, answer(again, place / kind))
    fitted = "it fitted" if full.verdict == "ran" else full.sentence
    return "lost" if lost else "lost nothing", f"{what}: {lost or fitted}"
