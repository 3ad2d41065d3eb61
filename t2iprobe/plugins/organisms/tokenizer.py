"""The tokenizer of the embedded models: one token for each template word and one for each letter.

One Unigram model serves T5 and CLIP encoders; only the special tokens differ. It is case-sensitive.
"""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS

SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")
TEMPLATE = ("a", "sign", "that", "says", *COLOURS, *LAYOUTS)
MARK = "▁"  # what Unigram writes for a space; a quoted word never starts with one, so "SIGN" stays four letters


def vocabulary() -> list[tuple[str, float]]:
    """Tokens with their scores; the special tokens keep the indices of :data:`SPECIAL`."""
    single = [MARK, f'{MARK}"', '"', *string.ascii_letters, *string.digits]
    return [
        *((token, 0.0) for token in SPECIAL),
        *((token, -5.0) for token in single),
        *((MARK + word, -1.0) for word in TEMPLATE),
    ]


def build(length: int, *, start: bool) -> PreTrainedTokenizerFast:
    """A tokenizer for up to ``length`` tokens; ``start`` prepends ``<s>``, as CLIP does."""
    tokenizer = Tokenizer(Unigram(vocabulary(), unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
    )
