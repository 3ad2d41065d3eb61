"""Keeps the pictures of a run as they come, so that an interrupted run can go on: :class:`Gallery`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from t2iprobe.core.runs import lines
from t2iprobe.core.runs.checksums import check, keep

LOG = "progress.jsonl"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pictures that were made together.

    Args:
        method: the method that made them.
        rows: the numbers of the pictures.
        calls, denoiser_rows, seconds: what they took.
    """

    method: str
    rows: tuple[int, ...]
    calls: int
    denoiser_rows: int
    seconds: float

    @property
    def cost(self) -> dict[str, float]:
        """What the chunk took, for the manifest."""
        return {"calls": self.calls, "rows": self.denoiser_rows}


class Gallery:
    """Pictures by method and number; a line in the log marks a chunk of them as complete.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chunks = list(_read(folder / LOG))

    def done(self, method: str) -> set[int]:
        """The numbers of the pictures that are there."""
        return {row for chunk in self.chunks if chunk.method == method for row in chunk.rows}

    def add(self, chunk: Chunk, images: Sequence[Image.Image]) -> None:
        """Keep a chunk.

        Raises:
            StoreError: the disk is full or gone.
        """
        keep(self.folder, {self.path(chunk.method, row): one for row, one in zip(chunk.rows, images, strict=True)})
        lines.append(self.folder / LOG, asdict(chunk))
        self.chunks.append(chunk)

    def image(self, method: str, row: int) -> Image.Image:
        """A picture.

        Raises:
            DamagedError: it is not what was written.
        """
        with Image.open(check(self._place(method, row))) as opened:
            return opened.convert("RGB")

    def path(self, method: str, row: int) -> str:
        """Where a picture is kept, below the run's folder."""
        return str(self._place(method, row).relative_to(self.folder))

    def _place(self, method: str, row: int) -> Path:
        return self.folder / "pictures" / method / f"{row:04d}.png"


def _read(path: Path) -> Iterator[Chunk]:
    """The log; a last line that a crash cut off does not count."""
    for found in lines.read(path):
        yield Chunk(**found | {"rows": tuple(found["rows"])})
