"""Who may use the viewer: :class:`Access` looks at every request before anything else does."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost",)
READING = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: what every answer has, unless the endpoint set another value
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Access:
    """ASGI middleware that refuses whoever does not know the token, and pages of other sites.

    The token is in the address that the command prints, and from then on in a cookie. A request must also name this
    machine as its host, so that a site whose name is made to lead here (DNS rebinding) cannot read anything; an address
    in numbers is always right, because nobody else can make it lead here.

    Args:
        app: the app behind it.
        token: the secret.
        hosts: names of the machine that a request may use.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Sequence[str]) -> None:
        self._app, self._token, self._hosts = app, token, hosts
        # cookies are shared by all ports of a machine, so that each viewer needs a name of its own
        self._cookie = f"t2iprobe-{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        given = request.query_params.get("token", "")
        refusal = self._refusal(request, given)

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if given and refusal is None:
                    headers.append("set-cookie", f"{self._cookie}={given}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        await (refusal or self._app)(scope, receive, answered)

    def _refusal(self, request: HTTPConnection, given: str) -> Response | None:
        """The answer to a request that is refused."""
        host = urlsplit(f"//{request.headers.get('host', '')}")
        if host.hostname not in self._hosts and not _is_address(host.hostname or ""):
            return PlainTextResponse("This viewer is not served under that name.", 421)
        origin = request.headers.get("origin")
        if request.scope.get("method") not in READING and origin and urlsplit(origin).netloc != host.netloc:
            return PlainTextResponse("Pages of other sites may not ask for this.", 403)
        known = given or request.cookies.get(self._cookie, "")
        if not secrets.compare_digest(known.encode(), self._token.encode()):
            return PlainTextResponse("Open the address that `t2iprobe view` printed, with its token.", 403)
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
