"""Which layers write a concept, in Python: :func:`localize` and :func:`patch_layers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.api.calls import calling, pairs_option

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.core.pairs import Pair
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.registry.results import Result


def localize(
    model: Model | str | Any,
    *,
    pairs: int | str | Path | Sequence[Pair] | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> Result:
    """Find the layers that write the text (or colour, …), and confirm the set on held-out pairs: ``t2iprobe localize``.

    Args:
        model: what :func:`t2iprobe.load` gives or takes.
        pairs: how many pairs of a prompt set; or a CSV file, or the pairs themselves.
        out: run folder, which is kept: the same call continues where it stopped, or finds the run finished. Without
            it, the run is kept in a temporary folder that is removed together with the result.
        quiet: show neither plan nor progress, which otherwise go to stderr.
        plugins: the plugins to use; default all that are installed.
        **options: those of the command: ``concept``, ``method``, ``set`` (settings of the method, a
            dictionary), ``layers``, ``prompt_set``, ``held_out``, ``budget``, ``seed``, ``num_steps``, ``guidance``,
            ``resolution``, ``batch_size``, ``reader``, ``metric``, ``preset``, …

    Raises:
        ConfigError: an option is not known or is impossible, or the run takes hours and ``yes=True`` was not given.
        RunExistsError: ``out`` holds another run.
        StoppedError: Ctrl-C was pressed; what was measured is kept if ``out`` was given.
    """
    from t2iprobe.plugins.localization.commands import localized
    from t2iprobe.plugins.localization.options import LocalizeOptions
    from t2iprobe.registry.results import Result

    with calling("localize", model, out, quiet, plugins) as call:
        given = {**options, **pairs_option(pairs, options, call)}
        localized(call.options(LocalizeOptions, given), call.plugins)
        return call.left(Result.open(call.folder))


def patch_layers(
    model: Model | str | Any,
    *,
    pairs: int | str | Path | Sequence[Pair] | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> Result:
    """Patch every layer by itself, as the paper did: ``t2iprobe patch``. (:func:`t2iprobe.patch` is a single edit.)

    Args:
        model, out, quiet, plugins: see :func:`localize`.
        pairs: see :func:`localize`; or give ``source`` and ``target``.
        **options: those of the command: ``source``, ``target``, ``layers``, ``sites``, ``steps``, ``branch``,
            ``heads``, ``concept``, ``prompt_set``, ``seed``, ``num_steps``, ``guidance``, ``resolution``, …

    Raises:
        ConfigError, RunExistsError, StoppedError: see :func:`localize`.
    """
    from t2iprobe.plugins.localization.commands import patched
    from t2iprobe.plugins.localization.options import PatchOptions
    from t2iprobe.registry.results import Result

    with calling("patch_layers", model, out, quiet, plugins) as call:
        given = {**options, **pairs_option(pairs, options, call)}
        patched(call.options(PatchOptions, given), call.plugins)
        return call.left(Result.open(call.folder))
