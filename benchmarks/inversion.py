"""What inversion can be checked on without a network: floors of the correlation, levels, and the arithmetic of methods.

    python benchmarks/inversion.py

Prints the tables of docs/benchmarks.md. The denoiser is the conditional expectation for a mixture of Gaussians
(``t2iprobe.testing``), so every error below is a method's own.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.contracts.inverter import InversionInputs, Inverter
from t2iprobe.plugins.inversion.analysis.correlation import floor, top_correlations
from t2iprobe.plugins.inversion.ddim import Forward
from t2iprobe.registry.manager import Plugins
from t2iprobe.sampling import Guided, schedule_of
from t2iprobe.testing import GaussianMixture, levels_of

INVERTERS = Plugins(installed=False).inverters()
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS: dict[str, Any] = {
    "LDM": DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195),
    "DiT": DDIMScheduler(beta_schedule="linear"),
    "IF": DDIMScheduler(beta_schedule="squaredcos_cap_v2"),
    "SDXL": DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False),
    "SD3, shift 3": FlowMatchEulerDiscreteScheduler(shift=3.0),
}
KINDS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "flow")


def floors() -> None:
    """The top 20 |r| of independent noise: computed, and drawn."""
    print("| images | numbers in a patch | computed | drawn, mean of 20 | reported for true noise |")
    print("|---|---|---|---|---|")
    for count, size, reported in ((8192, 192, ".039"), (8192, 256, ".041"), (2048, 192, "")):
        rng = np.random.default_rng(0)
        drawn = np.mean([top_correlations(rng.standard_normal((count, size))) for _ in range(20)])
        print(f"| {count:,} | {size} | {floor(count, size):.4f} | {drawn:.4f} | {reported} |")


def levels() -> None:
    """Noise after k steps of 50."""
    print("\n| model | sigma after 1, 2, 3, 5 steps of 50 |\n|---|---|")
    for name, scheduler in SCHEDULERS.items():
        schedule = schedule_of(scheduler, 50)
        found = ", ".join(f"{schedule.levels[50 - k].sigma:.3f}" for k in (1, 2, 3, 5))
        print(f"| {name} | {found} |")
    sigmas = [level.sigma for level in schedule_of(SCHEDULERS["SD3, shift 3"], 50).levels]
    print("flow grid, shift 3:", ", ".join(f"{one:.4f}" for one in (*sigmas[:3], *sigmas[-4:])))


def bed(prediction: Prediction, steps: int) -> tuple[Any, Any, torch.Tensor]:
    """A perfect denoiser of three kinds of picture, its schedule, and noise."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    flow = prediction == "flow"
    scheduler: Any = (
        FlowMatchEulerDiscreteScheduler(shift=3.0)
        if flow
        else DDIMScheduler(**SD, prediction_type=prediction, clip_sample=False)
    )
    perfect = GaussianMixture(means, 0.4).denoiser(prediction, levels_of(scheduler))
    noise = torch.randn(8, 2, 4, 4, generator=generator, dtype=torch.float64)
    null = torch.zeros(8, 1, 1, 1, dtype=torch.float64)
    denoiser = Guided(perfect, perfect, 1.0, None, lambda embedding: perfect, null)
    return denoiser, schedule_of(scheduler, steps), noise


def methods(steps: int = 20) -> None:
    """With exact predictions replayed (the largest error in the noise), and with its own guesses (the mean)."""
    print("\n| method | " + " | ".join(f"{kind}: replayed, own" for kind in KINDS) + " |\n|---|---|---|---|")
    for kind in INVERTERS.values():
        cells = []
        for prediction in KINDS:
            if prediction not in kind.predictions:
                cells.append("")
                continue
            method = kind()
            denoiser, schedule, noise = bed(prediction, steps)
            replayed = method.round_trip(denoiser, schedule, noise, InversionInputs(noise=noise.flip(0)))
            cells.append(f"{replayed:.0e}, {own_error(method, denoiser, schedule, noise):.3f}")
        print(f"| `{kind.name}` | {' | '.join(cells)} |")


def own_error(method: Inverter, denoiser: Any, schedule: Any, noise: torch.Tensor) -> float:
    """Mean |found - noise| where the method has to guess, from an image that its own sampler made."""
    there = method.sample(denoiser, schedule, noise)
    given = InversionInputs(there, noise=noise.flip(0), clean=there.clean)
    return float((method.invert(denoiser, schedule, there.clean, given).noise - noise).abs().mean())


def stock() -> None:
    """diffusers' inverse of v-prediction with exact predictions."""
    print("\n| steps | diffusers' pair, v-prediction | `ddim` |\n|---|---|---|")
    for steps in (7, 8, 16, 32):
        denoiser, schedule, noise = bed("v_prediction", steps)
        errors = []
        for name in ("ddim-stock", "ddim"):
            method = INVERTERS[name]()
            there = method.sample(denoiser, schedule, noise)
            found = method.invert(denoiser, schedule, there.clean, InversionInputs(there, True))
            errors.append(float((found.noise - noise).abs().mean()))
        print(f"| {steps} | {errors[0]:.3f} | {errors[1]:.0e} |")


def dpm_solver(steps: int = 20) -> None:
    """diffusers' DPM-Solver inverse after its own sampler: the sampler's predictions replayed, and its own."""
    print("\n| order | spacing | epsilon: replayed, own | v_prediction: replayed, own |\n|---|---|---|---|")
    for order, spacing in itertools.product((1, 2), ("linspace", "leading", "trailing")):
        cells = [dpm_errors(kind, order, spacing, steps) for kind in ("epsilon", "v_prediction")]
        print(f"| {order} | {spacing} | {' | '.join(f'{one:.0e}, {other:.3f}' for one, other in cells)} |")


def dpm_errors(prediction: str, order: int, spacing: str, steps: int) -> tuple[float, float]:
    """The largest error with the sampler's predictions replayed, and the mean one with the inverse's own."""
    own = SD | {"solver_order": order, "timestep_spacing": spacing, "prediction_type": prediction}
    sampler = DPMSolverMultistepScheduler(**own, final_sigmas_type="sigma_min")
    inverse = DPMSolverMultistepInverseScheduler(**own)
    denoiser, _, noise = bed(prediction, steps)  # type: ignore[arg-type]
    sampler.set_timesteps(steps)
    clean, on_rows = noise, []
    for timestep in sampler.timesteps:
        on_rows.append(denoiser(clean, float(timestep)))
        clean = sampler.step(on_rows[-1], timestep, clean).prev_sample.double()
    found = []
    for replay in (on_rows[::-1], None):
        inverse.set_timesteps(steps)
        x = clean
        for index, timestep in enumerate(inverse.timesteps):
            output = replay[index] if replay else denoiser(x, float(timestep))
            x = inverse.step(output, timestep, x).prev_sample.double()
        found.append((x - noise).abs())
    return float(found[0].max()), float(found[1].mean())


def one_too_far() -> None:
    """The authors' level of the forward fix against the one that the next step assumes."""
    schedule = schedule_of(SCHEDULERS["DiT"], 50)
    found = [Forward(2, level)._level(schedule, 48).sigma for level in ("correct", "reference")]  # type: ignore[arg-type]
    print(f"\nDiT, T = 50, k = 2: sigma {found[0]:.3f} assumed, {found[1]:.3f} in the authors' script")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        floors()
        levels()
        methods()
        stock()
        dpm_solver()
        one_too_far()
