"""Every scheduler of diffusers: a row's noise is decided by its seed, whatever runs beside it and whenever."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_flow_match_lcm

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model

pytestmark = pytest.mark.filterwarnings("ignore")  # what schedulers warn themselves about in so few steps

DOG, CAT = "a sign that says DOG", "a red cat on the sign"
SDE: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++"}
#: what must run, and draws noise; what else diffusers can run is asked as well
KNOWN: dict[type[Adapter], set[str]] = {
    SD: {
        "CosineDPMSolverMultistepScheduler",
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler sde",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler sde",
        "EDMDPMSolverMultistepScheduler sde",
        "EulerAncestralDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "LCMScheduler",
        "SASolverScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    },
    SD3: {
        "DPMSolverMultistepScheduler sde",
        "DPMSolverSDEScheduler",
        "EulerAncestralDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler stochastic",
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
        "UniPCMultistepScheduler",
    },
    Flux: {"FlowMatchEulerDiscreteScheduler stochastic", "FlowMatchLCMScheduler"},
    DeepFloydIF: {"DDPMScheduler", "DDPMParallelScheduler", "DPMSolverMultistepScheduler"},
}


def variants() -> Iterator[tuple[str, type[Any], dict[str, Any]]]:
    """Every scheduler class that diffusers exports, with and without its switch for noise."""
    for name in (name for name in dir(diffusers) if name.endswith("Scheduler")):
        kind = getattr(diffusers, name)
        takes = inspect.signature(kind.__init__).parameters
        yield name, kind, {}
        if "algorithm_type" in takes:
            yield f"{name} sde", kind, SDE
        if "stochastic_sampling" in takes:
            yield f"{name} stochastic", kind, {"stochastic_sampling": True}


def options(kind: type[Any], model: Model) -> dict[str, Any]:
    """Noise in DDIM's steps too, where the pipeline passes it on."""
    both = (type(model.pipeline).__call__, kind.step)
    return {"eta": 1.0} if all("eta" in inspect.signature(one).parameters for one in both) else {}


def pixels(images: Any) -> Any:
    return np.stack([np.asarray(image, np.int16) for image in images])


def faults(model: Model, given: dict[str, Any]) -> list[str]:
    """What depends on more than a row's own seed; the batch may round a pixel by 2 levels of 255."""
    generation = model.generation([DOG, DOG, CAT], [3, 3, 4], num_steps=2, options=given)
    before = torch.get_rng_state()
    first = pixels(model.run(generation).images)
    found = [] if torch.equal(before, torch.get_rng_state()) else ["the global generator has moved"]
    edit = patch({1: 0}, model.text_sites(1))
    again = pixels(model.run(generation, interventions=[edit]).images)
    alone = pixels(model.run(generation, rows=[1], batch_size=1).images)
    found += ["equal seeds differ"] * bool((first[0] != first[1]).any())
    found += ["a patch with equal values, or another run, differs"] * bool((first != again).any())
    found += ["a row alone differs"] * bool(np.abs(alone[0] - first[1]).max() > 2)
    return found


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """diffusers says of every scheduler which entries of the configuration it has no use for."""
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    yield
    diffusers.utils.logging.set_verbosity(level)


@pytest.mark.parametrize("adapter", [SD, SD3, Flux, DeepFloydIF], ids=lambda one: one.name)
def test_a_rows_noise_is_its_own_with_every_scheduler(adapter: type[Adapter]) -> None:
    model = Model(adapter.tiny(), adapter())
    config = model.pipeline.scheduler.config
    ran, wrong = set(), {}
    for name, kind, switch in variants():
        try:
            model.pipeline.scheduler = kind.from_config(config, **switch)
            found = faults(model, options(kind, model))
        except Exception:  # diffusers cannot run it in this pipeline, or not with so few steps
            continue
        ran.add(name)
        if found:
            wrong[name] = found
    assert wrong == {}
    assert KNOWN[adapter] <= ran


def test_the_noise_of_a_step_is_the_generators_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLUX's pipeline hands its generators to no step: each row's second draw has to come from its own seed."""
    model = Model(Flux.tiny(), Flux())
    model.pipeline.scheduler = diffusers.FlowMatchLCMScheduler.from_config(model.pipeline.scheduler.config)
    drawn: list[torch.Tensor] = []
    draw = scheduling_flow_match_lcm.randn_tensor

    def keep(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(scheduling_flow_match_lcm, "randn_tensor", keep)
    model.run(model.generation([DOG, CAT], [7, 8], num_steps=2))
    for row, seed in enumerate((7, 8)):
        own = torch.Generator().manual_seed(seed)
        torch.randn(drawn[0][row].shape, generator=own)  # what the row started from
        assert torch.equal(drawn[0][row], torch.randn(drawn[0][row].shape, generator=own))


class Global(diffusers.FlowMatchEulerDiscreteScheduler):
    """Draws as no seed of a row says."""

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        moved = sample + 0.1 * torch.randn_like(sample)
        return super().step(model_output, timestep, moved, return_dict=return_dict)


def test_a_scheduler_that_draws_from_the_global_generator_is_refused_by_name() -> None:
    model = Model(SD3.tiny(), SD3())
    model.pipeline.scheduler = Global.from_config(model.pipeline.scheduler.config)
    with pytest.raises(ConfigError, match=r"Global draws its noise from torch's global generator.*use a scheduler"):
        model.run(model.generation(DOG, num_steps=2))
    assert "step" not in vars(model.pipeline.scheduler)


def test_a_brownian_path_is_as_the_user_set_it_afterwards() -> None:
    model = Model(SD.tiny(), SD())
    config = model.pipeline.scheduler.config
    model.pipeline.scheduler = diffusers.DPMSolverSDEScheduler.from_config(config, noise_sampler_seed=5)
    model.run(model.generation([DOG, CAT], num_steps=2))
    assert model.pipeline.scheduler.noise_sampler_seed == 5
