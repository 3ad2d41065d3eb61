"""``t2iprobe check-adapter``: which laws of an adapter hold for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, tell
from t2iprobe.cli.options import PrintOptions
from t2iprobe.cli.tables import print_table
from t2iprobe.core.command_options import option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, imported
from t2iprobe.core.option_groups import ModelOptions
from t2iprobe.registry.kinds import KINDS, lacking_in

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter


class CheckAdapterOptions(PrintOptions, ModelOptions):
    """The options of ``t2iprobe check-adapter``."""

    panel: ClassVar[str] = "Check"
    adapter: str | None = option(
        None, help="Class of an adapter, package.module:Class, registered or not; its tiny pipeline is checked.",
        argument=True,
    )  # fmt: skip
    arch: str | None = option(
        None,
        help="Architecture whose tiny random model is checked; with --model, the architecture the model must have.",
    )


@takes(CheckAdapterOptions)
def check_adapter(options: CheckAdapterOptions, context: typer.Context) -> None:
    """Run the adapter's conformance checks (its laws) and report which pass; the exit code is 1 if one fails.

    Most useful for a pipeline class without an adapter of its own, whose sites are found by probing: these are checked
    on small images with few blocks, in minutes. Other models draw about a hundred images of their own size.

    Example: t2iprobe check-adapter my_package.adapter:MyAdapter
    """
    from t2iprobe.cli.models import load
    from t2iprobe.core.model import Model
    from t2iprobe.registry.unnamed import laws_broken_by
    from t2iprobe.testing.adapters import ADAPTER_LAWS

    if options.adapter is not None:
        adapter = _of_a_class(options)
        model = Model(adapter.tiny(), adapter)
    elif options.arch is not None and options.model is None:
        adapter = choice("architecture", options.arch, context.obj.adapters())()
        model = Model(adapter.tiny(), adapter)
    else:
        model = load(options, context.obj, check=False)
    broken, names = laws_broken_by(model), [law.__name__ for law in ADAPTER_LAWS]
    rows = [{"law": name, "holds": name not in broken, "found": broken.get(name, "")} for name in names]
    if options.format is Format.json:
        print_json({"adapter": model.adapter.name, "laws": rows})
    else:
        cells = [(row["law"], "yes" if row["holds"] else "no", row["found"]) for row in rows]
        print_table(("law", "holds", "what was found"), cells)
        tell(f"{model.adapter.name}: {len(rows) - len(broken)} of {len(rows)} laws hold")
    if broken:
        raise typer.Exit(1)


def _of_a_class(options: CheckAdapterOptions) -> Adapter:
    """The adapter whose class is named.

    Raises:
        ConfigError: it cannot be imported, is no whole adapter, or another one is asked for, too.
    """
    from t2iprobe.core.contracts.adapter import Adapter

    ref = str(options.adapter)
    if options.model is not None or options.arch is not None:
        raise ConfigError(f"the tiny pipeline of {ref} is checked: leave out --model and --arch")
    found = imported("check", ref, "package.module:Class")
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise ConfigError(f"{ref} is not a class derived from Adapter")
    if lacking := lacking_in(getattr(found, "name", None), found, KINDS["adapters"].parts):
        raise ConfigError(f"the adapter {ref} lacks {', '.join(lacking)}")
    return found()
