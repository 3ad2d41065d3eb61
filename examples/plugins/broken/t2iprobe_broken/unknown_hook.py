"""Has a hook that this version of t2iprobe does not know."""

from t2iprobe import hookimpl


@hookimpl
def t2iprobe_register_samplers():
    """No such hook."""
    return []
