"""What a LoRA does to pictures while it trains: :class:`Monitor`.

It uses two sets of prompts, always with the same noise: what is to be learnt, and what is to be kept. ``learn_*`` and
``keep_*`` are their scores; ``keep_ssim`` compares with the base model's own pictures.

Precision and recall are those of the tuned pictures against the base model's (Kynkäänniemi et al. 2019), over both
sets: precision is the share of tuned pictures that could be the base model's; recall is the share of the base model's
pictures that the tuned model could still make, and falls when a model forgets. The aggregates ``manifold_precision``
and ``manifold_recall`` are the same numbers from an Inception network, which comes with an extra; these need no extra.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from t2iprobe.core.contracts.metric import score_of
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_words
from t2iprobe.core.manifold import covered
from t2iprobe.core.model import Model
from t2iprobe.plugins.finetune.sources import ProbePicture
from t2iprobe.sampling import encoded

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

#: score -> what it means
SCORES = {
    "learn_f1": "characters read of what is learnt (published F1)",
    "learn_exact": "whole words read of what is learnt",
    "learn_distance": "edit distance to what is learnt",
    "learn_clip_t": "CLIP-T of prompts to learn",
    "keep_f1": "characters read of what is kept",
    "keep_exact": "whole words read of what is kept",
    "keep_distance": "edit distance to what is kept",
    "keep_clip_t": "CLIP-T of prompts to keep",
    "keep_ssim": "similarity of kept pictures to the base model's",
    "precision": "tuned pictures that could be the base model's",
    "recall": "base pictures that could be the tuned model's",
}
SHOWN = ("learn_f1", "learn_exact", "keep_f1", "keep_exact", "keep_ssim", "precision", "recall")  # in short tables
SIDE = 11  # pixels, the smallest side that SSIM can take
NEIGHBOURS = 3
CELLS = 8  # per side, to which a picture's latents are averaged


@dataclass(frozen=True)
class Validation:
    """Pictures and their scores.

    Args:
        images: pictures of the prompts to learn, then of those to keep.
        scores: mean scores; NaN where a score is not defined.
        each: the scores of single pictures, for those that have them.
    """

    images: Sequence[Image]
    scores: Mapping[str, float]
    each: Mapping[str, Sequence[float]]


class Monitor:
    """Validates a model. The base model comes first: :attr:`base` must not be computed while a LoRA is attached.

    Args:
        model: the base model, later with a LoRA on it.
        plugins: plugins with the reader and the metrics.
        learn, keep: prompts of the pictures to make.
        reader: name of the OCR reader.
        clip: folder or hub id of the CLIP that compares pictures with their prompts, if any.
        settings: settings of the generation.
        batch_size: largest number of pictures at once; default as many as fit.

    Raises:
        ConfigError: there is no such reader, it cannot read a word, or there are no prompts.
        ModelError: the CLIP cannot be found.
    """

    def __init__(
        self,
        model: Model,
        plugins: Plugins,
        learn: Sequence[ProbePicture],
        keep: Sequence[ProbePicture],
        *,
        reader: str = "rapidocr",
        clip: str | None = None,
        settings: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not learn or not keep:
            raise ConfigError(
                "fine-tuning is validated on prompts to learn and on prompts to keep, found none to "
                f"{'keep' if learn else 'learn'}"
            )
        self.model, self.learn, self.keep, self.settings = model, learn, keep, dict(settings or {})
        self.batch_size = batch_size
        self.reader = plugins.reader(reader)
        words, kept = ([probe.word for probe in probes if probe.word] for probes in (learn, keep))
        check_words(self.reader, words, plugins.readers(), also=kept)
        metrics: dict[str, Any] = dict(plugins.metrics())
        self._text = {"exact": metrics["ocr_exact"](), "distance": metrics["ocr_distance"]()}
        self._f1: Any = plugins.aggregates()["ocr_f1_dataset"]()
        self._similarity = metrics["ssim"]()
        self._clip = None if clip is None else metrics["clip_t"](ref=clip)
        if self._clip is not None:
            self._clip.prepare()

    @property
    def probes(self) -> list[ProbePicture]:
        """All pictures that are made."""
        return [*self.learn, *self.keep]

    @property
    def decides(self) -> dict[str, Any]:
        """Everything that determines the scores, as plain values."""
        return {
            "probes": [[probe.prompt, probe.seed] for probe in self.probes],
            "learn": len(self.learn),
            "generation": self.settings,
            "reader": self.reader.name,
            "clip": None if self._clip is None else self._clip.ref,
        }

    @cached_property
    def base(self) -> Sequence[Image]:
        """The base model's pictures."""
        assert not getattr(self.model.denoiser, "peft_config", None), "a LoRA is attached"
        return self._pictures()

    @cached_property
    def before(self) -> Validation:
        """The validation of the base model."""
        return self._judge(self.base)

    def validate(self) -> Validation:
        """Validate the model as it is now."""
        return self._judge(self._pictures())

    def _pictures(self) -> Sequence[Image]:
        prompts, seeds = [probe.prompt for probe in self.probes], [one.seed for one in self.probes]
        return self.model.run(self.model.generation(prompts, seeds, **self.settings), batch_size=self.batch_size).images

    def _judge(self, images: Sequence[Image]) -> Validation:
        """The scores of pictures of :attr:`probes`."""
        count = len(self.learn)
        learn, keep = images[:count], images[count:]
        scores: dict[str, float] = {}
        each: dict[str, list[float]] = {}
        for name, probes, pictures in (("learn", self.learn, learn), ("keep", self.keep, keep)):
            worded = [(image, one.word) for image, one in zip(pictures, probes, strict=True) if one.word is not None]
            texts, words = self.reader.read([image for image, _ in worded]), [word for _, word in worded]
            read = list(zip(texts, words, strict=True))
            scores[f"{name}_f1"] = score_of(self._f1, texts, words) if words else float("nan")
            for metric, score in self._text.items():
                each[f"{name}_{metric}"] = [score_of(score, text, word) for text, word in read]
            if self._clip is not None:
                compared = zip(pictures, probes, strict=True)
                each[f"{name}_clip_t"] = [score_of(self._clip, image, one.prompt) for image, one in compared]
        small = min(keep[0].size) < SIDE
        each["keep_ssim"] = [] if small else list(map(partial(score_of, self._similarity), keep, self.base[count:]))
        scores |= {name: statistics.fmean(values) for name, values in each.items() if values}
        scores["precision"], scores["recall"] = precision_recall(latents(self.model, images), self._base_latents)
        return Validation(images, {name: scores.get(name, float("nan")) for name in SCORES}, each)

    @cached_property
    def _base_latents(self) -> Tensor:
        return latents(self.model, self.base)


def precision_recall(tuned: Tensor, base: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall of two sets (picture, feature); NaN if a set has only ``neighbours`` pictures or fewer."""
    if min(len(tuned), len(base)) <= neighbours:
        return float("nan"), float("nan")
    return covered(tuned, base, neighbours), covered(base, tuned, neighbours)


def latents(model: Model, images: Sequence[Image]) -> Tensor:
    """Features that need no further network, (picture, feature): the model's own latents, averaged to 8 x 8 cells."""
    states = (encoded(model, np.array(image.convert("RGB"))[None]) for image in images)
    return torch.stack([adaptive_avg_pool2d(one, CELLS).flatten() for one in states]).double()
