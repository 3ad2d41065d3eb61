"""A model that draws no toxic text: :func:`guard`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.plugins.manager import Plugins

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.core.moderation import Detector, Rewriter
    from t2iprobe.plugins.toxicity.donors import Way
    from t2iprobe.plugins.toxicity.guard import Guard
    from t2iprobe.plugins.toxicity.policy import Where


def guard(
    model: Model,
    *,
    layers: Sequence[int] | str | Path,
    detectors: str | Detector | Sequence[str | Detector] = "words",
    rewriter: str | Rewriter = "mapped",
    donor: Way = "auto",
    start: int = 0,
    where: Where = "prompt",
    time_limit: float = 30.0,
    audit: str | Path | None = None,
    audit_text: bool = False,
    plugins: Plugins | None = None,
) -> Guard:
    """The model, guarded: used like it, see :class:`~t2iprobe.plugins.toxicity.guard.Guard`.

    Args:
        model: the model.
        layers: those that write the text; or the run folder of a localization that found them.
        detectors: names, such as ``words`` or ``classifier:model=FOLDER``, or detectors; any of them is enough.
        rewriter: a name, such as ``mapped`` or ``mask``, or a rewriter.
        donor: how the rewrite comes to the layers: ``inject``, ``row`` or ``stream``; ``auto`` chooses by the family.
        start: denoising step from which on they get it, 0 at pure noise.
        where: look at the whole ``prompt``, or only at what is ``quoted``.
        time_limit: seconds that a detector or rewriter may take for a prompt, which is refused then.
        audit: a file that gets a JSON line for every prompt.
        audit_text: whether it holds the prompts.
        plugins: where detectors and rewriters come from; default all that are installed.

    Raises:
        ConfigError: no such layers, detector, rewriter or donor.
    """
    from t2iprobe.plugins.toxicity.audit import Audit
    from t2iprobe.plugins.toxicity.guard import Guard
    from t2iprobe.plugins.toxicity.policy import Policy
    from t2iprobe.terminal.layers import found_by

    plugins = plugins or Plugins()
    listed = [detectors] if isinstance(detectors, str) or not isinstance(detectors, Sequence) else list(detectors)
    found = [_named(one, plugins.detector) for one in listed]
    policy = Policy(found, _named(rewriter, plugins.rewriter), where, time_limit)
    numbers = found_by(Path(layers), model) if isinstance(layers, str | Path) else layers
    log = None if audit is None else Audit(Path(audit), audit_text)
    return Guard(model, numbers, policy, way=donor, start=start, audit=log)


def _named(part: Any, make: Callable[..., Any]) -> Any:
    """A detector or rewriter from ``NAME[:key=value,…]``, or as it is."""
    from t2iprobe.core.names import with_settings

    if not isinstance(part, str):
        return part
    name, settings = with_settings(part)
    return make(name, **settings)
