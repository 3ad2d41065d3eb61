"""What is learnt, and the prompts that are validated: ``--data``, ``--prompts``, ``--preserve``. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.concepts import quoted
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import built, near
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
        ref: the reference by which the pictures were requested.
        probes: pictures to make while training, unless other prompts are given.
        note: what a user should know about the pictures.
    """

    examples: Sequence[Example]
    ref: str
    probes: Sequence[ProbePicture]
    note: str = ""

    @property
    def digest(self) -> str:
        """A hash of names, captions and files."""
        listed = [
            [example.name, example.caption, *([example.mark] if example.mark else [])] for example in self.examples
        ]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def lesson(ref: str, plugins: Plugins, *, limit: int, seed: int = 0) -> TrainingSet:
    """The pictures to learn from: a folder, or those that a prompt set draws.

    Args:
        ref: ``FOLDER``, or ``NAME[:key=value…]`` of a set with ``pictures(seed)``.
        plugins: plugins that have the sets.
        limit: number of probes.
        seed: seed of what is drawn and of the probes.

    Raises:
        ConfigError: there is no such folder or set, or it cannot be read.
    """
    from t2iprobe.training.dataset import read_folder, unlisted

    folder = Path(ref).expanduser()
    kinds = {name: kind for name, kind in plugins.prompt_sets().items() if hasattr(kind, "pictures")}
    name = ref.partition(":")[0]
    if name in kinds and not folder.is_dir():
        return _drawn(ref, kinds, limit, seed)
    if not folder.is_dir() and "/" not in ref and kinds:
        raise ConfigError(f"{ref} is neither a folder nor a prompt set that draws pictures{near(name, kinds)}")
    examples = read_folder(folder)
    left_out = unlisted(folder, examples)
    note = (
        f"{len(left_out)} pictures in {folder} have no caption and are left out, such as {left_out[0]}"
        if left_out
        else ""
    )
    captions = {example.caption: example.words for example in examples}
    spread = list(captions)[:: max(1, len(captions) // limit)][:limit]  # from all over the data
    shown = [ProbePicture(one, seed + i, captions[one] or _word(one)) for i, one in enumerate(spread)]
    return TrainingSet(examples, ref, shown, note)


def _drawn(ref: str, kinds: Mapping[str, Any], limit: int, seed: int) -> TrainingSet:
    """Pictures and probes of a prompt set.

    Raises:
        ConfigError: the set has no such setting, or a value is not a number.
    """
    from t2iprobe.training.dataset import Example

    prompt_set = built("prompt set", ref, kinds, {})
    examples = [
        Example(f"{ref} {number}", caption, picture.copy, word, size=picture.size)
        for number, (picture, caption, word) in enumerate(prompt_set.pictures(seed))
    ]
    pairs = prompt_set.pairs(limit=limit, seed=seed)
    return TrainingSet(examples, ref, [ProbePicture(pair.source, pair.seed, pair.source_word) for pair in pairs])


def probes(ref: str, plugins: Plugins, *, limit: int, seed: int = 0) -> list[ProbePicture]:
    """Prompts to make pictures of: a prompt set, or a text file with one prompt per line.

    Raises:
        ConfigError: there is no such set or file, or it is empty.
    """
    path = Path(ref).expanduser()
    if path.suffix == ".txt" or (path.is_file() and ":" not in ref):
        listed = read_entries(path, "prompts")[:limit]
        return [ProbePicture(one, seed + number, _word(one)) for number, one in enumerate(listed)]
    pairs = plugins.prompt_set(ref, limit=None, seed=seed)[:limit]
    return [ProbePicture(pair.source, pair.seed, pair.source_word) for pair in pairs]


def _word(prompt: str) -> str | None:
    """The word that the prompt quotes, if any."""
    try:
        return quoted(prompt)
    except ConfigError:
        return None
