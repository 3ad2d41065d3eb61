"""Latent diffusion's first text-to-image model (Rombach et al., arXiv 2112.10752): a U-Net that reads a BERT."""

from types import MappingProxyType

import torch
from diffusers import DDIMScheduler, LDMTextToImagePipeline, UNet2DConditionModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

from t2iprobe import ProbedAdapter
from t2iprobe.architectures import autoencoders
from t2iprobe.testing import tiny


class LDM(ProbedAdapter):
    """Adapter of ``LDMTextToImagePipeline``."""

    name = "ldm"
    pipelines = frozenset({"LDMTextToImagePipeline"})
    hub_id = "CompVis/ldm-text2im-large-256"
    denoiser = "unet"
    half = "float16"
    text_kv = ("cross_attn.k", "cross_attn.v")
    published_facts = MappingProxyType({"vae_scale_factor": 8})

    @classmethod
    @tiny.reproducible
    def tiny(cls):
        """64 x 64 pixels, because the pipeline assumes 8 per cell, and 77 tokens, which it assumes too."""
        config = LDMBertConfig(
            vocab_size=len(tiny.VOCABULARY), encoder_layers=2, encoder_ffn_dim=64, encoder_attention_heads=2,
            head_dim=16, d_model=32,
        )  # fmt: skip
        return LDMTextToImagePipeline(
            vqvae=tiny.autoencoder(downsamplings=3, scaling_factor=0.18215),
            bert=tiny.enliven(LDMBertModel(config)),
            tokenizer=tiny.tokenizer(start=True, length=77),
            unet=tiny.unet(),
            scheduler=DDIMScheduler(clip_sample=False),
        )

    @classmethod
    def full_size(cls):
        """The published U-Net."""
        with torch.device("meta"):
            return UNet2DConditionModel(
                sample_size=32, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1280
            )

    def guidance_branches(self, pipeline, arguments):
        """See :meth:`Adapter.guidance_branches`; any scale but 1 takes a second half, also a smaller one."""
        return 1 + (arguments.get("guidance_scale", 1.0) != 1.0)

    def encode_images(self, pipeline, images):
        """See :meth:`Adapter.encode_images`; the autoencoder has another name here."""
        return autoencoders.encode(pipeline.vqvae, images)

    def decode(self, pipeline, latents):
        """See :meth:`Adapter.decode`."""
        return autoencoders.decode(pipeline.vqvae, latents)
