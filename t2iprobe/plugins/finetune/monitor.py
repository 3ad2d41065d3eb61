"""What a LoRA does to pictures while it trains: :class:`Monitor`.

It uses two sets of prompts, always with the same noise: what is to be learnt, and what is to be kept. ``learn_*`` and
``keep_*`` are their scores; ``keep_ssim`` compares with the base model's own pictures; precision and recall are those
of the collapse monitor over both sets.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_words
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.study.context import usual_batch
from t2iprobe.plugins.finetune.collapse import Features, latents, precision_recall
from t2iprobe.plugins.finetune.sources import ProbePicture

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

#: score -> which way is better
DIRECTIONS = {
    "learn_f1": "higher", "learn_exact": "higher", "learn_distance": "lower", "learn_clip_t": "higher",
    "keep_f1": "higher", "keep_exact": "higher", "keep_distance": "lower", "keep_clip_t": "higher",
    "keep_ssim": "higher", "precision": "higher", "recall": "higher",
}  # fmt: skip
SIDE = 11  # pixels, the smallest side that SSIM can take


@dataclass(frozen=True)
class Look:
    """Pictures and their scores.

    Args:
        images: pictures of the prompts to learn, then of those to keep.
        scores: mean scores; NaN where a score is not defined.
        each: the scores of single pictures, for those that have them.
    """

    images: Sequence[Image]
    scores: Mapping[str, float]
    each: Mapping[str, Sequence[float]]


@dataclass
class Monitor:
    """Looks at a model. The base model comes first: :attr:`base` must not be computed while a LoRA is on.

    Args:
        model: the base model, later with a LoRA on it.
        learn, keep: what is asked for.
        reader: OCR reader.
        text: metrics by name: ``ocr_exact``, ``ocr_distance`` and the aggregate ``ocr_f1_dataset``.
        similarity: similarity of two pictures.
        clip: similarity of a picture and its prompt, if a CLIP was given.
        features: features of pictures, for the collapse monitor.
        settings: settings of the generation.
        batch_size: largest number of pictures at once.
        on_step: called to report progress.
    """

    model: Model
    learn: Sequence[ProbePicture]
    keep: Sequence[ProbePicture]
    reader: Any
    text: Mapping[str, Any]
    similarity: Any
    clip: Any
    features: Features
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    on_step: OnStep = lambda rows, step: None

    @property
    def probes(self) -> list[ProbePicture]:
        """All pictures that are asked for."""
        return [*self.learn, *self.keep]

    @property
    def asked(self) -> dict[str, Any]:
        """Everything that decides the scores, as plain values."""
        return {
            "probes": [[one.prompt, one.seed] for one in self.probes],
            "learn": len(self.learn),
            "generation": dict(self.settings),
            "reader": self.reader.name,
            "clip": None if self.clip is None else self.clip.ref,
        }

    @cached_property
    def base(self) -> Sequence[Image]:
        """The base model's pictures."""
        assert not getattr(self.model.denoiser, "peft_config", None), "a LoRA is on"
        return self._pictures()

    @cached_property
    def before(self) -> Look:
        """The look at the base model."""
        return self.judge(self.base)

    def look(self) -> Look:
        """Look at the model as it is now."""
        return self.judge(self._pictures())

    def judge(self, images: Sequence[Image]) -> Look:
        """The scores of pictures of :attr:`probes`."""
        count = len(self.learn)
        learn = self._set("learn", self.learn, images[:count])
        keep = self._set("keep", self.keep, images[count:])
        similar = {"keep_ssim": self._similar(images[count:], self.base[count:])}
        each = {**learn, **keep, **similar}
        means = {name: _mean(values) for name, values in each.items()}
        for name, probes in (("learn", self.learn), ("keep", self.keep)):
            means[f"{name}_f1"] = self._f1(probes, images[:count] if name == "learn" else images[count:])
        found = precision_recall(self.features(images), self.features(self.base))
        scores = {**means, "precision": found[0], "recall": found[1]}
        return Look(images, {name: scores.get(name, float("nan")) for name in DIRECTIONS}, each)

    def _pictures(self) -> Sequence[Image]:
        prompts, seeds = [one.prompt for one in self.probes], [one.seed for one in self.probes]
        generation = self.model.generation(prompts, seeds, **self.settings)
        return self.model.run(generation, batch_size=self.batch_size, on_step=self.on_step).images

    def _set(self, name: str, probes: Sequence[ProbePicture], images: Sequence[Image]) -> dict[str, list[float]]:
        """The scores of each picture in one of the two sets."""
        read = self._read(probes, images)
        found = {
            f"{name}_{short}": [float(self.text[full].score(text, word)) for text, word in read]
            for short, full in (("exact", "ocr_exact"), ("distance", "ocr_distance"))
        }
        if self.clip is not None:
            found[f"{name}_clip_t"] = [
                float(self.clip.score(image, one.prompt)) for image, one in zip(images, probes, strict=True)
            ]
        return found

    def _read(self, probes: Sequence[ProbePicture], images: Sequence[Image]) -> list[tuple[str, str]]:
        """The text that is read and the word that should be, for prompts that ask for a word."""
        asked = [(image, one.word) for image, one in zip(images, probes, strict=True) if one.word is not None]
        texts = self._reading(tuple(image for image, _ in asked))
        return [(text, word) for text, (_, word) in zip(texts, asked, strict=True)]

    def _reading(self, images: tuple[Image, ...]) -> list[str]:
        """The OCR text of each picture, read only once."""
        new = [image for image in images if id(image) not in self._texts]
        if new:
            self._texts.update({id(one): (one, text) for one, text in zip(new, self.reader.read(new), strict=True)})
        return [self._texts[id(image)][1] for image in images]

    @cached_property
    def _texts(self) -> dict[int, tuple[Image, str]]:
        return {}

    def _f1(self, probes: Sequence[ProbePicture], images: Sequence[Image]) -> float:
        read = self._read(probes, images)
        return float(self.text["ocr_f1_dataset"].score(*zip(*read, strict=True))) if read else float("nan")

    def _similar(self, images: Sequence[Image], base: Sequence[Image]) -> list[float]:
        if images and min(images[0].size) < SIDE:
            return []
        return [float(self.similarity.score(one, other)) for one, other in zip(images, base, strict=True)]


