"""Registers the adapter; torch is imported only when adapters are asked for."""

from t2iprobe import hookimpl


@hookimpl
def t2iprobe_register_adapters():
    """The adapter of latent diffusion."""
    from t2iprobe_ldm.adapter import LDM

    return [LDM]
