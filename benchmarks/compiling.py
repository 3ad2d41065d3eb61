"""How much faster blocks of the published widths are compiled, with and without a hook in one of them.

    OMP_NUM_THREADS=1 python benchmarks/compiling.py      # some minutes on one CPU core, most of them compiling

Random weights, float32, two blocks each; the shortest of three CPU times. It says nothing about a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
from torch import Tensor, nn

from t2iprobe.core.compiling import compile_blocks

TOKENS, TEXT = 1024, {"sd3": 333, "sdxl": 77}


def sd3() -> tuple[nn.ModuleList, tuple[Tensor | None, ...]]:
    """SD3 medium's blocks, at 512²."""
    blocks = nn.ModuleList([JointTransformerBlock(1536, 24, 64) for _ in range(2)])
    return blocks, (torch.randn(1, TOKENS, 1536), torch.randn(1, TEXT["sd3"], 1536), torch.randn(1, 1536))


def sdxl() -> tuple[nn.ModuleList, tuple[Tensor | None, ...]]:
    """SDXL's widest blocks, at 1024²."""
    more = {"cross_attention_dim": 2048, "activation_fn": "geglu"}
    blocks = nn.ModuleList([BasicTransformerBlock(1280, 20, 64, **more) for _ in range(2)])
    return blocks, (torch.randn(1, TOKENS, 1280), None, torch.randn(1, TEXT["sdxl"], 2048))


def clocked(run: Callable[[], object]) -> float:
    """The shortest of three CPU times, in seconds, after one that does not count."""
    run()
    times = []
    for _ in range(3):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


@torch.no_grad()
def measured(blocks: nn.ModuleList, inputs: tuple[Tensor | None, ...]) -> str:
    """The times of two blocks in words."""

    def run() -> list[Tensor]:
        found = [block(*inputs) for block in blocks]
        return [one if isinstance(one, Tensor) else one[1] for one in found]

    plain, expected = clocked(run), run()
    compile_blocks(blocks, [type(blocks[0]).__name__])
    began = time.process_time()
    run()
    first, fast, made = time.process_time() - began, clocked(run), run()
    off = max(float((one - other).abs().max()) for one, other in zip(made, expected, strict=True))
    handle = blocks[0].register_forward_pre_hook(lambda *call: None)
    hooked = clocked(run)
    handle.remove()
    return (
        f"{plain / 2:.3f} s a block, compiled {fast / 2:.3f} s, with a hook in one of the two {hooked / 2:.3f} s; "
        f"first call {first:.0f} s; results differ by up to {off:.0e}"
    )


def main() -> None:
    """Print a line per family."""
    for build in (sd3, sdxl):
        torch.manual_seed(0)
        blocks, inputs = build()
        print(f"{build.__name__}: {measured(blocks.eval(), inputs)}")


if __name__ == "__main__":
    main()
