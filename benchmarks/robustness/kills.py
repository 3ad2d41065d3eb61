"""``kill -9`` at random moments of every kind of run: the same command, given again and again, ends with one answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from kinds import KINDS, answer, difference, furnish, reference, run

Row = tuple[str, str, str]
PATIENCE = 40  # starts of one run


def kills(count: int, root: Path, seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Iterator[Row]:
    """Kill each kind of run ``count`` times, over as many runs as that takes.

    Yields:
        kind, what came of it (``lost nothing`` or what went wrong), and the details.
    """
    rng = random.Random(seed)
    for kind in kinds:
        plain, right = reference(kind, root / "reference" / kind)
        killed, begun = 0, 0
        while killed < count:
            folder, begun = root / "killed" / f"{kind}-{begun}", begun + 1
            furnish(folder)
            for _ in range(PATIENCE):
                moment = rng.uniform(0.1, 1.0) * plain.seconds if killed < count else None
                called = run(kind, folder, moment)
                if called.verdict != "killed":
                    break
                killed += 1
            if called.verdict != "ran":
                yield kind, called.verdict, called.sentence
            else:
                lost = difference(right, answer(called, folder / kind))
                yield kind, "lost" if lost else "lost nothing", lost or f"{killed} kills so far"
