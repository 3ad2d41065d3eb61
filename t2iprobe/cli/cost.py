"""What a command takes, in words, and when the user has to agree to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.parse import size_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from t2iprobe.core.model import Model

HOURS, BYTES = 4.0, 20e9  # anything above this needs --yes
REPORT = 2.0  # seconds that report and contact sheet of a run take, measured on two CPU cores
_begun: ContextVar[float | None] = ContextVar("begun", default=None)  # when the command began; None in Python


def start_clock() -> None:
    """Let the plan of a command count what it has taken so far, such as imports and loading the model."""
    _begun.set(time.perf_counter())


def time_text(most: float, least: float | None = None) -> str:
    """How long a run takes in all, in words: ``about 66 s in all (8 s so far)``.

    The report is added, and at the shell what has passed since the command began.

    Args:
        most: seconds of all that is still to be done but the report, at most.
        least: seconds that it takes at least, if that is less.
    """
    begun = _begun.get()
    passed = 0.0 if begun is None else time.perf_counter() - begun
    low, high = (duration(seconds + REPORT + passed) for seconds in (most if least is None else least, most))
    so_far = f" in all ({duration(passed)} so far)" if begun is not None else ""
    return f"about {high if low == high else f'{low} to {high}'}{so_far}"


def duration(seconds: float) -> str:
    """Seconds in readable form: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def seconds_to_score(score: Callable[[Image], object], word: str, size: tuple[int, int]) -> float:
    """How long it takes here to read and score an image, measured on one that shows a word.

    Args:
        score: scores an image; it is called for another one first, because it may have to load something.
        word: the word.
        size: height and width of the image in pixels.
    """
    score(with_word(word * 2, size))
    begun = time.perf_counter()
    score(with_word(word, size))
    return time.perf_counter() - begun


def with_word(word: str, size: tuple[int, int]) -> Image:
    """A grey image that shows a word, as the models' images of text do.

    Args:
        word: the word.
        size: height and width in pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = size
    shown = Image.new("RGB", (width, height), "lightgrey")
    font = ImageFont.load_default(max(8, width // max(4, len(word))))
    ImageDraw.Draw(shown).text((width / 2, height / 2), word, "black", font, anchor="mm")
    return shown


def memory_text(model: Model, settings: Mapping[str, Any], batch_size: int | None = None) -> str:
    """The memory that pictures take: the weights, how many pictures run together, and why."""
    return f"memory {size_text(model.weight_bytes)} for weights, {model.at_once(settings, batch_size)}"


def agree(yes: bool, seconds: float, size: float = 0, *, most: float = BYTES, hint: str = "") -> None:
    """Refuse what is long or large, unless ``--yes`` was given.

    Args:
        yes: whether ``--yes`` was given.
        seconds: the estimated time, 0 if it is not known.
        size: bytes on disk.
        most: number of bytes from which the work counts as large.
        hint: what else could be done.

    Raises:
        ConfigError: it is long or large, and ``--yes`` was not given.
    """
    if yes or (seconds <= HOURS * 3600 and size <= most):
        return
    takes = [f"about {duration(seconds)}"] * bool(seconds) + [size_text(size)] * bool(size)
    raise ConfigError(f"this takes {' and '.join(takes)}; add --yes to do it{hint}")
