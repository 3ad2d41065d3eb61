"""What is on the explorer's screen: :class:`Scene`. Addresses, requests and manifests keep it as the same texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator

from t2iprobe.core.branch import Branch
from t2iprobe.core.command_options import Integers, Options, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.seeds import SEEDS

Cells = Mapping[int, tuple[int, ...]]  #: steps by layer
BRANCHES: Mapping[str, tuple[Branch, ...] | None] = {
    "both": None,
    "cond": (Branch.COND,),
    "uncond": (Branch.UNCOND,),
}
CONCEPTS = "text", "colour"  # concepts whose score needs no further download
SPAN = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")  # four digits: no text can ask for more numbers than a board has


def cells_of(text: str) -> Cells:
    """The steps of each layer from ``6:0-19;7,8:3``.

    Raises:
        ConfigError: the text does not have this form.
    """
    found: dict[int, set[int]] = {}
    for part in filter(None, text.split(";")):
        layers, _, steps = part.partition(":")
        for layer in _numbers(layers, part):
            found.setdefault(layer, set()).update(_numbers(steps, part))
    return {layer: tuple(sorted(found[layer])) for layer in sorted(found)}


def _numbers(text: str, part: str) -> list[int]:
    spans = [SPAN.fullmatch(one) for one in text.split(",")]
    numbers = [one for span in spans if span for one in range(int(span[1]), int(span[2] or span[1]) + 1)]
    if None in spans or not numbers:
        raise ConfigError(f"cells are layers and their steps, such as 6:0-19;7,8:3, found {part!r:.40}")
    return numbers


def _celled(text: str) -> str:
    cells_of(text)
    return text


class Scene(Options):
    """Two prompts, and what is done to the source's picture."""

    source: str = option(help="Prompt of the picture that is changed.")
    target: str | None = option(None, help="Prompt that activations are taken from.")
    seed: int = option(0, help="Seed of the noise of both.", ge=0, lt=SEEDS)
    num_steps: int | None = option(None, help="Denoising steps; default: the model's own.", ge=1, le=1_000)
    guidance: float | None = option(None, help="Guidance scale; default: the model's own.")
    what: str = option("text", help="What is exchanged: text (keys and values), or a kind of site.")
    cells: Annotated[str, AfterValidator(_celled)] = option("", help="Layers and their steps: 6:0-19;7,8:3.")
    mode: Literal["patch", "zero", "mean", "scale"] = option("patch", help="What is done with it.")
    factor: float = option(2.0, help="Factor of scale.")
    heads: Integers = option((), help="Attention heads; default: all.")
    branch: Literal["both", "cond", "uncond"] = option("both", help="Branch of guidance.")
