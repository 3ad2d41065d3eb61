"""The noise levels of a scheduler as a configuration that other schedulers understand: :func:`config_of`."""

from __future__ import annotations

from typing import Any


def config_of(scheduler: Any) -> dict[str, Any]:
    """Its configuration, with which any scheduler of diffusers has its noise levels.

    CogView3-Plus shifts the levels of its betas, and only its own schedulers know that setting; others would ignore it.
    """
    config = dict(scheduler.config)
    if config.pop("snr_shift_scale", None) is None:
        return config
    shares = scheduler.alphas_cumprod.double()
    betas = 1 - shares[1:] / shares[:-1]
    own = {"trained_betas": [float(1 - shares[0]), *betas.tolist()], "rescale_betas_zero_snr": False}
    defaults = [name for name in config.get("_use_default_values", ()) if name not in own]  # dropped by from_config
    return config | own | {"_use_default_values": defaults}
