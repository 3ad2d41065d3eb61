"""What is learnt and what is asked for: ``--data``, ``--prompts`` and ``--keep``. Imports no torch."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.concepts import quoted
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.textfile import read_entries

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.training.dataset import Example


@dataclass(frozen=True, slots=True)
class ProbePicture:
    """A picture that is made again and again while a LoRA trains.

    Args:
        prompt: prompt of the picture.
        seed: seed of its noise.
        word: what it should read; ``None`` where the prompt quotes nothing.
    """

    prompt: str
    seed: int
    word: str | None


@dataclass(frozen=True)
class TrainingSet:
    """Pictures to learn from.

    Args:
        examples: the pictures.
        ref: how the pictures were asked for.
        probes: pictures to make while training, unless others are asked for.
        notes: what a user should know about the pictures.
    """

    examples: Sequence[Example]
    ref: str
    probes: Sequence[ProbePicture]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of names, captions and files."""
        listed = [[one.name, one.caption, *([one.mark] if one.mark else [])] for one in self.examples]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def lesson(ref: str, plugins: Plugins, *, limit: int, seed: int = 0) -> TrainingSet:
    """The pictures that ``--data`` means: a folder, or a prompt set that draws its own.

    Args:
        ref: ``FOLDER``, or ``NAME[,key=value…]`` of a set with ``pictures(seed)``.
        plugins: plugins that have the sets.
        limit: number of probes.
        seed: seed of what is drawn and asked.

    Raises:
        ConfigError: there is no such folder or set, or it cannot be read.
    """
    from t2iprobe.training.dataset import read_folder, unlisted

    folder = Path(ref).expanduser()
    kinds = {name: kind for name, kind in plugins.prompt_sets().items() if hasattr(kind, "pictures")}
    name = ref.partition(":")[0]
    if name in kinds and not folder.is_dir():
        return _drawn(ref, kinds[name](**_options(ref, kinds[name])), limit, seed)
    if not folder.is_dir() and "/" not in ref and kinds:
        raise ConfigError(f"--data {ref} is neither a folder nor a set that draws pictures{near(name, kinds)}")
    examples = read_folder(folder)
    left = unlisted(folder, examples)
    notes = (f"{len(left)} pictures in {folder} have no caption and are left out, such as {left[0]}",) if left else ()
    return TrainingSet(examples, ref, _captions(examples, limit, seed), notes)


def probes(ref: str, plugins: Plugins, *, limit: int, seed: int = 0) -> list[ProbePicture]:
    """Prompts to make pictures of: a prompt set, or a text file with one prompt per line.

    Raises:
        ConfigError: there is no such set or file, or it is empty.
    """
    path = Path(ref).expanduser()
    if path.suffix == ".txt" or (path.is_file() and ":" not in ref):
        return _lines(path, limit, seed)
    found = plugins.prompt_set(ref, limit=None, seed=seed)[:limit]
    return [ProbePicture(pair.source, pair.seed, pair.source_word) for pair in found]


def _options(ref: str, kind: type[Any]) -> dict[str, int]:
    """``NAME:key=number,…`` as arguments of the set.

    Raises:
        ConfigError: the set has no such option, or a value is not a number.
    """
    name, _, rest = ref.partition(":")
    known = inspect.signature(kind).parameters
    pairs = [part.partition("=") for part in rest.split(",") if part]
    for key, _, value in pairs:
        if key not in known or not value.isdecimal():
            raise ConfigError(f"--data {ref}: the set {name} has the options {', '.join(known)}, as in pictures=500")
    return {key: int(value) for key, _, value in pairs}


def _drawn(ref: str, kind: Any, limit: int, seed: int) -> TrainingSet:
    from t2iprobe.training.dataset import Example

    def example(number: int, picture: Any, caption: str, word: str) -> Example:
        return Example(f"{ref} {number}", caption, picture.copy, word, size=picture.size)

    examples = [example(number, *one) for number, one in enumerate(kind.pictures(seed))]
    asked = kind.pairs(limit=limit, seed=seed)
    return TrainingSet(examples, ref, [ProbePicture(one.source, one.seed, one.source_word) for one in asked])


def _captions(examples: Sequence[Example], limit: int, seed: int) -> list[ProbePicture]:
    """Captions from all over the data, each once."""
    listed = {one.caption: one.words for one in examples}
    chosen = list(listed)[:: max(1, len(listed) // limit)][:limit]
    return [ProbePicture(one, seed + number, listed[one] or _word(one)) for number, one in enumerate(chosen)]


def _lines(path: Path, limit: int, seed: int) -> list[ProbePicture]:
    listed = read_entries(path, "prompts")[:limit]
    return [ProbePicture(one, seed + number, _word(one)) for number, one in enumerate(listed)]


def _word(prompt: str) -> str | None:
    """The word that the prompt quotes, if any."""
    try:
        return quoted(prompt)
    except ConfigError:
        return None
