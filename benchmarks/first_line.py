"""How soon a command says something, beside the bare cost of importing torch and the one pipeline class.

    OMP_NUM_THREADS=1 python benchmarks/first_line.py [--rounds 5] [COMMAND …]

Seconds of CPU time of the process, the shortest of the rounds, which take turns; what other programs do counts little.
The default command is ``patch --arch sd3``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = "import torch; from diffusers import StableDiffusion3Pipeline; print('here', flush=True)"
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def until_first_line(command: list[str]) -> float:
    """CPU seconds of a process until it has written its first line; it is ended then."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = cpu(process.pid)
        process.kill()
    return seconds


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("command", nargs="*", default=["patch", "--arch", "sd3"])
    given = parser.parse_args()
    times: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            own = [sys.executable, "-m", "t2iprobe", *given.command, "--out", f"{folder}/run"]
            times.setdefault("torch and the pipeline class", []).append(until_first_line([sys.executable, "-c", BARE]))
            times.setdefault(f"t2iprobe {' '.join(given.command)}", []).append(until_first_line(own))
    bare, *_ = map(min, times.values())
    for name, found in times.items():
        print(f"{name:40} {min(found):6.2f} s  {min(found) / bare:.2f}")


if __name__ == "__main__":
    main()
