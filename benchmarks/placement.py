"""Where each published model's weights go on GPUs of several sizes: the table of docs/how-to/run-on-your-gpu.md.

    python benchmarks/placement.py      # prints the table; without weights, network or GPU, in seconds

Computed, not measured: bytes of the published configurations in the precision that the tool chooses, and the estimate
of a picture's memory; a card of N GB counts as N x 10^9 free bytes, which leaves some for CUDA and a desktop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import full_size
import torch

from t2iprobe.core.errors import ModelError
from t2iprobe.core.placement import Demand, choose, demand_of

CARDS = (8, 12, 16, 24, 48, 80)  # GB
NF4 = 0.5625 / 2  # bytes a weight with its scales, over those in half precision
T5 = {"sd3-medium": "text_encoder_3", "sd3.5-large": "text_encoder_3", "flux.1-dev": "text_encoder_2"}


def rows() -> Iterator[tuple[str, str, Demand]]:
    """What is loaded, its precision, and what it needs."""
    for name, model in full_size.MODELS.items():
        half = model.adapter.half
        with full_size.placed("meta", getattr(torch, half)):
            pipeline = model.build()
        for part in pipeline.components.values():
            if type(part).__name__ == "T5EncoderModel" and half == "float16":
                _keep_in_float32(part)
        adapter = model.adapter()
        found = demand_of(pipeline, adapter.drawing(pipeline, (model.side, model.side)))
        yield f"{name}, {model.side}²", half, found
        if name in T5:
            large = {adapter.denoiser, T5[name]}
            yield f"{name} `--quantize bnb-4bit`", half, _scaled(found, dict.fromkeys(large, NF4))
            if T5[name] == "text_encoder_3":
                yield f"{name} `--without text_encoder_3`", half, _scaled(found, {T5[name]: 0.0})


def _keep_in_float32(encoder: torch.nn.Module) -> None:
    """As transformers does with the layers of T5 that overflow in float16."""
    for name, module in encoder.named_modules():
        if name.endswith(".wo"):
            module.to(torch.float32)


def _scaled(demand: Demand, factors: dict[str, float]) -> Demand:
    sizes = {name: round(size * factors.get(name, 1.0)) for name, size in demand.components.items()}
    return replace(demand, components=sizes)


def cell(demand: Demand, gigabytes: int, quantized: bool) -> str:
    """What ``--offload auto`` chooses on a card."""
    try:
        return choose(demand, gigabytes * 10**9, whole=quantized)
    except ModelError:
        return "no"


def table() -> str:
    """The table in Markdown."""
    cards = " | ".join(f"{card} GB" for card in CARDS)
    lines = [f"| model | precision | weights, GB | an image, GB | {cards} |", "|---" * (4 + len(CARDS)) + "|"]
    for name, half, needs in rows():
        chosen = " | ".join(cell(needs, card, "quantize" in name) for card in CARDS)
        lines.append(f"| {name} | {half} | {needs.weights / 1e9:.1f} | {needs.activations / 1e9:.1f} | {chosen} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
