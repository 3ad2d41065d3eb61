"""Every error a user can meet. Each also is the builtin a Python user would catch.

T2IProbeError
├── ConfigError          (ValueError)    an argument is off: what was asked, what was found, what to do
│   ├── SiteError        (LookupError)   no such site, or a name that breaks the grammar
│   └── ModelError                       the model cannot be loaded, or no adapter knows it
├── HookError            (RuntimeError)  a hook would not fire, or did not
├── ShapeError           (ValueError)    an edit gave back another shape
├── NonFiniteError       (ArithmeticError)  NaN or infinity in the denoiser
└── RunExistsError       (FileExistsError)  the run folder holds a run with other settings
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


class RunExistsError(ConfigError, FileExistsError):
    """The run folder holds a run with other settings."""


class HookError(T2IProbeError, RuntimeError):
    """A hook did not fire as often as it must, or would not: compiled, fused, offloaded or bypassed module."""


class ShapeError(T2IProbeError, ValueError):
    """An intervention gave back a tensor of another shape, or a donor's does not fit."""


class NonFiniteError(T2IProbeError, ArithmeticError):
    """NaN or infinity appeared in the denoiser."""
