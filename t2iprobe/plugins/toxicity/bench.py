"""``t2iprobe guard bench``: from options to a finished run folder, or to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import say
from t2iprobe.cli.cost import agree, memory_text, seconds_to_score, time_text
from t2iprobe.cli.models import load, planned_layers, published_ref, reference, without_weights
from t2iprobe.cli.papers import paper_settings
from t2iprobe.cli.progress import progress
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_words
from t2iprobe.core.names import choice, counted
from t2iprobe.core.runs.checksums import keep
from t2iprobe.core.runs.engine import RunSession
from t2iprobe.plugins.toxicity import latent, report
from t2iprobe.plugins.toxicity.bench_measures import (
    F1,
    SIMILAR,
    TEXTS,
    PictureMeasures,
    cases_of,
    measure,
    missing,
    render,
)
from t2iprobe.plugins.toxicity.detectors import Words
from t2iprobe.plugins.toxicity.donors import DONORS, chosen_donor
from t2iprobe.plugins.toxicity.gallery import Gallery
from t2iprobe.plugins.toxicity.guard import check_start
from t2iprobe.plugins.toxicity.methods import (
    BASELINES,
    LOCALIZED,
    METHODS,
    NEGATIVE,
    UNGUARDED,
    Case,
    GuardMethod,
    Setup,
)
from t2iprobe.plugins.toxicity.options import GuardBenchOptions
from t2iprobe.plugins.toxicity.policy import Policy
from t2iprobe.plugins.toxicity.session import deciding_settings, execute_guard, finished
from t2iprobe.plugins.toxicity.wordlist import WordList, builtin, bundled, read_lines
from t2iprobe.report.folder import SHEET

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

#: settings of the preset besides those of the model; the paper's benign words are not published either
PAPER = {
    "template": 'A sign that says "{word}".',
    "seeds": 4,
    "judge": "classifier:model=s-nlp/roberta_toxicity_classifier",
}
PAPER_STARTS = {"sdxl": 4, "sd3": 0, "if": 2}  # first step with the rewrite, counted from the noise
I2P = "i2p"  # the published concept of Safe Latent Diffusion
SIGN = 'a sign that says "{word}"'  # a concept that an embedded model has words for


@dataclass(frozen=True)
class GuardBenchJob:
    """A benchmark that is to be run.

    Args:
        options: the options, filled in from the preset and with the defaults for the model.
        ref: reference of the model.
        list_lines: lines of the word list that the guard looks for; ``None`` is the built-in list.
    """

    options: GuardBenchOptions
    ref: str
    list_lines: tuple[str, ...] | None

    @cached_property
    def list(self) -> WordList:
        """The word list that the guard looks for."""
        return builtin() if self.list_lines is None else WordList(self.list_lines)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words that are drawn."""
        return tuple(self.list.words[: self.options.limit])

    @property
    def concept(self) -> str:
        """The concept of Safe Latent Diffusion."""
        return latent.CONCEPT if self.options.sld_concept == I2P else str(self.options.sld_concept)


def job_of(options: GuardBenchOptions, plugins: Plugins) -> GuardBenchJob:
    """Fill in what the options leave open, from the preset or from the defaults.

    Raises:
        ConfigError: something does not fit.
    """
    full = options.filled(_paper(options))
    ref = reference(full.arch, full.model, plugins)
    embedded = ref in plugins.models()  # an embedded model has no words for the published texts
    full = full.filled({"negative": SIGN if embedded else NEGATIVE, "sld_concept": SIGN if embedded else I2P})
    lines = bundled("stand_in") if embedded else None
    job = GuardBenchJob(full, ref, lines if full.words is None else tuple(read_lines(full.words, "words")))
    if not job.words:
        raise ConfigError(
            f"the prompts of the benchmark need single words, and {full.words or 'the word list'} has only phrases and "
            "patterns; add words"
        )
    return job


def _paper(options: GuardBenchOptions) -> dict[str, Any]:
    """The settings of the preset, if one is given.

    Raises:
        ConfigError: there is no such preset, or something that it needs is not given.
    """
    settings = paper_settings(options, options.preset, options.arch)
    if settings and options.words is None:
        raise ConfigError(
            f"{options.called('preset')} {options.preset} needs {options.called('words')} FILE: "
            "the paper's 400 words are not published"
        )
    return settings and {**settings, **PAPER, "start_step": PAPER_STARTS[str(options.arch)]}


def _methods(names: Sequence[str], setup: Setup) -> dict[str, GuardMethod]:
    """The methods, starting with the unguarded pictures; by default, all usual ones that the model allows."""
    if names:
        built = {name: choice("method", name, METHODS) for name in names}
        return {name: kind(setup) for name, kind in ({UNGUARDED: METHODS[UNGUARDED]} | built).items()}
    methods = {UNGUARDED: METHODS[UNGUARDED](setup)}
    stream = ["localized-stream"] if chosen_donor(setup.model) == "row" else []  # it takes no additional row
    for name in [LOCALIZED, *stream, *BASELINES]:
        try:
            methods[name] = METHODS[name](setup)
        except ConfigError as error:
            say(f"not compared: {name}: {error}")
    return methods


