"""Shared by the MM-DiT families: the sites of a block in which image and text tokens attend jointly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from t2iprobe.core.sites import In, Out, Site


def joint_block_sites(index: int, block: nn.Module, *, text_z_first: bool) -> Iterator[Site]:
    """Sites of one two-stream block in the order they run.

    Args:
        index: number of the block.
        block: a ``JointTransformerBlock`` or ``FluxTransformerBlock``.
        text_z_first: whether the family projects the text tokens' attention result before the image tokens'.
    """
    path, name = f"transformer_blocks.{index}", f"blocks.{index}"
    attn: Any = block.attn
    last = attn.context_pre_only
    yield Site(f"{name}.text.in", path, In("encoder_hidden_states"))
    yield Site(f"{name}.joint_attn.in", f"{path}.attn", In("hidden_states"))
    yield Site(f"{name}.joint_attn.text", f"{path}.attn", In("encoder_hidden_states"))
    for site in projection_sites(name, f"{path}.attn", attn.heads):
        if not (last and site.kind == "text.q"):  # it runs, but the last block drops the text tokens' result
            yield site
    z = [Site(f"{name}.joint_attn.z", f"{path}.attn.to_out.0", In("input"), heads=attn.heads)]
    if not last:
        z.append(Site(f"{name}.text.z", f"{path}.attn.to_add_out", In("input"), heads=attn.heads))
    yield from reversed(z) if text_z_first else z
    yield Site(f"{name}.joint_attn.out", f"{path}.attn", Out(0))
    if getattr(block, "use_dual_attention", False):
        yield from dual_sites(f"{name}.dual_attn", f"{path}.attn2", attn.heads)
    yield Site(f"{name}.mlp.in", f"{path}.ff", In("hidden_states"))
    yield Site(f"{name}.mlp.out", f"{path}.ff", Out())
    if not last:
        yield Site(f"{name}.text.out", path, Out(0))


def projection_sites(name: str, path: str, heads: int) -> Iterator[Site]:
    """Queries, keys and values; the image tokens' come first."""
    yield Site(f"{name}.joint_attn.q", f"{path}.to_q", Out(), heads=heads)
    yield Site(f"{name}.self_attn.k", f"{path}.to_k", Out(), heads=heads)
    yield Site(f"{name}.self_attn.v", f"{path}.to_v", Out(), heads=heads)
    yield Site(f"{name}.text.q", f"{path}.add_q_proj", Out(), heads=heads)
    yield Site(f"{name}.joint_attn.k", f"{path}.add_k_proj", Out(), heads=heads)
    yield Site(f"{name}.joint_attn.v", f"{path}.add_v_proj", Out(), heads=heads)


def dual_sites(name: str, path: str, heads: int) -> Iterator[Site]:
    """Sites of SD3.5's second, image-only attention."""
    yield Site(f"{name}.in", path, In("hidden_states"))
    for port in "qkv":
        yield Site(f"{name}.{port}", f"{path}.to_{port}", Out(), heads=heads)
    yield Site(f"{name}.z", f"{path}.to_out.0", In("input"), heads=heads)
    yield Site(f"{name}.out", path, Out())
