"""Inverters of flow models: midpoints, reused velocities and a controlled ODE, all on the sampler's own sigmas.

The velocity is v = n - x0 and the time the noise level s, 0 being the image: sampling and inversion are the same ODE
dx/ds = v(x, s), followed down or up.
"""

from __future__ import annotations

from torch import Tensor

from t2iprobe.core.contracts.inverter import FLOW, InversionRun, Stepwise
from t2iprobe.core.errors import ConfigError


class Midpoint(Stepwise):
    """RF-Solver (arXiv 2411.04746): v at the middle of the step, 2 calls per step, second order.

    The paper's Taylor step x + h v + h^2/2 (v_mid - v)/(h/2), as written in its code, equals x + h v_mid: the explicit
    midpoint method. Inversion calls the model at s = 0 once.
    """

    name = "rf-solver"
    summary = "the midpoint method in both directions (RF-Solver), 2 calls per step"
    predictions = FLOW

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The velocity half-way up (toward the noise)."""
        return self.middle(run, step + 1, step, x)

    def slope(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The velocity half-way down (toward the image)."""
        return self.middle(run, step, step + 1, x)

    def middle(self, run: InversionRun, source: int, target: int, x: Tensor) -> Tensor:
        """The velocity half-way between two levels, from the state at ``source``."""
        velocity = run.ask(x, run.schedule.timestep_of(source)) if run.kept is None else run.kept
        begin, end = (run.schedule.levels[index].sigma for index in (source, target))
        return run.ask(x + (end - begin) / 2 * velocity, run.schedule.timestep_at((begin + end) / 2))


class FireFlow(Midpoint):
    """FireFlow (arXiv 2412.07517): the midpoint method, with the previous step's midpoint velocity as predictor.

    1 call per step and one at the start of a trajectory; of second order as long as neighbouring steps are of similar
    length.
    """

    name = "fireflow"
    summary = "midpoints with the velocity of the previous step as predictor (FireFlow), 1 call per step"

    def middle(self, run: InversionRun, source: int, target: int, x: Tensor) -> Tensor:
        """See :meth:`Midpoint.middle`; the velocity is kept for the next step."""
        run.kept = super().middle(run, source, target, x)
        return run.kept


class UniInv(Stepwise):
    """Uni-Inv (arXiv 2504.13109, algorithm 1): the implicit Euler step, with the previous velocity as predictor.

    x^ = x + h v_last, v = v(x^, s_next), x <- x + h v; the matching sampler is Euler's. Follows the authors'
    ``UniInvEulerScheduler``, which starts with v(x0, 0).

    Args:
        ask_clean: call the model at the image itself (s = 0) for the first predictor; without it the first predictor
            is the image (the authors' ``zero_initial``).
    """

    name = "uni-inv"
    summary = "the implicit Euler step with the last velocity as predictor (Uni-Inv), 1 call per step"
    predictions = FLOW

    def __init__(self, ask_clean: bool = True) -> None:
        self.ask_clean = ask_clean

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The velocity at the predicted state."""
        if run.kept is None and self.ask_clean:
            run.kept = run.ask(x, run.schedule.timestep_of(step + 1))
        predictor = x if run.kept is None else run.schedule.back(step, x, run.kept)
        run.kept = run.at(step, predictor)
        return run.kept


class RFInversion(Stepwise):
    """RF-Inversion (arXiv 2410.10792, eq. 8 and 17): both ODEs are steered toward a given end point.

    Up: v + gamma (toward - v) with toward = (noise - x) / (1 - s), at the state where the step starts. Down, with time
    counted in the same direction: v + eta (away - v) with away = (x - image) / s. With gamma = eta = 0 this is Euler's
    method with source-time inversion; eta = 1 gives the image back whatever the noise is, so a reconstruction shows
    nothing.

    diffusers' community pipeline differs: its inversion calls the model at evenly spaced timesteps while it steps by
    the scheduler's shifted sigmas; here both are the sampler's.

    Args:
        gamma: strength of control over inversion, 0..1; 0.5 in the paper. Above 0 it needs ``InversionInputs.noise``.
        eta: strength of control over sampling, 0..1. Above 0 it needs ``InversionInputs.clean``.
        start, stop: first sampling step that is controlled and the one where control ends, as shares of all steps.
    """

    name = "rf-inversion"
    summary = "ODEs steered toward given noise and back toward the image (RF-Inversion)"
    predictions = FLOW

    def __init__(self, gamma: float = 0.5, eta: float = 0.0, start: float = 0.0, stop: float = 1.0) -> None:
        if not (0 <= gamma <= 1 and 0 <= eta <= 1 and 0 <= start <= stop <= 1):
            raise ConfigError(
                f"gamma, eta, start and stop must be in 0..1, and start no larger than stop; found {gamma=}, {eta=}, "
                f"{start=}, {stop=}"
            )
        self.gamma, self.eta, self.start, self.stop = gamma, eta, start, stop

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The velocity at the lower level, steered toward the noise."""
        velocity = run.ask(x, run.schedule.timestep_of(step + 1))
        if not self.gamma:
            return velocity
        noise = run.required("noise", f"{self.name} with gamma={self.gamma}")
        toward = (noise - x) / (1 - run.schedule.levels[step + 1].sigma)
        return velocity + self.gamma * (toward - velocity)

    def slope(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The velocity, steered away from the image (going down runs backwards in s)."""
        velocity = run.at(step, x)
        if not self.eta or not self.start <= step / run.schedule.steps < self.stop:
            return velocity
        away = (x - run.required("clean", f"{self.name} with eta={self.eta}")) / run.schedule.levels[step].sigma
        return velocity + self.eta * (away - velocity)
