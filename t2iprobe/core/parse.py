"""Options that are written as text: layers, heads and denoising steps as ranges, and sizes in bytes."""

from __future__ import annotations

import re

from t2iprobe.core.errors import ConfigError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def numbers(text: str, what: str = "layers") -> tuple[int, ...]:
    """Sorted numbers from ``3``, ``0-5`` or ``1,4,9-11``.

    Raises:
        ConfigError: the text does not have this form.
    """
    found: list[int] = []
    for part in text.replace("+", ",").split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        span = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
        if not span:
            raise ConfigError(f"{what} {text!r}: write numbers and ranges, such as 3,5-8; found {part.strip()!r}")
        found += span
    return tuple(sorted(set(found)))


def layers(text: str, count: int) -> tuple[int, ...]:
    """Numbers of layers below ``count``, see :func:`numbers`.

    Raises:
        ConfigError: not of this form, or out of range.
    """
    return _below(numbers(text), count, "text-attention layers")


def heads(text: str, count: int) -> tuple[int, ...]:
    """Like :func:`layers`, for attention heads."""
    return _below(numbers(text, "heads"), count, "attention heads")


def _below(found: tuple[int, ...], count: int, what: str) -> tuple[int, ...]:
    if found[-1] >= count:
        raise ConfigError(f"the model's {what} are 0-{count - 1}, found {found[-1]}")
    return found


def steps(text: str, count: int) -> range:
    """Denoising steps from ``0:10``, ``:5``, ``4:`` or ``0:28:4``; 0 is at pure noise, and the end is not included.

    Raises:
        ConfigError: not of this form, or out of range.
    """
    parts = text.split(":")
    if not 1 < len(parts) <= 3 or not all(part.strip().isdecimal() or not part.strip() for part in parts):
        raise ConfigError(f"steps {text!r}: write START:STOP, such as 0:10 (0 is pure noise, the end is not included)")
    numbers = [int(part) if part.strip() else None for part in parts]
    first, stop = numbers[0] or 0, count if numbers[1] is None else numbers[1]
    stride = numbers[2] if len(numbers) == 3 and numbers[2] is not None else 1
    if stop > count or first >= stop or stride < 1:
        raise ConfigError(f"steps {text!r}: a run has the steps 0:{count}; this range is empty or goes beyond them")
    return range(first, stop, stride)


def size(text: str) -> int:
    """A size such as ``10GiB``, ``500 MB`` or ``1000`` in bytes.

    Raises:
        ConfigError: the text does not have this form.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    if not found:
        raise ConfigError(f"{text!r} is not a size; write one such as 10GiB, 500MB or 1000")
    return int(float(found[1]) * UNITS[(found[2] or "").lower()])


def size_text(count: float) -> str:
    """Bytes in readable form: ``12.3 MB``."""
    power = 0
    while count >= 999.5 and power < 4:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
