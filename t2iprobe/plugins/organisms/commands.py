"""``t2iprobe organisms``: lists, trains and checks the embedded models. Imports torch only inside the commands."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, say, tell
from t2iprobe.cli.options import PrintOptions
from t2iprobe.cli.progress import counting, training_bars
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.load_options import INDEX, LoadOptions
from t2iprobe.core.names import choice
from t2iprobe.core.planted import CARD
from t2iprobe.plugins.organisms import report
from t2iprobe.plugins.organisms.options import OrganismBenchOptions, PlantCheckOptions, TrainOptions

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.organisms.plant import Plant
    from t2iprobe.plugins.organisms.recipes import ModelRecipe
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="Model organisms: tiny models trained so that the right answer is known. List, train and check them; those "
    "that are bundled are the embedded models.",
    no_args_is_help=True,
)

AUTOENCODER_SECONDS = 0.19  # per step, measured on two CPU cores
STEP_SECONDS = {"sd3": 0.5, "sdxl": 0.45, "if": 0.6}  # per step of 32 rows, likewise
NOISE_SHARE = 0.4  # of such a step, for one that trains the last layers only


@app.command("list")
@takes(PrintOptions)
def show(options: PrintOptions, context: typer.Context) -> None:
    """List the embedded models, what is planted in them, and how well the plants hold."""
    from t2iprobe.plugins.organisms.recipes import RECIPES

    models = [_entry(recipe) for recipe in RECIPES.values()]
    if options.format is Format.json:
        print_json({"models": models})
    else:
        report.print_models(models)


def _entry(recipe: ModelRecipe) -> dict[str, Any]:
    """One embedded model; its weights are ``stale`` if they were made with another recipe."""
    from t2iprobe.plugins.organisms.recipes import WEIGHTS
    from t2iprobe.plugins.organisms.weight_files import read_card

    folder = WEIGHTS / recipe.name
    card = read_card(folder) if (folder / INDEX).is_file() else {}
    state = "absent" if not card else "present" if card["recipe"] == recipe.digest else "stale"
    known = {"name": recipe.name, "family": recipe.family, "plant": recipe.plant, "recipe": recipe.digest}
    return {**known, "weights": state, "measured": card.get("measured")}


@app.command()
@takes(TrainOptions)
def train(options: TrainOptions, context: typer.Context) -> None:
    """Train a model with planted layers. Run the same command again to resume an interrupted training.

    With --start, a trained model learns another head of its planted layer faster than one from scratch; for another
    layer, train from scratch.

    Examples:

      t2iprobe organisms train tiny-sd3 --plant word=9,colour=5 --seed 1 --out organism

      t2iprobe organisms train tiny-sd3 --plant 'word=5|8,colour=3' --out redundant

      t2iprobe organisms train tiny-sd3 --plant word=6.h1,colour=3 --start tiny-sd3 --train-steps 900 --out head
    """
    from t2iprobe.plugins.organisms import build, check, recipes, training, weight_files

    began, out = time.perf_counter(), options.out
    changes = {name: getattr(options, name) for name in ("plant", "seed", "lr", "start")}
    recipe = recipes.recipe(options.name, steps=options.train_steps, **changes)
    adapter = context.obj.adapters()[recipe.family]()
    check.validate(recipe.routes, training.text_layers(adapter, build.PIPELINES[recipe.family]())[1])
    device = str(LoadOptions(options.device).torch_device())
    say(_estimate(recipe))
    try:
        with training_bars() as tick:
            pipeline = training.train(recipe, adapter, out, tick=tick, keep_every=options.checkpoints, device=device)
        weight_files.save(pipeline, out / "pipeline", recipe)
    except KeyboardInterrupt:
        say(f"interrupted; run the same command to continue from the last checkpoint in {out}")
        raise typer.Exit(130) from None
    say(f"check it with: t2iprobe organisms check {out / 'pipeline'}")
    seconds = round(time.perf_counter() - began, 1)
    facts = {"pipeline": str(out / "pipeline"), "recipe": recipe.digest, "plant": recipe.plant, "steps": recipe.steps}
    answer: dict[str, Any] = {**facts, "seconds": seconds}
    if options.format is Format.json:
        print_json(answer)
        return
    for name, value in answer.items():
        tell(f"{name}: {value}")


def _estimate(recipe: ModelRecipe) -> str:
    rows = recipe.batch * (recipe.steps + NOISE_SHARE * recipe.noise_steps)
    seconds = rows / 32 * STEP_SECONDS[recipe.family]
    seconds += 0 if recipe.start else recipe.autoencoder_steps * AUTOENCODER_SECONDS
    minutes = max(1, round(seconds / 60))
    return f"training {recipe.name} with {recipe.plant}: {recipe.steps} steps, about {minutes} min on two CPU cores"


@app.command()
@takes(PlantCheckOptions)
def check(options: PlantCheckOptions, context: typer.Context) -> None:
    """Measure whether the plant holds: each layer is patched, and OCR reads the images.

    The exit code is 1 if it does not hold.
    """
    from t2iprobe.plugins.organisms import weight_files
    from t2iprobe.plugins.organisms.check import check as measure

    model, plant, folder = _load(options.model, options.device, context.obj)
    reader, colours = context.obj.readers()["rapidocr"](), context.obj.metrics()["colour"]()
    sizes = {name: getattr(options, name) for name in ("seed", "num_steps", "batch_size")}
    with counting("checking", options.limit) as tick:
        measured = measure(model, plant, reader=reader, colours=colours, words=options.limit, tick=tick, **sizes)
    if options.write:
        weight_files.write(folder, weight_files.read_card(folder) | {"measured": measured.record()})
        say(f"written to {folder / CARD} and README.md")
    if options.format is Format.json:
        print_json({"model": options.model} | measured.record())
    else:
        report.print_check(options.model, measured)
    for reason in measured.reasons:
        say(f"does not hold: {reason}")
    if not measured.passed:
        raise typer.Exit(1)


@app.command()
@takes(OrganismBenchOptions)
def bench(options: OrganismBenchOptions, context: typer.Context) -> None:
    """Run localization methods on planted layers: which of them find the layers, and at what cost.

    Examples:

      t2iprobe organisms bench --method exhaustive,adaptive

      t2iprobe organisms bench --model my-organism/pipeline --concept text --format json
    """
    from t2iprobe.plugins.organisms import bench as benchmark
    from t2iprobe.plugins.organisms.recipes import embedded

    plugins, held_out = context.obj, options.held_out
    pairs = options.limit - held_out
    if pairs < 1:
        raise ConfigError(f"{options.called('held_out')} {held_out} of {options.limit} leaves no pair to search on")
    methods = [plugins.localizer(name) for name in options.method]
    for name in options.concept:
        choice("concept of the embedded models", name, benchmark.CONCEPTS)
    refs = options.model or [shipped.name for shipped in embedded() if shipped.present]
    sizes = {name: getattr(options, name) for name in ("held_out", "seed", "budget", "batch_size")}
    questions = [
        benchmark.BenchQuestion(model, plant, concept, pairs=pairs, **sizes)
        for model, plant, _ in [_load(ref, options.device, plugins) for ref in refs]
        for concept in benchmark.CONCEPTS
        if concept in options.concept
    ]
    say(f"bench: {len(questions)} questions for {len(methods)} methods, {pairs} + {held_out} pairs each")
    rows = []
    for row in benchmark.bench(questions, methods, plugins.scorer):
        rows.append(row)
        say(f"{row.model} {row.concept} {row.method}: {row.sentence}")
    if options.format is Format.json:
        print_json([asdict(row) for row in rows])
    else:
        report.print_bench(rows)


def _load(ref: str, device: str | None, plugins: Plugins) -> tuple[Model, Plant, Path]:
    """The model, its plant and its folder."""
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.organisms import weight_files
    from t2iprobe.plugins.organisms.plant import parse_plant

    folder = weight_files.folder_of(ref)
    card = weight_files.read_card(folder)
    pipeline = weight_files.read(folder, LoadOptions(device))
    adapter = plugins.adapter_of(pipeline)()
    return Model(pipeline, adapter, ref=ref, defaults=card["sampling"]), parse_plant(card["plant"]), folder
