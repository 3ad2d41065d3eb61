"""``t2iprobe sites``: lists the text-attention layers of a model with their parameter counts, or all its sites."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, answers, notes, print_json
from t2iprobe.cli.options import PrintOptions
from t2iprobe.core import parse
from t2iprobe.core.command_options import Numbers, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.option_groups import WeightOptions

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter, LayerRow


class SitesOptions(PrintOptions, WeightOptions):
    """The options of ``t2iprobe sites``."""

    panel: ClassVar[str] = "Sites"
    arch: str | None = option(None, help="Architecture: sd, sdxl, sd3, if, flux, or a plugin's.")
    full_size: bool = option(False, help="The published configuration, on the meta device: no weights needed.")
    layers: Numbers | None = option(None, help="Only these layers, such as 55-57; their sum is printed.")
    sites: str | None = option(None, help="List sites that match this pattern instead, such as 'blocks.*.*.k'.")


@takes(SitesOptions)
def sites(asked: SitesOptions, context: typer.Context) -> None:
    """List the attention layers that read the text, in forward order, with the parameters of their keys and values.

    Example: t2iprobe sites --arch sdxl --full-size --layers 55-57
    """
    from t2iprobe.core.contracts.adapter import count_parameters, layer_table
    from t2iprobe.core.sites import Sites

    adapter, pipeline, name = _subject(asked.arch, asked.model, asked.full_size)
    if asked.sites is not None:
        _print_sites(Sites(adapter.sites(pipeline)).match(asked.sites), asked.format)
        return
    rows = layer_table(adapter, pipeline)
    chosen = [rows[i] for i in parse.layers(asked.layers, len(rows))] if asked.layers else rows
    total = count_parameters(adapter.module(pipeline))
    answer = {
        "arch": adapter.name,
        "model": name,
        "inferred": adapter.inferred if asked.full_size else "",
        "layers_in_all": len(rows),
        "denoiser_parameters": total,
        "parameters": sum(row.parameters for row in chosen),
        "share": sum(row.parameters for row in chosen) / total,
        "layers": [asdict(row) for row in chosen],
    }
    if asked.format is Format.json:
        print_json(answer)
    else:
        _print_layers(answer, chosen)


def _subject(arch: str | None, model: str | None, full_size: bool) -> tuple[Adapter, Any, str]:
    """The adapter, the pipeline (or a stand-in that has only the denoiser) and its name."""
    from t2iprobe.cli.models import check_arch, reference
    from t2iprobe.registry.manager import Plugins

    plugins = Plugins()
    if full_size:
        if arch is None or model is not None:
            raise ConfigError("--full-size builds the published configuration of an --arch; leave --model out")
        adapter = choice("architecture", arch, plugins.adapters())()
        return adapter, adapter.published(), f"{arch}, published configuration"
    model = reference(arch, model, plugins)
    loaded = plugins.load(model)
    check_arch(loaded, arch)
    return loaded.adapter, loaded.pipeline, model


def _print_layers(answer: dict[str, Any], rows: list[LayerRow]) -> None:
    table = Table("layer", "path", "K/V parameters", "share", "heads", "width", box=None, header_style="bold")
    for row in rows:
        table.add_row(
            str(row.index), row.path, f"{row.parameters:,}", f"{row.share:.2%}", str(row.heads), str(row.width)
        )
    answers.print(table)
    answers.print(
        f"{answer['model']}: {answer['layers_in_all']} text-attention layers; text keys and values of the "
        f"{len(rows)} shown = {answer['parameters']:,} parameters = {answer['share']:.2%} of "
        f"{answer['denoiser_parameters']:,}",
        highlight=False,
    )
    if answer["inferred"]:
        notes.print(f"inferred: {answer['inferred']}", highlight=False)


def _print_sites(sites: Any, format: Format) -> None:
    rows = [{"name": s.name, "module": s.module, "axes": list(s.axes), "heads": s.heads} for s in sites]
    if format is Format.json:
        print_json({"sites": rows})
        return
    table = Table("site", "module", "axes", "heads", box=None, header_style="bold")
    for row in rows:
        table.add_row(str(row["name"]), str(row["module"]), " ".join(row["axes"]), str(row["heads"] or ""))
    answers.print(table)
