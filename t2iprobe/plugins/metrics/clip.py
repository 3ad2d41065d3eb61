"""CLIP scores (Radford et al. 2021): an image against a prompt, against another image, or against one of two words.

The model is loaded by transformers from a folder or the hub: OpenAI's ViT-B/32, or the one named by ``T2IPROBE_CLIP``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.contracts.metric import Direction, Needs
from t2iprobe.core.errors import ModelError
from t2iprobe.core.quotes import with_quotes_as
from t2iprobe.core.scoring import Bounds
from t2iprobe.plugins.metrics.memo import Memo

DEFAULT = "openai/clip-vit-base-patch32"
VARIABLE = "T2IPROBE_CLIP"
WEIGHT = 2.5  # of CLIPScore (Hessel et al. 2021), which spreads typical values over 0..1


class Clip:
    """A loaded CLIP model.

    Args:
        ref: folder or hub id.

    Raises:
        ModelError: it cannot be found, or is not a CLIP model.
    """

    def __init__(self, ref: str) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model, self._tokenizer, self._processor = _loaded(ref)
        self._model = model.to(self.device).eval()
        self.text = lru_cache(maxsize=512)(self._text)
        self.image = Memo(lambda images: [self._image(image) for image in images])

    @property
    def scale(self) -> float:
        """Factor on cosines before a softmax: 100 for the published model."""
        return float(self._model.logit_scale.detach().exp())

    @torch.inference_mode()
    def _text(self, text: str) -> Tensor:
        """(features,), not normalised; a long text is truncated, as published."""
        most = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], truncation=True, max_length=most, return_tensors="pt").to(self.device)
        return _features(self._model.get_text_features(**tokens))

    @torch.inference_mode()
    def _image(self, image: Image.Image) -> Tensor:
        """(features,), not normalised."""
        pixels = self._processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
        return _features(self._model.get_image_features(pixel_values=pixels.to(self.device)))


def _features(output: Any) -> Tensor:
    """Features of the first row; transformers 5 wraps what transformers 4 returned as a plain tensor."""
    rows = output if isinstance(output, Tensor) else output.pooler_output
    return rows[0].float().cpu()


def _loaded(ref: str) -> list[Any]:
    """Model, tokenizer and image processor, from the folder or the cache, else from the hub.

    Raises:
        ModelError: they cannot be loaded.
    """
    import transformers
    from huggingface_hub import model_info

    from t2iprobe.registry.no_bars import no_bars

    # the variant that resizes with Pillow, as OpenAI's code does, whether torchvision is installed or not
    processor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    kinds = (transformers.CLIPModel, transformers.CLIPTokenizer, processor)
    try:
        try:
            with no_bars():
                return [kind.from_pretrained(ref, local_files_only=True) for kind in kinds]
        except Exception:  # not in the cache, a broken file, or another kind of model
            if Path(ref).expanduser().exists():
                raise
        model_info(ref, timeout=10)  # fails at once if the hub cannot be reached; a download would try for a minute
        return [kind.from_pretrained(ref) for kind in kinds]
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the CLIP model {ref!r} cannot be loaded: set {VARIABLE} to its folder, or download it once with "
            f"`hf download {DEFAULT}` ({type(error).__name__}: {reason})"
        ) from error


@cache
def clip(ref: str) -> Clip:
    """The CLIP model of this name, loaded once."""
    return Clip(ref)


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of the angle between two feature vectors, -1..1."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def clip_score(one: Tensor, other: Tensor) -> float:
    """2.5 · max(cosine, 0): CLIPScore."""
    return WEIGHT * max(cosine(one, other), 0.0)


class _Clip:
    """Shared part of the CLIP metrics.

    Args:
        ref: folder or hub id of the model; default from the environment variable, else ``ViT-B/32``.
    """

    direction: ClassVar[Direction] = "higher"

    def __init__(self, ref: str | None = None) -> None:
        self.ref = ref or os.environ.get(VARIABLE) or DEFAULT

    @cached_property
    def _clip(self) -> Clip:
        return clip(self.ref)

    def prepare(self) -> None:
        """Load the model.

        Raises:
            ModelError: it cannot be found.
        """
        _ = self._clip


class ClipT(_Clip):
    """CLIPScore of the image and the whole prompt."""

    name: ClassVar[str] = "clip_t"
    needs: ClassVar[Needs] = "prompt"

    def score(self, image: Image.Image, prompt: str) -> float:
        """0..2.5, typically 0.4..0.9."""
        return clip_score(self._clip.image(image), self._clip.text(prompt))


class ClipTemplate(ClipT):
    """CLIPScore of the image and the prompt's template, that is, the prompt with nothing in its quotes.

    For pairs with different templates it distinguishes layers that write only the text from those that also carry the
    scene.
    """

    name: ClassVar[str] = "clip_t_template"

    def score(self, image: Image.Image, prompt: str) -> float:
        """0..2.5."""
        return super().score(image, template(prompt))


def template(prompt: str) -> str:
    """The prompt with nothing in its quotes, as in GlyphControl's list of templates."""
    return with_quotes_as(prompt, '""')


class ClipI(_Clip):
    """CLIPScore of two images, on the same scale as ``clip_t``; divide by 2.5 for the cosine."""

    name: ClassVar[str] = "clip_i"
    needs: ClassVar[Needs] = "image"

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """0..2.5, 2.5 for equal images."""
        return clip_score(self._clip.image(image), self._clip.image(reference))


class ClipChoice(_Clip):
    """The probability that CLIP, choosing between the two words of a pair, gives to the first.

    Args:
        ref: folder or hub id of the model, as for the other CLIP metrics.
        template: the sentence around a word.
    """

    name: ClassVar[str] = "clip_choice"
    needs: ClassVar[Needs] = "choice"
    bounds: ClassVar[Bounds] = (0.0, 1.0)

    def __init__(self, ref: str | None = None, template: str = "{}") -> None:
        super().__init__(ref)
        self.template = template

    def score(self, image: Image.Image, word: str, other: str) -> float:
        """0..1; the scores of the two words add up to 1."""
        seen = self._clip.image(image)
        cosines = [cosine(seen, self._clip.text(self.template.format(text))) for text in (word, other)]
        return float(torch.tensor(cosines).mul(self._clip.scale).softmax(dim=0)[0])


def image_features(images: Sequence[Image.Image], ref: str | None = None) -> Tensor:
    """(images, features), not normalised, for distances between sets of images."""
    model = ClipI(ref)._clip
    return torch.stack([model.image(image) for image in images])
