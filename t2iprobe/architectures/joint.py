"""Shared by the MM-DiT families: the sites of a block in which image and text tokens attend jointly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from t2iprobe.architectures.unet import attention_sites, mlp_sites, pattern_site
from t2iprobe.core.contracts.adapter import FromText
from t2iprobe.core.sites import In, Out, Site


def embedded_text(transformer: Any) -> FromText:
    """The text as the first block gets it, from the arguments of the transformer's call."""
    return lambda call: transformer.context_embedder(call["encoder_hidden_states"])


def joint_block_sites(index: int, block: Any, *, text_z_first: bool) -> Iterator[Site]:
    """Sites of one two-stream block in the order they run.

    Args:
        index: number of the block.
        block: a ``JointTransformerBlock`` or ``FluxTransformerBlock``.
        text_z_first: whether the family projects the text tokens' attention result before the image tokens'.
    """
    path, name = f"transformer_blocks.{index}", f"blocks.{index}"
    attn: Any = block.attn
    last = attn.context_pre_only
    yield Site(f"{name}.resid.in", path, In("hidden_states"))
    yield Site(f"{name}.text.in", path, In("encoder_hidden_states"))
    yield from modulation_sites(f"{name}.ada", f"{path}.norm1.linear", block.norm1)
    yield from modulation_sites(f"{name}.text_ada", f"{path}.norm1_context.linear", block.norm1_context)
    yield Site(f"{name}.joint_attn.in", f"{path}.attn", In("hidden_states"))
    yield Site(f"{name}.joint_attn.text", f"{path}.attn", In("encoder_hidden_states"))
    for site in projection_sites(name, f"{path}.attn", attn.heads):
        if not (last and site.kind == "text.q"):  # it runs, but the last block drops the text tokens' result
            yield site
    yield from joint_patterns(name, f"{path}.attn", attn.heads, of_text=not last)
    z = [Site(f"{name}.joint_attn.z", f"{path}.attn.to_out.0", In("input"), heads=attn.heads)]
    if not last:
        z.append(Site(f"{name}.text.z", f"{path}.attn.to_add_out", In("input"), heads=attn.heads))
    yield from reversed(z) if text_z_first else z
    yield Site(f"{name}.joint_attn.out", f"{path}.attn", Out(0))
    if getattr(block, "use_dual_attention", False):  # SD3.5's second attention, of image tokens only
        yield from attention_sites(f"{name}.dual_attn", f"{path}.attn2", attn.heads)
    yield from mlp_sites(f"{name}.mlp", f"{path}.ff")
    if not last:
        yield from mlp_sites(f"{name}.text_mlp", f"{path}.ff_context")
        yield Site(f"{name}.text.out", path, Out(0))
    yield Site(f"{name}.resid.out", path, Out(1))


#: what the linear layer of a norm gives one after the other, by the norm's class
GATED = ("shift", "scale", "gate")
CHUNKS = {
    "AdaLayerNormZero": [(part, what) for part in ("attn", "mlp") for what in GATED],
    "AdaLayerNormZeroSingle": [("attn", what) for what in GATED],
    "AdaLayerNormContinuous": [("attn", "scale"), ("attn", "shift")],
    "SD35AdaLayerNormZeroX": [(part, what) for part in ("attn", "mlp", "dual_attn") for what in GATED],
}


def modulation_sites(name: str, path: str, norm: Any) -> Iterator[Site]:
    """Shifts, scales and gates that a norm computes from the timestep and the pooled text, (row, channel)."""
    chunks = CHUNKS.get(type(norm).__name__, [])
    for index, (part, what) in enumerate(chunks):
        width = norm.linear.out_features // len(chunks)  # quantised weights are packed into fewer rows
        channels = index * width, (index + 1) * width
        yield Site(f"{name}.{part}_{what}", path, Out(), axes=("channel",), channels=channels)


def joint_patterns(name: str, path: str, heads: int, *, of_text: bool) -> Iterator[Site]:
    """How image tokens attend to the text and to each other; with ``of_text``, how text tokens attend to the image."""
    yield pattern_site(f"{name}.joint_attn", path, heads, "image", "text")
    yield pattern_site(f"{name}.self_attn", path, heads, "image", "image")
    if of_text:
        yield pattern_site(f"{name}.text", path, heads, "text", "image")


def projection_sites(name: str, path: str, heads: int) -> Iterator[Site]:
    """Queries, keys and values; the image tokens' come first."""
    for kinds, module in (
        (("joint_attn.q", "self_attn.k", "self_attn.v"), "to_{}"),
        (("text.q", "joint_attn.k", "joint_attn.v"), "add_{}_proj"),
    ):
        for kind in kinds:
            yield Site(f"{name}.{kind}", f"{path}.{module.format(kind[-1])}", Out(), heads=heads)
