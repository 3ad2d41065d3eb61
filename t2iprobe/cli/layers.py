"""Which layers a command works on: those of ``--layers``, or those that a run found (``--from``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli import parse
from t2iprobe.core.errors import ConfigError

if TYPE_CHECKING:
    from t2iprobe.core.model import Model


def chosen(model: Model, layers: str | None, run: Path | None) -> tuple[int, ...]:
    """The layers that were asked for.

    Args:
        model: whose layers they are.
        layers: ``--layers``, such as ``6`` or ``55-57``.
        run: ``--from``, a run folder.

    Raises:
        ConfigError: neither or both are given, the layers are out of range, or the run belongs to another
            architecture, is not finished, or found nothing.
    """
    if (layers is None) == (run is None):
        raise ConfigError(
            "name the layers: --layers 6, or --from RUN with what `t2iprobe localize` found"
            if run is None
            else "give --layers or --from, not both"
        )
    if layers is not None:
        return tuple(parse.layers(layers, model.layers))
    assert run is not None
    return found_by(run, model)


def found_by(run: Path, model: Model) -> tuple[int, ...]:
    """The layers that a finished run found.

    Raises:
        ConfigError: the run belongs to another architecture, is not finished, or found nothing.
    """
    from t2iprobe.core.runs import runfolder

    manifest = runfolder.read_manifest(run)
    adapter = manifest.get("adapter") or manifest.get("settings", {}).get("adapter")
    if adapter != model.adapter.name:
        raise ConfigError(f"{run} is about a model of architecture {adapter}, this one is {model.adapter.name}")
    found = _finding(run, manifest)
    if not found:
        raise ConfigError(f"{run} found no layer that stands out; name some with --layers")
    if max(found) >= model.layers:
        raise ConfigError(
            f"{run} found layer {max(found)}, but {model.ref or 'this model'} has the layers 0-{model.layers - 1}: "
            "it is about another model"
        )
    return found


def _finding(run: Path, manifest: dict[str, Any]) -> tuple[int, ...]:
    """What the manifest says was found."""
    finding = manifest.get("finding")
    if finding is None and "localizer" not in manifest.get("settings", {}):
        raise ConfigError(f"{run} holds no localization; name what `t2iprobe localize` made, or layers with --layers")
    if finding is None:
        raise ConfigError(f"{run} is not finished; go on with it: t2iprobe study resume {run}")
    return tuple(finding["layers"])
