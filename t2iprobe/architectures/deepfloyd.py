"""DeepFloyd IF, stage I: a pixel U-Net whose attention adds text keys and values to the image's own (T5 only).

Stage II, if given, upscales what stage I generated and is never patched (arXiv 2502.09935).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import diffusers
import torch
from PIL.Image import Image
from torch import Tensor, nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.unet import MAP, TIME, pattern_site, read_text, unet_sites
from t2iprobe.core.contracts.adapter import Adapter, Conditioning, FromText, Pipeline
from t2iprobe.core.errors import ModelError
from t2iprobe.core.sites import In, Out, Site

LENGTH = 77  # IFPipeline pads to it regardless of the tokenizer
SHARED: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 6,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "resnet_time_scale_shift": "scale_shift",
}
BETAS = "squaredcos_cap_v2"
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "watermarker": None, "requires_safety_checker": False}


class DeepFloydIF(Adapter):
    """Adapter of ``IFPipeline``.

    ``cross_attn.out`` includes the residual: diffusers adds it inside the attention processor.
    """

    name: ClassVar[str] = "if"
    pipelines: ClassVar[frozenset[str]] = frozenset({"IFPipeline"})
    hub_id: ClassVar[str] = "DeepFloyd/IF-I-XL-v1.0"
    denoiser = "unet"
    blocks = ("Attention", "ResnetBlock2D")
    text_kv = ("cross_attn.k", "cross_attn.v")
    half = "float16"
    numbers_a_pixel = 25_000  # no autoencoder: the U-Net's own
    upscalers: ClassVar[frozenset[str]] = frozenset({"IFSuperResolutionPipeline"})
    upscaler_shares = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")

    inferred: ClassVar[str] = (
        "the U-Net's configuration, from the paper's 22 layers and 0.21 % (arXiv 2502.09935): above all "
        "cross_attention_dim 2112, where 2816 would give 0.28 %"
    )

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.IFPipeline:
        """Six text-attention layers, 16 x 16 pixels, predicting noise and a learned variance."""
        return diffusers.IFPipeline(
            tokenizer=parts.tokenizer(start=False, length=LENGTH),
            text_encoder=parts.t5(32),
            unet=tiny_unet(),
            scheduler=diffusers.DDPMScheduler(beta_schedule=BETAS, variance_type="learned_range"),
            **UNCHECKED,
        )

    @classmethod
    @parts.reproducible
    def tiny_upscaler(cls) -> diffusers.IFSuperResolutionPipeline:
        """16 x 16 to 32 x 32 pixels; shares the first stage's text encoder."""
        return diffusers.IFSuperResolutionPipeline(
            tokenizer=None,
            text_encoder=None,
            unet=tiny_unet(in_channels=6, sample_size=32, class_embed_type="timestep"),
            scheduler=diffusers.DDPMScheduler(beta_schedule=BETAS, variance_type="learned_range"),
            image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule=BETAS),
            **UNCHECKED,
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """IF-I-XL's U-Net. The configuration is inferred from the paper's numbers, see :attr:`inferred`."""
        with torch.device("meta"):
            return diffusers.UNet2DConditionModel(
                sample_size=64,
                block_out_channels=(704, 1408, 2112, 2816),
                down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
                up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
                layers_per_block=3,
                attention_head_dim=64,
                cross_attention_dim=2112,
                encoder_hid_dim=4096,
                **SHARED,
            )

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`Adapter.sites`."""
        unet = self.module(pipeline)
        yield TIME
        yield Site("pooled", "add_embedding", Out(), axes=("channel",), static=True)
        yield Site("text", "encoder_hid_proj", Out(), static=True)

        def inside(name: str, path: str) -> Iterator[Site]:
            yield from added_kv_sites(name, path, unet.get_submodule(path))

        yield from unet_sites(unet, r"\.attentions\.\d+$", inside)

    def size_multiple(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.size_multiple`; every resolution of the U-Net has to be divisible by two."""
        return int(2**pipeline.unet.num_upsamplers)

    def from_text(self, pipeline: Pipeline, site: Site) -> FromText | None:
        """See :meth:`Adapter.from_text`."""
        return read_text(pipeline.unet, site)

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """The prompts, only lower-cased and stripped: caption cleaning depends on other installed packages."""
        return {"prompt": list(prompts), "clean_caption": False}

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """See :meth:`Adapter.text_limits`."""
        return {"tokenizer": LENGTH}

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`; bypasses diffusers' wrapper, which disables gradients."""
        encode = cast(Callable[..., tuple[Tensor, Any]], type(pipeline).encode_prompt.__wrapped__)
        tokens, _ = encode(pipeline, list(prompts), do_classifier_free_guidance=False, clean_caption=False)
        return Conditioning(tokens)

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`; IF denoises pixels, so there is nothing to encode."""
        return images

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """See :meth:`Adapter.decode`; IF denoises pixels, so there is nothing to decode."""
        return latents

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`; the learned variance is the second half of the channels."""
        return pipeline.unet(latents, timestep, conditioning.tokens, return_dict=False)[0]

    def check_upscaler(self, pipeline: Pipeline, upscaler: Pipeline) -> None:
        """See :meth:`Adapter.check_upscaler`; both stages read the same text encoder."""
        super().check_upscaler(pipeline, upscaler)
        own, other = (stage.unet.config.encoder_hid_dim for stage in (pipeline, upscaler))
        if own != other:
            raise ModelError(
                f"the upscaler reads text embeddings of {other} channels, but this model's text encoder gives {own}; "
                "use a stage II made for it"
            )

    def upscale(
        self,
        pipeline: Pipeline,
        upscaler: Pipeline,
        images: Tensor,
        texts: Mapping[str, Any],
        generators: Sequence[torch.Generator],
        settings: Mapping[str, Any],
    ) -> list[Image]:
        """See :meth:`Adapter.upscale`."""
        cond, uncond = pipeline.encode_prompt(**{"prompt": None, **texts}, clean_caption=False)
        embeddings = {"prompt_embeds": cond, "negative_prompt_embeds": uncond}
        return list(upscaler(image=images, **embeddings, generator=list(generators), **settings).images)


