"""Kolors (Kuaishou, 2024): SDXL's U-Net, its text read by ChatGLM3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import diffusers
import torch
import transformers
from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline  # diffusers exports it only with sentencepiece
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel, RMSNorm
from torch import nn
from transformers import PreTrainedTokenizerFast  # diffusers looks for a component's base class in its module

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.unet import SizedUNet
from t2iprobe.core.contracts.adapter import FromText, Pipeline
from t2iprobe.core.sites import Site


class Kolors(SizedUNet):
    """Adapter of ``KolorsPipeline`` and of its variant with perturbed-attention guidance."""

    name: ClassVar[str] = "kolors"
    pipelines: ClassVar[frozenset[str]] = frozenset({"KolorsPipeline", "KolorsPAGPipeline"})
    hub_id: ClassVar[str] = "Kwai-Kolors/Kolors-diffusers"

    @classmethod
    @parts.reproducible
    def tiny(cls) -> KolorsPipeline:
        """Eight cross-attention layers, in places two in succession, as in the full model."""
        return KolorsPipeline(
            vae=parts.autoencoder(scaling_factor=0.13025),
            text_encoder=tiny_chatglm(32),
            tokenizer=TinyTokenizer(tokenizer_object=parts.tokenizer(start=True)._tokenizer, **SPECIALS),
            unet=parts.unet(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(1, 2),
                use_linear_projection=True,
                cross_attention_dim=16,
                encoder_hid_dim=32,
                encoder_hid_dim_type="text_proj",
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=32 + 6 * 8,
            ),
            scheduler=diffusers.EulerDiscreteScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.014,
                num_train_timesteps=1100,
                steps_offset=1,
            ),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """SDXL's U-Net, with a projection of the text in front of it and a wider pooled vector."""
        with torch.device("meta"):
            return diffusers.UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=2,
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),  # diffusers' name for the number of heads
                cross_attention_dim=2048,
                use_linear_projection=True,
                encoder_hid_dim=4096,
                encoder_hid_dim_type="text_proj",
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=4096 + 6 * 256,
            )

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`Adapter.sites`; blocks read a projection of the encoded prompt, not the prompt."""
        return (site for site in super().sites(pipeline) if site.kind != "cross_attn.text")

    def from_text(self, pipeline: Pipeline, site: Site) -> FromText | None:
        """See :meth:`Adapter.from_text`; ``text`` is what the U-Net reads before it projects it to its own width."""
        if site.name == "text":
            return lambda call: call["encoder_hidden_states"]
        return super().from_text(pipeline, site)


SPECIALS: dict[str, Any] = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "padding_side": "left",
    "model_max_length": 256,
}


class TinyTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Pads on the left and counts positions from the first token of the prompt, as ChatGLM's tokenizer does."""

    def __call__(self, *args: Any, **settings: Any) -> transformers.BatchEncoding:
        """Tokens, mask and ``position_ids``, which are 0 for padding."""
        encoded = super().__call__(*args, **settings)
        if isinstance(encoded["attention_mask"], torch.Tensor):
            encoded["position_ids"] = (encoded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return encoded


def tiny_chatglm(width: int) -> ChatGLMModel:
    """Two layers of two query heads, which share one key head."""
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=len(parts.VOCABULARY),
        hidden_size=width,
        ffn_hidden_size=2 * width,
        kv_channels=width // 2,
        num_attention_heads=2,
        seq_length=256,
        multi_query_attention=True,
        multi_query_group_num=1,
        add_qkv_bias=True,
        original_rope=True,
    )
    encoder = parts.enliven(ChatGLMModel(config, empty_init=False))
    with torch.no_grad():
        for part in encoder.modules():
            if isinstance(part, RMSNorm):
                part.weight.fill_(1.0)  # diffusers leaves it uninitialised
    return encoder
