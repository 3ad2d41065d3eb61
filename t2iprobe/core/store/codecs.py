"""Compression of activations: the codec is chosen by measurements on a sample; values are rounded only on request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numcodecs import BitRound, Blosc
from numpy.typing import NDArray
from torch import Tensor
from zarr.codecs import BloscCodec, Crc32cCodec

from t2iprobe.core.errors import ConfigError, ShapeError

#: torch dtype -> (stored dtype, fill value, mantissa bits)
DTYPES: dict[torch.dtype, tuple[str, Any, int]] = {
    torch.float64: ("float64", np.nan, 52),
    torch.float32: ("float32", np.nan, 23),
    torch.float16: ("float16", np.nan, 10),
    torch.bfloat16: ("uint16", 0x7FC0, 7),  # unknown to numpy and Zarr: stored as 16 bits, the name as an attribute
}
MANTISSA = 52  # bits of the longest mantissa
SHUFFLES = {"shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
QUICK = 100e6  # bytes per second on one core that are always fast enough
WORTH = 0.95  # largest stored fraction of the raw size at which compression is used


@dataclass(frozen=True, slots=True)
class Codec:
    """Lossless compression of one chunk, always followed by a checksum.

    Args:
        name: ``none``, ``lz4`` or ``zstd``.
        level: compression level.
        shuffle: how bytes are reordered first.
        ratio: stored size over raw size on the sample.
        speed: raw bytes per second on the sample, on one core.
    """

    name: str = "zstd"
    level: int = 1
    shuffle: str = "shuffle"
    ratio: float = 1.0
    speed: float = 0.0

    def compressors(self, itemsize: int) -> list[Any]:
        """Zarr's codecs for items of this size."""
        if self.name == "none":
            return [Crc32cCodec()]
        packed = BloscCodec(
            cname=cast(Any, self.name), clevel=self.level, shuffle=cast(Any, self.shuffle), typesize=itemsize
        )
        return [packed, Crc32cCodec()]

    def blosc(self) -> Any:
        """The codec for bytes in memory; ``None`` without compression."""
        return None if self.name == "none" else Blosc(self.name, self.level, SHUFFLES[self.shuffle])

    def as_json(self) -> dict[str, Any]:
        """Plain values for attributes and reports."""
        return asdict(self)


NONE = Codec("none", 0, "noshuffle")
CANDIDATES = (
    Codec("lz4", 1, "shuffle"),
    Codec("zstd", 1, "shuffle"),
    Codec("zstd", 1, "bitshuffle"),
    Codec("zstd", 3, "shuffle"),
    Codec("zstd", 5, "bitshuffle"),
)


def choose(sample: Sequence[NDArray[Any]], wanted: float = QUICK) -> Codec:
    """The fast enough codec with the best ratio on ``sample``, or no compression if nothing is gained.

    Args:
        sample: pieces of the size of a chunk.
        wanted: bytes per second to be compressed; values above :data:`QUICK` are treated as :data:`QUICK`.
    """
    measured = [_measure(codec, sample) for codec in CANDIDATES if sample]
    quick = [codec for codec in measured if codec.speed >= min(wanted, QUICK) and codec.ratio <= WORTH]
    return min(quick, key=lambda codec: codec.ratio, default=NONE)


def _measure(codec: Codec, sample: Sequence[NDArray[Any]]) -> Codec:
    blosc, raw = codec.blosc(), sum(piece.nbytes for piece in sample)
    began = time.perf_counter()
    stored = sum(len(blosc.encode(piece)) for piece in sample)
    return replace(codec, ratio=stored / raw, speed=raw / (time.perf_counter() - began))


def storable(value: Tensor) -> Tensor:
    """Masks and positions of tokens, which are no fractions, as float32: exact, and patched in their own type again."""
    return value if value.is_floating_point() or value.is_complex() else value.float()


def to_numpy(value: Tensor) -> NDArray[Any]:
    """The stored form of a CPU tensor, bit by bit, without a copy."""
    if value.dtype not in DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ShapeError(f"a store keeps {known}, not {str(value.dtype).removeprefix('torch.')}")
    return (value.view(torch.uint16) if value.dtype == torch.bfloat16 else value).numpy()


def to_tensor(array: NDArray[Any], dtype: str) -> Tensor:
    """The inverse of :func:`to_numpy`."""
    value = torch.from_numpy(array)
    return value.view(torch.bfloat16) if dtype == "bfloat16" else value


def stored_as(dtype: str) -> np.dtype[Any]:
    """How values of a torch dtype, given by its name, are stored; ``KeyError`` if they are not."""
    return np.dtype({str(one).removeprefix("torch."): form[0] for one, form in DTYPES.items()}[dtype])


def check_round_bits(keep: int | None) -> None:
    """Refuse an invalid number of mantissa bits.

    Raises:
        ConfigError: it is below 1, or above what any dtype has.
    """
    if keep is not None and not 1 <= keep <= MANTISSA:
        raise ConfigError(f"round_bits is the number of mantissa bits to keep, 1 to {MANTISSA}; found {keep}")


def rounded(array: NDArray[Any], dtype: torch.dtype, keep: int | None) -> NDArray[Any]:
    """Round to ``keep`` mantissa bits, half to even; ``None``, or at least as many as there are, changes nothing."""
    if keep is None or keep >= DTYPES[dtype][2]:
        return array
    if dtype == torch.bfloat16:  # the upper half of a float32
        wide = rounded((array.astype(np.uint32) << 16).view(np.float32), torch.float32, keep)
        return (wide.view(np.uint32) >> 16).astype(np.uint16)
    new = BitRound(keep).encode(array).view(array.dtype)
    return np.where(np.isfinite(array), new, array)
