"""Parts of tiny pipelines, for an adapter's ``tiny()``: random weights, built offline in milliseconds.

They draw noise, not pictures, but a prompt clearly changes the noise. A denoiser of one's own family is made from its
class with small sizes, and then *enlivened*: fresh weights with gates at zero would let no text through::

    @classmethod
    @tiny.reproducible
    def tiny(cls):
        return MyPipeline(
            transformer=tiny.enliven(MyTransformer(num_layers=2, attention_head_dim=8)),
            text_encoder=tiny.t5(32),
            tokenizer=tiny.tokenizer(start=False),
            vae=tiny.autoencoder(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
"""

from t2iprobe.architectures.tiny_autoencoders import flux2_autoencoder, qwen_autoencoder
from t2iprobe.architectures.tiny_components import bert, gemma, gemma2, glm, umt5
from t2iprobe.architectures.tiny_language import (
    TextProcessor,
    chat_tokenizer,
    llama,
    mistral3,
    qwen2_5_vl,
    qwen3,
    qwen3_vl,
    smollm3,
    t5gemma,
)
from t2iprobe.architectures.tiny_parts import (
    CHANNELS,
    LATENT,
    LENGTH,
    VOCABULARY,
    autoencoder,
    clip,
    clip_with_projection,
    enliven,
    quiet,
    reproducible,
    seeded,
    t5,
    tokenizer,
    unet,
)

__all__ = [
    "CHANNELS",
    "LATENT",
    "LENGTH",
    "VOCABULARY",
    "TextProcessor",
    "autoencoder",
    "bert",
    "chat_tokenizer",
    "clip",
    "clip_with_projection",
    "enliven",
    "flux2_autoencoder",
    "gemma",
    "gemma2",
    "glm",
    "llama",
    "mistral3",
    "quiet",
    "qwen2_5_vl",
    "qwen3",
    "qwen3_vl",
    "qwen_autoencoder",
    "reproducible",
    "seeded",
    "smollm3",
    "t5",
    "t5gemma",
    "tokenizer",
    "umt5",
    "unet",
]
