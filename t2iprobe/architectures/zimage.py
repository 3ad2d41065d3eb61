"""Z-Image (arXiv 2511.22699): one stream of image, then text tokens, and every row of a call a tensor of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Adapter, Conditioning, Pipeline
from t2iprobe.core.hooks import prediction_of
from t2iprobe.core.sites import In, Site

BLOCK = 32  # the transformer pads each prompt to a multiple of it, with a learned token


class ZImage(ProbedAdapter):
    """Adapter of ``ZImagePipeline``.

    The picture's positions follow on the padded prompt's, so prompts can be patched into each other if they are padded
    to the same length. The text enters where it has a row axis, in the blocks that refine it.
    """

    name: ClassVar[str] = "z-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"ZImagePipeline"})
    hub_id: ClassVar[str] = "Tongyi-MAI/Z-Image"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    ragged = True
    guided_above = 0.0
    cond_first = True
    reads = 512
    side = 1024
    sign = -1

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.ZImagePipeline:
        """One refiner of each kind, two blocks of the joint stream."""
        pipeline = diffusers.ZImagePipeline(
            transformer=tiny_transformer(),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=language.qwen3(32).model,
            tokenizer=language.chat_tokenizer(length=64),
        )
        pipeline.default_sample_size = parts.LATENT  # the pipeline's default is 1,024 pixels for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.ZImageTransformer2DModel()

    def entry(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`ProbedAdapter.entry`."""
        yield Site("text", "context_refiner.0", In("x"), stream="text", static=True)

    def size_multiple(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.size_multiple`; tokens are squares of 2 x 2 cells."""
        return 2 * self.pixels_per_latent(pipeline)

    def text_spans(self, pipeline: Pipeline, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        """See :meth:`Adapter.text_spans`: behind the image tokens, if there are any; rows are padded to the longest."""
        own = [len(text) + -len(text) % BLOCK for text in call["cap_feats"]]
        start = length - max(own)
        return [slice(start, start + tokens) for tokens in own]

    def starting(self, pipeline: Pipeline, latents: Tensor) -> dict[str, Any]:
        """See :meth:`Adapter.starting`."""
        return Adapter.starting(self, pipeline, latents)

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`: padded to what is read of a prompt, with a mask."""
        texts = self._call(pipeline, prompts)["cap_feats"]
        longest = texts[0].new_zeros(self.text_limits(pipeline)["tokenizer"], texts[0].shape[1])
        tokens = pad_sequence([*texts, longest], batch_first=True)[:-1]
        counts = torch.tensor([len(text) for text in texts], device=tokens.device)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
        return Conditioning(tokens, None, {"mask": mask})

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        masks = conditioning.extra["mask"].bool()
        texts = [text[mask] for text, mask in zip(conditioning.tokens, masks, strict=True)]
        output = self.module(pipeline)(list(latents.unsqueeze(2)), 1 - timestep / 1000, texts)
        return self.sign * prediction_of(output).squeeze(2)


def tiny_transformer() -> nn.Module:
    """Two joint blocks of width 32."""
    sizes = {"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32}
    rotary = {"axes_dims": [4, 6, 6], "axes_lens": [512, 64, 64]}
    model = parts.enliven(diffusers.ZImageTransformer2DModel(in_channels=parts.CHANNELS, **sizes, **rotary))
    for name in ("x_pad_token", "cap_pad_token"):
        nn.init.normal_(getattr(model, name))
    return model
