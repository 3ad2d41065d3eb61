"""The errors that a user can meet: ``t2iprobe.errors``. Each also inherits from the builtin that one would catch.

T2IProbeError
├── ConfigError          (ValueError)    invalid request: what was asked, what was found, what to do
│   ├── SiteError        (LookupError)   no such site, or an invalid site name
│   └── ModelError                       the model cannot be loaded, or no adapter serves it
├── BudgetError          (RuntimeError)  the request costs more than is left of the budget
├── HookError            (RuntimeError)  a hook would not fire, or did not
├── GuardError           (RuntimeError)  a guard refuses to make a picture of a prompt
├── ShapeError           (ValueError)    a tensor has the wrong shape
├── MetricError          (ValueError)    a metric raised, or returned something else than a number
├── NonFiniteError       (ArithmeticError)  NaN or infinity in the denoiser
├── RunExistsError       (FileExistsError)  the run folder holds a run with other settings
├── LockedError          (BlockingIOError)  another process is writing there
├── StoppedError         (InterruptedError) a study was stopped on request, between two units
└── StoreError           (OSError)       activations cannot be written or read
        └── DamagedError                     a stored chunk differs from what was written
"""

from __future__ import annotations


class T2IProbeError(Exception):
    """Base of all errors of this package; the command line prints the message and ends with ``exit_code``."""

    exit_code = 1


class ConfigError(T2IProbeError, ValueError):
    """Invalid request."""

    exit_code = 2


class SiteError(ConfigError, LookupError):
    """There is no such site, or the site name is invalid."""


class ModelError(ConfigError):
    """A model cannot be loaded, or no adapter knows its pipeline class."""


class BudgetError(T2IProbeError, RuntimeError):
    """The request costs more denoiser rows than are left of the budget."""

    exit_code = 2


class RunExistsError(ConfigError, FileExistsError):
    """The run folder holds a run with other settings."""


class HookError(T2IProbeError, RuntimeError):
    """A hook did not fire as often as it must, or would not: the module is compiled, fused, offloaded or bypassed."""


class GuardError(T2IProbeError, RuntimeError):
    """A guard refuses to make a picture of a prompt: a detector failed, or no rewrite was benign."""


class ShapeError(T2IProbeError, ValueError):
    """An intervention returned a tensor of another shape, or the shapes of two inputs do not match."""


class MetricError(T2IProbeError, ValueError):
    """A metric failed on a picture, or returned something else than a number."""


class NonFiniteError(T2IProbeError, ArithmeticError):
    """NaN or infinity appeared in the denoiser."""


class LockedError(T2IProbeError, BlockingIOError):
    """Another process is writing there."""


class StoppedError(T2IProbeError, InterruptedError):
    """A study was stopped on request, between two units; what was measured is kept."""

    exit_code = 130


class StoreError(T2IProbeError, OSError):
    """Activations cannot be written to a store, or read from it."""


class DamagedError(StoreError):
    """A stored chunk is missing or differs from what was written."""
