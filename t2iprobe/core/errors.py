"""Every error a user can meet. Each also is the builtin a Python user would catch.

T2IProbeError
├── ConfigError          (ValueError)    an argument is off: what was asked, what was found, what to do
│   ├── SiteError        (LookupError)   no such site, or a name that breaks the grammar
│   └── ModelError                       the model cannot be loaded, or no adapter knows it
├── BudgetError          (RuntimeError)  what is asked for costs more than is left of the budget
├── HookError            (RuntimeError)  a hook would not fire, or did not
├── GuardError           (RuntimeError)  a guard lets no picture be made of a prompt
├── ShapeError           (ValueError)    an edit gave back another shape
├── NonFiniteError       (ArithmeticError)  NaN or infinity in the denoiser
├── RunExistsError       (FileExistsError)  the run folder holds a run with other settings
├── LockedError          (BlockingIOError)  another process is writing there
├── StoppedError         (InterruptedError) a study was asked to stop and did, between two units
└── StoreError           (OSError)       activations cannot be written or read
    └── DamagedError                     a stored chunk is not what was written
"""

from __future__ import annotations


class T2IProbeError(Exception):
    """Base of all errors of this package; the command line prints the message and ends with ``exit_code``."""

    exit_code = 1


class ConfigError(T2IProbeError, ValueError):
    """Something that was asked for cannot be."""

    exit_code = 2


class SiteError(ConfigError, LookupError):
    """No such site, or a site name that breaks the grammar."""


class ModelError(ConfigError):
    """A model cannot be loaded, or no adapter knows its pipeline class."""


class BudgetError(T2IProbeError, RuntimeError):
    """What is asked for costs more denoiser rows than the budget has left."""

    exit_code = 2


class RunExistsError(ConfigError, FileExistsError):
    """The run folder holds a run with other settings."""


class HookError(T2IProbeError, RuntimeError):
    """A hook did not fire as often as it must, or would not: compiled, fused, offloaded or bypassed module."""


class GuardError(T2IProbeError, RuntimeError):
    """A guard lets no picture be made of a prompt: a detector failed, or no rewrite was benign."""


class ShapeError(T2IProbeError, ValueError):
    """An intervention gave back a tensor of another shape, or a donor's does not fit."""


class NonFiniteError(T2IProbeError, ArithmeticError):
    """NaN or infinity appeared in the denoiser."""


class LockedError(T2IProbeError, BlockingIOError):
    """Another process is writing there."""


class StoppedError(T2IProbeError, InterruptedError):
    """A study was asked to stop and did, between two units; what was measured is kept."""

    exit_code = 130


class StoreError(T2IProbeError, OSError):
    """Activations cannot be written to a store, or read from it."""


class DamagedError(StoreError):
    """A stored chunk is missing or not what was written."""
