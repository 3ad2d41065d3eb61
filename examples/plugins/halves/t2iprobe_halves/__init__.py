"""Registers the method ``halves`` and the command ``t2iprobe halves``."""

from t2iprobe import hookimpl


@hookimpl
def t2iprobe_register_localizers():
    """Bisection."""
    from t2iprobe_halves.method import Halves

    return [Halves]


@hookimpl
def t2iprobe_register_commands():
    """What bisection takes."""
    from t2iprobe_halves.commands import app

    return {"halves": app}
