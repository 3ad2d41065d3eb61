"""What fits into memory: :class:`Room` halves what does not, and remembers what did."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch

Made = TypeVar("Made")


class Room:
    """The most rows at once of each kind of work, as far as out-of-memory errors have told.

    It is kept for as long as its owner is; where memory has become free since, a new one finds that out.
    """

    def __init__(self) -> None:
        self._most: dict[Hashable, int] = {}

    def most(self, work: Hashable, wanted: int) -> int:
        """As many of ``wanted`` rows as may be tried at once."""
        return min(wanted, self._most.get(work, wanted))

    def shrink(self, work: Hashable, failed: int) -> None:
        """``failed`` rows did not fit: half of them come next. To be called once the error is no longer held."""
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
        """``make`` of ``count`` rows, in slices that fit.

        Args:
            work: what the sizes are remembered by.
            count: rows there are.
            make: of some of them.
            generators: one a row; a slice that did not fit starts again from the same noise.
            most: rows of a slice, also where more would fit.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """
        made: list[Made] = []
        first = 0
        while first < count:
            part = slice(first, first + self.most(work, min(count - first, most or count)))
            states = [one.get_state() for one in generators[part]]
            try:
                made.append(make(part))
            except torch.OutOfMemoryError:
                if part.stop - first == 1:
                    raise
            else:
                first = part.stop
                continue
            for generator, state in zip(generators[part], states, strict=True):
                generator.set_state(state)
            self.shrink(work, part.stop - first)
        return made
