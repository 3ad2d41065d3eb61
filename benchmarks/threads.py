"""One and two CPU threads, in turn: five steps of the embedded models, and reading text in an image.

env -u OMP_NUM_THREADS python benchmarks/threads.py
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

import t2iprobe as t2i
from t2iprobe.plugins.metrics.readers import RapidOCRReader

ROUNDS = 5


def clock() -> tuple[float, float]:
    """CPU seconds of this process, and seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.perf_counter()


def compare(what: str, work: Callable[[int], object]) -> None:
    """Print the least CPU seconds and seconds of ``work(threads)``."""
    work(1)
    spent: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for threads, spans in spent.items():
            torch.set_num_threads(threads)
            before = clock()
            work(threads)
            spans.append((clock()[0] - before[0], clock()[1] - before[1]))
    least = {threads: tuple(map(min, zip(*spans, strict=True))) for threads, spans in spent.items()}
    print(what, *(f"{n} threads: {cpu:.3f} CPU s, {wall:.3f} s" for n, (cpu, wall) in least.items()), sep="; ")


def main() -> None:
    """Compare the embedded models, then the reader."""
    for name in ("tiny-sd3", "tiny-sdxl", "tiny-if"):
        model = t2i.load(name)
        for rows in (2, 8):
            seeds = list(range(rows))
            compare(f"{name}, {rows} images", lambda _: model.run(["a sign"] * rows, seed=seeds, num_steps=5))  # noqa: B023
    readers = {threads: RapidOCRReader(threads) for threads in (1, 2)}
    image = t2i.load("tiny-sd3").run('a red framed sign that says "OPEN"', seed=0).images[0]
    for side in (64, 512):
        compare(f"RapidOCR, {side} pixels", lambda threads: readers[threads].read([image.resize((side, side))]))  # noqa: B023


if __name__ == "__main__":
    main()
