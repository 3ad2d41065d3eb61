"""Parts of the tiny pipelines whose text encoder is a language model: chat tokenizer, processor, encoders.

As everywhere in the tiny pipelines, words that the vocabulary lacks are spelled letter by letter, so the fixed
instructions that these pipelines put before a prompt are longer here than with the published tokenizers.
"""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import ProcessorMixin  # diffusers loads a component by the base class that it finds in its module
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from t2iprobe.architectures.tiny_parts import SPECIAL, VOCABULARY, enliven

CONTROL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT = VOCABULARY | {token: len(VOCABULARY) + index for index, token in enumerate(CONTROL)}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(*, length: int = 4096, side: str = "right") -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with a chat template that, like Qwen's, adds no token of its own to a text."""
    fast = Tokenizer(WordPiece(CHAT, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    fast.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    names = {f"{role}_token": token for role, token in zip(("pad", "unk", "bos", "eos"), SPECIAL, strict=True)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, model_max_length=length, padding_side=side, **names
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True  # instructions are
    return tokenizer


class TextProcessor(ProcessorMixin):  # type: ignore[misc]
    """A processor for text alone: that of a vision-language model also needs torchvision."""

    def __init__(self, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template or tokenizer.chat_template)

    def __call__(
        self, text: Any, images: None = None, videos: None = None, **settings: Any
    ) -> transformers.BatchEncoding:
        """The text's tokens, always as a batch."""
        return self.tokenizer([text] if isinstance(text, str) else text, **settings)


def start_of_prompt(tokenizer: Any, template: str) -> int:
    """How many tokens of ``template`` come before the prompt, which its ``{}`` stands for."""
    return len(tokenizer(template.split("{}")[0]).input_ids)


def decoder_settings(width: int, layers: int) -> dict[str, Any]:
    """Sizes of a decoder with two heads."""
    return {
        "vocab_size": len(CHAT),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": width // 2,
        "max_position_embeddings": 8192,
        "pad_token_id": CHAT["<pad>"],
        "bos_token_id": CHAT["<s>"],
        "eos_token_id": CHAT["</s>"],
        "tie_word_embeddings": False,
    }


def vision_tokens() -> dict[str, int]:
    """Ids of the tokens that stand for pictures."""
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    ends = {f"vision_{end}_token_id": f"vision_{end}" for end in ("start", "end")}
    return {key: CHAT[f"<|{token}|>"] for key, token in (names | ends).items()}


def rotary(width: int) -> dict[str, Any]:
    """Rotary embedding over time, row and column."""
    third = width // 12
    section = [width // 4 - 2 * third, third, third]
    return {"rope_type": "default", "type": "default", "rope_theta": 10000.0, "mrope_section": section}


def vision_settings(width: int) -> dict[str, Any]:
    """Sizes of a vision tower of one layer."""
    return {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": width}


def qwen2_5_vl(width: int, layers: int = 2) -> transformers.Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL; its vision tower is never called with text alone."""
    vision = vision_settings(width)
    text = decoder_settings(width, layers) | {"rope_parameters": rotary(width)}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **vision_tokens())
    return enliven(transformers.Qwen2_5_VLForConditionalGeneration(config))


def qwen3_vl(width: int, layers: int = 2) -> transformers.Qwen3VLForConditionalGeneration:
    """Qwen3-VL; its vision tower is never called with text alone."""
    vision = vision_settings(width)
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    text = decoder_settings(width, layers) | {"rope_parameters": rotary(width) | {"mrope_interleaved": True}}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **vision_tokens())
    return enliven(transformers.Qwen3VLForConditionalGeneration(config))


def qwen3(width: int, layers: int = 2) -> transformers.Qwen3ForCausalLM:
    """Qwen3."""
    return enliven(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**decoder_settings(width, layers))))


def llama(width: int, layers: int = 2) -> transformers.LlamaForCausalLM:
    """Llama 3."""
    return enliven(
        transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**decoder_settings(width, layers), attn_implementation="eager")
        )
    )


def smollm3(width: int, layers: int, vocabulary: int) -> transformers.SmolLM3ForCausalLM:
    """SmolLM3."""
    return enliven(
        transformers.SmolLM3ForCausalLM(
            transformers.SmolLM3Config(**decoder_settings(width, layers) | {"vocab_size": vocabulary})
        )
    )


def mistral3(width: int, layers: int = 2) -> transformers.Mistral3ForConditionalGeneration:
    """Mistral 3; its vision tower is never called with text alone."""
    vision = {"model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "head_dim": 4, "image_size": 16, "patch_size": 4}
    text = decoder_settings(width, layers) | {"model_type": "mistral"}
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=CHAT["<|image_pad|>"]
    )
    return enliven(transformers.Mistral3ForConditionalGeneration(config))


def t5gemma(width: int) -> T5GemmaEncoder:
    """The encoder half of T5Gemma."""
    sizes = decoder_settings(width, 2) | {"vocab_size": len(VOCABULARY), "sliding_window": 64}
    return enliven(
        T5GemmaEncoder(transformers.T5GemmaConfig(encoder=sizes, decoder=sizes, is_encoder_decoder=False).encoder)
    )
