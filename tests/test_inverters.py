"""Inverters on the analytic denoiser: exact where they must be, of the order that theory gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.contracts.adapter import Adapter, Prediction
from t2iprobe.core.contracts.inverter import Denoiser, InversionInputs, Inverter, Stepwise, Trajectory, check_prediction
from t2iprobe.core.contracts.schedule import Level, Schedule
from t2iprobe.core.errors import ConfigError, NonFiniteError
from t2iprobe.core.model import Model
from t2iprobe.plugins.inversion.arms import EXACT
from t2iprobe.plugins.inversion.ddim import DDIM, Euler, FixedPoint, Forward, Oracle, StockDDIM
from t2iprobe.plugins.inversion.exact import EDICT, OBELM
from t2iprobe.plugins.inversion.flow import FireFlow, Midpoint, RFInversion, UniInv
from t2iprobe.plugins.inversion.guidance import NegativePrompt, NullText
from t2iprobe.registry.manager import Plugins
from t2iprobe.sampling import Guided, fresh_noise, model_denoiser, schedule_of
from t2iprobe.testing.analytic import GaussianMixture, levels_of
from t2iprobe.testing.inverters import perfect_model

INVERTERS = Plugins(installed=False).inverters()
KINDS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "flow")
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = 20


def scheduler_for(prediction: Prediction, **settings: Any) -> Any:
    if prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    return DDIMScheduler(**SD | {"prediction_type": prediction, "clip_sample": False} | settings)


def bed(prediction: Prediction, steps: int = STEPS) -> tuple[Guided, Schedule, Tensor]:
    """A perfect denoiser, its schedule and noise, in double precision."""
    return perfect_model(prediction, steps)


def settings() -> list[Any]:
    """Inverters with other settings than their defaults, with each prediction that they support."""
    made = [Forward(0), FixedPoint(4, average_from=2), FixedPoint(4, anderson=True), UniInv(ask_clean=False)]
    made += [EDICT(0.8), Oracle(3, "state"), Euler("source"), RFInversion(gamma=0.0)]
    cases = [(one, prediction) for one in made for prediction in sorted(one.predictions)]
    return [pytest.param(one, kind, id=f"{one.name}{index}-{kind}") for index, (one, kind) in enumerate(cases)]


@pytest.mark.parametrize(("method", "prediction"), settings())
def test_oracle_round_trip(method: Inverter, prediction: Prediction) -> None:
    assert method.round_trip(*bed(prediction)) < 1e-10


@pytest.mark.parametrize("steps", [4, 5])
def test_oracle_round_trip_of_pairs_for_even_and_odd_steps(steps: int) -> None:
    for method in (EDICT(), OBELM()):
        assert method.round_trip(*bed("epsilon", steps)) < 1e-10


class ByTime:
    """Answers what the sampler was told at the same timestep, whatever the state: the oracle, asked by time."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.told = denoiser, dict[float, Tensor]()

    def __call__(self, x: Tensor, timestep: float) -> Tensor:
        key = round(timestep, 6)
        if key not in self.told:
            self.told[key] = self.denoiser(x, timestep)
        return self.told[key]


