"""The part of an activation that belongs to a site: its tokens in a sequence shared with others, its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2iprobe.core.sites import Site, Stream

#: tokens of each row, or one slice for all rows; empty where there is no token axis
Spans = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """A part of (row, ...) that can be read and written.

    Args:
        axis: the token axis.
        spans: see :data:`Spans`.
        channels: some channels; ``None`` for all.
        channel_axis: the channel axis.
    """

    axis: int
    spans: Spans
    channels: slice | None = None
    channel_axis: int = -1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row, or one number for all rows."""
        return tuple(span.stop - span.start for span in self.spans)

    def take(self, value: Tensor) -> Tensor:
        """The part; rows with fewer tokens than others are padded with zeros."""
        value = self._channels(value)
        if not self.spans:
            return value
        if len(self.spans) == 1:
            return value.narrow(self.axis, self.spans[0].start, self.lengths[0])
        longest = max(self.lengths)
        return torch.stack(
            [_padded(row, self.axis - 1, span, longest) for row, span in zip(value, self.spans, strict=True)]
        )

    def put(self, value: Tensor, part: Tensor) -> Tensor:
        """A copy of ``value`` with its part replaced."""
        whole = value.clone()
        chosen = self._channels(whole)  # a view
        if not self.spans:
            chosen.copy_(part)
            return whole
        if len(self.spans) == 1:
            chosen.narrow(self.axis, self.spans[0].start, self.lengths[0]).copy_(part)
            return whole
        for row, own, span, length in zip(chosen, part, self.spans, self.lengths, strict=True):
            row.narrow(self.axis - 1, span.start, length).copy_(own.narrow(self.axis - 1, 0, length))
        return whole

    def _channels(self, value: Tensor) -> Tensor:
        if self.channels is None:
            return value
        return value.narrow(self.channel_axis, self.channels.start, self.channels.stop - self.channels.start)


def window_of(site: Site, value: Tensor, text: Sequence[slice]) -> Window | None:
    """The site's part of an activation; ``None`` if it is all of it.

    Args:
        site: the site.
        value: (row, ...).
        text: text tokens of each row in a sequence shared with image tokens, or one slice for all rows.
    """
    if site.stream == "all" and site.channels is None:
        return None
    channels = None if site.channels is None else slice(*site.channels)
    along = 1 + site.axes.index("channel") if channels else -1
    if "token" not in site.axes:
        return Window(0, (), channels, along)
    axis = 1 + site.axes.index("token")
    return Window(axis, spans_of(site.stream, value.shape[axis], text), channels, along)


def spans_of(stream: Stream, length: int, text: Sequence[slice]) -> Spans:
    """The tokens of a stream in a sequence, for each row or for all rows.

    Args:
        stream: whose tokens.
        length: of the sequence.
        text: see :func:`window_of`.
    """
    if stream == "all":
        return (slice(0, length),)
    spans = text if stream == "text" else [_rest(span, length) for span in text]
    return tuple(spans[:1] if len(set(map(str, spans))) == 1 else spans)


def _rest(text: slice, length: int) -> slice:
    """The image tokens beside the text: after it, or before it."""
    return slice(text.stop, length) if text.start == 0 else slice(0, text.start)


def _padded(row: Tensor, axis: int, span: slice, length: int) -> Tensor:
    own = row.narrow(axis, span.start, span.stop - span.start)
    missing = list(own.shape)
    missing[axis] = length - own.shape[axis]
    return torch.cat([own, own.new_zeros(missing)], axis)
