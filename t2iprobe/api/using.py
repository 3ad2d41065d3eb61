"""What to do with a model and with layers that were found: the functions that do what a plugin's command does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.api.calls import beside, calling, pairs_option

if TYPE_CHECKING:
    from t2iprobe.api.outcomes import EditResult, Finetuned, Inversion, Outcome
    from t2iprobe.core.model import Model
    from t2iprobe.core.pairs import Pair
    from t2iprobe.core.store.reader import ActivationStore
    from t2iprobe.registry.manager import Plugins


def edit(
    model: Model | str | Any,
    *,
    pairs: int | str | Path | Sequence[Pair] | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> EditResult:
    """Change the text in a picture and leave the rest, with one or several methods, compared: ``t2iprobe edit``.

    Args:
        model, pairs, out, quiet, plugins: see :func:`t2iprobe.localize`.
        **options: those of the command: ``source`` and ``target`` (or ``pairs``), ``prompt_set``, ``layers``
            (numbers; or ``from_run``, the folder of a localization), ``method`` (one or several), ``set`` (their
            settings, a dictionary), ``start_step``, ``image``, ``inverter``, ``lora``, ``metric``, ``seed``, …

    Raises:
        ConfigError, RunExistsError, StoppedError: see :func:`t2iprobe.localize`.
    """
    from t2iprobe.api.outcomes import EditResult
    from t2iprobe.plugins.editing import commands
    from t2iprobe.plugins.editing.options import EditOptions, with_preset

    with calling("edit", model, out, quiet, plugins) as call:
        asked = call.options(EditOptions, {**options, **pairs_option(pairs, options, call)})
        commands.edited(with_preset(asked), call.plugins)
        return call.left(EditResult.open(call.folder))


def invert(
    model: Model | str | Any,
    *,
    prompts: str | Path | Sequence[str] | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> Inversion:
    """Sample pictures, invert them and sample them again: ``t2iprobe invert run``.

    Args:
        model, out, quiet, plugins: see :func:`t2iprobe.localize`.
        prompts: one or several, or the ``Path`` of a file with one a line; default those of the prompt set.
        **options: those of the command: ``limit`` (pictures), ``images`` (a folder of them), ``method`` (one or
            several), ``num_steps``, ``guidance``, ``inversion_guidance``, ``sampler``, ``keep``, ``seed``, …

    Raises:
        ConfigError, RunExistsError, StoppedError: see :func:`t2iprobe.localize`.
    """
    from t2iprobe.api.outcomes import Inversion
    from t2iprobe.plugins.inversion import commands, session
    from t2iprobe.plugins.inversion.options import InvertOptions

    with calling("invert", model, out, quiet, plugins) as call, beside(prompts) as file:
        found = commands.inverted(call.options(InvertOptions, options | file), call.plugins)
        answer = session.summary(found)
        return call.left(Inversion(call.folder, answer, answer["methods"]))


def finetune(
    model: Model | str | Any,
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> Finetuned:
    """Train LoRAs on the layers that were found, and on others for comparison: ``t2iprobe finetune``.

    Args:
        model, out, quiet, plugins: see :func:`t2iprobe.localize`. The model is as before once this is done.
        **options: those of the command: ``data`` (a folder, or ``digits``), ``layers`` (or ``from_run``), ``scope``
            (one or several), ``rank``, ``train_steps``, ``train_batch_size``, ``lr``, ``seeds``, ``prompts``, …

    Raises:
        ConfigError, RunExistsError, StoppedError: see :func:`t2iprobe.localize`.
    """
    from t2iprobe.api.outcomes import Finetuned
    from t2iprobe.plugins.finetune import output
    from t2iprobe.plugins.finetune.options import FinetuneOptions, trained

    with calling("finetune", model, out, quiet, plugins) as call:
        runs = trained(call.options(FinetuneOptions, options), call.plugins)
        return call.left(Finetuned(call.folder, {"runs": runs}, [output.row(run) for run in runs]))


def continual(
    model: Model | str | Any,
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> Outcome:
    """Learn concepts in sequence, and see what is forgotten, with one row per method: ``t2iprobe continual run``.

    Args:
        model, out, quiet, plugins: see :func:`t2iprobe.localize`. The model is as before once this is done.
        **options: those of the command: ``stream``, ``data``, ``method``, ``order``, ``seed``, ``reference`` (each
            one or several), ``scope``, ``layers``, ``rank``, ``train_steps``, ``train_batch_size``, ``samples``,
            ``metric``, ``workers`` (processes; one by default, and more only for a model that is given by name), …

    Raises:
        ConfigError, RunExistsError, StoppedError: see :func:`t2iprobe.localize`.
    """
    from t2iprobe.api.outcomes import Outcome
    from t2iprobe.plugins.continual import commands, output
    from t2iprobe.plugins.continual.options import ContinualOptions

    with calling("continual", model, out, quiet, plugins) as call:
        asked = call.options(ContinualOptions, {"workers": 1} | options)
        call.alone(asked.workers or 1)
        answer = commands.learnt(asked, call.plugins)
        return call.left(Outcome(call.folder, answer, output.rows(answer)))


def capture(
    model: Model | str | Any,
    prompts: str | Path | Sequence[str],
    sites: str | Sequence[str],
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> ActivationStore:
    """Keep activations of many prompts on disk, in bounded memory, ready to patch from: ``t2iprobe capture``.

    Args:
        model, out, quiet, plugins: see :func:`t2iprobe.localize`.
        prompts: one or several, or the ``Path`` of a file with one a line.
        sites: names or patterns.
        **options: those of the command: ``steps``, ``branch``, ``seed``, ``num_steps``, ``guidance``, ``resolution``,
            ``batch_size``, ``round_bits``, ``store``, ``max_bytes``, …

    Raises:
        ConfigError, RunExistsError: see :func:`t2iprobe.localize`.
        SiteError: a pattern matches no site.
        StoreError: the disk is full or gone; complete batches are kept if ``out`` was given.
    """
    from t2iprobe.cli.commands import capture as command
    from t2iprobe.core.store.capture import RUN
    from t2iprobe.core.store.reader import ActivationStore

    with calling("capture", model, out, quiet, plugins) as call, beside(prompts) as file:
        asked = call.options(command.CaptureOptions, {**options, **file, "sites": sites})
        answer = command.run(asked, call.plugins)
        return call.left(ActivationStore(answer["store"], RUN))
