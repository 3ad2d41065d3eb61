"""Words, objects, styles and sentences of the bundled prompt sets; the lists are in ``data``, one entry per line."""

from __future__ import annotations

from importlib.resources import files


def _listed(name: str) -> tuple[str, ...]:
    return tuple((files("t2iprobe.plugins.prompts") / "data" / f"{name}.txt").read_text("utf-8").splitlines())


WORDS = _listed("words")  #: everyday words of three to six letters, without colours
COLOURS = _listed("colours")
OBJECTS = _listed("objects")  #: objects that can be told apart in a picture
STYLES = _listed("styles")  #: picture styles
TEMPLATES = _listed("templates")  #: sentences with ``{}`` in place of a text
