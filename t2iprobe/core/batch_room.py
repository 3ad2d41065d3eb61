"""Batch sizes that fit into memory: :class:`Room` halves a size that does not fit and remembers what did."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch

Made = TypeVar("Made")


class Room:
    """The largest number of rows at once for each kind of work, learned from out-of-memory errors.

    It lives as long as its owner; when memory has been freed since, a new one finds that out.
    """

    def __init__(self) -> None:
        self._most: dict[Hashable, int] = {}

    def most(self, work: Hashable, wanted: int) -> int:
        """The number of rows, at most ``wanted``, to try at once."""
        return min(wanted, self._most.get(work, wanted))

    def shrink(self, work: Hashable, failed: int) -> None:
        """Record that ``failed`` rows did not fit, so that half of them come next. Call it after dropping the error."""
        self._most[work] = max(1, failed // 2)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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
