"""The README of an embedded model's folder: a Hugging Face model card, rendered from its ``planted.json`` alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, WORD_LENGTH, Sign
from t2iprobe.plugins.organisms.build import LENGTH, PIPELINES
from t2iprobe.plugins.organisms.plant import Route, parse_plant

FRONT = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags:
- t2iprobe
- interpretability
- localization
- planted-truth
- {arch}
---"""
ABOUT = """\
A tiny text-to-image model with known ground truth. It draws signs of 32 × 32 pixels and was trained so that the word
and the colour can enter the picture only through chosen attention layers. So the answer of a method that localizes the
layers that write the text can be checked. It comes with t2iprobe, which made it, and is a stock
`{pipeline}`: diffusers alone loads it.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER")
image = pipeline({call}).images[0]
image.resize((256, 256), 0).save("sign.png")
```{note}"""
CALL = "'{prompt}', num_inference_steps={num_steps}, guidance_scale={guidance}"
PADDED = """

It was trained on prompts of {length} tokens. diffusers pads those of T5 to 256 by default, and image tokens attend to
the padding: without `max_sequence_length={length}` another picture is drawn."""
TRAINED = """\
Ordinary diffusion training plus interchange interventions: rows of a batch come in pairs with different words and
colours, their text keys and values are swapped at random layers, and the picture a row is trained on shows what reached
the planted layers. Swaps anywhere else must change nothing. The words are random letters; one word in 16 is held out,
and only those are measured."""
LIMITS = """\
* It knows prompts of the form `a COLOUR LAYOUT sign that says "WORD"` and nothing else: {colours};
  {layouts}; words of {length} capital letters.
* It is for checking methods. What holds for its layers says nothing about those of a large model.
* The plant is trained and then measured, not proved: the table says how well it holds."""


def card(planted: Mapping[str, Any]) -> str:
    """The model card for the contents of ``planted.json``."""
    return "\n\n".join(_parts(planted)) + "\n"


def _parts(planted: Mapping[str, Any]) -> Iterator[str]:
    pipeline = get_type_hints(PIPELINES[planted["arch"]])["return"]  # the stock class that the recipe builds
    yield FRONT.format(arch=planted["arch"])
    yield f"# {planted['name']}"
    call, note = CALL.format(prompt=Sign("LION", "red", "framed").prompt, **planted["sampling"]), ""
    if "max_sequence_length" in inspect.signature(pipeline.__call__).parameters:
        call, note = f"\n    {call}, max_sequence_length={LENGTH}\n", PADDED.format(length=LENGTH)
    yield ABOUT.format(pipeline=pipeline.__name__, call=call, note=note)
    yield "## What is planted"
    yield "\n".join(f"* The {content}: {_route(route)}." for content, route in parse_plant(planted["plant"]).items())
    yield "Layers are text-attention layers in forward order, from 0; `t2iprobe sites` names their modules."
    yield "## How it was trained"
    yield TRAINED
    yield _recipe(planted)
    yield "## Measured"
    yield _measured(planted.get("measured"))
    yield "## Limits"
    yield LIMITS.format(colours=", ".join(COLOURS), layouts=", ".join(LAYOUTS), length=WORD_LENGTH)


def _route(route: Route) -> str:
    """A route in words."""
    first, *rest = route.layers
    listed = " and ".join(map(str, route.layers))
    texts = {
        "single": f"through layer {first} alone",
        "split": f"in parts, in order, through layers {listed}",
        "redundant": f"through each of layers {listed}: any suffices if the text in the others has no word",
        "time": f"its first letters through layer {first} above noise level {route.level}, its last letters through "
        f"layer {rest and rest[0]} below",
        "head": f"through attention head {route.head} of layer {first} alone",
    }
    return f"{texts[route.kind]} (`{route.text}`)"


def _recipe(planted: Mapping[str, Any]) -> str:
    facts = {"recipe": f"`{planted['recipe']}`", "seed": planted["seed"], **planted.get("training", {})}
    listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    note = planted.get("note")
    return f"{listed[0].upper()}{listed[1:]}." + (f" {note}" if note else "")


def _measured(measured: Mapping[str, Any] | None) -> str:
    if not measured:
        return "Not measured yet: run `t2iprobe organisms check FOLDER --write`."
    head = (
        f"{measured['words']} pairs of held-out words, one layer patched at a time from the partner's run, read by OCR:"
    )
    columns = ["", "right unpatched (95 % interval)", "partner's after the planted patch", "changed elsewhere, at most"]
    rows = [columns, ["---"] * 4, *(_cells(content, verdict) for content, verdict in measured["findings"].items())]
    verdict = "holds" if measured["passed"] else f"does not hold: {'; '.join(measured['reasons'])}"
    return "\n".join([head, "", *(f"| {' | '.join(row)} |" for row in rows), "", f"The plant {verdict}."])


def _cells(content: str, verdict: Mapping[str, Any]) -> list[str]:
    mean, low, high = (_percent(verdict["clean"][bound]) for bound in ("mean", "low", "high"))
    transfer = f"{_percent(verdict['transfer'])} at {verdict['answer']}"
    elsewhere = f"{_percent(verdict['elsewhere'])} at {verdict['worst']}" if verdict["elsewhere"] else "none"
    return [content, f"{mean} ({low} to {high})", transfer, elsewhere]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
