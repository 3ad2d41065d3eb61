"""FIBO (Bria, 2025): joint attention; in each block half of the text's channels are a layer of SmolLM3 of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor
from torch.nn import functional

from t2iprobe.architectures import tiny_autoencoders
from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Conditioning, Pipeline
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Out, Site

EMPTY = 128_000  # the pipeline writes Llama 3's first token by number where a prompt is empty


class BriaFibo(ProbedAdapter):
    """Adapter of ``BriaFiboPipeline``, whose prompts are meant to be JSON.

    The last two layers enter as ``text``, and that of each block as ``text_2`` and so on, where it is projected.
    """

    name: ClassVar[str] = "bria-fibo"
    pipelines: ClassVar[frozenset[str]] = frozenset({"BriaFiboPipeline"})
    hub_id: ClassVar[str] = "briaai/FIBO"
    denoiser = "transformer"
    text_entry = ("text", "text_*")
    text_kv = ("joint_attn.k", "joint_attn.v")
    reads = 3000
    pads_to = 64
    square = 1

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.BriaFiboPipeline:
        """Two joint blocks and a single one; a cell is 16 pixels, which the pipeline takes for granted."""
        pipeline = diffusers.BriaFiboPipeline(
            transformer=parts.enliven(
                diffusers.BriaFiboTransformer2DModel(
                    in_channels=parts.CHANNELS,
                    num_layers=2,
                    num_single_layers=1,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    text_encoder_dim=16,
                    axes_dims_rope=[4, 6, 6],
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=tiny_autoencoders.wan_autoencoder(4),
            text_encoder=language.smollm3(16, 4, EMPTY + 1),
            tokenizer=language.chat_tokenizer(length=64),
        )
        pipeline.default_sample_size = parts.LATENT // 2  # at 16 pixels a cell, most of a run would be decoding
        return pipeline

    def entry(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`ProbedAdapter.entry`; the mask arrives in each block."""
        blocks = range(len(pipeline.transformer.caption_projection))
        masks = tuple(f"blocks.{index}.joint_attn.mask" for index in blocks)
        yield from (replace(site, carries=masks) for site in super().entry(pipeline))
        for index in blocks:
            yield Site(f"text_{index + 2}", f"caption_projection.{index}", Out(), static=True, carries=masks)

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: every layer is padded, by one token at least.

        Without padding the pipeline would pass no mask.
        """
        encode = pipeline.get_prompt_embeds

        def padded(*args: Any, **kwargs: Any) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
            tokens, encoded, mask = encode(*args, **kwargs)
            more = self.pads_to - mask.shape[1] % self.pads_to
            kept = functional.pad(mask, (0, more))

            def pad(value: Tensor) -> Tensor:
                return functional.pad(value, (0, 0, 0, more)) * kept.unsqueeze(-1).to(value)

            return pad(tokens), tuple(map(pad, encoded)), kept

        with shadowed(pipeline, "get_prompt_embeds", padded):
            yield

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`; the layers are (row, block, token, channel)."""
        call = self._call(pipeline, prompts)
        tokens, seen = call["encoder_hidden_states"], call["joint_attention_kwargs"]["attention_mask"]
        text = {"layers": torch.stack(call["text_encoder_layers"], 1), "mask": seen[:, 0, 0, : tokens.shape[1]]}
        return Conditioning(tokens, None, text)

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        height, width = (side * self.pixels_per_latent(pipeline) for side in latents.shape[-2:])
        call = dict(self._template(pipeline, latents, height, width, conditioning.tokens.shape[1]))
        mask = conditioning.extra["mask"].bool()
        seen = functional.pad(mask, (0, latents.shape[-2] * latents.shape[-1]), value=True)
        call |= {
            "hidden_states": self.packed(pipeline, latents, call["hidden_states"].shape),
            "timestep": timestep.to(call["timestep"]),
            "encoder_hidden_states": conditioning.tokens,
            "text_encoder_layers": list(conditioning.extra["layers"].unbind(1)),
            "txt_ids": call["txt_ids"].new_zeros(conditioning.tokens.shape[1], 3),
            "joint_attention_kwargs": {"attention_mask": seen[:, None, None]},
        }
        return self.unpacked(pipeline, self.module(pipeline)(**call)[0], latents.shape)
