"""Tries to lose results, to get damage past the tool, and to make it fail without a sentence.

    python benchmarks/robustness kills|disks|flips|inputs [--count N] [--kinds patch …] [--seed 0] [--keep FOLDER]

``kills``: ``kill -9`` at random moments, N times a kind of run. ``disks``: N disks a kind that fill up. ``flips``: a
flipped bit in N files a kind (0: in every file). ``inputs``: N wrong values for options (0: all of them). Prints what
went wrong as it comes, and at the end a table in Markdown; ends with 1 if anything did.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
from pathlib import Path

import disks
import flips
import inputs
import kills
from kinds import KINDS

GOOD = {"lost nothing", "noticed", "not read, or made again", "refused", "ran"}
COUNTS = {"kills": 6, "disks": 4, "flips": 0, "inputs": 400}


def main() -> None:
    """Run one of the four and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COUNTS)
    parser.add_argument("--count", type=int)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the folders here")
    parser.add_argument("--all", action="store_true", help="print every try, not only what went wrong")
    asked = parser.parse_args()
    if asked.what == "disks":
        disks.enter()
    import torch

    import t2iprobe.cli.app  # noqa: F401 - imported once, before the forks

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        bad = _try(asked, (asked.keep or Path(place)).resolve())
    sys.exit(1 if bad else 0)


def _try(asked: argparse.Namespace, root: Path) -> int:
    count = COUNTS[asked.what] if asked.count is None else asked.count
    rows = {
        "kills": lambda: kills.kills(count, root, asked.seed, tuple(asked.kinds)),
        "disks": lambda: disks.disks(count, root, asked.seed, tuple(asked.kinds)),
        "flips": lambda: flips.flips(count, root, asked.seed, tuple(asked.kinds)),
        "inputs": lambda: inputs.inputs(count, root, asked.seed),
    }[asked.what]()
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for what, verdict, detail in rows:
        found[what, verdict] += 1
        if asked.all or verdict not in GOOD:
            print(f"{what}: {verdict}: {detail}", flush=True)
    _table(found)
    return sum(count for (_, verdict), count in found.items() if verdict not in GOOD)


def _table(found: collections.Counter[tuple[str, str]]) -> None:
    verdicts = sorted({verdict for _, verdict in found})
    print("", "| | " + " | ".join(verdicts) + " |", "|---" * (len(verdicts) + 1) + "|", sep="\n")
    for what in sorted({what for what, _ in found}):
        print(f"| {what} | " + " | ".join(str(found[what, verdict]) for verdict in verdicts) + " |")


if __name__ == "__main__":
    main()
