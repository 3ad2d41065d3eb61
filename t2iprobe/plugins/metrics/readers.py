"""Readers of text in images. Both enlarge small images first, because recognisers are trained on larger letters."""

from __future__ import annotations

import importlib
import math
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from string import digits, punctuation
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from t2iprobe.core.contracts.metric import Box
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.normalised_text import plain
from t2iprobe.core.textfile import read_text

SHORT_SIDE = 256  # pixels


def enlarged(image: Image.Image, short_side: int = SHORT_SIDE) -> Image.Image:
    """``image`` as RGB, enlarged (bicubic) until its short side has ``short_side`` pixels; never made smaller."""
    image = image.convert("RGB")
    factor = short_side / min(image.size)
    if factor <= 1:
        return image
    width, height = (round(side * factor) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _boxes(corners: Iterable[Any], image: Image.Image, read: Image.Image) -> list[Box]:
    """The smallest boxes of whole pixels of ``image`` around (boxes, corners, xy) found in its enlargement ``read``."""
    boxes = []
    for points in (np.reshape(box, (-1, 2)) * np.divide(image.size, read.size) for box in corners):
        (left, top), (right, bottom) = points.min(axis=0).clip(0, image.size), points.max(axis=0).clip(0, image.size)
        boxes.append((math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)))
    return boxes


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Indices of the boxes line by line, each line from left to right.

    A box belongs to a line if it and the line's tallest box overlap by half of the height of the lower one. RapidOCR
    itself compares upper edges, in pixels: a word of small letters beside capitals became a line of its own, below.
    """
    lines: list[list[int]] = []
    for number in sorted(range(len(boxes)), key=lambda index: boxes[index][3] - boxes[index][1], reverse=True):
        line = next((line for line in lines if _level(boxes[line[0]], boxes[number])), None)
        if line is None:
            lines.append([number])
        else:
            line.append(number)
    lines.sort(key=lambda line: boxes[line[0]][1] + boxes[line[0]][3])
    return [number for line in lines for number in sorted(line, key=lambda index: boxes[index][0])]


def _level(one: Box, other: Box) -> bool:
    shared = min(one[3], other[3]) - max(one[1], other[1])
    return 2 * shared >= min(one[3] - one[1], other[3] - other[1])


def _greek(character: str) -> bool:
    """Greek letters, which the bundled model has for formulas: it reads Greek words as Latin ones."""
    return unicodedata.name(character, "").startswith("GREEK")


def _module(name: str, install: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"the reader {name} is not installed: pip install {install}") from error


class RapidOCRReader:
    """RapidOCR, whose models are part of its wheel: no download. The default.

    Reads upright text. In random capitals an O may be read as the digit 0: in 5 of 200 four-letter strings, but in none
    of 133 English words. The model in the wheel reads Chinese, Japanese and Latin letters.

    Args:
        threads: CPU threads per inference; default as many as torch uses, which is one beside a small model.
        lang: one of RapidOCR's models for other scripts (PP-OCRv5), such as ``cyrillic``; downloaded at first use.
    """

    name: ClassVar[str] = "rapidocr"
    scripts: ClassVar[Mapping[str, str]] = {
        "Arabic": "lang=arabic",
        "Cyrillic": "lang=cyrillic",
        "Devanagari": "lang=devanagari",
        "Greek": "lang=el",
        "Hangul": "lang=korean",
        "Tamil": "lang=ta",
        "Telugu": "lang=te",
        "Thai": "lang=th",
    }

    def __init__(self, threads: int | None = None, lang: str = "") -> None:
        self.threads = threads
        self.lang = lang

    @property
    def _engine(self) -> Any:
        import torch

        return _rapidocr(self.threads or torch.get_num_threads(), self.lang)

    @cached_property
    def alphabet(self) -> frozenset[str]:
        """Characters that the model can output.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        try:
            self._engine(Image.new("RGB", (32, 32)), use_det=False, use_cls=False, use_rec=True)  # loads it
        except Exception as error:  # errors of RapidOCR, the network or onnxruntime
            raise ConfigError(f"RapidOCR's model for lang={self.lang!r} cannot be loaded: {error}") from error
        known = {character for entry in self._engine.text_rec.postprocess_op.character for character in plain(entry)}
        return frozenset(known if self.lang else {letter for letter in known if not _greek(letter)})

    def lacking(self, characters: Collection[str]) -> set[str]:
        """Characters missing from the model's alphabet; all models have ASCII, so it loads only for others."""
        other = {character for character in characters if not character.isascii()}
        return other - self.alphabet if other else other

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """The text in each image, in :func:`reading_order`."""
        texts = []
        for image in map(enlarged, images):
            output = self._run(image, read=True)
            order = reading_order(_boxes(output.boxes, image, image)) if output.txts else []
            texts.append(" ".join(output.txts[number] for number in order))
        return texts

    def _run(self, image: Image.Image, read: bool) -> Any:
        """The engine's output; settings of one call persist in it, so every call sets all of them."""
        return self._engine(image, use_det=True, use_cls=False, use_rec=read)

    def boxes(self, images: Sequence[Image.Image]) -> list[list[Box]]:
        """Where text is, including illegible text: it is detected, not read."""
        every = []
        for image in images:
            large = enlarged(image)
            corners = self._run(large, read=False).boxes
            every.append([] if corners is None else _boxes(corners, image, large))
        return every


