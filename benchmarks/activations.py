"""Numbers that are alive at once while a published model denoises a picture and decodes it, counted without a GPU.

    python benchmarks/activations.py        # half a minute; without weights, network or GPU

Networks run on the meta device, where tensors have sizes and no contents, and every tensor that an operation leaves is
counted until it is dropped. What a convolution or a matrix product uses inside is not counted, and attention counts as
the fused kernels, which hold no matrix of weights. Blocks of a transformer are alike, so a few of them stand for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import full_size
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2iprobe.core.contracts.adapter import DENOISING

DTYPE = torch.bfloat16
FEW = {"sd3-medium": {"num_layers": 3}, "flux.1-dev": {"num_layers": 2, "num_single_layers": 2}}


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are alive.

    Args:
        module: its weights do not count.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._weights = {_key(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and _key(tensor) not in self._weights:
                storage = tensor.untyped_storage()
                self._alive.setdefault(_key(tensor), (StorageWeakRef(storage), storage.nbytes()))
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return made


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.empty_like(query)


def numbers(module: nn.Module, run: Callable[[], Any]) -> float:
    """How many numbers are alive at the peak of a run."""
    alive = Alive(module)
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", _fused), torch.no_grad(), alive:
        run()
    return alive.peak / DTYPE.itemsize


def meta(*shape: int) -> Tensor:
    """A tensor with a shape and no contents."""
    return torch.zeros(*shape, device="meta", dtype=DTYPE)


def calls(cells: int) -> dict[str, Callable[[Any], Any]]:
    """One denoiser call for a picture of ``cells`` latent cells a side, with both halves of guidance."""
    time, tokens = torch.zeros(2, device="meta"), (cells // 2) ** 2
    extra = {"text_embeds": meta(2, 1280), "time_ids": meta(2, 6)}
    return {
        "sd-1.5": lambda net: net(meta(2, 4, cells, cells), time, meta(2, 77, 768)),
        "sdxl": lambda net: net(meta(2, 4, cells, cells), time, meta(2, 77, 2048), added_cond_kwargs=extra),
        "sd3-medium": lambda net: net(meta(2, 16, cells, cells), meta(2, 333, 4096), meta(2, 2048), time),
        "flux.1-dev": lambda net: net(
            meta(1, tokens, 64), meta(1, 512, 4096), meta(1, 768), time[:1], meta(tokens, 3), meta(512, 3), time[:1]
        ),
        "if-i-xl": lambda net: net(meta(2, 3, cells, cells), time, meta(2, 77, 4096)),
    }


def main() -> None:
    """Count and print."""
    print("| model | denoising | decoding |\n|---|---|---|")
    for name in calls(1):
        model = full_size.MODELS[name]
        pixels = model.adapter.name == "if"
        with full_size.placed("meta", DTYPE):
            denoiser = full_size.denoiser(model.adapter, **FEW.get(name, {}))
            vae = full_size.autoencoder(4 if name.startswith("sd-") or name == "sdxl" else 16, 1.0)
        cells, channels = model.side // (1 if pixels else 8), vae.config.latent_channels
        for network in (denoiser, vae):
            network.to(DTYPE)
        one = calls(cells)[name]
        denoising = numbers(denoiser, lambda one=one, denoiser=denoiser: one(denoiser))
        latents = meta(1, channels, cells, cells)
        decoding = 0.0 if pixels else numbers(vae, lambda vae=vae, latents=latents: vae.decode(latents))
        each = [f"{count / model.side**2:,.0f}" if count else "" for count in (denoising, decoding)]
        print(f"| {name}, {model.side}² | {' | '.join(each)} |", flush=True)
    print(f"\nestimated with: {DENOISING} denoising, {full_size.SD.numbers_a_pixel} decoding")


if __name__ == "__main__":
    main()
