"""Likeness of pictures to a task's references by CLIP-I, DINO and CSD, computed as in the paper.

A picture's score is the mean cosine of its features with those of every reference, so the mean over pictures is the
paper's mean over all pairs. The models come from a folder or the hub; nothing is loaded before it is needed.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.pictures import on_white, opened, upright
from t2iprobe.plugins.continual.streams import Picture, Task

BATCH = 16  # pictures at once
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
#: pixels (row, 3, y, x) to features (row, feature)
Encode = Callable[[Tensor], Tensor]


class Likeness(ABC):
    """Mean cosine of features with all references of a task.

    Args:
        ref: folder, file or hub id of the model; if not given, the one from the environment or the published one.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    default: ClassVar[str]
    #: mean and deviation of the pixels it was trained on
    statistics: ClassVar[Statistics]
    #: side to which a picture is resized before its central square is cut, divided by the side of that square
    margin: ClassVar[float] = 1.0

    def __init__(self, ref: str | None = None) -> None:
        self.ref = ref or os.environ.get(self.variable) or self.default
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._known: dict[str, tuple[tuple[Picture, ...], Tensor]] = {}

    def prepare(self) -> None:
        """Load the model.

        Raises:
            ModelError: the model is not there, or is of another kind.
        """
        _ = self._model

    def score(self, images: Sequence[Image.Image], task: Task) -> NDArray[np.float64]:
        """One number per image, from -1 to 1.

        Raises:
            ConfigError: the task has no references.
            ModelError: the model is not there.
        """
        cosines = self.features(images) @ self._references(task).T
        return cosines.mean(dim=1).double().numpy()

    @torch.inference_mode()
    def features(self, pictures: Sequence[Picture]) -> Tensor:
        """(picture, feature) of length 1, on the CPU."""
        encode, side = self._model
        parts = []
        for start in range(0, len(pictures), BATCH):
            pixels = torch.stack([self._pixels(one, side) for one in pictures[start : start + BATCH]])
            parts.append(encode(pixels.to(self._device)).float().cpu())
        return torch.nn.functional.normalize(torch.cat(parts), dim=1)

    def _references(self, task: Task) -> Tensor:
        if not task.references:
            raise ConfigError(
                f"the score {self.name} compares with references, and the task {task.name} has none; give it some"
            )
        pictures, encoded = self._known.get(task.name, ((), torch.empty(0)))
        if pictures is not task.references:
            encoded = self.features(task.references)
            self._known[task.name] = task.references, encoded
        return encoded

    def _pixels(self, picture: Picture, side: int) -> Tensor:
        """The square in the middle, (3, side, side), as the model was trained to see it."""
        image = _opened(picture)
        factor = round(side * self.margin) / min(image.size)
        size = (max(side, round(image.width * factor)), max(side, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        values = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
        mean, deviation = (np.asarray(one, np.float32) for one in self.statistics)
        return torch.from_numpy((values - mean) / deviation).permute(2, 0, 1)

    @cached_property
    def _model(self) -> tuple[Encode, int]:
        """The function that gives its features, and the side length of the pictures it takes."""
        from huggingface_hub import model_info

        from t2iprobe.registry.no_bars import no_bars

        try:
            with no_bars():
                return self._load(here=True)
        except Exception as error:  # for instance nothing in the cache, a broken file, or another model
            if Path(self.ref).expanduser().exists():
                raise self._missing(error) from error
        try:
            model_info(self.ref, timeout=10)  # reports at once if the hub cannot be reached
            return self._load(here=False)
        except Exception as error:
            raise self._missing(error) from error

    def _missing(self, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:160]
        return ModelError(
            f"the model of the score {self.name}, {self.ref!r}, cannot be loaded: give --{self.name} of `continual "
            f"eval` a folder with it, set {self.variable} to one, leave out the score, or download it once with "
            f"`hf download {self.default}` ({type(error).__name__}: {reason})"
        )

    @abstractmethod
    def _load(self, *, here: bool) -> tuple[Encode, int]:
        """Load the model; with ``here`` it must not be downloaded."""


class ClipLikeness(Likeness):
    """CLIP-I: image features of CLIP ViT-B/32 behind the projection."""

    name = "clip-i"
    variable = "T2IPROBE_CLIP"
    default = "openai/clip-vit-base-patch32"
    statistics = CLIP

    def _load(self, *, here: bool) -> tuple[Encode, int]:
        from transformers import CLIPModel

        model: Any = CLIPModel.from_pretrained(self.ref, local_files_only=here).to(self._device).eval()
        side = int(model.config.vision_config.image_size)

        def encode(pixels: Tensor) -> Tensor:
            found: Any = model.get_image_features(pixel_values=pixels)
            return found if isinstance(found, Tensor) else found.pooler_output  # transformers 5 wraps it

        return encode, side


class DinoLikeness(Likeness):
    """DINO: the class token of the last hidden state of DINO ViT-S/16."""

    name = "dino"
    variable = "T2IPROBE_DINO"
    default = "facebook/dino-vits16"
    statistics = IMAGENET
    margin = 256 / 224

    def _load(self, *, here: bool) -> tuple[Encode, int]:
        from transformers import ViTModel

        settings = {"local_files_only": here, "add_pooling_layer": False}
        model: Any = ViTModel.from_pretrained(self.ref, **settings).to(self._device).eval()
        return lambda pixels: model(pixel_values=pixels).last_hidden_state[:, 0], int(model.config.image_size)


class CsdLikeness(Likeness):
    """CSD: the style descriptor of Somepalli et al. 2024 (arXiv 2404.01292), a CLIP ViT-L/14 with another head."""

    name = "csd"
    variable = "T2IPROBE_CSD"
    default = "tomg-group-umd/CSD-ViT-L"
    statistics = CLIP

    def _load(self, *, here: bool) -> tuple[Encode, int]:
        from t2iprobe.plugins.continual.csd import load

        model, side = load(self.ref, here=here)
        model = model.to(self._device).eval()
        return lambda pixels: model(pixel_values=pixels).image_embeds, side


LIKENESSES: Mapping[str, type[Likeness]] = {one.name: one for one in (ClipLikeness, DinoLikeness, CsdLikeness)}


def _opened(picture: Picture) -> Image.Image:
    """The picture upright and in RGB, as it is trained on."""
    return on_white(upright(picture) if isinstance(picture, Image.Image) else opened(picture))
