"""What the activation store costs: write throughput, size, peak memory, latency of a read.

    python benchmarks/store.py [--mb 1024] [--folder DIR] [--format json]

Throughput is measured on the same bytes in the same run: the store, a loop of ``torch.save``, and two ways to do no
more than the bytes: a raw copy of a file, inside the kernel, and ``write()`` from memory into one file, in calls of
the size that the store uses and, as the store, telling the disk to begin every few megabytes. Each ends when
all is on the disk (``sync``), so the page cache flatters none; what other programs write meanwhile counts, too. The
ways take turns, several rounds of them, and the median counts, of throughputs and of ratios within a round.
``cpu`` is by the process's own CPU time: what remains comparable where other programs share the machine.
The activations are those of an embedded model, repeated to the size of real ones: made-up noise would not pack.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key
from t2iprobe.core.store import codecs, shards
from t2iprobe.core.store.layout import Layout, SiteLayout
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.store.writer import ActivationWriter

ROWS, TOKENS, CHANNELS = 4, 333, 1536  # text keys of SD3 medium
SITE = "blocks.{}.joint_attn.k"
ROUNDS = 5
MEMORY = """
import sys, threading, torch
sys.path.insert(0, {here!r})
import store
from pathlib import Path
steps = int(sys.argv[1])
store.warm_up(Path(sys.argv[2]) / "warm")
before = store.rss()
peak = before
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, store.rss())
thread = threading.Thread(target=watch); thread.start()
store.write(Path(sys.argv[2]) / "store", store.synthetic(torch.float16, 0), steps, sites=16, rows=1)
done.set(); thread.join()
print((peak - before) / 2**20)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the activation store.")
    parser.add_argument("--mb", type=int, default=1024, help="raw size that is written")
    parser.add_argument("--folder", type=Path, help="where; default a temporary folder below the current one")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder or Path.cwd(), prefix="store-benchmark-") as folder:
        found = {
            "write": writing(Path(folder), asked.mb),
            "read": reading(Path(folder)),
            "memory": memory(Path(folder)),
        }
    print(json.dumps(found, indent=1) if asked.format == "json" else table(found))


def rss() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def synthetic(dtype: torch.dtype, seed: int) -> Tensor:
    """(row, token, channel): noise of the spread of activations."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, TOKENS, CHANNELS, generator=generator).to(dtype)


def real(dtype: torch.dtype) -> Tensor:
    """(row, token, channel): text keys of the embedded tiny-sd3 at all layers and steps, laid side by side."""
    from t2iprobe.api import load

    model = load("tiny-sd3")
    prompts = ['a red framed sign that says "OPEN"', 'a sign that says "SHUT"']
    cache = model.run(model.generation(prompts), cache="blocks.*.joint_attn.k").cache
    values = [cache[name, step, Branch.COND].flatten() for step in range(20) for name in cache.sites]
    flat = torch.cat(values)
    count = ROWS * TOKENS * CHANNELS
    return flat.repeat(-(-count // flat.numel()))[:count].view(ROWS, TOKENS, CHANNELS).to(dtype)


def layout(steps: int, sites: int, rows: int, codec: codecs.Codec) -> Layout:
    """``sites`` sites of ``rows`` rows, one batch."""
    entries = tuple(SiteLayout(SITE.format(i), ("token", "channel")) for i in range(sites))
    return Layout(entries, ("a",) * rows, (0,) * rows, tuple(range(steps)), batch=rows, codec=codec)


def write(
    where: Path, value: Tensor, steps: int, *, sites: int, rows: int = ROWS, codec: codecs.Codec = codecs.NONE
) -> None:
    """Stream ``value`` at every site and step into a store."""
    with ActivationWriter(where, "run", layout(steps, sites, rows, codec)) as writer, writer.unit(0):
        for step in range(steps):
            for site in range(sites):
                writer.add([Key(SITE.format(site), step, Branch.COND)], range(rows), value[:rows])


def warm_up(where: Path) -> None:
    """Imports, threads and allocators: not what is measured."""
    write(where, synthetic(torch.float16, 1), 2, sites=2)


def writing(folder: Path, megabytes: int) -> list[dict[str, Any]]:
    """Throughput and size of the store, of ``torch.save`` and of a raw copy, on the same bytes."""
    warm_up(folder / "warm")
    return [_written(folder, real(dtype), megabytes) for dtype in (torch.float32, torch.float16, torch.bfloat16)]


def _written(folder: Path, value: Tensor, megabytes: int) -> dict[str, Any]:
    steps = max(1, megabytes * 2**20 // (4 * value.nbytes))
    count, raw = steps * 4, steps * 4 * value.nbytes / 1e6
    packed = codecs.choose([codecs.to_numpy(value[row]) for row in range(ROWS)])
    source = folder / "source"
    _write_raw(source, value, count)
    shutil.copyfile(source, os.devnull)  # into memory, where a copy begins
    ways: dict[str, Callable[[Path], object]] = {
        "copy": lambda place: shutil.copyfile(source, place / "copy"),
        "plain": lambda place: _write_raw(place / "plain", value, count),
        "torch_save": lambda place: _save(place, value, count),
        "store": lambda place: write(place, value, steps, sites=4),
        "packed": lambda place: write(place, value, steps, sites=4, codec=packed),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    sizes: dict[str, float] = {}
    for turn, (name, way) in enumerate([*ways.items()] * ROUNDS):
        place = folder / f"{value.dtype}-{name}-{turn}"
        place.mkdir()
        seconds[name].append(_timed(way, place))
        sizes[name] = _size(place) / 1e6 / raw
        _empty(place)
    _empty(source)
    row: dict[str, Any] = {"dtype": str(value.dtype).removeprefix("torch."), "raw_mb": raw}
    for name, measured in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        row |= {f"{name}_mb_s": raw / wall, f"{name}_cpu_mb_s": raw / cpu}
    codec = f"{packed.name}-{packed.level} {packed.shuffle}"
    row |= {"codec": codec, "store_size": sizes["store"], "packed_size": sizes["packed"]}
    return row | {f"store_by_{name}": _ratio(seconds["store"], seconds[name]) for name in ("copy", "plain")}


def _ratio(store: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    """How fast the store is beside another way, in the median of the rounds."""
    return statistics.median(theirs / ours for (ours, _), (theirs, _) in zip(store, other, strict=True))


def _empty(place: Path) -> None:
    """Give up the bytes but not the names: ext4 makes new files slowly for a minute after others were removed."""
    for path in [place, *place.rglob("*")]:
        if path.is_file():
            os.truncate(path, 0)


def _timed(way: Callable[[Path], object], place: Path) -> tuple[float, float]:
    """Seconds on the clock, and of this process's CPU time, until the bytes are on the disk."""
    os.sync()
    began, cpu = time.perf_counter(), time.process_time()
    way(place)
    os.sync()
    return time.perf_counter() - began, time.process_time() - cpu


