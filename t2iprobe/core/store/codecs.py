"""How activations are packed: the codec is chosen by measuring on a sample, rounding only on request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numcodecs import Blosc
from numpy.typing import NDArray
from torch import Tensor
from zarr.codecs import BloscCodec, Crc32cCodec

from t2iprobe.core.errors import ConfigError, ShapeError

#: torch dtype -> (stored dtype, value of what was not written, bits of the mantissa)
DTYPES: dict[torch.dtype, tuple[str, Any, int]] = {
    torch.float64: ("float64", np.nan, 52),
    torch.float32: ("float32", np.nan, 23),
    torch.float16: ("float16", np.nan, 10),
    torch.bfloat16: ("uint16", 0x7FC0, 7),  # neither numpy nor Zarr has it: its 16 bits, and the name as an attribute
}
SHUFFLES = {"shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
QUICK = 100e6  # bytes a second of one core that are quick enough, whatever else takes time
WORTH = 0.95  # the most of the raw size that packing may leave, else it is left out


@dataclass(frozen=True, slots=True)
class Codec:
    """Lossless packing of one chunk; a checksum always follows.

    Args:
        name: ``none``, ``lz4`` or ``zstd``.
        level: of compression.
        shuffle: how bytes are sorted before.
        ratio: stored size by raw size on the sample.
        speed: raw bytes a second on the sample, one core.
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
        """The same for bytes in memory; ``None`` where nothing is packed."""
        return None if self.name == "none" else Blosc(self.name, self.level, SHUFFLES[self.shuffle])

    def as_json(self) -> dict[str, Any]:
        """For attributes and reports."""
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
    """The codec that leaves least of ``sample`` among those that are quick enough; none where nothing is gained.

    Args:
        sample: pieces of the size of a chunk.
        wanted: bytes a second that must be packed; more than :data:`QUICK` is never asked for.
    """
    measured = [_measure(codec, sample) for codec in CANDIDATES if sample]
    quick = [codec for codec in measured if codec.speed >= min(wanted, QUICK) and codec.ratio <= WORTH]
    return min(quick, key=lambda codec: codec.ratio, default=NONE)


def _measure(codec: Codec, sample: Sequence[NDArray[Any]]) -> Codec:
    blosc = codec.blosc()
    began = time.perf_counter()
    stored = sum(len(blosc.encode(piece)) for piece in sample)
    seconds = time.perf_counter() - began
    raw = sum(piece.nbytes for piece in sample)
    return Codec(codec.name, codec.level, codec.shuffle, stored / raw, raw / seconds)


def to_numpy(value: Tensor) -> NDArray[Any]:
    """The stored form of a tensor on the CPU, bit by bit; no copy."""
    if value.dtype not in DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ShapeError(f"a store keeps {known}, not {str(value.dtype).removeprefix('torch.')}")
    bits = value.view(torch.uint16) if value.dtype == torch.bfloat16 else value
    array: NDArray[Any] = bits.numpy()
    return array


def to_tensor(array: NDArray[Any], dtype: str) -> Tensor:
    """The inverse of :func:`to_numpy`."""
    value = torch.from_numpy(array)
    return value.view(torch.bfloat16) if dtype == "bfloat16" else value


def check_round_bits(keep: int | None) -> None:
    """Refuse a number of bits that is none.

    Raises:
        ConfigError: it is below 1.
    """
    if keep is not None and keep < 1:
        raise ConfigError(f"rounding keeps at least 1 bit of the mantissa, {keep} were asked for")


def rounded(array: NDArray[Any], dtype: torch.dtype, keep: int | None) -> NDArray[Any]:
    """To ``keep`` bits of the mantissa, half to even; ``None``, or as many as there are, changes nothing."""
    mantissa = DTYPES[dtype][2]
    if keep is None or keep >= mantissa:
        return array
    kind: Any = np.dtype(f"u{array.dtype.itemsize}").type
    bits = array.view(kind)
    drop = mantissa - keep
    half = kind((1 << (drop - 1)) - 1) + ((bits >> kind(drop)) & kind(1))
    new = (bits + half) & ~kind((1 << drop) - 1)
    exponent = kind(((1 << (8 * array.dtype.itemsize - 1 - mantissa)) - 1) << mantissa)
    special = (bits & exponent) == exponent  # NaN and infinity stay
    result: NDArray[Any] = np.where(special, bits, new).view(array.dtype)
    return result
