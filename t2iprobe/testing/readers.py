"""The laws of a reader of text in pictures: :func:`reader_conformance`. How well it reads is not checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from t2iprobe.core.contracts.metric import Reader
from t2iprobe.core.normalised_text import plain
from t2iprobe.testing.conformance import Case, Laws, has_a_name, require

SIZE, MIDDLE = (384, 128), (192, 64)  # pixels
FONT, FONT_SIZE = "fonts/ttf/DejaVuSans.ttf", 64


@dataclass(frozen=True)
class ReaderCase(Case[Reader]):
    """A reader, and two words that it can read.

    Args:
        words: two words that it reads, black on white.
    """

    words: tuple[str, str] = ("HOUSE", "WATER")

    @cached_property
    def reader(self) -> Any:
        """The reader."""
        return self.make()

    def pictures(self) -> list[Image.Image]:
        """The first word, nothing, the other word."""
        return [printed(self.words[0]), printed(""), printed(self.words[1])]


def printed(text: str) -> Image.Image:
    """A picture of ``text``, black on white."""
    picture = Image.new("RGB", SIZE, "white")
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / FONT), FONT_SIZE)
    ImageDraw.Draw(picture).text(MIDDLE, text, "black", font, anchor="mm")
    return picture


#: the laws of a reader; each is called with a :class:`ReaderCase`
READER_LAWS = Laws(has_a_name)


def reader_conformance(kind: type[Reader], *, words: tuple[str, str] = ReaderCase.words, **settings: Any) -> type:
    """A pytest class with one method per law of a reader.

    Args:
        kind: the reader's class.
        words: two words that it can read.
        settings: arguments of the class.
    """
    return READER_LAWS.tests_of(ReaderCase(kind, settings, words))


@READER_LAWS
def plain_words_are_read(case: ReaderCase) -> None:
    """Each picture has its text, in order, and a blank one has none."""
    found: Any = case.reader.read(case.pictures())
    fits = isinstance(found, list) and all(isinstance(one, str) for one in found)
    require(fits, f"read() must return a list of texts, found {found!r}")
    words = [case.words[0], "", case.words[1]]
    require([plain(one) for one in found] == [plain(one) for one in words], f"{words} was printed, {found} was read")


@READER_LAWS
def a_picture_is_read_by_itself(case: ReaderCase) -> None:
    """What is read does not depend on what else is read, and pictures stay as they are."""
    pictures = case.pictures()
    before = [one.tobytes() for one in pictures]
    together = case.reader.read(pictures)
    alone = [text for one in reversed(pictures) for text in case.reader.read([one])][::-1]
    require(together == alone, f"{together} was read of pictures together, {alone} one by one")
    require(case.reader.read([]) == [], "of no pictures, no texts are read: read([]) must return []")
    require([one.tobytes() for one in pictures] == before, "read() changed a picture that it was given")


@READER_LAWS
def boxes_are_where_the_text_is(case: ReaderCase) -> None:
    """If it has ``boxes``: they lie in the picture, cover the middle of the word, and a blank picture has none."""
    if not hasattr(case.reader, "boxes"):
        return
    word, blank, _ = case.reader.boxes(case.pictures())
    require(list(blank) == [], f"a blank picture has the boxes {blank}")
    for left, top, right, bottom in word:
        inside = 0 <= left < right <= SIZE[0] and 0 <= top < bottom <= SIZE[1]
        require(inside, f"the box {(left, top, right, bottom)} is not in a picture of {SIZE[0]} × {SIZE[1]} pixels")
    around = [box for box in word if box[0] <= MIDDLE[0] <= box[2] and box[1] <= MIDDLE[1] <= box[3]]
    require(bool(around), f"{case.words[0]} is in the middle of its picture, the boxes are {word}")


@READER_LAWS
def what_it_reads_does_not_lack(case: ReaderCase) -> None:
    """If it has ``lacking``: it gives the characters that cannot be read, of those that it is asked about."""
    if hasattr(case.reader, "lacking"):
        known = set("".join(map(plain, case.words)))
        found = case.reader.lacking(known)
        require(found == set(), f"the characters {sorted(found)} are read, but lacking() says they are not")