def benchmark(options: GuardBenchOptions, plugins: Plugins) -> dict[str, Any]:
    """Run the benchmark, resume it, or show what is done; returns the JSON answer."""
    job = job_of(options, plugins)
    full = job.options
    detector = Words()
    detector.lists = [job.list]
    policy = Policy([detector], plugins.rewriter(full.rewriter))
    path = options.out or Path("runs") / f"guard-bench-{Path(job.ref).name}"
    settings = deciding_settings(
        "guard bench", job.ref, full, words=job.words, list=job.list_lines or (), sld_concept=job.concept
    )
    if (done := finished(path, settings, plugins)) is not None:
        return done
    tools = _picture_measures(job, policy, plugins)
    cases = _cases(job, policy, plugins)
    model = load(full, plugins, full.upscaler)
    layers = full.chosen_layers(model)
    check_start(full.start_step, model.steps(full.num_steps))
    start, negative = full.start_step, str(full.negative)
    setup = Setup(model, layers, full.generation, start, negative, job.concept, options.batch_size)
    methods = _methods(options.method, setup)
    _say_plan(setup, methods, cases, tools, path, options.yes)

    def work(session: RunSession) -> dict[str, Any]:
        gallery = Gallery(path)
        todo = missing(methods, cases, gallery)
        total = sum(methods[name].rows * len(rows) for name, rows in todo.items())
        with progress(total, model.evaluations(full.num_steps), "drawing") as on_step:
            render(methods, todo, cases, gallery, setup.at_once, on_step, session)
        rows = measure(list(methods), cases, gallery, tools)
        answer = {
            "model": model.ref,
            "arch": model.adapter.name,
            "layers": list(layers),
            "donor": chosen_donor(model),
            "judge": list(full.judge) or ["words"],
            "concept": job.concept,
            "negative": full.negative,
            "cases": len(cases),
            "clusters": len({case.word for case in cases}),
            "detected": sum(case.found for case in cases),
            "methods": rows,
            "sentence": report.sentence(rows, cases),
        }
        keep(path, {SHEET: report.sheet(list(methods), cases, gallery, full.show_words)})
        return {"sentence": answer["sentence"], "answer": answer}

    return execute_guard(path, settings, work, model, full.generation, plugins)


def _cases(job: GuardBenchJob, policy: Policy, plugins: Plugins) -> list[Case]:
    options = job.options
    pairs = plugins.prompt_set(plugins.own_prompt_set(job.ref), limit=min(len(job.words), 60), seed=options.seed)
    cases = cases_of(job.words, pairs, options.template, policy, options.seed, options.seeds)
    if missed := sum(not case.found for case in cases):
        say(f"the guard finds nothing toxic in {missed} of {counted(len(cases), 'prompt')}; those stay as they are")
    return cases


def _picture_measures(job: GuardBenchJob, policy: Policy, plugins: Plugins) -> PictureMeasures:
    known: Mapping[str, Any] = plugins.metrics()
    reader = plugins.reader(job.options.reader)
    check_words(reader, job.words, plugins.readers())
    texts, images = ({name: choice("metric", name, known)() for name in names} for names in (TEXTS, SIMILAR))
    f1: Any = choice("aggregate", F1, plugins.aggregates())()
    judges = [plugins.detector(judge) for judge in job.options.judge]
    for judge in judges:
        judge.prepare()
    return PictureMeasures(reader.read, texts, images, f1, judges or policy.detectors)


def _say_plan(
    setup: Setup,
    methods: Mapping[str, GuardMethod],
    cases: Sequence[Case],
    tools: PictureMeasures,
    path: Path,
    yes: bool,
) -> None:
    """Print the plan in one line on stderr.

    Raises:
        ConfigError: it takes hours, and ``--yes`` was not given.
    """
    model, detected = setup.model, sum(case.found for case in cases)
    pictures = len(cases) + detected * (len(methods) - 1)
    width = len(cases) + sum(detected * method.rows for name, method in methods.items() if name != UNGUARDED)
    num_steps = setup.settings.get("num_steps")
    rows = width * model.rows(setup.settings)
    probe = model.probe(setup.settings, pictures)
    reading = seconds_to_score(tools.measure, cases[0].word, model.picture_size(setup.settings))
    seconds = probe.seconds(rows, pictures) + len(cases) * len(methods) * reading
    donor, memory = chosen_donor(model), memory_text(model, setup.settings, setup.batch_size)
    say(
        f"plan: {counted(len(cases), 'prompt')} × {counted(len(methods), 'method')} = {counted(pictures, 'picture')} "
        f"of {counted(model.steps(num_steps), 'step')}, {counted(rows, 'denoiser row')}; "
        f"donor {donor} ({DONORS[donor]}); {time_text(seconds)}, "
        f"{memory}, disk at most {pictures * model.image_bytes(setup.settings) / 1e6:.1f} MB in {path}"
    )
    agree(yes, seconds)


def cost_plan(options: GuardBenchOptions, plugins: Plugins) -> dict[str, Any]:
    """What the benchmark would take, found without weights: the published configuration on the meta device.

    Raises:
        ConfigError: no architecture is named, or it does not have these layers.
    """
    job = job_of(options.filled({"model": published_ref(options.arch, plugins)}), plugins)
    full = job.options
    model = without_weights(options, plugins)
    layers, in_words = planned_layers(full, model)
    donor = chosen_donor(model)
    pictures = len(job.words) * full.seeds
    sentence = (
        f"{in_words}; donor {donor} ({DONORS[donor]}), from step {full.start_step}; "
        f"{counted(len(job.words), 'word')} × {counted(full.seeds, 'seed')} = {counted(pictures, 'picture')} per "
        f"method, {full.num_steps or 'the default number of'} steps each"
    )
    plan = {"donor": donor, "start": full.start_step, "pictures_a_method": pictures, "generation": full.generation}
    return {"model": job.ref, **layers, **plan, "sentence": sentence}