def monitor(
    model: Model,
    plugins: Plugins,
    learn: Sequence[ProbePicture],
    keep: Sequence[ProbePicture],
    *,
    reader: str = "rapidocr",
    clip: str | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    on_step: OnStep = lambda rows, step: None,
) -> Monitor:
    """A monitor made of registered parts.

    Raises:
        ConfigError: there is no such reader, or nothing to look at.
        ModelError: the CLIP is not there.
    """
    if not learn or not keep:
        raise ConfigError("a fine-tuning is watched on prompts to learn and on prompts to keep; one of them is empty")
    metrics: dict[str, Any] = dict(plugins.metrics())
    sees = plugins.reader(reader)
    asked, kept = ([one.word for one in probes if one.word] for probes in (learn, keep))
    check_words(sees, asked, plugins.readers(), also=kept)
    judge = None
    if clip is not None:
        judge = metrics["clip_t"](ref=clip)
        judge.prepare()
    text = {name: metrics[name]() for name in ("ocr_exact", "ocr_distance")}
    return Monitor(
        model=model,
        learn=learn,
        keep=keep,
        reader=sees,
        text={**text, "ocr_f1_dataset": plugins.aggregates()["ocr_f1_dataset"]()},
        similarity=metrics["ssim"](),
        clip=judge,
        features=latents(model),
        settings=dict(settings or {}),
        batch_size=batch_size or usual_batch(model),
        on_step=on_step,
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


__all__ = ["DIRECTIONS", "Look", "Monitor", "monitor"]
