"""MkDocs hook: fails the build if a page would load anything from elsewhere, so that the site can be read offline."""

from __future__ import annotations

from html.parser import HTMLParser

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page


class Loaded(HTMLParser):
    """Collects what a page loads; links that a reader follows are not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See the base class."""
        kept = dict(attrs)
        if tag != "a" and (kept.get("rel") or "") not in ("canonical", "next", "prev"):
            self.found += [kept[name] or "" for name in ("src", "href", "srcset") if name in kept]


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Look at a finished page."""
    loaded = Loaded()
    loaded.feed(output)
    if outside := [url for url in loaded.found if url.startswith(("http:", "https:", "//"))]:
        raise PluginError(f"{page.file.src_uri} loads {outside[0]}; the site has to work offline")
