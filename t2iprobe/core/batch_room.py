"""How many rows fit into memory: :class:`Need` is what they take, :class:`Room` learns what fits.

A number of rows follows from what each takes (estimated before the first batch, measured on a GPU from then on) and
from what is free; where that was too many, running out of memory halves it.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from t2iprobe.core.parse import size_text

Made = TypeVar("Made")

MOST = 64  # rows at once: more are no faster, and what is in flight is lost when a run is killed


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that rows of a batch take.

    Args:
        each: bytes for each row.
        fixed: bytes for any number of rows, such as weights.
    """

    each: int
    fixed: int = 0

    @classmethod
    def of(cls, seen: Mapping[int, int], fixed: int) -> Need:
        """From peaks by numbers of rows: the line through the smallest and largest number.

        Args:
            seen: bytes at the peak, for one number of rows or more.
            fixed: bytes that any number of rows takes, if only one was seen.
        """
        few, many = min(seen), max(seen)
        if few == many:
            return cls(max(1, (seen[few] - fixed) // few), fixed)
        each = max(1, (seen[many] - seen[few]) // (many - few))
        return cls(each, max(0, seen[few] - few * each))

    def rows(self, limit: int) -> int:
        """How many rows fit into ``limit`` bytes; at least one, which is for the run to find out."""
        return max(1, (limit - self.fixed) // max(1, self.each))


@dataclass(frozen=True, slots=True)
class AtOnce:
    """How many pictures run together, and why.

    Args:
        rows: number of pictures.
        each: bytes for each; ``None`` if nothing says how large they are.
        free: bytes that they may take together.
        asked: whether the number was asked for.
    """

    rows: int
    each: int | None = None
    free: int = 0
    asked: bool = False

    def __str__(self) -> str:
        """The number and its reason in words."""
        why = "" if self.each is None else f" ({size_text(self.each)} a picture, {size_text(self.free)} available)"
        return f"at most {self.rows} pictures at once" + (" as asked" if self.asked else "") + why


class Room:
    """The largest number of rows at once for each kind of work.

    It lives as long as its owner.
    """

    def __init__(self) -> None:
        self._failed: dict[Hashable, int] = {}
        self._seen: defaultdict[Hashable, dict[int, int]] = defaultdict(dict)

    def saw(self, work: Hashable, rows: int, peak: int) -> None:
        """Record the bytes that a device held at the peak of some rows."""
        self._seen[work][rows] = peak

    def need(self, work: Hashable, expected: Need) -> Need:
        """What this work takes: as measured, else as expected."""
        return Need.of(seen, expected.fixed) if (seen := self._seen.get(work)) else expected

    def most(self, work: Hashable, wanted: int, need: Need | None = None, limit: int = 0) -> int:
        """The number of rows to try at once.

        Args:
            work: kind of work.
            wanted: largest number of rows.
            need: what they take; ``None`` leaves it to running out of memory.
            limit: bytes that they may take.
        """
        fits = wanted if need is None else min(wanted, need.rows(limit))
        failed = self._failed.get(work)
        if failed is None:
            return fits
        # half of what failed; more only if a batch that fitted was measured since, and less than what failed
        grows = work in self._seen and need is not None and need.rows(limit) < failed
        return fits if grows else min(fits, max(1, failed // 2))

    def shrink(self, work: Hashable, failed: int) -> None:
        """Record that ``failed`` rows did not fit, so that fewer come next. Call it after dropping the error."""
        self._failed[work] = failed
        release()

    def sliced(
        self,
        work: Hashable,
        count: int,
        make: Callable[[slice], Made],
        generators: Sequence[torch.Generator] = (),
        most: int | None = None,
    ) -> list[Made]:
        """Call ``make`` for ``count`` rows, in slices that fit.

        Args:
            work: key under which the size is remembered.
            count: number of rows.
            make: function of a slice of the rows.
            generators: one per row; a slice that did not fit is repeated with the same noise.
            most: largest number of rows per slice, even if more would fit.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """
        made: list[Made] = []
        first = 0
        while first < count:
            part = slice(first, first + self.most(work, min(count - first, most or count)))
            states = [generator.get_state() for generator in generators[part]]
            try:
                made.append(make(part))
                first = part.stop
                continue
            except torch.OutOfMemoryError:
                if part.stop - first == 1:
                    raise
            # outside of the except clause: until it ends, the error keeps the tensors of the failed attempt alive
            for generator, state in zip(generators[part], states, strict=True):
                generator.set_state(state)
            self.shrink(work, part.stop - first)
        return made


def release() -> None:
    """Give memory that is no longer used back to the device, also what a failed attempt's traceback refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
