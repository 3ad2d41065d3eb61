"""Controls a sampler's noise: inside :func:`own_noise`, each row's noise comes from its own generator.

diffusers' pipelines pass their generators to ``scheduler.step`` in some families and not in others (SD3, FLUX), and a
sampler without a generator draws from torch's global one, so that its noise does not depend on the row's seed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.shadow import shadowed

SEED = "noise_sampler_seed"  # of Brownian-path samplers (DPMSolverSDEScheduler); a list gives each row its own path


@contextmanager
def own_noise(scheduler: Any, generators: Sequence[torch.Generator], device: torch.device) -> Iterator[None]:
    """Pass the rows' generators to every step of a scheduler.

    Args:
        scheduler: scheduler of the running pipeline.
        generators: one per row of the batch.
        device: device of the pipeline.

    Raises:
        ConfigError: a step draws from torch's global generator nevertheless.
    """
    seeds = [generator.initial_seed() for generator in generators]
    own_path = shadowed(scheduler, SEED, seeds) if SEED in vars(scheduler) else nullcontext()
    with own_path, shadowed(scheduler, "step", _seeded(scheduler, generators, device)):
        yield


def own_posterior(vae: Any, generators: Sequence[torch.Generator]) -> AbstractContextManager[None]:
    """Seed what the autoencoder draws when a picture is encoded during a run, such as one for a ControlNet.

    SD3's pipeline passes no generator. Both branches of guidance get the same noise.
    """
    encode = vae.encode

    @functools.wraps(encode)
    def seeded(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        posterior: Any = result[0] if isinstance(result, tuple) else getattr(result, "latent_dist", None)
        if (sample := getattr(posterior, "sample", None)) is not None:

            def drawn(generator: Any = None) -> torch.Tensor:
                seeds = [one.initial_seed() for one in generators] * (len(posterior.mean) // len(generators))
                return sample(generator or [torch.Generator().manual_seed(seed) for seed in seeds])

            posterior.sample = drawn
        return result

    return shadowed(vae, "encode", seeded)


def _seeded(scheduler: Any, generators: Sequence[torch.Generator], device: torch.device) -> Callable[..., Any]:
    original = scheduler.step
    takes = "generator" in inspect.signature(original).parameters

    @functools.wraps(original)  # the pipelines read its signature
    def step(*args: Any, **kwargs: Any) -> Any:
        if takes and kwargs.get("generator") is None:
            kwargs["generator"] = list(generators)
        before = _global_state(device)
        result = original(*args, **kwargs)
        if not all(map(torch.equal, before, _global_state(device))):
            raise ConfigError(
                f"{type(scheduler).__name__} draws its noise from torch's global generator, so rows with equal seeds "
                "would get different noise; use a scheduler whose step() takes generator=, such as "
                "EulerAncestralDiscreteScheduler"
            )
        return result

    return step


def _global_state(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
