"""Undoes the escapes that HTML, URLs and programming languages use for letters: ``&#118;``, ``%76``, ``\\u0076``."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

Span = tuple[int, int]
NESTED = 3  # an escape may itself be escaped
ESCAPE = re.compile(
    r"""
      (?P<html>&(?:\#\d{1,7}|\#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});?)
    | (?P<tag></?[a-z][^<>]{0,60}>|<!--[^<>]{0,60}-->)
    | (?P<url>(?:%[0-9a-f]{2})+)
    | (?P<pairs>(?:\\u[0-9a-f]{4})+)
    | (?:\\u\{|\\U|\\x\{?|U\+|0x)(?P<code>[0-9a-f]{2,8})\}?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def unescaped(text: str) -> tuple[str, list[Span]]:
    """``text`` without escapes, and where each of its characters was."""
    origin = [(place, place + 1) for place in range(len(text))]
    for _ in range(NESTED):
        text, origin, changed = _once(text, origin)
        if not changed:
            break
    return text, origin


def _once(text: str, origin: Sequence[Span]) -> tuple[str, list[Span], bool]:
    parts, spans, end, changed = [], list[Span](), 0, False
    for match in ESCAPE.finditer(text):
        start, stop = match.span()
        meant = _meant(match)
        changed |= meant != match[0]
        parts += [text[end:start], meant]
        held = list(origin[start:stop]) if meant == match[0] else [(origin[start][0], origin[stop - 1][1])] * len(meant)
        spans += [*origin[end:start], *held]
        end = stop
    return "".join([*parts, text[end:]]), [*spans, *origin[end:]], changed


def _meant(match: re.Match[str]) -> str:
    kind, found = match.lastgroup, match[0]
    if kind == "html":
        return html.unescape(found)
    if kind == "tag":
        return "\u200b"
    if kind == "code":
        code = int(match["code"], 16)
        return chr(code) if code < 0x110000 else found
    signs = bytes.fromhex(re.sub(r"%|\\u", "", found, flags=re.IGNORECASE))
    return signs.decode("utf-8" if kind == "url" else "utf-16-be", "replace")