def added_kv_sites(block: str, path: str, attention: Any) -> Iterator[Site]:
    """Sites of one added-KV attention module in the order they run."""
    name, heads = f"{block}.cross_attn", attention.heads
    yield Site(f"{name}.in", path, In("hidden_states"), axes=MAP)
    yield Site(f"{name}.text", path, In("encoder_hidden_states"), static=True)
    yield Site(f"{name}.q", f"{path}.to_q", Out(), heads=heads)
    for port in "kv":
        yield Site(f"{name}.{port}", f"{path}.add_{port}_proj", Out(), heads=heads, static=True)
    alone = attention.only_cross_attention
    for port in "" if alone else "kv":
        yield Site(f"{block}.self_attn.{port}", f"{path}.to_{port}", Out(), heads=heads)
    yield pattern_site(name, path, heads, keys="all" if alone else "text")
    if not alone:
        yield pattern_site(f"{block}.self_attn", path, heads, keys="image")
    yield Site(f"{name}.z", f"{path}.to_out.0", In("input"), heads=heads)
    yield Site(f"{name}.out", path, Out(), axes=MAP)


def tiny_unet(**changes: Any) -> diffusers.UNet2DConditionModel:
    """The U-Net of :meth:`DeepFloydIF.tiny`; with ``changes``, the U-Net of its upscaler."""
    blocks = {
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    }
    heads = {"attention_head_dim": 16, "addition_embed_type_num_heads": 4}
    return parts.unet(
        **SHARED | blocks | heads | {"sample_size": 16, "layers_per_block": 2, "encoder_hid_dim": 32} | changes
    )
