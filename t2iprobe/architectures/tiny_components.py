"""Further parts of the tiny pipelines: text encoders beyond CLIP and T5, without tokens for chats."""

from __future__ import annotations

from typing import Any

import transformers

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures.tiny_parts import VOCABULARY, enliven, t5_settings


def decoder_settings(width: int) -> dict[str, Any]:
    """Two layers of two heads that share keys and values."""
    own = {"vocab_size": len(VOCABULARY), "num_key_value_heads": 1, "max_position_embeddings": 1024}
    return language.decoder_settings(width, 2) | own


def gemma(width: int) -> transformers.GemmaModel:
    """The decoder that Lumina-Next reads its prompts with."""
    return enliven(transformers.GemmaModel(transformers.GemmaConfig(**decoder_settings(width))))


def gemma2(width: int, vocabulary: int = len(VOCABULARY)) -> transformers.Gemma2Model:
    """The decoder that Sana and Lumina 2 read their prompts with."""
    settings = decoder_settings(width) | {"vocab_size": vocabulary}
    return enliven(transformers.Gemma2Model(transformers.Gemma2Config(**settings, query_pre_attn_scalar=width // 2)))


def glm(width: int) -> transformers.GlmModel:
    """The decoder that CogView4 reads its prompts with."""
    return enliven(transformers.GlmModel(transformers.GlmConfig(**decoder_settings(width))))


def bert(width: int) -> transformers.BertModel:
    """The encoder that reads HunyuanDiT's prompts, of 77 tokens whatever the tokenizer says."""
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        pad_token_id=VOCABULARY["<pad>"],
    )
    return enliven(transformers.BertModel(config))


def umt5(width: int) -> transformers.UMT5EncoderModel:
    """T5 with position biases of its own in every layer: AuraFlow's text encoder."""
    return transformers.UMT5EncoderModel(transformers.UMT5Config(**t5_settings(width))).eval()
