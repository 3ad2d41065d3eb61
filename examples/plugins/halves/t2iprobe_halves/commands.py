"""``t2iprobe halves``: what a bisection takes."""

import math

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, tell
from t2iprobe.cli.options import PrintOptions
from t2iprobe.core.command_options import option

app = typer.Typer(help="Bisection of layers.", no_args_is_help=True)


class CostOptions(PrintOptions):
    """The options of ``t2iprobe halves cost``."""

    layers: int = option(help="Number of layers.", ge=1)
    pairs: int = option(12, help="Number of pairs to search on.", ge=1)


@app.callback()
def halves():
    """Keeps ``cost`` a command of its own, though it is the only one."""


@app.command()
@takes(CostOptions)
def cost(options: CostOptions, context: typer.Context) -> None:
    """Say how many pictures a search needs.

    Example: t2iprobe halves cost --layers 24
    """
    pictures = options.pairs * (2 + 2 * math.ceil(math.log2(options.layers)))
    if options.format is Format.json:
        print_json({"pictures": pictures})
    else:
        tell(f"{pictures:,} pictures: source, target, and two for each of the halvings")