@cache
def _rapidocr(threads: int, lang: str) -> Any:
    """The engine, which all readers of a process share: it is slow to load, and in its first reading."""
    rapid = _module("rapidocr", "rapidocr onnxruntime")
    params: dict[str, Any] = {
        "Global.log_level": "critical",
        "Global.use_cls": False,  # would rotate text that it classifies as upside down
        "Det.limit_side_len": SHORT_SIDE,  # the default, 736, is no better on small images and five times slower
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
    }
    if lang:
        model = {"ocr_version": rapid.OCRVersion.PPOCRV5, "model_type": rapid.ModelType.MOBILE}
        params |= {f"Rec.{key}": value for key, value in (model | {"lang_type": lang}).items()}
    return rapid.RapidOCR(params=params)


class EasyOCRReader:
    """EasyOCR, the reader behind the published numbers. Downloads its models at first use.

    Args:
        languages: EasyOCR's language codes, such as ``ru+en``.
        gpu: whether to read on the GPU.
    """

    name: ClassVar[str] = "easyocr"
    scripts: ClassVar[Mapping[str, str]] = {
        "Arabic": "languages=ar+en",
        "Bengali": "languages=bn+en",
        "Cjk": "languages=ch_sim+en",
        "Cyrillic": "languages=ru+en",
        "Devanagari": "languages=hi+en",
        "Hangul": "languages=ko+en",
        "Hiragana": "languages=ja+en",
        "Kannada": "languages=kn+en",
        "Katakana": "languages=ja+en",
        "Latin": "languages=vi+en",  # Vietnamese has letters that the others lack
        "Tamil": "languages=ta+en",
        "Telugu": "languages=te+en",
        "Thai": "languages=th+en",
    }

    def __init__(self, languages: str = "en", gpu: bool = False) -> None:
        self.languages = languages.split("+")
        self.gpu = gpu

    @property
    def _library(self) -> ModuleType:
        return _module("easyocr", "t2iprobe[easyocr]")

    @cached_property
    def _engine(self) -> Any:
        return self._library.Reader(self.languages, gpu=self.gpu, verbose=False)

    def prepare(self) -> None:
        """Check that EasyOCR is installed.

        Raises:
            ConfigError: it is not installed.
        """
        _ = self._library

    def lacking(self, characters: Collection[str]) -> set[str]:
        """Characters that are in none of the languages' alphabets; EasyOCR does not output any others.

        Raises:
            ConfigError: it does not know a language.
        """
        folder = Path(str(self._library.__file__)).parent / "character"
        lists = [folder / f"{language}_char.txt" for language in self.languages]
        if unknown := [code for code, file in zip(self.languages, lists, strict=True) if not file.is_file()]:
            raise ConfigError(f"EasyOCR has no language {unknown[0]!r}; write its codes, such as languages=ru+en")
        known = plain("".join([digits, punctuation, "€", *(read_text(file, "EasyOCR's") for file in lists)]))
        return set(characters) - set(known)

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """The text in each image, boxes in EasyOCR's own order, as published."""
        return [" ".join(self._engine.readtext(np.asarray(enlarged(image)), detail=0)) for image in images]

    def boxes(self, images: Sequence[Image.Image]) -> list[list[Box]]:
        """Where text was read."""
        every = []
        for image in images:
            large = enlarged(image)
            every.append(_boxes([corners for corners, *_ in self._engine.readtext(np.asarray(large))], image, large))
        return every
