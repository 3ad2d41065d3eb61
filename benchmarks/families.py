"""Which methods run on which families? Every cell is a run on the family's tiny pipeline with random weights.

    python benchmarks/families.py [--only NAME …] > docs/reference/architectures.md

Half a minute a family on two cores; without weights, network or GPU. A method that is refused has the refusal as its
cell's footnote; anything else that fails is named as an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import t2iprobe
from t2iprobe.architectures.plugin import t2iprobe_register_adapters
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.model import Model

PAIR: dict[str, Any] = {"source": "a blue cat", "target": "a pink cat", "concept": "colour"}
DRAWN: dict[str, Any] = {"num_steps": 2, "guidance": 2.0, "quiet": True}
TUNED: dict[str, Any] = {"layers": "1", "train_steps": 1, "train_batch_size": 2, "yes": True}
STREAM = """prompts = ["a {X}"]
generic = ["a dog"]
[[tasks]]
name = "one"
prompt = "a one"
token = "one"
train = "data"
[[tasks]]
name = "two"
prompt = "a two"
token = "two"
train = "data"
"""


def methods(model: Model, side: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Each method with its smallest settings."""
    data, stream = str(folder / "data"), str(folder / "stream.toml")
    tuned = {**DRAWN, **TUNED, "num_steps": 1}
    learnt = {**tuned, "scope": "localized", "rank": 1, "side": side, "samples": 1, "metric": "none"}
    return {
        "patch": lambda: t2iprobe.patch_layers(model, **PAIR, **DRAWN, layers="0,1"),
        "localize": lambda: t2iprobe.localize(model, prompt_set="simple", limit=2, concept="colour", yes=True, **DRAWN),
        "capture": lambda: t2iprobe.capture(model, ["a cat"], "blocks.0.*_attn.k", num_steps=1, quiet=True),
        "edit": lambda: t2iprobe.edit(model, **PAIR, **DRAWN, layers="1", yes=True),
        "guard": lambda: t2iprobe.guard(model, layers=[1]).run('a sign that says "SHIT"', num_steps=1),
        "finetune": lambda: t2iprobe.finetune(model, data=data, limit=1, resolution=side, **tuned),
        "invert": lambda: t2iprobe.invert(model, prompts=["a cat", "a dog"], num_steps=2, quiet=True),
        "continual": lambda: t2iprobe.continual(model, stream=stream, method="naive", **learnt),
    }


def furnish(folder: Path, side: int) -> None:
    """Pictures to train on, and a stream of them."""
    data = folder / "data"
    data.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    for number, picture in enumerate(noise):
        Image.fromarray(picture).save(data / f"{number}.png")
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"a {number}"}) for number in range(2)]
    (data / "metadata.jsonl").write_text("\n".join(lines))
    (folder / "stream.toml").write_text(STREAM.replace('"data"', json.dumps(str(data))))


def outcomes(family: type[Adapter]) -> dict[str, str]:
    """What each method does: nothing to say if it runs, else why not."""
    pipeline = family.tiny()
    side = Model(pipeline, family()).picture_size()[0]
    found = {}
    with tempfile.TemporaryDirectory() as name:
        furnish(Path(name), side)
        for method in methods(Model(pipeline, family()), side, Path(name)):
            model = Model(family.tiny(), family(), ref=family.name)  # a method may leave traces
            try:
                methods(model, side, Path(name))[method]()
                found[method] = ""
            except T2IProbeError as error:
                found[method] = " ".join(str(error).split())
            except Exception as error:
                found[method] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(family.name, method, found[method] or "runs", file=sys.stderr, flush=True)
    return found


