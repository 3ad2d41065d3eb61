"""ERNIE-Image (Baidu): one stream of image, then text tokens; text from Mistral 3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
from torch import Tensor
from torch.nn import functional

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.architectures.tiny_autoencoders import flux2_autoencoder
from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.shadow import shadowed


class ErnieImage(ProbedAdapter):
    """Adapter of ``ErnieImagePipeline``; the prompt is not enhanced by a language model first."""

    name: ClassVar[str] = "ernie-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"ErnieImagePipeline"})
    hub_id: ClassVar[str] = "baidu/ERNIE-Image"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    pads_to = 64
    side = 1024
    arguments = MappingProxyType({"use_pe": False})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.ErnieImagePipeline:
        """Two blocks over 8 x 8 tokens, each of 2 x 2 cells of the autoencoder."""
        pipeline = diffusers.ErnieImagePipeline(
            transformer=parts.enliven(
                diffusers.ErnieImageTransformer2DModel(
                    hidden_size=32,
                    num_attention_heads=2,
                    num_layers=2,
                    ffn_hidden_size=64,
                    in_channels=4 * parts.CHANNELS,
                    out_channels=4 * parts.CHANNELS,
                    text_in_dim=32,
                    rope_axes_dim=(4, 6, 6),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=flux2_autoencoder(),
            text_encoder=language.mistral3(32).model,
            tokenizer=language.chat_tokenizer(),
        )
        pipeline.default_sample_size = parts.LATENT
        return pipeline

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`; lengths of texts go beside them, so padding is masked."""
        pad = pipeline._pad_text

        def padded(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            text, lengths = pad(*args, **kwargs)
            return functional.pad(text, (0, 0, 0, -text.shape[1] % self.pads_to)), lengths

        with shadowed(pipeline, "_pad_text", padded):
            yield
