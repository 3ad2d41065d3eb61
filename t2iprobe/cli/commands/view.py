"""``t2iprobe view``: shows runs in the browser."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from pathlib import Path
from typing import ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, say, tell
from t2iprobe.cli.models import reference
from t2iprobe.cli.options import PrintOptions
from t2iprobe.cli.studies import RUNS, check_runs
from t2iprobe.core.command_options import option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.option_groups import ModelOptions

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ViewOptions(ModelOptions, PrintOptions):
    """The options of ``t2iprobe view``."""

    panel: ClassVar[str] = "Viewer"
    runs: Path = option(RUNS, help="Folder with runs, or one run folder; nothing outside it is shown.", argument=True)
    port: int = option(0, help="Port of the address.", shown="any that is free", ge=0, le=65535)
    host: str = option(LOOPBACK[0], help="Interface to listen on; any other than the default lets other machines in.")
    no_open: bool = option(False, help="Only print the address, do not open it in the browser.")


@takes(ViewOptions)
def view(options: ViewOptions, context: typer.Context) -> None:
    """Show runs in the browser, live: their answers, the pictures of every patch, and two runs side by side.

    The explorer changes a picture as you choose layers and steps; it has the embedded models, and that of --model.

    Ctrl-C ends it. Only those who have the printed address, with its token, can read.

    Examples:

      t2iprobe view

      t2iprobe view runs/words --port 8080 --no-open

      t2iprobe view --model stabilityai/stable-diffusion-3-medium-diffusers
    """
    try:
        from t2iprobe.viewer import access, server
        from t2iprobe.viewer.app import app
    except ModuleNotFoundError as error:
        raise ConfigError(f"t2iprobe view needs {error.name}: pip install 't2iprobe[view]'") from None
    check_runs(options.runs)
    models = {}
    if options.model or options.arch:
        models[reference(options.arch, options.model, context.obj)] = options.given(*LoadOptions.__slots__)
    token, name = secrets.token_urlsafe(16), options.host
    with server.listening(options.host, options.port) as taken:
        if options.host not in LOOPBACK:
            name = socket.gethostname() if options.host in ("0.0.0.0", "::") else options.host
            say(
                f"every machine that reaches {name} and has this address can read {options.runs} and draw here, "
                "unencrypted",
                "warning",
            )
        page = "explore" if models else ""
        url = f"http://{f'[{name}]' if ':' in name else name}:{taken.getsockname()[1]}/{page}?token={token}"
        if options.format is Format.json:
            print_json({"url": url, "runs": str(options.runs)})
        else:
            tell(f"{options.runs}: {url}")
            say("Ctrl-C ends it")
        sys.stdout.flush()
        if not options.no_open and _has_screen():
            webbrowser.open(url)
        server.serve(app(options.runs, context.obj, token, (*access.LOCAL, name), models), taken)


def _has_screen() -> bool:
    """Whether a browser would open a window; without a screen there are only browsers for terminals."""
    return sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
