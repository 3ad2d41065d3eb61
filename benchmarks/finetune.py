"""Teach an embedded model digits by LoRA: the located layer against all, and against others of equal number.

    OMP_NUM_THREADS=1 python benchmarks/finetune.py [--workers 2] [--steps 300] [--seeds 3] [--out runs/finetune-digits]

The model knows A to Z only; digits are tokens that it was never shown. Every scope is trained from every seed with the
same settings, and then asked for held-out numbers (learnt) and for words of the set ``signs`` (kept). Prints a table in
Markdown: means over the seeds and half of Student's 95 % interval. An interrupted benchmark goes on where it stopped.
Workers are processes that share the trainings: a tiny model is no quicker on two threads.

What is read in a picture: *OCR* is RapidOCR, whole words. *Glyphs* compares each of the four places with all 36 glyphs,
so it confuses no O with 0; it knows where the sign hangs. *Colour* is the palette's nearest to the sign, *layout* the
nearest of the four drawn with what the picture shows, both judged in pictures of words (kept) and numbers (new).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2iprobe.core.model import Model
from t2iprobe.core.runs.runfolder import read_manifest
from t2iprobe.core.sign_pictures import COLOURS, DRAWN, LAYOUTS, PANEL, SLOT, WORD_LENGTH, Sign, draw, glyphs
from t2iprobe.plugins.finetune.monitor import latents, precision_recall
from t2iprobe.plugins.finetune.record import sheet
from t2iprobe.plugins.finetune.report import over_seeds
from t2iprobe.plugins.finetune.session import FinetuneCallbacks, FinetuneJob, FinetuneSession
from t2iprobe.plugins.finetune.sources import TrainingSet, lesson
from t2iprobe.plugins.organisms.prompts import HELD_OUT, WORDS
from t2iprobe.registry.manager import Plugins
from t2iprobe.training.lora import Lora
from t2iprobe.training.targets import SCOPES
from t2iprobe.training.trainer import Settings

SHADES = range(140, 231, 10)  # walls that are tried where a layout is read
#: planted layer of the words, by model
LAYER = {"tiny-sd3": (6,), "tiny-sdxl": (11, 14), "tiny-if": (4,)}
COLUMNS = {
    "digits_ocr": "digits, OCR",
    "digits_glyphs": "digits, glyphs",
    "digits_characters": "digits, single",
    "letters_ocr": "words, OCR",
    "letters_glyphs": "words, glyphs",
    "colours": "colours",
    "layouts": "layouts",
    "ssim": "SSIM",
    "precision": "precision",
    "recall": "recall",
}


@dataclass(frozen=True)
class Asked:
    """A sign that a picture is asked for."""

    sign: Sign
    seed: int


def asked(words: Sequence[str], count: int, seed: int = 1000) -> list[Asked]:
    """Signs with some of ``words``, never the same noise twice."""
    chance = random.Random(f"{words[0]}:{seed}")
    chosen = chance.sample(list(words), count)
    return [
        Asked(Sign(word, chance.choice(list(COLOURS)), chance.choice(list(LAYOUTS))), seed + number)
        for number, word in enumerate(chosen)
    ]


def pictures(model: Model, signs: Sequence[Asked]) -> list[Image.Image]:
    """What the model makes of them."""
    generation = model.generation([one.sign.prompt for one in signs], [one.seed for one in signs])
    return model.run(generation, batch_size=32).images


def read_glyphs(image: Image.Image, layout: str) -> str:
    """The nearest glyph in each place of the panel."""
    pixels, top = np.asarray(image, np.float64), LAYOUTS[layout]
    panel = pixels[top : top + PANEL]
    ground = np.median(panel.reshape(-1, 3), axis=0)
    coverage = ((panel - ground) @ (255 - ground)) / np.square(255 - ground).sum().clip(1)
    inner = slice(2, PANEL - 2)  # frames lie outside
    places = [coverage[inner, SLOT * i : SLOT * (i + 1)] for i in range(WORD_LENGTH)]
    return "".join(DRAWN[int(np.square(glyphs()[:, inner] - one).sum(axis=(1, 2)).argmin())] for one in places)


def read_layout(image: Image.Image, sign: Sign) -> str:
    """The layout whose drawing of the same sign is nearest, on the wall that the picture shows."""
    pixels = np.asarray(image, np.float64)

    def gap(layout: str) -> float:
        gaps = [float(np.square(pixels - draw(replace(sign, layout=layout, shade=shade))).mean()) for shade in SHADES]
        return min(gaps)

    return min(LAYOUTS, key=gap)


def measured(
    model: Model, plugins: Plugins, numbers: Sequence[Asked], words: Sequence[Asked], base: Any
) -> dict[str, Any]:
    """The scores of a model, and its pictures."""
    new, kept = pictures(model, numbers), pictures(model, words)
    reader, colour = plugins.readers()["rapidocr"](), plugins.metrics()["colour"]()
    similarity = plugins.metrics()["ssim"]()
    texts = [text.replace(" ", "").upper() for text in reader.read([*new, *kept])]
    slots = [read_glyphs(image, one.sign.layout) for image, one in zip([*new, *kept], [*numbers, *words], strict=True)]
    rights = [one.sign.word for one in [*numbers, *words]]
    split = len(numbers)

    def share(hits: Sequence[bool]) -> float:
        return float(np.mean(hits))

    ocr = [text == right for text, right in zip(texts, rights, strict=True)]
    whole = [text == right for text, right in zip(slots, rights, strict=True)]
    single = [
        a == b
        for text, right in zip(slots[:split], rights[:split], strict=True)
        for a, b in zip(text, right, strict=True)
    ]
    everything = [*zip(new, numbers, strict=True), *zip(kept, words, strict=True)]
    found: dict[str, Any] = {
        "digits_ocr": share(ocr[:split]),
        "digits_glyphs": share(whole[:split]),
        "digits_characters": share(single),
        "letters_ocr": share(ocr[split:]),
        "letters_glyphs": share(whole[split:]),
        "colours": share([bool(colour.score(image, one.sign.colour)) for image, one in everything]),
        "layouts": share([read_layout(image, one.sign) == one.sign.layout for image, one in everything]),
    }
    before = base or kept
    found["ssim"] = float(np.mean([similarity.score(a, b) for a, b in zip(kept, before, strict=True)]))
    found["precision"], found["recall"] = precision_recall(latents(model, kept), latents(model, before))
    return {"scores": found, "new": new, "kept": kept}


def trainings(
    session: FinetuneSession, jobs: Sequence[FinetuneJob], out: Path
) -> Iterator[tuple[FinetuneJob, Path, float]]:
    """Each job trained, or found trained."""
    for job in jobs:
        path = out / f"{job.scope}-{job.seed}"
        began = time.perf_counter()
        manifest = session.run(job, path, FinetuneCallbacks())
        print(f"{path.name}: loss {manifest['loss']:.4f}, {time.perf_counter() - began:.0f} s", flush=True)
        yield job, path, manifest["seconds"]


def cell(values: Sequence[float], digits: int = 0, factor: float = 100) -> str:
    """Mean and half of the interval."""
    found = over_seeds([factor * value for value in values])
    assert found is not None
    half = found.high - found.mean
    return f"{found.mean:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-sd3", choices=list(LAYER))
    parser.add_argument("--scopes", nargs="+", default=list(SCOPES), choices=list(SCOPES))
    parser.add_argument("--projections", default="both")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=32, help="of numbers, and as many of words")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune-digits"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.workers > 1 and options.worker is None:
        command = [sys.executable, *sys.argv]
        shares = [subprocess.Popen([*command, "--worker", str(one)]) for one in range(options.workers)]
        if sum(share.wait() for share in shares):
            sys.exit("a worker failed; the same command goes on")

    plugins = Plugins()
    model = plugins.load(options.model, device="cpu")
    taught: TrainingSet = lesson("digits", plugins, limit=1)
    session = FinetuneSession(model, taught)
    numbers, words = asked(HELD_OUT, options.pictures), asked(WORDS, options.pictures)
    options.out.mkdir(parents=True, exist_ok=True)
    base = measured(model, plugins, numbers, words, None)
    print("base model:", json.dumps(base["scores"]), flush=True)
    jobs = [
        FinetuneJob(
            Settings(steps=options.steps, batch=options.batch, lr=options.lr, schedule="cosine", seed=seed),
            layers=LAYER[options.model], scope=scope, projections=options.projections, rank=options.rank,
        )
        for seed in range(options.seeds) for scope in options.scopes
    ]  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {scope: [] for scope in options.scopes}
    before = [*base["new"], *base["kept"]]
    mine = jobs if options.worker is None else jobs[options.worker :: options.workers]
    for job, path, seconds in trainings(session, mine, options.out):
        kept = path / "benchmark.json"
        if not kept.is_file():
            lora = Lora.load(model, path / "lora")
            now = measured(model, plugins, numbers, words, base["kept"])
            lora.detach()
            sheet([*now["new"], *now["kept"]], before, len(numbers)).save(path / "sheet.png")
            kept.write_text(json.dumps({"scores": now["scores"], "seconds": seconds}))
        line = json.loads(kept.read_text())
        found[job.scope].append(line | {"parameters": read_manifest(path)["parameters"], "seed": job.seed})
        print(path.name, json.dumps(line["scores"]), flush=True)
    if options.worker is None:
        print_table(base["scores"], found)


def print_table(base: dict[str, float], found: dict[str, list[dict[str, Any]]]) -> None:
    """In Markdown; shares in percent."""
    print("| scope | LoRA parameters | " + " | ".join(COLUMNS.values()) + " | seconds a run |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    print("| base model | | " + " | ".join(cell([base[name]]) for name in COLUMNS) + " | |")
    for scope, lines in found.items():
        cells = (cell([line["scores"][name] for line in lines]) for name in COLUMNS)
        seconds = np.mean([line["seconds"] for line in lines])
        print(f"| {scope} | {lines[0]['parameters']['trained']:,} | " + " | ".join(cells) + f" | {seconds:.0f} |")


if __name__ == "__main__":
    main()
