"""Serves the viewer's app: :func:`listening` takes the port, :func:`serve` answers until Ctrl-C."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from t2iprobe.core.errors import ConfigError

PATIENCE = 2  # seconds that requests have to end after Ctrl-C


def listening(host: str, port: int) -> socket.socket:
    """A socket that already takes connections, so that its address can be opened before the app has started.

    Args:
        host: name or address of an interface of this machine.
        port: its port; 0 is any that is free.

    Raises:
        ConfigError: there is no such interface, or the port is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # a name that leads nowhere has a negative number, which the system does not explain
        reason = os.strerror(number).lower() if (number := error.errno or 0) > 0 else "no machine has this name"
        where = f"{host}, port {port}" if port else host
        raise ConfigError(f"cannot listen on {where}: {reason}; choose another --port or --host") from None


class Viewer(uvicorn.Server):
    """A server of the viewer's app; ``run([listening(…)])`` answers until ``should_exit`` is set.

    Args:
        app: the app.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=PATIENCE))


def serve(app: ASGIApp, taken: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    with suppress(KeyboardInterrupt):
        Viewer(app).run([taken])
