"""One flipped bit in each file of every kind of run folder: ``store verify`` and the commands that read it notice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from calls import call
from kinds import KINDS, copied, reference, run

Row = tuple[str, str, str]
UNREAD = {".html"}  # pages for people: nothing reads them back, so they have no checksums
EMPTY_OR_LOCK = ".lock"


def flips(count: int, root: Path, seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Iterator[Row]:
    """Flip a bit in each file of a finished run, ``count`` files a kind at most (0: all), a copy of the run each.

    Yields:
        kind and reader, what came of it (``noticed``, ``silent``, ``traceback`` …), and the details.
    """
    rng = random.Random(seed)
    for kind in kinds:
        folder = root / "reference" / kind
        reference(kind, folder)
        files = sorted(path.relative_to(folder) for path in (folder / kind).rglob("*") if _counts(path))
        for name in rng.sample(files, min(count or len(files), len(files))):
            damaged = copied(folder, root / "damaged")
            where = _flip(damaged / name, rng)
            for reader in ("store verify", "again"):
                called = call(f"store verify {kind}", damaged) if reader == "store verify" else run(kind, damaged)
                verdict = {"refused": "noticed", "ran": "silent"}.get(called.verdict, called.verdict)
                if reader == "again" and verdict == "silent":
                    verdict = "not read, or made again"
                yield f"{kind}, {reader}", verdict, f"{name}, {where}: {called.sentence}"


def _counts(path: Path) -> bool:
    return path.is_file() and path.suffix not in UNREAD and path.name != EMPTY_OR_LOCK and path.stat().st_size > 0


def _flip(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))
    return f"byte {place} of {len(data)}"
