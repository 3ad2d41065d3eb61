"""Keeps the pictures of a run as they come, so that an interrupted run can go on: :class:`Gallery`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from t2iprobe.core.model import Run
from t2iprobe.core.runs import lines
from t2iprobe.core.runs.checksums import check, keep
from t2iprobe.core.runs.engine import RunSession

LOG = "progress.jsonl"
GUARDED = "guarded"  # the method of pictures that are only guarded, not compared


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pictures that were made together.

    Args:
        method: the method that made them.
        rows: the numbers of the pictures.
        calls, denoiser_rows, seconds: what they took.
    """

    method: str
    rows: Sequence[int]
    calls: int
    denoiser_rows: int
    seconds: float


class Gallery:
    """Pictures by method and number; a line in the log marks a chunk of them as complete.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chunks = [Chunk(**line) for line in lines.read(folder / LOG)]

    def done(self, method: str) -> set[int]:
        """The numbers of the pictures that are there."""
        return {row for chunk in self.chunks if chunk.method == method for row in chunk.rows}

    def add(self, method: str, rows: Sequence[int], run: Run) -> Chunk:
        """Keep the pictures of a run.

        Raises:
            StoreError: the disk is full or gone.
        """
        keep(self.folder, {self.path(method, row): image for row, image in zip(rows, run.images, strict=True)})
        chunk = Chunk(method, list(rows), run.denoiser_calls, run.denoiser_rows, run.seconds)
        lines.append(self.folder / LOG, asdict(chunk))
        self.chunks.append(chunk)
        return chunk

    def fill(
        self, method: str, rows: Sequence[int], size: int, draw: Callable[[Sequence[int]], Run], session: RunSession
    ) -> None:
        """Draw pictures in chunks of ``size``, each of which is kept before the next."""
        for first in range(0, len(rows), size):
            session.check()
            chunk = self.add(method, rows[first : first + size], draw(rows[first : first + size]))
            session.done(len(chunk.rows), calls=chunk.calls, rows=chunk.denoiser_rows)

    def image(self, method: str, row: int) -> Image.Image:
        """A picture.

        Raises:
            DamagedError: it is not what was written.
        """
        with Image.open(check(self.folder / self.path(method, row))) as opened:
            return opened.convert("RGB")

    def path(self, method: str, row: int) -> str:
        """Where a picture is kept, below the run's folder."""
        return f"images/{method}/{row:04d}.png"
