"""Makes the images of a page again: ``python docs/_site/images.py docs/gallery.md``.

An image of a page is preceded by a comment that says which file of a run folder it is. The command lines above it are
run in one temporary folder for the whole page, each once, and the file is made small: 256 colours, at most 1,100
pixels wide.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDEST = 1100
PART = re.compile(
    r"^```console\n(?P<lines>.*?)^```$|^<!-- image: (?P<file>\S+) -->\n!\[.*?\]\((?P<place>\S+)\)", re.M | re.S
)


def main(page: Path) -> None:
    """Run the commands of a page and keep its images."""
    with tempfile.TemporaryDirectory() as folder:
        for part in PART.finditer(page.read_text()):
            if part["file"]:
                small(Path(folder) / part["file"], page.parent / part["place"])
            else:
                for line in part["lines"].replace("\\\n", " ").splitlines():
                    run(line, folder)


def run(line: str, folder: str) -> None:
    """Run a line, in a shell if it is not one of ours."""
    print(line, flush=True)
    ours = line.startswith("t2iprobe ")
    words = [sys.executable, "-m", *shlex.split(line, comments=True)] if ours else ["bash", "-ec", line]
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "100"})


def small(source: Path, place: Path) -> None:
    """Write a small PNG; nothing is enlarged."""
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    image.thumbnail((WIDEST, image.height), Image.Resampling.LANCZOS)
    place.parent.mkdir(exist_ok=True)
    image.quantize(256, dither=Image.Dither.NONE).save(place, optimize=True)
    print(f"{place}: {place.stat().st_size:,} bytes")


for name in sys.argv[1:]:
    main(Path(name))
