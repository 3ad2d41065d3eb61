"""The set ``glyphcontrol``: SimpleBench and CreativeBench, read from the files of the GlyphControl release on disk.

The project does not ship these files. They are in https://github.com/AIGText/GlyphControl-release under
``text_prompts``: ``paper`` has whole prompts, ``raw`` has lists of words and of templates; both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from t2iprobe.core.contracts.prompt_set import PromptSet
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair, derange
from t2iprobe.core.quotes import read_quotes, texts_in_quotes, with_quotes_as
from t2iprobe.core.textfile import lines_of, read_text
from t2iprobe.plugins.prompts.pairing import alternate, dealt, one_of, text_pair

SIMPLE_TEMPLATE = 'A sign that says "{}".'
VALIDATION = "top_1000"
BUCKET = re.compile(r"unigram_(top_1000|1000_10000|10000_100000|100000_plus)_")
BENCHES = ("simple", "creative", "both")


@dataclass(frozen=True, slots=True)
class Line:
    """A word of a frequency bucket and, in a file of prompts, the sentence around it."""

    word: str
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """The lines of one file, sorted, so that their order in the file does not matter.

    Args:
        bench: ``simple`` or ``creative``.
        frequency: frequency of the words, from the file's name; empty if the name does not say.
        lines: the words.
    """

    bench: str
    frequency: str
    lines: tuple[Line, ...]

    @property
    def split(self) -> str:
        """``val`` for the thousand most frequent words, as in "Precise Parameter Localization"; empty if unknown."""
        return self.frequency and ("val" if self.frequency == VALIDATION else "test")


class GlyphControl(PromptSet):
    """GlyphControl's prompts; the target's word is another one of the same frequency.

    A word that occurs in several lines of a file counts once.

    Args:
        path: the folder ``paper`` or ``raw`` or a folder that contains it, a folder of one bench, or one file.
        split: ``val`` (100 words of the thousand most frequent), ``test`` (the other 300) or ``all``.
        bench: ``simple``, ``creative`` or ``both``, in alternation.
        templates: ``same`` for both prompts of a pair, or ``different`` (the creative bench).
        noise: ``own`` for every pair, or ``shared``: all pairs start from the same noise, as published.
        seeds: random seeds (initial noises) per pair, shared or its own; ``limit`` counts every one.
    """

    name: ClassVar[str] = "glyphcontrol"

    def __init__(
        self,
        path: str,
        *,
        split: str = "all",
        bench: str = "both",
        templates: str = "same",
        noise: str = "own",
        seeds: int = 1,
    ) -> None:
        super().__init__(seeds)
        self.path = Path(path).expanduser()
        self.split = one_of("split", split, ("val", "test", "all"))
        self.bench = one_of("bench", bench, BENCHES)
        self.templates = one_of("templates", templates, ("same", "different"))
        self.shared_noise = one_of("noise", noise, ("own", "shared")) == "shared"

    def all_pairs(self, seed: int, concept: str) -> list[Pair]:
        """All pairs of text; see :class:`~t2iprobe.core.contracts.prompt_set.PromptSet`.

        Raises:
            ConfigError: a file is missing or not in GlyphControl's format, or no prompt is of the split and bench.
        """
        files = self._files()
        buckets, spare = _buckets(files)
        if spare:  # lists of words, which the templates make into a creative bench
            word_lists = [one for one in buckets if all(line.template is None for line in one.lines)]
            buckets += [Bucket("creative", word_list.frequency, word_list.lines) for word_list in word_lists]
        chosen = [one for one in buckets if self.split in (one.split, "all") and self.bench in (one.bench, "both")]
        if not chosen:
            raise ConfigError(self._nothing(files))
        return alternate([self._paired(bucket, seed, spare) for bucket in chosen])

    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise ConfigError(
                f"no file or folder {self.path}: give GlyphControl's text_prompts/paper or text_prompts/raw, "
                "from https://github.com/AIGText/GlyphControl-release"
            )
        within = next((self.path / name for name in ("text_prompts", "paper") if (self.path / name).is_dir()), None)
        root = within / "paper" if within and (within / "paper").is_dir() else within or self.path
        return sorted(root.rglob("*.txt"))

    def _nothing(self, files: Sequence[Path]) -> str:
        if not files:
            return f"{self.path} has no .txt files: give GlyphControl's text_prompts/paper or text_prompts/raw"
        named = ", ".join(sorted(file.name for file in files)[:4])
        return (
            f"{self.path} has no prompts of the split {self.split} and the bench {self.bench}; it has {named}: "
            "the split is read from names such as all_unigram_top_1000_100.txt"
        )

    def _paired(self, bucket: Bucket, seed: int, spare: Sequence[str]) -> list[Pair]:
        """The pairs of one bucket, in an order that depends only on the words and the seed."""
        partners = derange((line.word for line in bucket.lines), seed)
        own = {line.word: line.template for line in bucket.lines if line.template}
        templates = sorted(set(own.values())) or list(spare if bucket.bench == "creative" else [SIMPLE_TEMPLATE])
        chosen = own or dealt(templates, list(partners), seed)
        return [text_pair(chosen[one], one, other, seed, self.templates, templates) for one, other in partners.items()]


def _buckets(files: Iterable[Path]) -> tuple[list[Bucket], list[str]]:
    """Files of words or prompts, sorted by bench and frequency, and the templates of a template file."""
    buckets, templates = [], []
    for file in files:
        lines = sorted({line for line in lines_of(read_text(file, "the prompts in")) if line})
        if lines and all('""' in line for line in lines):
            templates = sorted({line.replace('""', '"{}"') for line in lines})
        elif lines:
            buckets.append(_bucket(file, lines))
    order = (VALIDATION, "1000_10000", "10000_100000", "100000_plus", "")
    buckets.sort(key=lambda one: (BENCHES.index(one.bench), order.index(one.frequency), one.lines[0].word))
    return buckets, templates


def _bucket(file: Path, lines: Sequence[str]) -> Bucket:
    found = BUCKET.search(file.name)
    parsed = tuple(sorted((_line(file, line) for line in lines), key=lambda one: (one.word, one.template or "")))
    simple = all(line.template in (None, SIMPLE_TEMPLATE) for line in parsed)
    return Bucket("simple" if simple else "creative", found[1] if found else "", parsed)


def _line(file: Path, line: str) -> Line:
    """Parse a prompt with one quoted text, or a single word."""
    if " " not in line and not read_quotes(line).found:
        return Line(line)
    try:
        (word,) = texts_in_quotes(line)
    except (ConfigError, ValueError):
        raise ConfigError(f"{file}: a line is one word, or a prompt with one text in quotes, found: {line}") from None
    return Line(word, with_quotes_as(line, '"{}"'))
