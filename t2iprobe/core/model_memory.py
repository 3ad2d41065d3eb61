"""What the pictures of a model take of a device, and what is done where that is too much: :class:`ModelMemory`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from t2iprobe.core.batch_room import MOST, AtOnce, Need, Room, release
from t2iprobe.core.errors import ModelError
from t2iprobe.core.measuring import device_memory
from t2iprobe.core.placement import IN_WORDS, Placement

if TYPE_CHECKING:
    from t2iprobe.core.model import Model


class ModelMemory:
    """The memory of a model's pictures.

    Args:
        model: the model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.room = Room()
        #: keeps less on the device than a placement does; ``None`` if there is no way
        self.step_down: Callable[[Placement], Placement | None] = lambda placement: None
        #: decode in overlapping tiles, which differ a little from the whole picture; for one that does not fit
        self.tiles = False

    def at_once(
        self, settings: Mapping[str, Any], batch_size: int | None = None, device: torch.device | None = None
    ) -> AtOnce:
        """See :meth:`Model.at_once`; ``device`` is the model's, if it is known."""
        work = self.work(settings)
        if batch_size is not None:
            return AtOnce(self.room.most(work, batch_size), asked=True)
        device = device or self._model.device
        expected = self._expected(settings, device)
        if expected is None:
            return AtOnce(self.room.most(work, MOST))
        need, limit = self.room.need(work, expected), device_memory(device).limit
        return AtOnce(self.room.most(work, MOST, need, limit), need.each, max(0, limit - need.fixed))

    def work(self, settings: Mapping[str, Any]) -> Hashable:
        """Key of everything that decides how much memory a row of a generation needs."""
        return "denoise", settings.get("height"), settings.get("width"), self._model.guided(settings)

    def picture_bytes(self, settings: Mapping[str, Any]) -> int | None:
        """Estimated bytes at the peak for one picture beyond the weights; ``None`` if its size is unknown."""
        model = self._model
        try:
            return model.adapter.activations(model.pipeline, model.picture_size(settings))
        except ModelError:
            return None

    def learn(self, settings: Mapping[str, Any], rows: int, peak: int) -> None:
        """Record the bytes that the device held at the peak of denoising some rows."""
        self.room.saw(self.work(settings), rows, peak)

    def make_room(self, decoding: bool) -> bool:
        """Take less memory after running out of it with a single picture, and say how.

        Args:
            decoding: whether that happened in the autoencoder.

        Returns:
            Whether there was a way left: more offloading if nobody chose it, else tiles for the autoencoder.
        """
        release()
        placed, pipeline = self._model.placement, self._model.pipeline
        lower = None if placed is None else self.step_down(placed)
        if lower is not None:
            self._model.placement, self.room = lower, Room()
            now = IN_WORDS[lower.offload].format(device=lower.device)
            warnings.warn(f"out of memory with a single picture; from here on {now}", stacklevel=4)
            return True
        if decoding and not self.tiles and hasattr(pipeline.vae, "tile_latent_min_size"):
            self.tiles = True
            warnings.warn(
                "out of memory decoding a single picture; from here on it is decoded in overlapping tiles, which "
                "changes it a little",
                stacklevel=4,
            )
            return True
        return False

    def _expected(self, settings: Mapping[str, Any], device: torch.device) -> Need | None:
        """What pictures take, before any was made."""
        each, placed = self.picture_bytes(settings), self._model.placement
        if each is None:
            return None
        if placed is None or placed.offload == "none":
            return Need(each, device_memory(device).held)
        own = placed.demand.drawing.get(self._model.adapter.denoiser, 0)
        return Need(each, placed.demand.needs(placed.offload) - own)
