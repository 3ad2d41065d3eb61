"""The functions that do what a command does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.api.calls import Out, Prompts, on_model, on_pairs, on_prompts
from t2iprobe.cli.commands.capture import CaptureOptions
from t2iprobe.plugins.continual.options import ContinualOptions
from t2iprobe.plugins.editing.options import EditOptions
from t2iprobe.plugins.finetune.options import FinetuneOptions
from t2iprobe.plugins.inversion.options import InvertOptions
from t2iprobe.plugins.localization.options import LocalizeOptions, PatchOptions

if TYPE_CHECKING:
    from t2iprobe.api.outcomes import EditResult, Finetuned, Inversion, Outcome
    from t2iprobe.core.model import Model
    from t2iprobe.core.store.reader import ActivationStore
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.registry.results import Result


@on_pairs(LocalizeOptions)
def localize(options: LocalizeOptions, plugins: Plugins) -> Result:
    """Find the layers that write the text (or colour, …), and confirm them on held-out pairs: ``t2iprobe localize``."""
    from t2iprobe.plugins.localization import commands
    from t2iprobe.registry.results import Result

    return Result.open(commands.localized(options, plugins)["run"])


@on_pairs(PatchOptions)
def patch_layers(options: PatchOptions, plugins: Plugins) -> Result:
    """Patch every layer by itself, as the paper did: ``t2iprobe patch``. (:func:`t2iprobe.patch` is a single edit.)"""
    from t2iprobe.plugins.localization import commands
    from t2iprobe.registry.results import Result

    return Result.open(commands.patched(options, plugins)["run"])


@on_pairs(EditOptions)
def edit(options: EditOptions, plugins: Plugins) -> EditResult:
    """Change the text in a picture and leave the rest, by one method or several in comparison: ``t2iprobe edit``."""
    from t2iprobe.api.outcomes import EditResult
    from t2iprobe.plugins.editing import commands
    from t2iprobe.plugins.editing.options import with_preset

    return EditResult.open(commands.edited(with_preset(options), plugins)["run"])


@on_prompts(InvertOptions)
def invert(options: InvertOptions, plugins: Plugins) -> Inversion:
    """Sample pictures, invert them and sample them again: ``t2iprobe invert run``."""
    from t2iprobe.api.outcomes import Inversion
    from t2iprobe.plugins.inversion import commands

    answer = commands.inverted(options, plugins)
    return Inversion(Path(answer["run"]), answer, answer["methods"], answer["sentence"])


@on_model(FinetuneOptions)
def finetune(options: FinetuneOptions, plugins: Plugins) -> Finetuned:
    """Train LoRAs on the layers that were found, and on others for comparison: ``t2iprobe finetune``.

    The model is as before once this is done.
    """
    from t2iprobe.api.outcomes import Finetuned
    from t2iprobe.plugins.finetune import report
    from t2iprobe.plugins.finetune.running import trained

    answer = trained(options, plugins)
    return Finetuned(Path(answer["run"]), answer, [report.row(run) for run in answer["runs"]], answer["sentence"])


@on_model(ContinualOptions)
def continual(options: ContinualOptions, plugins: Plugins) -> Outcome:
    """Learn concepts in sequence, and see what is forgotten, with one row per method: ``t2iprobe continual run``.

    The model is as before once this is done.
    """
    from t2iprobe.api.outcomes import Outcome
    from t2iprobe.plugins.continual import commands

    answer = commands.run_stream(options, plugins)
    assert options.out is not None
    return Outcome(options.out, answer, commands.rows(answer))


@on_prompts(CaptureOptions)
def _capture(options: CaptureOptions, plugins: Plugins) -> ActivationStore:
    from t2iprobe.cli.commands import capture as command
    from t2iprobe.core.store.capture import RUN
    from t2iprobe.core.store.reader import ActivationStore

    return ActivationStore(command.run(options, plugins)["store"], RUN)


def capture(
    model: Model | Any,
    prompts: Prompts,
    sites: str | Sequence[str],
    *,
    out: Out = None,
    quiet: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> ActivationStore:
    """Keep activations of many prompts on disk, in bounded memory, ready to patch from: ``t2iprobe capture``.

    Args:
        model: what :func:`t2iprobe.load` gives or takes.
        prompts: one or several, or the ``Path`` of a file with one a line.
        sites: names or patterns.
        out, quiet, plugins: see :func:`localize`.
        **options: those of the command: ``steps``, ``branch``, ``seed``, ``num_steps``, ``guidance``,
            ``negative_prompt``, ``round_bits``, ``store``, ``max_bytes``, …

    Raises:
        ConfigError, RunExistsError: see :func:`localize`.
        SiteError: a pattern matches no site.
        StoreError: the disk is full or gone; complete batches are kept if ``out`` was given.
    """
    return _capture(model, prompts=prompts, sites=sites, out=out, quiet=quiet, plugins=plugins, **options)
