"""Draws scenes with one model and runs nothing twice: :class:`Studio`."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from t2iprobe.core.attention_maps import word_maps
from t2iprobe.core.cache import ActivationCache, Key
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice
from t2iprobe.core.runs.files import encoded
from t2iprobe.viewer.explorer.edits import Part, interventions, parts_of
from t2iprobe.viewer.explorer.offers import Offer, offers
from t2iprobe.viewer.explorer.scene import Scene, cells_of

DONORS = 2_000_000_000  # bytes of activations that are kept to patch from
KEPT = 64  # pictures
OnStep = Callable[[str, int, int], None]  # what is drawn, steps done, steps in all


@dataclass(frozen=True)
class Picture:
    """A picture and its file.

    Args:
        image: the picture.
    """

    image: Image

    @cached_property
    def png(self) -> bytes:
        """The file."""
        return encoded(self.image, "picture.png")

    @cached_property
    def name(self) -> str:
        """A name that no other picture has."""
        return hashlib.sha256(self.png).hexdigest()[:24]


@dataclass(frozen=True)
class Drawing:
    """The pictures of a scene.

    Args:
        source, target, result: the pictures; without a target prompt there is no target.
        parts: the cells that were edited.
        beside: whether the donor is a row of the same run, instead of a cached one.
        rows: rows through the denoiser for what was not known yet.
        seconds: how long that took.
    """

    source: Picture
    target: Picture | None
    result: Picture
    parts: Sequence[Part]
    beside: bool
    rows: int
    seconds: float

    @property
    def pictures(self) -> dict[str, Picture]:
        """The pictures that there are, by name."""
        found = {"source": self.source, "result": self.result, "target": self.target}
        return {name: one for name, one in found.items() if one is not None}

    @cached_property
    def moved(self) -> dict[str, float]:
        """How far the result is from source and target: root mean square difference, as a share of white."""
        others = {name: one for name, one in self.pictures.items() if name != "result"}
        return {name: _difference(self.result.image, one.image) for name, one in others.items()}

    @property
    def sentence(self) -> str:
        """How far the result is from the other pictures, as the end of a sentence."""
        said = [f"{100 * value:.1f} % from the {name}" for name, value in self.moved.items()]
        return f"the picture is {' and '.join(said)} (root mean square difference of pixels)"


class Recent(OrderedDict[Hashable, Any]):
    """The last things that were used, as many as fit.

    Args:
        most: how much they may weigh together.
        weigh: the weight of one of them.
    """

    def __init__(self, most: int, weigh: Callable[[Any], int] = lambda thing: 1) -> None:
        super().__init__()
        self._most, self._weigh = most, weigh

    def find(self, key: Hashable) -> Any:
        """The thing, which then is the last one used; ``None`` if there is none."""
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def put(self, key: Hashable, thing: Any) -> Any:
        """Keep a thing, and forget the oldest until all fit."""
        self[key] = thing
        while len(self) > 1 and sum(map(self._weigh, self.values())) > self._most:
            self.popitem(last=False)
        return thing


class Donor:
    """A sink that keeps the activations of one row unless they are too large: ``cache`` is ``None`` then."""

    static: frozenset[str] = frozenset()

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self.cache: ActivationCache | None = ActivationCache(1)

    def add(self, keys: Sequence[Key], rows: Sequence[int], value: Tensor) -> None:
        """See :class:`~t2iprobe.core.cache.Sink`."""
        self._left -= value.nbytes
        if self._left < 0:
            self.cache = None
        if self.cache is not None:
            self.cache.add(keys, rows, value)

    def discard(self, rows: Sequence[int]) -> None:
        """See :class:`~t2iprobe.core.cache.ActivationStream`."""
        self.cache, self._left = ActivationCache(1), self._most


class Studio:
    """A model with the pictures that it has drawn.

    Source and target are drawn once for each prompt, seed and setting, and the target's activations are kept, so that a
    change of cells runs the source's row alone. Where those follow from the text (keys and values of a U-Net) nothing
    is kept, and where they are too large the target runs beside the source.

    Args:
        model: the model.
        most: bytes of activations that are kept.
    """

    def __init__(self, model: Model, most: int = DONORS) -> None:
        self.model, self.offers, self._most = model, offers(model), most
        self._pictures = Recent(KEPT)
        self._donors = Recent(most, lambda cache: cache.nbytes)
        self._maps = Recent(most, lambda maps: sum(one.nbytes for one in maps.maps.values()))
        self._too_large: set[str] = set()
        self._rows = 0

    def draw(self, scene: Scene, on_step: OnStep = lambda what, step, steps: None) -> Drawing:
        """The pictures of a scene; what is known already is not run again.

        Args:
            scene: what to draw.
            on_step: is called after each step; whatever it raises ends the drawing.

        Raises:
            ConfigError: the scene does not fit the model, or a prompt is too long for it.
            NonFiniteError: the edit leads to NaN or infinity.
        """
        began, before = time.perf_counter(), self._rows
        offer, parts = self.read(scene)
        source = self._clean(scene, "source", on_step)
        beside = bool(parts) and scene.mode == "patch" and self._needs_no_cache(offer, parts)
        donor = None
        if parts and scene.mode == "patch" and not beside:
            donor = self._donor(scene, offer, on_step)
            beside = donor is None
        target = self._clean(scene, "target", on_step) if scene.target else None
        result = self._result(scene, parts, donor, on_step) if parts else source
        return Drawing(
            source, target, result, parts, beside, self._rows - before, round(time.perf_counter() - began, 3)
        )

    def attention(
        self, scene: Scene, word: str, on_step: OnStep = lambda what, step, steps: None
    ) -> dict[str, Picture]:
        """Where a word is read in the pictures of the prompts that have it, in grey, by the picture's name.

        The mean over the chosen layers, steps and heads of the unchanged runs, or over all of them.

        Raises:
            ConfigError: no prompt has the word, or the model has no such maps.
        """
        prompts = {which: getattr(scene, which) or "" for which in ("source", "target")}
        having = {which: prompt for which, prompt in prompts.items() if word.casefold() in prompt.casefold()}
        if not having:
            raise ConfigError(f"neither prompt has the word {word!r}")
        return {which: self._map(scene, prompt, word, which, on_step) for which, prompt in having.items()}

    def read(self, scene: Scene) -> tuple[Offer, list[Part]]:
        """What is exchanged in a scene, and where.

        Raises:
            ConfigError: the scene does not fit the model.
        """
        offer = choice("activation", scene.what, self.offers)
        for prompt in filter(None, (scene.source, scene.target)):
            if cut := self.model.adapter.truncated(self.model.pipeline, prompt):
                raise ConfigError(f"the text encoder reads a prompt only up to “{cut}”; shorten it")
        parts = parts_of(scene, offer, self.model.steps(scene.num_steps))
        if parts and scene.mode == "patch" and not scene.target:
            raise ConfigError("a patch takes activations from a target: write its prompt, or choose another action")
        return offer, parts

    def board(self, num_steps: int | None = None) -> dict[str, Any]:
        """What there is to choose from, as JSON."""
        model = self.model
        return {
            "steps": model.steps(num_steps),
            "guided": model.guided() > 1,
            "defaults": {name: model.defaults.get(name) for name in ("num_steps", "guidance")},
            "offers": [
                {
                    "name": offer.name,
                    "title": offer.title,
                    "heads": {layer: offer.heads([layer]) for layer in offer.sites},
                }
                for offer in self.offers.values()
            ],
        }

    def picture(self, name: str) -> Picture | None:
        """A picture that was drawn lately, by its name."""
        return next((one for one in list(self._pictures.values()) if one.name == name), None)

    def _needs_no_cache(self, offer: Offer, parts: Sequence[Part]) -> bool:
        """Whether what is patched follows from the text alone, or is known to be too large to keep."""
        edits = [patch({0: 1}, part.sites) for part in parts]
        return offer.name in self._too_large or len(self.model.text_edits(edits)) == len(edits)

    def _clean(self, scene: Scene, which: str, on_step: OnStep) -> Picture:
        key = _clean_key(scene, getattr(scene, which))
        return self._pictures.find(key) or self._pictures.put(key, self._run(scene, [which], which, on_step))

    def _donor(self, scene: Scene, offer: Offer, on_step: OnStep) -> ActivationCache | None:
        """The target's activations, from a run that also draws it; ``None`` if they are too large to keep."""
        key = _clean_key(scene, scene.target)
        if (known := self._donors.find((offer.name, key))) is not None:
            return known
        donor = Donor(self._most)
        names = [site.name for sites in offer.sites.values() for site in sites]
        drawn = self._run(scene, ["target"], "target", on_step, cache=names, into=donor)
        self._pictures.put(key, drawn)
        if donor.cache is None:
            self._too_large.add(offer.name)
            return None
        return self._donors.put((offer.name, key), donor.cache)

    def _result(self, scene: Scene, parts: Sequence[Part], donor: ActivationCache | None, on_step: OnStep) -> Picture:
        if (known := self._pictures.find(scene)) is not None:
            return known
        edits = interventions(scene, parts, {0: 1} if donor is None else donor)
        beside = scene.mode == "patch" and donor is None
        rows = ["source", "target"] if beside else ["source"]
        return self._pictures.put(scene, self._run(scene, rows, "result", on_step, rows=[0], interventions=edits))

    def _map(self, scene: Scene, prompt: str, word: str, which: str, on_step: OnStep) -> Picture:
        key = (word, *_clean_key(scene, prompt))
        if (maps := self._maps.find(key)) is None:
            settings, progress = self._settings(scene), self._progress(scene, f"attention in the {which}", on_step)
            maps = self._maps.put(key, word_maps(self.model, prompt, word, on_step=progress, **settings))
        cells = cells_of(scene.cells)
        layers = [layer for layer in cells if layer in maps.maps] or list(maps.maps)
        steps = sorted({step for chosen in cells.values() for step in chosen}) or None
        heads = scene.heads if max(scene.heads, default=0) < min(maps.maps[layer].shape[2] for layer in layers) else ()
        found = maps.combined(layers=layers, steps=steps, heads=heads or None)[0].clamp(min=0)
        grey = (255 * found / found.max().clamp(min=1e-12)).round().to(torch.uint8)
        return self._pictures.put((key, scene), Picture(fromarray(grey.numpy())))

    def _run(self, scene: Scene, prompts: Sequence[str], what: str, on_step: OnStep, **more: Any) -> Picture:
        run = self.model.run(
            [getattr(scene, one) for one in prompts],
            **self._settings(scene),
            **more,
            on_step=self._progress(scene, what, on_step),
        )
        self._rows += run.denoiser_rows
        return Picture(run.images[0])

    def _settings(self, scene: Scene) -> dict[str, Any]:
        return {"seed": scene.seed, "num_steps": scene.num_steps, "guidance": scene.guidance}

    def _progress(self, scene: Scene, what: str, on_step: OnStep) -> Callable[[int, int], None]:
        steps = self.model.steps(scene.num_steps)
        return lambda rows, step: on_step(what, min(step, steps), steps)


def _difference(one: Image, other: Image) -> float:
    a, b = (np.asarray(image, np.float32) / 255 for image in (one, other))
    return round(float(np.sqrt(np.mean((a - b) ** 2))), 4)


def _clean_key(scene: Scene, prompt: str | None) -> tuple[Hashable, ...]:
    return prompt, scene.seed, scene.num_steps, scene.guidance
