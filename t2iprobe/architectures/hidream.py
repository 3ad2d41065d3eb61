"""HiDream-I1 (arXiv 2505.22705): joint attention; each block reads a layer of Llama 3.1 besides T5's tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Conditioning, Pipeline
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Out, Site


class HiDream(ProbedAdapter):
    """Adapter of ``HiDreamImagePipeline``.

    T5's tokens enter as ``text``, and Llama's as ``text_2`` and so on, one for each block: where they are projected,
    because the denoiser gets them by layer, not by row. A block reads T5's, those of Llama's last layer and its own.
    """

    name: ClassVar[str] = "hidream"
    pipelines: ClassVar[frozenset[str]] = frozenset({"HiDreamImagePipeline"})
    hub_id: ClassVar[str] = "HiDream-ai/HiDream-I1-Full"
    denoiser = "transformer"
    text_entry = ("text", "text_*")
    text_kv = ("joint_attn.k", "joint_attn.v")
    reads = 128
    sign = -1
    published_facts = MappingProxyType({"vae_scale_factor": 8, "default_sample_size": 128})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.HiDreamImagePipeline:
        """Two blocks of each kind, of two experts."""
        pipeline = diffusers.HiDreamImagePipeline(
            transformer=parts.enliven(
                diffusers.HiDreamImageTransformer2DModel(
                    patch_size=2,
                    in_channels=parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_layers=2,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    caption_channels=[32, 32],
                    text_emb_dim=32,
                    num_routed_experts=2,
                    num_activated_experts=1,
                    axes_dims_rope=(4, 6, 6),
                    max_resolution=(parts.LATENT, 2 * parts.LATENT),
                    llama_layers=[0, 1, 2, 2],
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=parts.clip_with_projection(16),
            tokenizer=parts.tokenizer(start=True),
            text_encoder_2=parts.clip_with_projection(16),
            tokenizer_2=parts.tokenizer(start=True),
            text_encoder_3=parts.t5(32),
            tokenizer_3=parts.tokenizer(start=False),
            text_encoder_4=language.llama(32, 3),
            tokenizer_4=language.chat_tokenizer(length=parts.LENGTH),
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.HiDreamImageTransformer2DModel(
                patch_size=2,
                in_channels=16,
                out_channels=16,
                caption_channels=[4096, 4096],
                axes_dims_rope=(64, 32, 32),
                llama_layers=[*range(32), *[31] * 16],
            )

    def entry(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`ProbedAdapter.entry`."""
        yield from super().entry(pipeline)
        projections = list(self.module(pipeline).get_submodule("caption_projection").children())
        for index in range(len(projections) - 1):  # the last one is T5's
            yield Site(f"text_{index + 2}", f"caption_projection.{index}", Out(), static=True)

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """See :meth:`Adapter.text_limits`; CLIP's pooled vectors are of a part of it."""
        return {"tokenizer_4": min(self.reads, int(pipeline.tokenizer_4.model_max_length))}

    def text_spans(self, pipeline: Pipeline, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        """See :meth:`Adapter.text_spans`."""
        count = call["encoder_hidden_states_t5"].shape[1] + 2 * call["encoder_hidden_states_llama3"].shape[2]
        return [slice(length - count, length)]

    def rows_of(self, call: Mapping[str, Any], total: int, rows: slice) -> dict[str, Any]:
        """See :meth:`Adapter.rows_of`; Llama's tokens are (layer, row, token, channel)."""
        llama = "encoder_hidden_states_llama3"
        return {**super().rows_of(call, total, rows), llama: call[llama][:, rows]}

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`; during a call it is a square of that call's area, see :meth:`prepared`."""
        side = round(pipeline.default_sample_size) * self.pixels_per_latent(pipeline)
        return side, side

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: pictures are as large as asked for.

        The pipeline enlarges or shrinks them to the area of its own size, and rounds down.
        """
        cells = math.sqrt(arguments["height"] * arguments["width"]) / self.pixels_per_latent(pipeline)
        with shadowed(pipeline, "default_sample_size", cells * (1 + 1e-9)):
            yield

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`; Llama's are (row, layer, token, channel)."""
        call = self._call(pipeline, prompts)
        llama = call["encoder_hidden_states_llama3"].transpose(0, 1)
        return Conditioning(call["encoder_hidden_states_t5"], call["pooled_embeds"], {"llama": llama})

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        transformer = self.module(pipeline)
        with shadowed(transformer, "training", False):  # else it gives tokens
            output = transformer(
                hidden_states=latents,
                timesteps=timestep,
                encoder_hidden_states_t5=conditioning.tokens,
                encoder_hidden_states_llama3=conditioning.extra["llama"].transpose(0, 1),
                pooled_embeds=conditioning.pooled,
                return_dict=False,
            )
        return self.sign * output[0]