def page(table: Mapping[type[Adapter], Mapping[str, str]]) -> str:
    """The table in Markdown, with the reasons below it."""
    columns = list(next(iter(table.values())))
    reasons: list[str] = []
    lines = [f"| family | pipelines | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for family, found in table.items():
        cells = []
        for column in columns:
            if (reason := found[column]) and reason not in reasons:
                reasons.append(reason)
            cells.append(f"no ({reasons.index(reason) + 1})" if reason else "yes")
        classes = ", ".join(f"`{name}`" for name in sorted(family.pipelines))
        lines.append(f"| `{family.name}` | {classes} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes])


#: text-to-image classes of diffusers 0.42.1 without a family, by reason
UNSERVED = {
    "draws from a picture as well": (
        "CogView4ControlPipeline", "FluxControlPipeline", "QwenImageControlNetPipeline",
        "StableDiffusionControlNetPAGPipeline", "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLControlNetUnionPipeline", "ZImageControlNetInpaintPipeline", "ZImageControlNetPipeline",
    ),
    "draws video": ("Cosmos3OmniPipeline", "HeliosPipeline", "HeliosPyramidPipeline"),
    "has two networks that denoise in turn, and the text is read by the first": (
        "KandinskyCombinedPipeline", "KandinskyPipeline", "KandinskyV22CombinedPipeline", "KandinskyV22Pipeline",
        "StableCascadeCombinedPipeline", "StableUnCLIPPipeline", "UnCLIPPipeline", "WuerstchenCombinedPipeline",
    ),
    "gives no pictures": (
        "KandinskyPriorPipeline", "KandinskyV22PriorPipeline", "LLaDA2Pipeline",
        "StableAudio3Pipeline", "WuerstchenPriorPipeline",
    ),
    "runs in another library than torch": ("OnnxStableDiffusionPipeline",),
    "draws discrete tokens": ("AmusedPipeline", "VQDiffusionPipeline"),
    "is deprecated in diffusers": (
        "AltDiffusionPipeline", "LDMTextToImagePipeline", "SemanticStableDiffusionPipeline",
        "StableDiffusionAttendAndExcitePipeline", "StableDiffusionGLIGENPipeline", "StableDiffusionLDM3DPipeline",
        "StableDiffusionModelEditingPipeline", "StableDiffusionPanoramaPipeline", "StableDiffusionParadigmsPipeline",
        "StableDiffusionPipelineSafe", "StableDiffusionPix2PixZeroPipeline", "StableDiffusionSAGPipeline",
        "UniDiffuserPipeline",
        "VersatileDiffusionPipeline", "VersatileDiffusionTextToImagePipeline",
    ),
    "draws one prompt at a time": ("DreamLiteMobilePipeline", "DreamLitePipeline"),
    "has a language model plan the picture by chance, with one seed for a whole batch": ("GlmImagePipeline",),
    "sums up prompts in tokens whose number and order depend on the batch": ("BriaFibo2Pipeline",),
    "guides with a second network, which reads no text": ("Ideogram4Pipeline",),
    "places the picture by the number of its prompt's tokens, which no patch can change": ("ZImageOmniPipeline",),
    "needs torchvision, and embeds the prompt's tokens in the denoiser": ("OmniGenPipeline",),
}  # fmt: skip


def unserved() -> str:
    """What has no family, and why."""
    served = {name for family in t2iprobe_register_adapters() for name in family.pipelines}
    lines = ["## Without a family", ""]
    for reason, classes in UNSERVED.items():
        if listed := [f"`{name}`" for name in classes if name not in served]:
            lines.append(f"* {reason[0].upper()}{reason[1:]}: {', '.join(listed)}.")
    return "\n".join(lines)


INTRODUCTION = """# Architectures

Which methods run on which families of pipelines. Every cell is a run on the family's tiny pipeline, with random
weights and the smallest settings; `python benchmarks/families.py > docs/reference/architectures.md` writes this page.
What each command does with saved folders of the families that have been studied most is in [Families](families.md).

Classes that none of these families name are tried out by `t2iprobe.load` and `--model`, see
[Write an adapter](../how-to/write-an-adapter.md). Pipelines with perturbed-attention guidance (`…PAGPipeline`) run
without it unless `options={"pag_scale": …}` asks for it.
"""


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of families")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    families = [family for family in t2iprobe_register_adapters() if not only or family.name in only]
    for family in families:  # what cannot run at all is said before the first quarter of an hour
        Model(family.tiny(), family()).picture_size()
    print(INTRODUCTION)
    with mock.patch.object(Figure, "draw", lambda figure, renderer: None):  # painting knows no family
        print(page({family: outcomes(family) for family in families}), unserved(), sep="\n\n")


if __name__ == "__main__":
    main()
