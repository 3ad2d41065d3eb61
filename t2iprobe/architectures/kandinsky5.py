"""Kandinsky 5 Image (arXiv 2511.14993): cross-attention to Qwen2.5-VL's tokens, a pooled CLIP vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.models.transformers import transformer_kandinsky
from torch import Tensor, nn
from torch.nn import functional

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Conditioning, Pipeline
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Site

DOWNSAMPLINGS = 3  # the pipeline takes it for granted


class Kandinsky5(ProbedAdapter):
    """Adapter of ``Kandinsky5T2IPipeline``.

    The pipeline pads prompts to the longest of a batch, and its denoiser reads the padding. Here padding is zero, and
    zeros at the end of a prompt are not read. No mask travels with keys and values: they can be patched between prompts
    of equal length.
    """

    name: ClassVar[str] = "kandinsky5"
    pipelines: ClassVar[frozenset[str]] = frozenset({"Kandinsky5T2IPipeline"})
    hub_id: ClassVar[str] = "kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers"
    denoiser = "transformer"
    text_kv = ("cross_attn.k", "cross_attn.v")
    guides_apart = True
    ragged = True
    pads_to = 64
    side = 1024

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.Kandinsky5T2IPipeline:
        """One text block, two visual blocks."""
        tokenizer = language.chat_tokenizer()
        pipeline = diffusers.Kandinsky5T2IPipeline(
            transformer=parts.enliven(
                diffusers.Kandinsky5Transformer3DModel(
                    in_visual_dim=parts.CHANNELS,
                    out_visual_dim=parts.CHANNELS,
                    in_text_dim=32,
                    in_text_dim2=16,
                    time_dim=32,
                    model_dim=32,
                    ff_dim=64,
                    num_text_blocks=1,
                    num_visual_blocks=2,
                    axes_dims=(4, 6, 6),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=parts.autoencoder(DOWNSAMPLINGS, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=language.qwen2_5_vl(32),
            tokenizer=language.TextProcessor(tokenizer),
            text_encoder_2=parts.clip(16, length=77),
            tokenizer_2=parts.tokenizer(start=True, length=77),
        )
        start = language.start_of_prompt(tokenizer, pipeline.prompt_template)
        pipeline.prompt_template_encode_start_idx = start  # 40 with the published tokenizer
        pipeline.default_sample_size = parts.LATENT  # diffusers' default is 1,024 pixels for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the six-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.Kandinsky5Transformer3DModel(
                in_visual_dim=16,
                out_visual_dim=16,
                model_dim=2560,
                ff_dim=10240,
                num_visual_blocks=50,
                axes_dims=(32, 48, 48),
            )

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`Adapter.sites`; of keys and values only a prompt's own tokens."""
        for site in super().sites(pipeline):
            yield replace(site, stream="text") if site.kind in self.text_kv else site

    def text_spans(self, pipeline: Pipeline, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        """See :meth:`Adapter.text_spans`."""
        return [slice(0, own) for own in counts(call["encoder_hidden_states"]).tolist()]

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """See :meth:`Adapter.text_limits`; CLIP's vector is of a part of it."""
        return {}

    def pixels_per_latent(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.pixels_per_latent`."""
        return int(2**DOWNSAMPLINGS)

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`; pictures are as large as asked for, not as one of the pipeline's list."""
        encode = pipeline.encode_prompt
        size = arguments["width"], arguments["height"]

        def padded(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
            text, pooled, ends = encode(*args, **kwargs)
            beyond = torch.arange(text.shape[1], device=text.device) >= ends.diff()[:, None]
            text = functional.pad(text.masked_fill(beyond[..., None], 0), (0, 0, 0, -text.shape[1] % self.pads_to))
            return text, pooled, torch.arange(len(text) + 1, device=text.device) * text.shape[1]

        with ExitStack() as stack:
            stack.enter_context(shadowed(pipeline, "encode_prompt", padded))
            stack.enter_context(shadowed(pipeline, "resolutions", [size]))
            stack.enter_context(masked(self.module(pipeline)))
            yield

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        with masked(self.module(pipeline)):
            return super().predict(pipeline, latents, timestep, conditioning)

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`; latents are not shifted."""
        return pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """See :meth:`Adapter.decode`."""
        return pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample

    def packed(self, pipeline: Pipeline, latents: Tensor, shape: torch.Size) -> Tensor:
        """See :meth:`ProbedAdapter.packed`: (row, frame, y, x, channel)."""
        return latents.movedim(1, -1).unsqueeze(1)

    def unpacked(self, pipeline: Pipeline, value: Tensor, shape: torch.Size) -> Tensor:
        """See :meth:`ProbedAdapter.unpacked`."""
        return value.squeeze(1).movedim(-1, 1)


def counts(text: Tensor) -> Tensor:
    """Tokens of each row before the zeros at its end, (row,); all of them where there is nothing else."""
    said = (text != 0).any(-1)
    places = torch.arange(1, text.shape[1] + 1, device=text.device)
    last = (said * places).amax(1)
    return torch.where(last > 0, last, text.shape[1])


@contextmanager
def masked(transformer: nn.Module) -> Iterator[None]:
    """Keep every attention to text from reading zeros at the end of a prompt."""
    attend, mask = transformer_kandinsky.dispatch_attention_fn, list[Tensor]()
    of_text = [False]

    def read(module: nn.Module, args: Any) -> None:
        own = counts(args[0])
        mask[:] = [torch.arange(args[0].shape[1], device=own.device) < own[:, None]]

    def entering(of: bool) -> Callable[..., None]:
        return lambda module, args: of_text.__setitem__(0, of)

    def attending(*args: Any, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return attend(*args, attn_mask=mask[0][:, None, None] if of_text[0] else attn_mask, **kwargs)

    with ExitStack() as stack:
        stack.callback(transformer.get_submodule("text_embeddings").register_forward_pre_hook(read).remove)
        for path, module in transformer.named_modules():
            if path.endswith("_attention"):
                of = path.startswith("text_") or path.endswith("cross_attention")
                stack.callback(module.register_forward_pre_hook(entering(of)).remove)
        stack.enter_context(shadowed(transformer_kandinsky, "dispatch_attention_fn", attending))
        yield