@pytest.mark.parametrize(
    ("method", "prediction"),
    [(method, kind) for method in (FixedPoint(), Oracle()) for kind in KINDS]
    + [(DDIM(), "epsilon"), (DDIM(), "v_prediction"), (Euler(), "flow")]
    + [(method, "flow") for method in (Midpoint(), UniInv())],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_method_asks_at_the_timesteps_of_the_sampler(method: Inverter, prediction: Prediction) -> None:
    """With an oracle that knows time only, a wrong timestep would get another step's prediction."""
    denoiser, schedule, noise = bed(prediction)
    oracle = ByTime(denoiser)
    there = method.sample(oracle, schedule, noise)
    back = method.invert(oracle, schedule, there.clean, InversionInputs(there))
    assert float((back.noise - noise).abs().max()) < 1e-10


@pytest.mark.parametrize("prediction", KINDS)
def test_sampling_is_diffusers_own(prediction: Prediction) -> None:
    denoiser, schedule, noise = bed(prediction)
    scheduler = scheduler_for(prediction)
    scheduler.set_timesteps(STEPS)
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(denoiser(x, float(timestep)), timestep, x).prev_sample.double()
    method = Euler() if prediction == "flow" else DDIM()
    assert torch.allclose(method.sample(denoiser, schedule, noise).clean, x, atol=1e-5)


def toy_error(prediction: Prediction, method: Inverter) -> float:
    """Mean error in the noise with exact predictions replayed."""
    denoiser, schedule, noise = bed(prediction)
    there = method.sample(denoiser, schedule, noise)
    return float(
        (method.invert(denoiser, schedule, there.clean, InversionInputs(there, True)).noise - noise).abs().mean()
    )


def test_stock_inverse_is_right_for_noise_and_wrong_for_v() -> None:
    assert toy_error("epsilon", StockDDIM()) < 1e-5
    assert toy_error("v_prediction", StockDDIM()) > 0.05
    assert toy_error("v_prediction", DDIM()) < 1e-5


def test_stock_v_error_falls_with_the_step_only() -> None:
    """0.25 with exact predictions on a toy of 8 steps, as the notes have it on theirs; of first order in the step."""
    errors = []
    for steps in (8, 16, 32):
        denoiser, schedule, noise = bed("v_prediction", steps)
        there = StockDDIM().sample(denoiser, schedule, noise)
        found = StockDDIM().invert(denoiser, schedule, there.clean, InversionInputs(there, True))
        errors.append(float((found.noise - noise).abs().mean()))
        assert DDIM().round_trip(denoiser, schedule, noise) < 1e-5
    assert errors[0] == pytest.approx(0.25, abs=0.05)
    assert all(coarse / fine == pytest.approx(2, abs=0.4) for coarse, fine in pairwise(errors))


def test_stock_clips_as_if_is_configured() -> None:
    """Sampling thresholds, the inverse clips: not an inverse even with exact noise. The measuring mode does neither."""
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", thresholding=True, clip_sample=True)
    means = 1.5 * torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = GaussianMixture(means, 0.2).denoiser("epsilon", levels_of(scheduler))
    schedule, noise = schedule_of(scheduler, 50), states_like(means)
    assert StockDDIM().round_trip(denoiser, schedule, noise) > 0.1
    assert DDIM().round_trip(denoiser, schedule, noise) < 1e-10


def states_like(means: Tensor) -> Tensor:
    return torch.randn(4, *means.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_source_time_is_no_inverse_of_sampling() -> None:
    assert toy_error("epsilon", DDIM("source")) > 0.02
    denoiser, schedule, noise = bed("epsilon")
    walk = DDIM("source").invert(denoiser, schedule, DDIM().sample(denoiser, schedule, noise).clean)
    assert torch.allclose(walk.noise, walk.outputs[0])  # alpha = 0 is all noise


def halved(error: Callable[[int], float], steps: tuple[int, ...] = (16, 32, 64)) -> float:
    """The order of convergence: by how many halvings the error shrinks when steps are halved once."""
    errors = [error(count) for count in steps]
    return min(math.log2(coarse / fine) for coarse, fine in pairwise(errors))


def even(steps: int) -> Schedule:
    """Flow levels of equal distance."""
    sigmas = [1 - index / steps for index in range(steps + 1)]
    levels = tuple(Level(1 - sigma, sigma) for sigma in sigmas)
    return Schedule("flow", levels, tuple(1000 * sigma for sigma in sigmas[:-1]), 1000, Level(0.0, 1.0))


LINE = GaussianMixture(torch.tensor([[-1.0], [0.7], [1.5]], dtype=torch.float64), torch.tensor([[0.5], [0.4], [0.6]]))
FLOW_LINE = LINE.denoiser("flow", levels_of(FlowMatchEulerDiscreteScheduler()))
POINTS = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (Euler(), 1),
        (Euler("source"), 1),
        (UniInv(), 1),
        (RFInversion(gamma=0.0), 1),
        (EDICT(1.0), 1),
        (Midpoint(), 2),
        (FireFlow(), 2),
        (OBELM(), 2),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_order_against_the_exact_flow(method: Inverter, order: int) -> None:
    image = LINE.transport(POINTS, (0.0, 1.0), (1.0, 0.0))

    def back(steps: int) -> float:
        return float((method.invert(FLOW_LINE, even(steps), image).noise - POINTS).abs().mean())

    def there(steps: int) -> float:
        return float((method.sample(FLOW_LINE, even(steps), POINTS).clean - image).abs().mean())

    for error in (back, there):
        assert halved(error) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize(
    ("method", "order"),
    [(Euler(), 1), (FixedPoint(0), 1), (FixedPoint(1), 2), (FixedPoint(2), 3), (UniInv(), 2)],
    ids=lambda value: getattr(value, "name", value),
)
def test_order_against_the_samplers_own_noise(method: Inverter, order: int) -> None:
    """An implicit method's error against its own sampler falls by one order with each iteration."""

    def error(steps: int) -> float:
        there = method.sample(FLOW_LINE, even(steps), POINTS)
        return float((method.invert(FLOW_LINE, even(steps), there.clean).noise - POINTS).abs().mean())

    assert halved(error) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_is_of_first_order_in_both_directions(prediction: Prediction) -> None:
    scheduler = scheduler_for(prediction, timestep_spacing="trailing")
    denoiser = LINE.denoiser(prediction, levels_of(scheduler))

    def error(steps: int) -> float:
        schedule = schedule_of(scheduler, steps)
        image = LINE.transport(POINTS, schedule.levels[0], schedule.levels[-1])
        return float((DDIM().invert(denoiser, schedule, image).noise - POINTS).abs().mean())

    assert halved(error, (50, 100, 200)) == pytest.approx(1, abs=0.35)


def test_anderson_beats_plain_iteration() -> None:
    denoiser, schedule, noise = bed("epsilon", 10)
    errors = [
        float((method.invert(denoiser, schedule, method.sample(denoiser, schedule, noise).clean).noise - noise).norm())
        for method in (FixedPoint(3), FixedPoint(3, anderson=True))
    ]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("prediction", KINDS)
def test_pairs_rebuild_any_image(prediction: Prediction) -> None:
    """Also images that were never sampled; without the companion they do not."""
    denoiser, schedule, noise = bed(prediction)
    image = noise.flip(0) / 2
    for method in (EDICT(), OBELM()):
        there = method.invert(denoiser, schedule, image)
        back = method.sample(denoiser, schedule, there.noise, InversionInputs(companion=there.companion))
        assert torch.allclose(back.clean, image, atol=1e-9)
        alone = method.sample(denoiser, schedule, there.noise)
        assert not torch.allclose(alone.clean, image, atol=1e-4)


def test_edict_amplifies_what_an_unpaired_start_leaves_off() -> None:
    """Its inverse mixing divides the difference of the pair by p twice a step: 80 steps of p = .93 are 10^5."""
    image = LINE.transport(POINTS, (0.0, 1.0), (1.0, 0.0))
    errors = [
        float((EDICT(mixing).invert(FLOW_LINE, even(80), image).noise - POINTS).abs().mean()) for mixing in (0.93, 0.99)
    ]
    assert errors[0] > 1 and errors[1] < 0.05


@pytest.mark.parametrize("prediction", KINDS)
def test_forward_noises_to_the_level_where_inversion_goes_on(prediction: Prediction) -> None:
    """Given the very noise in the sampler's state after k steps, exact predictions lead back; one level off do not."""
    denoiser, schedule, noise = bed(prediction)
    k = 4
    there = Forward(k).sample(denoiser, schedule, noise)
    alpha, sigma = schedule.levels[STEPS - k]
    own = (there.states[STEPS - k] - alpha * there.clean) / sigma
    errors = [
        float(
            (method.invert(denoiser, schedule, there.clean, InversionInputs(there, True, own)).noise - noise)
            .abs()
            .max()
        )
        for method in (Forward(k), Forward(k, "reference"))
    ]
    assert errors[0] < 1e-10
    assert errors[1] > 1e-3


def test_forward_through_all_steps_is_forward_diffusion() -> None:
    denoiser, schedule, noise = bed("epsilon")
    image = DDIM().sample(denoiser, schedule, noise).clean
    for level, (alpha, sigma) in (("correct", schedule.levels[0]), ("reference", schedule.terminal)):
        walk = Forward(STEPS, level).invert(denoiser, schedule, image, InversionInputs(noise=noise))  # type: ignore[arg-type]
        assert torch.allclose(walk.noise, alpha * image + sigma * noise)
        assert walk.nfe == 0 and walk.outputs.isnan().all()
    assert schedule.terminal.sigma > schedule.levels[0].sigma  # the last timestep of training is not sampled


def test_oracle_of_all_steps_is_exact_and_of_none_is_ddim() -> None:
    denoiser, schedule, noise = bed("epsilon")
    there = DDIM().sample(denoiser, schedule, noise)
    for swap in ("output", "state"):
        walk = Oracle(STEPS, swap).invert(denoiser, schedule, there.clean, InversionInputs(there))  # type: ignore[arg-type]
        assert torch.allclose(walk.noise, noise) and walk.nfe == 0
    none = Oracle(0).invert(denoiser, schedule, there.clean, InversionInputs(there))
    assert torch.equal(none.noise, DDIM().invert(denoiser, schedule, there.clean).noise)
    part = Oracle(5, "state").invert(denoiser, schedule, there.clean, InversionInputs(there))
    assert torch.equal(part.states[STEPS - 5], there.states[STEPS - 5]) and part.nfe == STEPS - 5


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        (Euler(), 20),
        (FixedPoint(3), 80),
        (Midpoint(), 40),
        (FireFlow(), 21),
        (UniInv(), 21),
        (UniInv(False), 20),
        (EDICT(), 40),
        (OBELM(), 20),
        (RFInversion(0.0), 20),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_model_calls_are_counted(method: Inverter, calls: int) -> None:
    denoiser, schedule, noise = bed("flow")
    asked: list[float] = []

    def counting(x: Tensor, timestep: float) -> Tensor:
        asked.append(timestep)
        return denoiser(x, timestep)

    assert method.invert(counting, schedule, noise).nfe == calls == len(asked)


def test_rf_inversion_under_full_control_ends_where_it_is_told() -> None:
    denoiser, schedule, noise = bed("flow")
    image = Euler().sample(denoiser, schedule, noise).clean
    other = noise.flip(0)
    up = RFInversion(gamma=1.0).invert(denoiser, schedule, image, InversionInputs(noise=other))
    assert torch.allclose(up.noise, other)
    down = RFInversion(eta=1.0).sample(denoiser, schedule, other, InversionInputs(clean=image))
    assert torch.allclose(down.clean, image)
    half = RFInversion(gamma=0.5).invert(denoiser, schedule, image, InversionInputs(noise=other))
    plain = RFInversion(gamma=0.0).invert(denoiser, schedule, image)
    assert float((half.noise - other).norm()) < float((plain.noise - other).norm())
    late = RFInversion(eta=1.0, stop=0.0).sample(denoiser, schedule, other, InversionInputs(clean=image))
    assert torch.equal(late.clean, Euler().sample(denoiser, schedule, other).clean)


def two_prompts() -> tuple[Denoiser, Denoiser, Schedule, Tensor]:
    scheduler = scheduler_for("epsilon")
    generator = torch.Generator().manual_seed(2)
    one, other = (GaussianMixture(torch.randn(2, 6, generator=generator, dtype=torch.float64), 0.5) for _ in range(2))
    noise = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    levels = levels_of(scheduler)
    return one.denoiser("epsilon", levels), other.denoiser("epsilon", levels), schedule_of(scheduler, STEPS), noise


def test_negative_prompt_cancels_guidance_for_the_source_and_guides_away_from_it() -> None:
    source, edit, schedule, noise = two_prompts()
    method, denoiser = NegativePrompt(), Guided(source, edit, 5.0)
    plain = DDIM().sample(source, schedule, noise)
    assert torch.allclose(method.sample(denoiser, schedule, noise).clean, plain.clean)
    assert torch.equal(
        method.invert(denoiser, schedule, plain.clean).noise, DDIM().invert(source, schedule, plain.clean).noise
    )
    edited = method.sample(Guided(edit, edit, 5.0, source), schedule, noise)
    assert torch.allclose(edited.clean, DDIM().sample(Guided(edit, source, 5.0), schedule, noise).clean)
    with pytest.raises(ConfigError, match="both sides of guidance"):
        method.invert(source, schedule, noise)


def test_null_text_finds_the_embeddings_that_bring_the_image_back() -> None:
    """The unconditional side is off by an embedding that is added; guided sampling misses, optimised it does not."""
    cond, uncond, schedule, noise = two_prompts()
    null = torch.zeros(5, 6, dtype=torch.float64)

    def with_null(embedding: Tensor) -> Denoiser:
        return lambda x, timestep: uncond(x, timestep) + embedding

    denoiser = Guided(cond, with_null(null), 3.0, None, with_null, null)
    method = NullText(iterations=200, rate=0.05, tolerance=1e-9)
    image = DDIM().sample(cond, schedule, noise).clean
    pivots = method.invert(denoiser, schedule, image)
    missed = DDIM().sample(denoiser, schedule, pivots.noise).clean - image
    found = method.sample(denoiser, schedule, pivots.noise, InversionInputs(pivots)).clean - image
    assert float(found.norm()) < 0.02 * float(missed.norm())


def test_guidance_is_linear_between_the_sides() -> None:
    source, edit, _, noise = two_prompts()
    expected = edit(noise, 500) + 3 * (source(noise, 500) - edit(noise, 500))
    assert torch.allclose(Guided(source, edit, 3.0)(noise, 500), expected)
    assert torch.equal(Guided(source, edit, 1.0)(noise, 500), source(noise, 500))


def test_unsupported_predictions_name_the_methods_that_work() -> None:
    denoiser, schedule, noise = bed("epsilon")
    with pytest.raises(ConfigError, match=r"rf-solver supports models that predict flow; this one predicts epsilon"):
        Midpoint().invert(denoiser, schedule, noise)
    check_prediction(Midpoint(), "flow", INVERTERS)
    with pytest.raises(ConfigError, match=r"predict flow; this one predicts epsilon; use belm, .*ddim, .*oracle$"):
        check_prediction(Midpoint(), "epsilon", INVERTERS)
    with pytest.raises(ConfigError, match=r"predict epsilon, v_prediction; this one predicts flow; use rf-solver$"):
        check_prediction(DDIM(), "flow", {"rf-solver": Midpoint, "ddim": DDIM})  # only what is registered
    with pytest.raises(ConfigError, match="predicts sample; use another model"):
        check_prediction(DDIM(), "sample", INVERTERS)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (Forward(), InversionInputs(), r"InversionInputs\(noise=...\)"),
        (Oracle(), InversionInputs(), r"InversionInputs\(sampled=...\)"),
        (RFInversion(), InversionInputs(), r"InversionInputs\(noise=...\)"),
        (Forward(STEPS + 1), InversionInputs(noise=torch.zeros(1)), "cannot replace"),
        (Oracle(), InversionInputs(Trajectory(torch.zeros(3, 1), torch.zeros(2, 1), 2)), "one of 2 steps"),
    ],
)
def test_what_is_not_given(method: Inverter, given: InversionInputs, message: str) -> None:
    denoiser, schedule, noise = bed("flow")
    with pytest.raises(ConfigError, match=message):
        method.invert(denoiser, schedule, noise, given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDIM("middle"),  # type: ignore[arg-type]
        lambda: Euler("middle"),  # type: ignore[arg-type]
        lambda: Forward(-1),
        lambda: Oracle(2, "both"),  # type: ignore[arg-type]
        lambda: FixedPoint(-1),
        lambda: FixedPoint(2, average_from=3),
        lambda: FixedPoint(2, average_from=1, anderson=True),
        lambda: EDICT(0.4),
        lambda: RFInversion(gamma=1.5),
    ],
)
def test_settings_out_of_range(make: Callable[[], Inverter]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_half_precision_states_warn_and_are_widened() -> None:
    denoiser, schedule, noise = bed("epsilon")
    with pytest.warns(UserWarning, match="float16"):
        walk = DDIM().sample(denoiser, schedule, noise.half())
    assert walk.states.dtype == torch.float32


def test_a_model_that_fails_is_noticed() -> None:
    _, schedule, noise = bed("epsilon")
    with pytest.raises(NonFiniteError, match="level 1 of 20"):
        DDIM().sample(lambda x, timestep: x * torch.nan, schedule, noise)


def test_fresh_noise_does_not_depend_on_the_batch() -> None:
    like = torch.zeros(3, 2, 2, dtype=torch.float64)
    assert torch.equal(fresh_noise(like, (5, 6, 7))[1:], fresh_noise(like[1:], (6, 7)))


@pytest.mark.parametrize(
    ("config", "sigmas"),
    [
        (SD | {"beta_start": 0.0015, "beta_end": 0.0195}, (0.039, 0.181, 0.257, 0.372)),
        ({"beta_schedule": "linear"}, (0.010, 0.079, 0.142, 0.265)),
        ({"beta_schedule": "squaredcos_cap_v2"}, (0.006, 0.043, 0.075, 0.138)),
        (SD | {"steps_offset": 1, "set_alpha_to_one": False}, (0.041, 0.140, 0.198, 0.288)),
    ],
    ids=["ldm", "dit", "if", "sdxl"],
)
def test_sigma_after_k_steps_of_fifty(config: dict[str, Any], sigmas: tuple[float, ...]) -> None:
    schedule = schedule_of(DDIMScheduler(**config), 50)
    assert [schedule.levels[50 - k].sigma for k in (1, 2, 3, 5)] == pytest.approx(sigmas, abs=6e-4)


def test_reference_level_of_dit_is_one_step_further() -> None:
    """DiT, T = 50, k = 2: sigma .142 where the next step assumes .079."""
    schedule = schedule_of(DDIMScheduler(beta_schedule="linear"), 50)
    assert Forward(2).noise_level(schedule, 48).sigma == pytest.approx(0.079, abs=6e-4)
    assert Forward(2, "reference").noise_level(schedule, 48).sigma == pytest.approx(0.142, abs=6e-4)


def test_flow_grid_of_sd3() -> None:
    schedule = schedule_of(FlowMatchEulerDiscreteScheduler(shift=3.0), 50)
    sigmas = [level.sigma for level in schedule.levels]
    assert sigmas[:3] + sigmas[-4:] == pytest.approx([1, 0.9931, 0.9861, 0.1205, 0.0669, 0.0089, 0], abs=6e-5)
    assert [sigmas[50 - k] for k in (1, 2, 3, 5)] == pytest.approx([0.009, 0.067, 0.121, 0.217], abs=6e-4)
    assert schedule.timesteps == pytest.approx([1000 * sigma for sigma in sigmas[:-1]])


def test_flow_schedule_as_it_was_used() -> None:
    """Timesteps that the pipeline set itself are taken, not computed anew; a shift by the size is asked for."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(ConfigError, match="mu="):
        schedule_of(scheduler, 10)
    with pytest.raises(ConfigError, match="num_steps"):
        schedule_of(scheduler)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.8)
    used = schedule_of(scheduler)
    assert [level.sigma for level in used.levels] == pytest.approx(scheduler.sigmas.tolist())
    assert used == schedule_of(scheduler, None, sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.8)


def test_schedule_of_another_sampler_is_ddims_with_its_configuration() -> None:
    """SDXL ships Euler: leading timesteps 981 ... 1, ending at the first trained level."""
    config = SD | {"timestep_spacing": "leading", "steps_offset": 1}
    scheduler = EulerDiscreteScheduler.from_config(config | {"set_alpha_to_one": False})
    schedule = schedule_of(scheduler, 50)
    assert schedule.timesteps[0] == 981 and schedule.timesteps[-1] == 1
    assert schedule.levels[-1].sigma == pytest.approx(math.sqrt(1 - float(scheduler.alphas_cumprod[0])), abs=1e-6)


def test_steps_that_do_not_divide_warn() -> None:
    with pytest.warns(UserWarning, match="33, 34 apart"):
        schedule_of(DDIMScheduler(timestep_spacing="trailing"), 30)
    with pytest.warns(UserWarning, match="600 steps do not divide the 1000 training .* begins at timestep 599"):
        schedule_of(DDIMScheduler(), 600)
    with pytest.raises(ConfigError, match="7,000 steps are more than the 1,000 noise levels"):
        schedule_of(DDIMScheduler(), 7000)
    with pytest.raises(ConfigError, match="must decrease"):
        Schedule("flow", (Level(0, 1), Level(0, 1)), (1000.0,), 1000, Level(0, 1))


def test_zero_terminal_snr_works_for_v_and_not_for_noise() -> None:
    settings = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = scheduler_for("v_prediction", **settings)
    denoiser, schedule = LINE.denoiser("v_prediction", levels_of(scheduler)), schedule_of(scheduler, 20)
    assert schedule.levels[0].alpha < 1e-6
    assert DDIM().round_trip(denoiser, schedule, POINTS) < 1e-10
    if schedule.levels[0].alpha == 0:
        with pytest.raises(ConfigError, match="alpha"):
            EDICT().sample(denoiser, schedule, POINTS)
    with pytest.raises(ConfigError, match="use a model with v_prediction"):
        step_of("epsilon", Level(0.0, 1.0), Level(1.0, 0.0)).ahead(0, POINTS, POINTS)


def step_of(prediction: Prediction, source: Level, target: Level) -> Schedule:
    """A schedule of one step."""
    return Schedule(prediction, (source, target), (500.0,), 1000, Level(0.0, 1.0))


@pytest.mark.parametrize("prediction", [*KINDS, "sample"])
def test_steps_and_predictions_agree_with_the_definitions(prediction: Prediction) -> None:
    """A prediction implies the image and the noise that it was made from, and its step keeps both."""
    source, target = (Level(0.3, 0.7), Level(0.8, 0.2)) if prediction == "flow" else (Level(0.6, 0.8), Level(0.8, 0.6))
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    definitions = {
        "epsilon": noise,
        "v_prediction": source.alpha * noise - source.sigma * clean,
        "flow": noise - clean,
        "sample": clean,
    }
    schedule, x, output = step_of(prediction, source, target), source.noised(clean, noise), definitions[prediction]
    assert torch.allclose(schedule.clean_of(0, x, output), clean)
    assert torch.allclose(schedule.noise_of(0, x, output), noise)
    assert torch.allclose(schedule.ahead(0, x, output), target.noised(clean, noise))
    assert torch.allclose(schedule.back(0, target.noised(clean, noise), output), x)


def test_dpm_solver_inverse_of_diffusers_is_on_another_grid() -> None:
    """Also why it is not offered: it walks to another end than its sampler comes from, and only first order shows."""
    sampler, inverse = DPMSolverMultistepScheduler(**SD), DPMSolverMultistepInverseScheduler(**SD)
    denoiser = LINE.denoiser("epsilon", levels_of(sampler))

    def error(steps: int) -> float:
        inverse.set_timesteps(steps)
        share = float(inverse.alphas_cumprod[inverse.noisiest_timestep])
        end = (share**0.5, (1 - share) ** 0.5)
        x = LINE.transport(POINTS, end, (1.0, 0.0))
        for timestep in inverse.timesteps:
            x = inverse.step(denoiser(x, float(timestep)), timestep, x).prev_sample.double()
        return float((x - POINTS).abs().mean())

    assert halved(error, (20, 40, 80)) < 1.5
    sampler.set_timesteps(20)
    inverse.set_timesteps(20)
    assert sorted(map(int, sampler.timesteps)) != list(map(int, inverse.timesteps))


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_dpm_solver_inverse_of_diffusers_is_right_where_it_is_ddim(
    prediction: Prediction, order: int, spacing: str, algorithm: str
) -> None:
    """With the sampler's predictions replayed: only first-order steps of noise on a linspace grid lead back.

    Those are DDIM's on another grid, which ``ddim`` has; what the second order would add may not be used.
    """
    own = SD | {"solver_order": order, "timestep_spacing": spacing, "algorithm_type": algorithm}
    own |= {"prediction_type": prediction}
    sampler = DPMSolverMultistepScheduler(**own | {"final_sigmas_type": "sigma_min"})
    inverse = DPMSolverMultistepInverseScheduler(**own)
    _, _, noise = bed(prediction)
    means = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = GaussianMixture(means, 0.4).denoiser(prediction, levels_of(sampler))
    x, told = noise, []
    sampler.set_timesteps(STEPS)
    for timestep in sampler.timesteps:
        told.append(denoiser(x, float(timestep)))
        x = sampler.step(told[-1], timestep, x).prev_sample.double()
    inverse.set_timesteps(STEPS)
    for timestep, output in zip(inverse.timesteps, reversed(told), strict=True):
        x = inverse.step(output, timestep, x).prev_sample.double()
    right = (prediction, order, spacing) == ("epsilon", 1, "linspace")
    assert (float((x - noise).abs().max()) < EXACT) == right


@pytest.mark.parametrize("adapter", [SDXL, SD3, DeepFloydIF], ids=lambda one: one.name)
def test_real_networks_walk_there_and_back(adapter: type[Adapter]) -> None:
    """Random weights: guidance, learned variance and three prompts, in single precision."""
    model = Model(adapter.tiny(), adapter())
    schedule = schedule_of(model.pipeline.scheduler, 5)
    denoiser = model_denoiser(model, ["a cat", "a dog"], guidance=2.0)
    size = model.denoiser.config.sample_size
    channels = model.denoiser.config.in_channels
    noise = fresh_noise(torch.zeros(2, channels, size, size), (0, 1))
    with torch.no_grad():
        for method in [kind() for kind in INVERTERS.values() if schedule.prediction in kind.predictions]:
            if isinstance(method, Stepwise) and not isinstance(method, Forward | StockDDIM):
                assert method.round_trip(denoiser, schedule, noise, InversionInputs(noise=noise)) < 1e-4
    assert denoiser(noise, schedule.timesteps[0]).shape == noise.shape