def _save(folder: Path, value: Tensor, count: int) -> None:
    for i in range(count):
        torch.save(value.clone(), folder / f"{i}.pt")


def _write_raw(path: Path, value: Tensor, count: int) -> None:
    """All values in one file."""
    flat = memoryview(codecs.to_numpy(value).reshape(-1)).cast("B")
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            for begin in range(0, len(flat), shards.AT_ONCE):
                file.write(flat[begin : begin + shards.AT_ONCE])
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def reading(folder: Path) -> list[dict[str, Any]]:
    """Milliseconds of reading one row of one site at one random step, and the bytes that this takes."""
    value = real(torch.float16)
    found = []
    for codec in (codecs.NONE, codecs.choose([codecs.to_numpy(value[0])])):
        place = folder / "read"
        write(place, value, 30, sites=4, codec=codec)
        store = ActivationStore(place)
        chance = np.random.default_rng(0)
        times = []
        for _ in range(200):
            site, step, row = SITE.format(chance.integers(4)), int(chance.integers(30)), int(chance.integers(ROWS))
            began = time.perf_counter()
            store.fetch(site, step, Branch.COND, [row])
            times.append(1e3 * (time.perf_counter() - began))
        quantiles = statistics.quantiles(times, n=20)
        found.append(
            {"codec": codec.name, "slice_mb": value[0].nbytes / 1e6, "median_ms": quantiles[9], "p95_ms": quantiles[18]}
        )
        shutil.rmtree(place)
    return found


def memory(folder: Path) -> list[dict[str, Any]]:
    """MiB of resident memory beyond the start, at the peak, in a process of its own."""
    found = []
    for steps in (10, 1000):
        code = MEMORY.format(here=str(Path(__file__).parent))
        place = folder / "memory"
        place.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, str(steps), str(place)], check=True, capture_output=True, text=True
        )
        raw = steps * 16 * synthetic(torch.float16, 0)[:1].nbytes
        found.append({"steps": steps, "raw_mb": raw / 1e6, "peak_mib": float(done.stdout)})
        shutil.rmtree(place)
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """As Markdown."""
    parts = []
    for name, rows in found.items():
        names = list(rows[0])
        lines = [f"### {name}", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(_cell(row[key]) for key in names) + " |" for row in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 100
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    main()
