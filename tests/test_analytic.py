"""The analytic denoiser: against automatic differentiation, against sampling, and against its own ODE."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.testing.analytic import GaussianMixture, levels_of

LEVEL = (0.8, 0.6)


def mixture(components: int = 3, *shape: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(components, *(shape or (2, 3)), generator=generator, dtype=torch.float64)
    scales = 0.2 + torch.rand(means.shape, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, scales, 1 + torch.arange(components, dtype=torch.float64))


def states(rows: int = 5, *shape: int) -> Tensor:
    return torch.randn(rows, *(shape or (2, 3)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_score_is_the_gradient_of_the_density() -> None:
    x = states().requires_grad_()
    (gradient,) = torch.autograd.grad(mixture().log_density(x, *LEVEL).sum(), x)
    assert torch.allclose(mixture().score(x, *LEVEL), gradient, atol=1e-12)


def test_the_density_of_one_component_is_the_normal_one() -> None:
    data, x = mixture(1), states()
    spread = (LEVEL[0] ** 2 * data.scales**2 + LEVEL[1] ** 2).sqrt()
    expected = torch.distributions.Normal(LEVEL[0] * data.means[0], spread[0]).log_prob(x).sum((1, 2))
    assert torch.allclose(data.log_density(x, *LEVEL), expected, atol=1e-12)


def test_the_predictions_explain_the_state() -> None:
    data, x = mixture(), states()
    clean, noise = data.predict("sample", x, *LEVEL), data.predict("epsilon", x, *LEVEL)
    assert torch.allclose(LEVEL[0] * clean + LEVEL[1] * noise, x, atol=1e-12)
    assert torch.allclose(data.predict("v_prediction", x, *LEVEL), LEVEL[0] * noise - LEVEL[1] * clean)
    assert torch.allclose(data.predict("flow", x, *LEVEL), noise - clean)


def test_the_posterior_mean_is_the_best_guess_of_real_draws() -> None:
    """The residual of a conditional expectation is orthogonal to every function of the state."""
    data, count = mixture(2, 1), 200_000
    generator = torch.Generator().manual_seed(3)
    clean = data.draw(count, generator)
    x = LEVEL[0] * clean + LEVEL[1] * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    residual = clean - data.clean(x, *LEVEL)
    for function in (torch.ones_like, torch.sin, torch.tanh):
        assert abs(float((residual * function(x)).mean())) < 4 * float(residual.std()) / count**0.5


def test_ends_of_the_noise_range_are_finite_and_right() -> None:
    data, x = mixture(), states()
    assert torch.allclose(data.clean(x, 1.0, 0.0), x)
    assert not data.noise(x, 1.0, 0.0).any()
    assert torch.allclose(data.noise(x, 0.0, 1.0), x)
    overall = (data.weights[:, None, None] * data.means).sum(0)
    assert torch.allclose(data.clean(x, 0.0, 1.0), overall.expand_as(x))


@pytest.mark.parametrize("data", [mixture(1, 4), mixture(3, 1)], ids=["one component", "one dimension"])
def test_the_exact_flow_solves_the_ode(data: GaussianMixture) -> None:
    """dx/ds = E[n - x0 | x] by differences; and there and back is where it started."""
    x = states(6, *data.means.shape[1:])
    level, step = 0.6, 1e-4
    ends = [data.transport(x, (1 - level, level), (1 - s, s)) for s in (level - step, level + step)]
    velocity = data.predict("flow", x, 1 - level, level)
    assert torch.allclose((ends[1] - ends[0]) / (2 * step), velocity, atol=1e-6)
    there = data.transport(x, (0.0, 1.0), (1.0, 0.0))
    assert torch.allclose(data.transport(there, (1.0, 0.0), (0.0, 1.0)), x, atol=1e-8)


def test_the_exact_flow_makes_data_of_noise() -> None:
    data = mixture(3, 1)
    noise = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    made, drawn = data.transport(noise, (0.0, 1.0), (1.0, 0.0)), data.draw(40_000, torch.Generator().manual_seed(6))
    shares = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    assert torch.allclose(made.quantile(shares), drawn.quantile(shares), atol=0.06)


def test_the_exact_flow_is_unknown_for_several_components_in_several_dimensions() -> None:
    with pytest.raises(ConfigError, match="one dimension"):
        mixture().transport(states(), (0.0, 1.0), (1.0, 0.0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_levels_are_the_schedulers(prediction: Prediction) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction)
    alpha, sigma = levels_of(scheduler)(250.0)
    assert alpha**2 == pytest.approx(float(scheduler.alphas_cumprod[250]))
    assert alpha**2 + sigma**2 == pytest.approx(1)
    with pytest.raises(ConfigError, match="whole numbers from 0 to 999"):
        levels_of(scheduler)(250.5)
    x = states()
    answer = mixture().denoiser(prediction, levels_of(scheduler))(x.float(), 250.0)
    assert answer.dtype == torch.float32
    assert torch.allclose(answer.double(), mixture().predict(prediction, x, alpha, sigma), atol=1e-5)


def test_levels_of_flow_are_a_straight_line() -> None:
    assert levels_of(FlowMatchEulerDiscreteScheduler(shift=3.0))(250.0) == (0.75, 0.25)


@pytest.mark.parametrize("wrong", [{"scales": 0.0}, {"scales": math.nan}, {"weights": torch.ones(2)}])
def test_a_mixture_that_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        GaussianMixture(torch.zeros(3, 2), **{"scales": 1.0} | wrong)  # type: ignore[arg-type]
