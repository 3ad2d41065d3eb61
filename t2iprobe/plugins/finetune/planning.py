"""What a fine-tuning would train and need; this also works on a denoiser without weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from t2iprobe.core.contracts.adapter import Adapter, Pipeline
from t2iprobe.core.options import LoadOptions
from t2iprobe.core.parse import size_text
from t2iprobe.plugins.finetune.session import FinetuneJob
from t2iprobe.training.targets import choose, count

#: bytes per LoRA parameter: itself, its gradient and AdamW's two means, in float32 each, or the means in 8 bits
LEARNING = {"adamw": 16, "adamw8bit": 10}


def plan(
    adapter: Adapter, pipeline: Pipeline, job: FinetuneJob, dtype: str | None, pictures: int | None
) -> dict[str, Any]:
    """The plan of one job.

    Args:
        adapter, pipeline: adapter and pipeline of the model; the pipeline needs only the denoiser.
        job: what is asked for.
        dtype: dtype of the denoiser's weights.
        pictures: number of pictures in the data, if known.
    """
    targets = choose(adapter, pipeline, job.scope, layers=job.layers, stream=job.stream, seed=job.seed)
    counted = count(adapter, pipeline, targets, job.rank)
    weights = counted.denoiser * LoadOptions(dtype=dtype).torch_dtype().itemsize
    settings = job.settings
    seen, learning = settings.steps * settings.batch, LEARNING[settings.optimiser] * counted.trained
    return {
        "scope": job.scope,
        "stream": job.stream,
        "layers": list(targets.layers),
        "modules": list(targets.modules),
        "parameters": asdict(counted),
        "share": counted.share(counted.trained),
        "sentence": counted.sentence(),
        "rank": job.rank,
        "lr": settings.lr,
        "steps": settings.steps,
        "batch": settings.batch,
        "resolution": job.side,
        "pictures_seen": seen,
        "epochs": round(seen / pictures, 1) if pictures else None,
        "lora_bytes": 4 * counted.trained,
        "learning_bytes": learning,
        "denoiser_bytes": weights,
        "memory": (
            f"the denoiser's weights take {size_text(weights)}, what learns {size_text(learning)} a "
            f"GPU, the saved LoRA {size_text(4 * counted.trained)}; activations come on top"
        ),
    }
