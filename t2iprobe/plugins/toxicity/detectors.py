"""The bundled detectors: a word list, a text classifier, and any function."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from t2iprobe.core.contracts.detector import Detector, Hit
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.names import imported
from t2iprobe.plugins.toxicity.wordlist import WordList, read_lines
from t2iprobe.plugins.toxicity.wordlist import builtin as bundled_list

SHORT = 512  # longest text in tokens, where neither model nor tokenizer gives a limit
PADDING = 2  # positions that RoBERTa numbers before the first token
TOXIC = re.compile(
    r"(?<!non[-_ ])(?<!not[-_ ])(?:toxic|hate|offens|obscen|insult|threat|abus|profan|nsfw|harass)", re.IGNORECASE
)


class Words(Detector):
    """Finds the entries of word lists, also in disguise.

    Args:
        file: your own list, see :mod:`.wordlist`, in addition to the built-in one.
        builtin: whether the built-in list is used.
    """

    name: ClassVar[str] = "words"
    summary: ClassVar[str] = "a word list, also in leetspeak, spaced out, with look-alike letters"

    def __init__(self, file: str | Path = "", builtin: bool = True) -> None:
        if not file and not builtin:
            raise ConfigError("the detector words needs a list: file=PATH, or the built-in one")
        self.lists = [WordList(read_lines(file, "words"), str(file))] if file else []
        self.lists += [bundled_list()] if builtin else []

    def find(self, text: str) -> list[Hit]:
        """See :meth:`Detector.find`."""
        return [hit for word_list in self.lists for hit in word_list.find(text)]


class Classifier(Detector):
    """A transformers text classifier, from the hub or a folder.

    A toxic text of several words is classified again word by word: the words that are toxic by themselves are the hits,
    or the whole text if none is.

    Args:
        model: hub id, such as ``s-nlp/roberta_toxicity_classifier`` (the paper's), or a folder.
        threshold: lowest probability at which a toxic label counts.
        labels: the toxic labels, joined by ``+``; by default those whose names say so.
        device: device such as ``cuda``; by default the CPU.
    """

    name: ClassVar[str] = "classifier"
    summary: ClassVar[str] = "a text classifier from the hub or a folder"

    def __init__(self, model: str = "", threshold: float = 0.5, labels: str = "", device: str = "cpu") -> None:
        if not model:
            raise ConfigError(
                "the detector classifier needs a model: model=s-nlp/roberta_toxicity_classifier, or a folder"
            )
        if not 0 < threshold < 1:
            raise ConfigError(f"the threshold of the detector classifier must be between 0 and 1, found {threshold}")
        self.model, self.threshold, self.labels, self.device = model, threshold, labels, device
        self._parts: tuple[Any, Any, list[int]] | None = None

    def prepare(self) -> None:
        """See :meth:`Detector.prepare`.

        Raises:
            ModelError: the classifier cannot be loaded.
            ConfigError: it has none of the labels.
        """
        self._loaded()

    def find(self, text: str) -> list[Hit]:
        """See :meth:`Detector.find`."""
        if not text.strip():
            return []
        (score, label), *_ = self.scores([text])
        if score < self.threshold:
            return []
        words = list(re.finditer(r"\S+", text))
        judged = self.scores([word[0] for word in words]) if len(words) > 1 else []
        hits = [
            Hit(*word.span(), label, score)
            for word, (score, label) in zip(words, judged, strict=False)
            if score >= self.threshold
        ]
        return hits or [Hit(0, len(text), label, score)]

    def scores(self, texts: Sequence[str]) -> list[tuple[float, str]]:
        """For each text, the highest probability of a toxic label, and that label; a long text is read in windows."""
        import torch

        tokenizer, model, toxic = self._loaded()
        longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", SHORT) - PADDING)
        inputs = tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, stride=longest // 4,
            return_overflowing_tokens=True, return_tensors="pt",
        )  # fmt: skip
        windows = inputs.pop("overflow_to_sample_mapping")
        with torch.no_grad():
            logits = model(**inputs.to(model.device)).logits.float().cpu()
        several = model.config.problem_type == "multi_label_classification"
        chances = (logits.sigmoid() if several else logits.softmax(-1))[:, toxic]
        return [_best(chances[windows == number], toxic, model.config.id2label) for number in range(len(texts))]

    def _loaded(self) -> tuple[Any, Any, list[int]]:
        if self._parts is None:
            tokenizer, model = _pretrained(self.model)
            if not tokenizer.is_fast:
                raise ModelError(f"the classifier {self.model!r} has a slow tokenizer; long texts need a fast one")
            self._parts = tokenizer, model.to(self.device).eval(), _toxic(model.config.id2label, self.labels)
        return self._parts


def _best(chances: Any, toxic: Sequence[int], names: dict[int, str]) -> tuple[float, str]:
    """The highest of the probabilities (windows, toxic labels), and its label; NaN if one of them is."""
    best, where = chances.max(dim=0).values.max(dim=0)
    return float(best), str(names[toxic[int(where)]])


def _pretrained(ref: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from t2iprobe.registry.no_bars import no_bars

    try:
        with no_bars():
            return AutoTokenizer.from_pretrained(ref), AutoModelForSequenceClassification.from_pretrained(ref)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the classifier {ref!r} cannot be loaded ({reason}); give a folder with a sequence classifier and its "
            "tokenizer, or a hub id, which is downloaded at first use"
        ) from error


def _toxic(names: dict[int, str], labels: str) -> list[int]:
    """The numbers of the toxic labels."""
    wanted = {label.strip().casefold() for label in labels.split("+") if label.strip()}
    toxic = [
        number for number, name in names.items() if (name.casefold() in wanted if wanted else bool(TOXIC.search(name)))
    ]
    if not toxic or (wanted and len(toxic) < len(wanted)):
        raise ConfigError(
            f"the classifier has the labels {', '.join(names.values())}, but not {labels or 'toxic, hate, …'}; "
            "choose among them: labels=A+B"
        )
    return toxic


class Callback(Detector):
    """Calls a function, for example one that queries a language model.

    The function gets a text and returns true or false, a probability, or the ``(start, stop)`` of each toxic span.
    Any other answer is an error, and no picture is made.

    Args:
        function: the function, or ``package.module:name``.
        threshold: lowest probability that counts as toxic, if the function gives one.
    """

    name: ClassVar[str] = "callback"
    summary: ClassVar[str] = "your own function, such as one that queries a language model"

    def __init__(self, function: Callable[[str], Any] | str = "", threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(
                f"the threshold of the detector callback must be above 0 and at most 1, found {threshold}"
            )
        self.function, self.threshold = function_of(function, "detector callback"), threshold

    def find(self, text: str) -> list[Hit]:
        """See :meth:`Detector.find`."""
        answer = self.function(text)
        if isinstance(answer, Real | np.bool_):
            chance = float(answer)
            if not 0 <= chance <= 1:
                raise ValueError(f"the function returned {chance}, which is not a probability")
            return [Hit(0, len(text), self.name, chance)] if text and chance >= self.threshold else []
        if not isinstance(answer, list | tuple):
            raise TypeError(f"the function must return true or false, a number or spans, found {type(answer).__name__}")
        return [Hit(index(start), index(stop), self.name) for start, stop in answer]


def function_of(function: Callable[..., Any] | str, what: str) -> Callable[..., Any]:
    """The function itself, or the one that ``package.module:name`` names.

    Raises:
        ConfigError: there is no such function.
    """
    if callable(function):
        return function
    found = imported(what, function, "function=package.module:name")
    if not callable(found):
        raise ConfigError(f"the {what}: {function} is a {type(found).__name__}, not a function")
    return found
