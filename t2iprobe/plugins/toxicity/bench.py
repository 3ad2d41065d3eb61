"""``t2iprobe guard bench``: from its options to a finished run folder, or to a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.commandline import quoted
from t2iprobe.cli.console import notes
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.layers import chosen
from t2iprobe.cli.options import ModelChoice, generation_settings
from t2iprobe.cli.progress import progress
from t2iprobe.core.contracts.adapter import count_parameters, layer_table
from t2iprobe.core.contracts.detector import Detector, Hit
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_words
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice, counted, with_settings
from t2iprobe.plugins.toxicity import benchmark as measuring
from t2iprobe.plugins.toxicity import latent, record
from t2iprobe.plugins.toxicity.digests import digests, key_name
from t2iprobe.plugins.toxicity.donors import WAYS, chosen_way
from t2iprobe.plugins.toxicity.gallery import Gallery
from t2iprobe.plugins.toxicity.guard import check_layers, check_start
from t2iprobe.plugins.toxicity.methods import METHODS, NEGATIVE, UNGUARDED, USUAL, Case, GuardMethod, Setup
from t2iprobe.plugins.toxicity.policy import Policy
from t2iprobe.plugins.toxicity.presets import SEEDS, TEMPLATE, GuardPreset, preset
from t2iprobe.plugins.toxicity.running import REPORT, RESULT, batch_of, finished, kept, placed
from t2iprobe.plugins.toxicity.settings import deciding
from t2iprobe.plugins.toxicity.sheet import NAME as SHEET
from t2iprobe.plugins.toxicity.wordlist import WordList, builtin, bundled, read_lines

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

PUBLISHED = "i2p"  # the published concept of Safe Latent Diffusion
SIGN = 'a sign that says "{word}"'  # what an embedded model has words for


@dataclass(frozen=True)
class GuardBenchOptions:
    """The options, as given."""

    model: ModelChoice
    layers: str | None
    run: Path | None
    words: Path | None
    template: str | None
    methods: str | None
    limit: int | None
    seeds: int | None
    rewriter: str
    negative: str | None
    concept: str | None
    judge: list[str] | None
    reader: str | None
    preset: str | None
    start: int | None
    seed: int | None
    num_steps: int | None
    guidance: float | None
    resolution: int | None
    batch_size: int | None
    yes: bool
    show_words: bool


@dataclass(frozen=True)
class GuardBenchJob:
    """What is to be run: the options with everything that they leave open filled in."""

    choice: ModelChoice
    ref: str
    words: tuple[str, ...]
    list_lines: tuple[str, ...] | None
    template: str | None
    seeds: int
    seed: int
    settings: Mapping[str, Any]
    start: int
    negative: str
    concept: str
    judge: tuple[str, ...]
    reader: str
    layers: str | None
    run: Path | None


def job_of(asked: GuardBenchOptions, plugins: Plugins) -> GuardBenchJob:
    """Fill in what the options leave open, from the preset or the usual.

    Raises:
        ConfigError: something does not fit.
    """
    paper = _paper(asked)
    model = asked.model if paper is None else _like(asked.model, paper)
    ref = model.reference(plugins)
    embedded = ref in plugins.models()
    lines = _word_lines(asked, embedded)
    given = generation_settings(asked.num_steps, asked.guidance, asked.resolution)
    published = {} if paper is None else generation_settings(paper.num_steps, paper.guidance, paper.resolution)
    return GuardBenchJob(
        choice=model,
        ref=ref,
        words=tuple(_words(lines)[: asked.limit]),
        list_lines=lines,
        template=asked.template or (TEMPLATE if paper else None),
        seeds=asked.seeds or (SEEDS if paper else 1),
        seed=(paper.seed if paper else 0) if asked.seed is None else asked.seed,
        settings=published | given,
        start=(paper.start if paper else 0) if asked.start is None else asked.start,
        negative=asked.negative or (SIGN if embedded else NEGATIVE),
        concept=_concept(asked.concept, embedded),
        judge=tuple(asked.judge or ([paper.judge] if paper else [])),
        reader=asked.reader or (paper.reader if paper else "rapidocr"),
        layers=asked.layers or (None if paper is None or asked.run else ",".join(map(str, paper.layers))),
        run=asked.run,
    )


def _concept(asked: str | None, embedded: bool) -> str:
    """The concept of Safe Latent Diffusion; an embedded model has no words for the published one."""
    return latent.CONCEPT if asked == PUBLISHED or (asked is None and not embedded) else asked or SIGN


def _paper(asked: GuardBenchOptions) -> GuardPreset | None:
    if asked.preset is None:
        return None
    if asked.model.arch is None or asked.words is None:
        raise ConfigError(
            f"--preset {asked.preset} needs --arch (sdxl, sd3 or if) and --words FILE: its 400 words are not published"
        )
    return preset(asked.preset, asked.model.arch)


def _like(model: ModelChoice, paper: GuardPreset) -> ModelChoice:
    return ModelChoice(
        model.arch,
        model.model or paper.model,
        model.upscaler or paper.upscaler,
        model.device,
        model.dtype or paper.dtype,
    )


def _word_lines(asked: GuardBenchOptions, embedded: bool) -> tuple[str, ...] | None:
    """Lines of the list that the guard looks for; ``None`` is the built-in one."""
    if asked.words is not None:
        return tuple(read_lines(asked.words, "words"))
    return bundled("stand_in") if embedded else None


def _words(lines: tuple[str, ...] | None) -> list[str]:
    found = builtin().words if lines is None else WordList(lines, "the word list").words
    if not found:
        raise ConfigError("the word list holds no single word to put on a sign")
    return found


class _Listed(Detector):
    """The detector of the benchmark: exactly its own words."""

    name = "words"
    summary = "the words of the benchmark"

    def __init__(self, lines: tuple[str, ...] | None) -> None:
        self.list = builtin() if lines is None else WordList(lines)

    def find(self, text: str) -> list[Hit]:
        """See :meth:`Detector.find`."""
        return self.list.find(text)


def _policy(asked: GuardBenchOptions, job: GuardBenchJob, plugins: Plugins) -> Policy:
    name, settings = with_settings(asked.rewriter)
    return Policy([_Listed(job.list_lines)], plugins.rewriter(name, **settings))


def _judges(job: GuardBenchJob, policy: Policy, plugins: Plugins) -> Sequence[Detector]:
    """Who tells toxic text in pictures: the detector of the benchmark, unless asked otherwise."""
    built = [plugins.detector(name, **settings) for name, settings in map(with_settings, job.judge)]
    for one in built:
        one.prepare()
    return built or policy.detectors


def _methods(names: str | None, setup: Setup) -> dict[str, GuardMethod]:
    """The methods, the unguarded pictures first; of the usual ones those that the model allows."""
    if names is not None:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        built = {name: choice("method", name, METHODS) for name in wanted}
        return {name: kind(setup) for name, kind in ({UNGUARDED: METHODS[UNGUARDED]} | built).items()}
    found = {UNGUARDED: METHODS[UNGUARDED](setup)}
    for name in _usual(setup.model):
        try:
            found[name] = METHODS[name](setup)
        except ConfigError as error:
            notes.print(f"left out: {name}: {error}", highlight=False)
    return found


def _usual(model: Model) -> list[str]:
    """The text stream too, where the rewrite takes a row."""
    first, *rest = USUAL
    return [first, *(["localized-stream"] if chosen_way(model) == "row" else []), *rest]


def benchmark(asked: GuardBenchOptions, out: Path | None, plugins: Plugins, command: Sequence[str]) -> dict[str, Any]:
    """Run it, go on with it, or show what is done; the answer is the JSON object."""
    job = job_of(asked, plugins)
    policy = _policy(asked, job, plugins)
    path = out or Path("runs") / f"guard-bench-{Path(job.ref).name}"
    settings = {"command": "guard bench", "asked": _settings(asked, job)}
    if (done := finished(path, settings)) is not None:
        return done
    judges = _judges(job, policy, plugins)
    tools = _instruments(job, judges, plugins)
    cases = _cases(job, policy, plugins)
    model = job.choice.load(plugins)
    layers = chosen(model, job.layers, job.run)
    check_layers(layers, model.layers)
    check_start(job.start, model.steps(job.settings.get("num_steps")))
    size = asked.batch_size or batch_of(model)
    setup = Setup(model, layers, job.settings, job.start, job.negative, job.concept, size)
    methods = _methods(asked.methods, setup)
    _say_plan(setup, methods, cases, path, asked.yes)
    with kept(path, settings, model, job.settings, plugins) as more:
        answer = _measured(asked, job, setup, methods, cases, tools, path, plugins, command)
        more["sentence"] = answer["sentence"]
    return placed(answer, path)


def _cases(job: GuardBenchJob, policy: Policy, plugins: Plugins) -> list[Case]:
    pairs = plugins.prompt_set(plugins.own_prompt_set(job.ref), limit=min(len(job.words), 60), seed=job.seed)
    prompts = measuring.prompts_of(job.words, pairs, job.template)
    cases = measuring.cases_of(prompts, policy, job.seed, job.seeds)
    if missed := sum(not case.found for case in cases):
        notes.print(f"the guard finds nothing in {missed} of {counted(len(cases), 'prompt')}; nothing is changed there")
    return cases


def _instruments(job: GuardBenchJob, judges: Sequence[Detector], plugins: Plugins) -> measuring.PictureMeasures:
    known: Mapping[str, Any] = plugins.metrics()
    reader = plugins.reader(job.reader)
    check_words(reader, job.words, plugins.readers())
    f1: Any = choice("aggregate", measuring.F1, plugins.aggregates())()
    texts, images = (
        {name: choice("metric", name, known)() for name in names} for names in (measuring.TEXTS, measuring.SIMILAR)
    )
    return measuring.PictureMeasures(reader.read, texts, images, f1, judges)


def _settings(asked: GuardBenchOptions, job: GuardBenchJob) -> dict[str, Any]:
    """Everything that decides the result; the words as digests."""
    return {
        "model": job.ref,
        "upscaler": job.choice.upscaler,
        "dtype": job.choice.dtype,
        "key": key_name(),
        "words": digests(job.words),
        "list": digests(job.list_lines or ()),
        "template": job.template,
        "seeds": job.seeds,
        "seed": job.seed,
        "methods": asked.methods,
        "layers": job.layers or str(job.run),
        "start": job.start,
        "rewriter": deciding(asked.rewriter),
        "negative": job.negative,
        "concept": job.concept,
        "judge": [deciding(one) for one in job.judge],
        "reader": job.reader,
        "generation": dict(job.settings),
    }


def _say_plan(setup: Setup, methods: Mapping[str, GuardMethod], cases: Sequence[Case], path: Path, yes: bool) -> None:
    """One line on stderr.

    Raises:
        ConfigError: it takes hours, and nobody said yes.
    """
    model, found = setup.model, sum(case.found for case in cases)
    pictures = len(cases) + found * (len(methods) - 1)
    width = len(cases) + sum(found * method.rows for name, method in methods.items() if name != UNGUARDED)
    num_steps = setup.settings.get("num_steps")
    rows = width * model.evaluations(num_steps) * model.guided(setup.settings)
    probe = model.probe(setup.settings)
    seconds = probe.seconds_a_row * rows + probe.seconds_an_image * pictures
    way = chosen_way(model)
    notes.print(
        f"plan: {counted(len(cases), 'prompt')} × {counted(len(methods), 'method')} = {counted(pictures, 'picture')} "
        f"of {counted(model.steps(num_steps), 'step')}, {counted(rows, 'denoiser row')}; donor {way} ({WAYS[way]}); "
        f"about {duration(seconds)}, "
        f"disk at most {pictures * model.image_bytes(setup.settings) / 1e6:.1f} MB in {path}",
        highlight=False,
    )
    agree(yes, seconds)


def _measured(
    asked: GuardBenchOptions,
    job: GuardBenchJob,
    setup: Setup,
    methods: Mapping[str, GuardMethod],
    cases: Sequence[Case],
    tools: measuring.PictureMeasures,
    path: Path,
    plugins: Plugins,
    command: Sequence[str],
) -> dict[str, Any]:
    """Pictures, scores and files."""
    gallery, model = Gallery(path), setup.model
    total = sum(method.rows * len(cases) for method in methods.values())
    with progress(total, model.evaluations(setup.settings.get("num_steps")), "drawing") as on_step:
        measuring.render(methods, cases, gallery, setup.batch_size, on_step)
    rows = measuring.measure(list(methods), cases, gallery, tools)
    facts = {
        "model": model.ref,
        "arch": model.adapter.name,
        "layers": list(setup.layers),
        "donor": chosen_way(model),
        "judge": list(job.judge) or ["words"],
        "concept": job.concept,
        "negative": job.negative,
    }
    answer = record.answer_of(rows, cases, facts) | {"table": [record.heads(), [record.brief(row) for row in rows]]}
    sheet = record.sheet(list(methods), cases, gallery, asked.show_words)
    sheet.save(path / SHEET)
    plugins.write_page(record.page_of(answer, rows, sheet, quoted(command)), path / REPORT)
    (path / RESULT).write_text(json.dumps(answer, indent=1) + "\n")
    return answer


def planned(asked: GuardBenchOptions, plugins: Plugins) -> dict[str, Any]:
    """What it would take, without weights: the published configuration on the meta device.

    Raises:
        ConfigError: no architecture is named, or it does not have the layers.
    """
    if asked.model.arch is None:
        raise ConfigError("--plan looks at the published configuration of an architecture: give --arch")
    job = job_of(replace(asked, model=asked.model.published()), plugins)
    adapter = choice("architecture", asked.model.arch, plugins.adapters())()
    stand_in = adapter.published()
    model, table = Model(stand_in, adapter), layer_table(adapter, stand_in)
    picked = [table[number] for number in chosen(model, job.layers, job.run)]
    way = chosen_way(model)
    pictures = len(job.words) * job.seeds
    parameters = sum(row.parameters for row in picked)
    share = parameters / count_parameters(adapter.module(stand_in))
    return {
        "arch": adapter.name,
        "model": job.ref,
        "layers": [row.index for row in picked],
        "paths": [row.path for row in picked],
        "parameters": parameters,
        "share": share,
        "donor": way,
        "start": job.start,
        "pictures_a_method": pictures,
        "generation": dict(job.settings),
        "sentence": (
            f"{adapter.name}: layers {', '.join(str(row.index) for row in picked)} of {len(table)} "
            f"({picked[0].path}{', …' if len(picked) > 1 else ''}), {parameters:,} K/V parameters = "
            f"{100 * share:.2f} %; donor {way} ({WAYS[way]}), from step {job.start}; {counted(len(job.words), 'word')} "
            f"× {counted(job.seeds, 'seed')} = {counted(pictures, 'picture')} a method of "
            f"{job.settings.get('num_steps', 'the default')} steps"
        ),
    }
