"""``t2iprobe sites``: lists the text-attention layers of a model with their parameter counts, or all its sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, say, tell
from t2iprobe.cli.options import PrintOptions
from t2iprobe.cli.tables import print_table
from t2iprobe.core import parse
from t2iprobe.core.command_options import Numbers, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.option_groups import ConfigurationOptions, WeightOptions

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter, LayerRow
    from t2iprobe.registry.manager import Plugins


class SitesOptions(PrintOptions, ConfigurationOptions, WeightOptions):
    """The options of ``t2iprobe sites``."""

    panel: ClassVar[str] = "Sites"
    arch: str | None = option(
        None,
        help="Architecture (`t2iprobe plugins --names` lists them): its embedded model, or with --full-size the "
        "published one.",
    )
    full_size: bool = option(False, help="The published configuration, on the meta device: no weights needed.")
    layers: Numbers | None = option(None, help="Only these layers, such as 55-57; their sum is printed.")
    sites: str | None = option(None, help="List sites that match this pattern instead, such as 'blocks.*.*.k'.")


#: kinds of sites beyond attention that models of some families have
GENERAL = (
    "time", "pooled", "resid.in", "resid.out", "text.in", "text.out", "mlp.hidden", "mlp.out", "text_mlp.hidden",
    "ada.attn_gate", "resnets.out", "skips", "mid",
)  # fmt: skip


@takes(SitesOptions)
def sites(options: SitesOptions, context: typer.Context) -> None:
    """List the attention layers that read the text, in forward order, with the parameters of their keys and values.

    No weights are read: of a checkpoint only the configurations are needed, and of one on the hub only they are
    downloaded.

    Example: t2iprobe sites --arch sdxl --full-size --layers 55-57
    """
    from t2iprobe.core.contracts.adapter import count_parameters, layer_table
    from t2iprobe.core.sites import Sites

    adapter, pipeline, name = _subject(options, context.obj)
    every = Sites(adapter.sites(pipeline))
    if options.sites is not None:
        _print_sites(every.match(options.sites), options.format)
        return
    rows = layer_table(adapter, pipeline)
    chosen = [rows[i] for i in parse.layers(options.layers, len(rows))] if options.layers else rows
    total = count_parameters(adapter.module(pipeline))
    answer = {
        "arch": adapter.name,
        "model": name,
        "inferred": adapter.inferred if options.full_size else "",
        "layers_in_all": len(rows),
        "denoiser_parameters": total,
        "parameters": sum(row.parameters for row in chosen),
        "share": sum(row.parameters for row in chosen) / total,
        "layers": [asdict(row) for row in chosen],
        "sites": (kinds := every.kinds()),
        "absent": [kind for kind in GENERAL if kind not in kinds],
    }
    if options.format is Format.json:
        print_json(answer)
    else:
        _print_layers(answer, chosen)


def _subject(options: SitesOptions, plugins: Plugins) -> tuple[Adapter, Any, str]:
    """The adapter, the pipeline (or a stand-in that has only the denoiser) and its name."""
    from t2iprobe.cli.models import check_arch, reference

    where = {name: getattr(options, name) for name in ConfigurationOptions.model_fields}
    if options.full_size:
        if options.arch is None or options.model is not None or any(where.values()):
            named = ", ".join(f"--{name}" for name in ("model", *where))
            raise ConfigError(f"--full-size builds the published configuration of an --arch; leave {named} out")
        adapter = choice("architecture", options.arch, plugins.adapters())()
        return adapter, adapter.published(), f"{options.arch}, published configuration"
    ref = reference(options.arch, options.model, plugins)
    model = plugins.load(ref, weights=False, **where)
    check_arch(model, options.arch)
    return model.adapter, model.pipeline, ref


def _print_layers(answer: dict[str, Any], rows: list[LayerRow]) -> None:
    print_table(
        ("layer", "path", "K/V parameters", "share", "heads", "width"),
        [(row.index, row.path, f"{row.parameters:,}", f"{row.share:.2%}", row.heads, row.width) for row in rows],
    )
    tell(
        f"{answer['model']}: {answer['layers_in_all']} text-attention layers; text keys and values of the "
        f"{len(rows)} shown = {answer['parameters']:,} parameters = {answer['share']:.2%} of "
        f"{answer['denoiser_parameters']:,}"
    )
    tell(f"all sites (--sites '*' lists them): {_grouped(answer['sites'])}", "dim")
    if answer["absent"]:
        tell(f"not in this model: {', '.join(answer['absent'])}", "dim")
    if answer["inferred"]:
        say(f"inferred: {answer['inferred']}")


def _grouped(kinds: Mapping[str, int]) -> str:
    """Kinds of sites with their numbers, those of one part together: ``resid.{in,out} × 24``."""
    ports: dict[tuple[str, int], list[str]] = {}
    for kind, count in kinds.items():
        part, _, port = kind.partition(".")
        ports.setdefault((part, count), []).append(port)
    said = []
    for (part, count), listed in ports.items():
        inner = f".{{{','.join(listed)}}}" if len(listed) > 1 else f".{listed[0]}" if listed[0] else ""
        said.append(f"{part}{inner} × {count}" if count > 1 else f"{part}{inner}")
    return ", ".join(said)


def _print_sites(sites: Any, format: Format) -> None:
    rows = [{"name": s.name, "module": s.module, "axes": list(s.axes), "heads": s.heads} for s in sites]
    if format is Format.json:
        print_json({"sites": rows})
    else:
        cells = [(row["name"], row["module"], " ".join(row["axes"]), row["heads"] or "") for row in rows]
        print_table(("site", "module", "axes", "heads"), cells)
