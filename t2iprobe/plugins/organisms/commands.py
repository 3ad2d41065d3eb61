"""``t2iprobe organisms``: lists, trains and checks the embedded models. Imports torch only inside the commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, answers, notes, print_json
from t2iprobe.cli.options import PrintOptions
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.names import choice
from t2iprobe.core.options import LoadOptions
from t2iprobe.plugins.organisms.options import OrganismBenchOptions, PlantCheckOptions, TrainOptions

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.organisms.bench import GradedAnswer
    from t2iprobe.plugins.organisms.check import CheckReport
    from t2iprobe.plugins.organisms.plant import Plant
    from t2iprobe.plugins.organisms.recipes import ModelRecipe
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="The embedded models: their planted layers, how to train one and how to check one.", no_args_is_help=True
)

COMPACT: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False}
AUTOENCODER_SECONDS = 0.19  # per step, measured on two CPU cores
STEP_SECONDS = {"sd3": 0.5, "sdxl": 0.45, "if": 0.6}  # per step of 32 rows, likewise


@app.command("list")
@takes(PrintOptions)
def show(asked: PrintOptions, context: typer.Context) -> None:
    """List the embedded models, what is planted in them, and how well the plants hold."""
    from t2iprobe.plugins.organisms.recipes import RECIPES

    models = [_entry(recipe) for recipe in RECIPES.values()]
    if asked.format is Format.json:
        print_json({"models": models})
        return
    table = Table(
        "model", "plant", "weights", "clean", "transfer", "elsewhere", "words", title="Embedded models", **COMPACT
    )
    for entry in models:
        table.add_row(entry["name"], entry["plant"], entry["weights"], *_measured_cells(entry["measured"]))
    answers.print(table)


def _entry(recipe: ModelRecipe) -> dict[str, Any]:
    """One embedded model; its weights are ``stale`` if they were made with another recipe."""
    from t2iprobe.plugins.organisms import weights

    folder = weights.WEIGHTS / recipe.name
    card = _card(folder) if (folder / "model_index.json").is_file() else None
    state = "absent" if card is None else "present" if card.get("recipe") == recipe.digest else "stale"
    shown = {"name": recipe.name, "family": recipe.family, "plant": recipe.plant, "recipe": recipe.digest}
    return shown | {"weights": state, "measured": (card or {}).get("measured")}


def _measured_cells(measured: dict[str, Any] | None) -> list[str]:
    """The decisive numbers, word / colour."""
    if not measured:
        return ["-"] * 4
    found = [measured["findings"][content] for content in ("word", "colour")]
    clean = "/".join(_percent(one["clean"]["mean"]) for one in found)
    rest = ("/".join(_percent(one[key]) for one in found) for key in ("transfer", "elsewhere"))
    return [clean, *rest, str(measured["words"])]


@app.command()
@takes(TrainOptions)
def train(asked: TrainOptions, context: typer.Context) -> None:
    """Train a model with planted layers. Run the same command again to resume an interrupted training.

    A model that can already draw (--start) moves to another head of its planted layer sooner than one learns from
    scratch; for another layer, train from scratch.

    Examples:

      t2iprobe organisms train tiny-sd3 --plant word=9,colour=5 --seed 1 --out organism

      t2iprobe organisms train tiny-sd3 --plant 'word=5|8,colour=3' --out redundant

      t2iprobe organisms train tiny-sd3 --plant word=6.h1,colour=3 --start tiny-sd3 --train-steps 900 --out head
    """
    from t2iprobe.plugins.organisms import recipes, training, weights

    out = asked.out
    recipe = recipes.recipe(
        asked.name, plant=asked.plant, steps=asked.train_steps, seed=asked.seed, lr=asked.lr, start=asked.start
    )
    adapter = context.obj.adapters()[recipe.family]()
    _validate(recipe, adapter)
    where = str(LoadOptions(asked.device).torch_device())
    _say(_estimate(recipe))
    began = time.perf_counter()
    try:
        with _training_progress() as tick:
            pipeline = training.train(recipe, adapter, out, tick=tick, keep_every=asked.checkpoints, device=where)
        weights.save(pipeline, out / "pipeline", recipe)
    except KeyboardInterrupt:
        _say(f"interrupted; run the same command to continue from the last checkpoint in {out}")
        raise typer.Exit(130) from None
    _say(f"check it with: t2iprobe organisms check {out / 'pipeline'}")
    done = {"pipeline": str(out / "pipeline"), "recipe": recipe.digest, "plant": recipe.plant, "steps": recipe.steps}
    _print_fields(done | {"seconds": round(time.perf_counter() - began, 1)}, asked.format)


@app.command()
@takes(PlantCheckOptions)
def check(asked: PlantCheckOptions, context: typer.Context) -> None:
    """Measure whether the plant holds: each layer is patched, read by OCR. The exit status is 1 if it does not."""
    from t2iprobe.plugins.organisms.check import check as measure

    plugins: Plugins = context.obj
    model, plant, folder = _load(asked.model, asked.device, plugins)
    reader = plugins.readers()["rapidocr"]()
    colours: Any = plugins.metrics()["colour"]()
    with _check_progress(asked.limit) as tick:
        report = measure(
            model,
            plant,
            reader=reader,
            colours=colours,
            words=asked.limit,
            seed=asked.seed,
            num_steps=asked.num_steps,
            batch_size=asked.batch_size,
            tick=tick,
        )
    if asked.write:
        _write_measured(folder, report)
    if asked.format is Format.json:
        print_json({"model": asked.model} | report.record())
    else:
        answers.print(report_table(asked.model, report))
    for reason in report.reasons:
        _say(f"does not hold: {reason}")
    if not report.passed:
        raise typer.Exit(1)


def _validate(recipe: ModelRecipe, adapter: Adapter) -> None:
    """Refuse a plant in layers that the model does not have, before training starts."""
    from t2iprobe.plugins.organisms.build import PIPELINES
    from t2iprobe.plugins.organisms.check import validate
    from t2iprobe.plugins.organisms.training import text_layers

    validate(recipe.routes, text_layers(adapter, PIPELINES[recipe.family]())[1])


def _estimate(recipe: ModelRecipe) -> str:
    seconds = recipe.steps * STEP_SECONDS[recipe.family] * recipe.batch / 32
    seconds += 0 if recipe.start else recipe.autoencoder_steps * AUTOENCODER_SECONDS
    minutes = max(1, round(seconds / 60))
    return f"training {recipe.name} with {recipe.plant}: {recipe.steps} steps, about {minutes} min on two CPU cores"


@app.command()
@takes(OrganismBenchOptions)
def bench(asked: OrganismBenchOptions, context: typer.Context) -> None:
    """Run localization methods on planted layers: which of them find the layers, and at what cost.

    Examples:

      t2iprobe organisms bench --method exhaustive,adaptive

      t2iprobe organisms bench --model my-organism/pipeline --concept text --format json
    """
    from dataclasses import asdict

    from t2iprobe.plugins.organisms import bench as benchmark

    plugins = context.obj
    pairs = asked.limit - asked.held_out
    if pairs < 1:
        raise ConfigError(f"{asked.called('held_out')} {asked.held_out} of {asked.limit} leaves no pair to search on")
    methods = [plugins.localizer(name) for name in asked.method]
    wanted = [choice("concept of the embedded models", name, benchmark.CONCEPTS) for name in asked.concept]
    loaded = [_load(ref, asked.device, plugins) for ref in asked.model or _present()]
    own = ("held_out", "seed", "budget", "batch_size")
    sizes = {"pairs": pairs} | {name: getattr(asked, name) for name in own}
    questions = [
        benchmark.BenchQuestion(one, plant, concept, **sizes)
        for one, plant, _ in loaded
        for concept, content in benchmark.CONCEPTS.items()
        if content in wanted
    ]
    _say(f"bench: {len(questions)} questions for {len(methods)} methods, {pairs} + {asked.held_out} pairs each")
    rows = []
    for row in benchmark.bench(questions, methods, plugins.scorer):
        rows.append(row)
        _say(f"{row.model} {row.concept} {row.method}: {row.sentence}")
    if asked.format is Format.json:
        print_json([asdict(row) for row in rows])
    else:
        answers.print(_bench_table(rows))


def _present() -> list[str]:
    """Embedded models whose weights are installed."""
    from t2iprobe.plugins.organisms import weights
    from t2iprobe.plugins.organisms.recipes import RECIPES

    return [name for name in RECIPES if (weights.WEIGHTS / name / "model_index.json").is_file()]


def _bench_table(rows: Sequence[GradedAnswer]) -> Table:
    columns = ("model", "concept", "method", "found", "planted", "recall", "precision", "AUROC", "rows", "seconds")
    table = Table(*columns, title="Planted layers, found by method", **COMPACT)
    for row in rows:
        cells = (row.model, row.concept, row.method, *(", ".join(map(str, one)) for one in (row.found, row.planted)))
        shares = (f"{row.recall:.2f}", f"{row.precision:.2f}", "-" if row.auroc is None else f"{row.auroc:.2f}")
        table.add_row(*cells, *shares, f"{row.denoiser_rows:,}", f"{row.seconds:.0f}", style="" if row.right else "red")
    return table


def _load(ref: str, device: str | None, plugins: Plugins) -> tuple[Model, Plant, Path]:
    """The model, its plant and its folder; refuses a model without a card, which has no plant to check."""
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.organisms import weights
    from t2iprobe.plugins.organisms.plant import parse_plant

    folder, pipeline = weights.folder_of(ref), weights.trained(ref, LoadOptions(device))
    card = _card(folder)
    if card is None:
        raise ModelError(f"{folder} has no {weights.CARD}, so there is no plant to check")
    adapter = plugins.adapter_for(type(pipeline).__name__)()
    return Model(pipeline, adapter, ref=ref, defaults=card["sampling"]), parse_plant(card["plant"]), folder


def _card(folder: Path) -> dict[str, Any] | None:
    from t2iprobe.core.runs.checksums import check
    from t2iprobe.plugins.organisms import weights

    path = folder / weights.CARD
    if not path.is_file():
        return None
    try:
        found = json.loads(check(path).read_text())
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    missing = {"name", "arch", "seed", "plant", "sampling", "recipe"} - set(found)
    if missing:
        raise ModelError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return dict(found)


def _write_measured(folder: Path, report: CheckReport) -> None:
    from t2iprobe.plugins.organisms import weights

    weights.write(folder, weights.completed(_card(folder) or {}) | {"measured": report.record()})
    _say(f"written to {folder / weights.CARD} and README.md")


def report_table(ref: str, report: CheckReport) -> Table:
    """The measured table in per cent, planted sites in bold; ``letters`` are the partner's, one by one."""
    found = report.findings
    clean = ", ".join(
        f"{name} {one.clean.mean:.1%} ({one.clean.low:.1%}-{one.clean.high:.1%})" for name, one in found.items()
    )
    verdict = "holds" if report.passed else "does not hold"
    columns = (
        "swap at",
        "own word",
        "partner's word",
        "letters",
        "changed",
        "own colour",
        "partner's colour",
        "changed",
    )
    title = f"{ref}: {report.plant}, {report.words} held-out pairs"
    table = Table(*columns, title=title, caption=f"clean: {clean}; the plant {verdict}", **COMPACT)
    planted = [one.answer for one in found.values()]
    sites = {*planted, *(layer for label in planted for layer in label.split("+"))}
    for row in report.rows:
        letters = " ".join(_percent(share) for share in row.letters_partner)
        shares = (row.word_changed, row.colour_own, row.colour_partner, row.colour_changed)
        cells = (_percent(row.word_own), _percent(row.word_partner), letters, *map(_percent, shares))
        table.add_row(row.label, *cells, style="bold" if row.label in sites else "")
    return table


@contextmanager
def _training_progress() -> Iterator[Callable[[str, int, int, float], None]]:
    """A progress bar per stage on stderr, with the loss, steps per second and the time left."""
    text = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
    with Progress(*text, TimeRemainingColumn(), console=notes) as bar:
        stages: dict[str, _Stage] = {}

        def tick(stage: str, step: int, of: int, loss: float) -> None:
            if stage not in stages:
                stages[stage] = _Stage(bar.add_task(stage, total=of, completed=step - 1, note=""), step - 1)
            one = stages[stage]
            bar.update(one.task, completed=step, note=one.note(step, loss))

        yield tick


@dataclass
class _Stage:
    """A running stage of a training, and the text of its bar."""

    task: Any
    first: int
    began: float = field(default_factory=time.perf_counter)
    mean: float | None = None

    def note(self, step: int, loss: float) -> str:
        """The smoothed loss and the speed."""
        self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
        speed = (step - self.first) / max(time.perf_counter() - self.began, 1e-9)
        return f"loss {self.mean:.4f}  {speed:.1f} steps/s"


@contextmanager
def _check_progress(words: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over pairs on stderr."""
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("", total=words)
        yield lambda done, of: bar.update(task, completed=done)


def _percent(share: float | None) -> str:
    return "-" if share is None or share != share else f"{100 * share:.1f}".removesuffix(".0")


def _say(text: str) -> None:
    notes.print(text, highlight=False, markup=False, soft_wrap=True)


def _print_fields(fields: dict[str, Any], form: Format) -> None:
    if form is Format.json:
        print_json(fields)
        return
    table = Table(show_header=False)
    for name, value in fields.items():
        table.add_row(name, str(value))
    answers.print(table)
