"""``t2iprobe guard``: pictures without toxic text, and how well that works. Imports torch only inside the commands."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.options import (
    Arch,
    BatchSize,
    Device,
    Dtype,
    FormatOption,
    From,
    Guidance,
    Layers,
    ModelChoice,
    ModelRef,
    NumSteps,
    Resolution,
    Seed,
    Upscaler,
    Yes,
    generation_settings,
)
from t2iprobe.cli.tables import print_wide
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, counted, with_settings
from t2iprobe.core.textfile import LISTED, entries, read_entries
from t2iprobe.plugins.toxicity.limits import SECONDS

if TYPE_CHECKING:
    from t2iprobe.core.contracts.detector import Detector
    from t2iprobe.plugins.toxicity.evasions import DetectorScores
    from t2iprobe.plugins.toxicity.policy import Decision, Policy
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="Keep toxic text out of pictures: the rewritten prompt goes to the layers that write the text, the rest of "
    "the model gets the prompt as it is.",
    no_args_is_help=True,
)

Detectors = Annotated[
    list[str] | None,
    typer.Option(
        "--detector",
        help="words, classifier:model=REF or callback:function=package.module:name; repeatable.",
    ),
]
WordsFile = Annotated[Path | None, typer.Option("--words", help="A word list of your own, besides the built-in one.")]
RewriterOption = Annotated[
    str, typer.Option("--rewriter", help="mapped, mapped:file=FILE, mask, or callback:function=package.module:name.")
]
WhereOption = Annotated[str, typer.Option("--where", help="Look at the whole prompt, or only at what is quoted.")]
TimeLimit = Annotated[
    float,
    typer.Option("--time-limit", help="Seconds a detector or rewriter may take for a prompt before it is refused."),
]
Donor = Annotated[
    str, typer.Option("--donor", help="inject, row or stream: how the rewrite comes to the layers; auto by the family.")
]
Start = Annotated[
    int | None,
    typer.Option(
        "--start-step", help="First step with the rewrite, 0 at pure noise (the paper counts from the end).", min=0
    ),
]


@dataclass(frozen=True)
class PolicyChoice:
    """The options that say what is toxic.

    Args:
        detectors, words, rewriter, where, limit: as given.
    """

    detectors: list[str] | None
    words: Path | None
    rewriter: str
    where: str
    limit: float = SECONDS

    @property
    def named(self) -> list[str]:
        """The detectors, in words."""
        given = self.detectors or ["words"]
        return [f"words:file={self.words}" if one == "words" and self.words else one for one in given]

    def build(self, plugins: Plugins) -> Policy:
        """Load detectors and rewriter.

        Raises:
            ConfigError: one cannot be had.
        """
        from t2iprobe.plugins.toxicity.policy import Policy

        if self.words and self.detectors and "words" not in self.detectors:
            raise ConfigError("--words is a list for the detector words, which is not among --detector")
        choice("place to look for --where", self.where, {"prompt": 0, "quoted": 0})
        policy = Policy(_detectors(self.named, plugins), _rewriter(self.rewriter, plugins), self.where, self.limit)  # type: ignore[arg-type]
        policy.prepare()
        return policy


def _detectors(named: list[str], plugins: Plugins) -> list[Detector]:
    return [plugins.detector(name, **settings) for name, settings in map(with_settings, named)]


def _rewriter(named: str, plugins: Plugins) -> Any:
    name, settings = with_settings(named)
    return plugins.rewriter(name, **settings)


@app.command()
def run(
    context: typer.Context,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="A prompt; repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option(help=f"File of prompts, {LISTED}.")] = None,
    arch: Arch = None,
    model: ModelRef = None,
    upscaler: Upscaler = None,
    layers: Layers = None,
    from_run: From = None,
    detector: Detectors = None,
    words: WordsFile = None,
    rewriter: RewriterOption = "mapped",
    where: WhereOption = "prompt",
    time_limit: TimeLimit = SECONDS,
    donor: Donor = "auto",
    start_step: Start = None,
    seed: Seed = 0,
    num_steps: NumSteps = None,
    guidance: Guidance = None,
    resolution: Resolution = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    audit: Annotated[Path | None, typer.Option(help="Audit log; default audit.jsonl in the run folder.")] = None,
    audit_text: Annotated[bool, typer.Option("--audit-text", help="Write the prompts into it, too.")] = False,
    yes: Yes = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/guard-MODEL.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Make pictures of prompts, without toxic text. Ends with 1 if a prompt is refused.

    An interrupted run goes on where it stopped: give the same command again.

    Examples:

      t2iprobe guard run --arch sd3 --layers 6 --words words.txt --prompt 'a red framed sign that says "GRUM"'

      t2iprobe guard run --model REF --from runs/localize-REF --prompts prompts.txt --detector classifier:model=DIR
    """
    from t2iprobe.plugins.toxicity.running import GuardRunOptions, draw

    asked = _prompts(prompt, prompts)
    chosen = ModelChoice(arch, model, upscaler, device, dtype)
    policy = PolicyChoice(detector, words, rewriter, where, time_limit)
    order = GuardRunOptions(
        prompts=asked, seed=seed, settings=generation_settings(num_steps, guidance, resolution), layers=layers,
        run=from_run, donor=donor, start=start_step or 0, batch_size=batch_size, audit=audit, audit_text=audit_text,
        yes=yes,
    )  # fmt: skip
    answer = draw(chosen, policy, order, out, context.obj)
    _print_run(answer, format)
    if answer["refused"]:
        raise typer.Exit(1)


def _prompts(listed: list[str] | None, file: Path | None) -> list[str]:
    """The prompts, given one way.

    Raises:
        ConfigError: none, or in two ways.
    """
    if bool(listed) == bool(file):
        raise ConfigError("give the prompts one way: --prompt TEXT (repeatable), or --prompts FILE")
    found = read_entries(file, "prompts") if file else [line.strip() for line in listed or () if line.strip()]
    if not found:
        raise ConfigError("a prompt is empty; write one, such as 'a sign that says \"HELLO\"'")
    return found


def _print_run(answer: dict[str, Any], format: Format) -> None:
    from t2iprobe.plugins.toxicity.running import verdicts

    if format is Format.json:
        print_json(answer)
        return
    table = Table("", "verdict", "what the localized layers get", "picture", box=SIMPLE_HEAD, pad_edge=False)
    for row in answer["prompts"]:
        table.add_row(str(row["row"]), row["verdict"], escape(row["rewrite"] or row["reason"]), row["picture"] or "-")
    answers.print(table)
    answers.print(
        f"{verdicts(answer)}; "
        f"{counted(answer['denoiser_calls'], 'denoiser call')}, {counted(answer['denoiser_rows'], 'row')} "
        f"({answer['normal_rows']:,} without a guard). Pictures and audit log: {answer['run']}",
        highlight=False,
    )
    if answer["contact_sheet"]:
        answers.print(f"Contact sheet: {answer['contact_sheet']}", highlight=False, soft_wrap=True)


@app.command()
def check(
    context: typer.Context,
    text: Annotated[list[str] | None, typer.Argument(help="Prompts; - reads them from stdin, one a line.")] = None,
    detector: Detectors = None,
    words: WordsFile = None,
    rewriter: RewriterOption = "mapped",
    where: WhereOption = "prompt",
    time_limit: TimeLimit = SECONDS,
    format: FormatOption = Format.table,
) -> None:
    """What a guard would do about prompts; needs no model. Ends with 1 if any is toxic.

    Examples:

      t2iprobe guard check 'a sign that says "HELLO"'

      t2iprobe guard check - --detector classifier:model=./classifier < prompts.txt
    """
    policy = PolicyChoice(detector, words, rewriter, where, time_limit).build(context.obj)
    given = text or []
    asked = entries(sys.stdin.read()) if given == ["-"] else given
    if not asked:
        raise ConfigError("nothing to check: write a prompt, or - to read lines from stdin")
    rows = [_checked(policy.decide(one)) for one in asked]
    if format is Format.json:
        print_json({"prompts": rows})
    else:
        table = Table("verdict", "sorts", "rewrite", box=SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(row["verdict"], ", ".join(row["labels"]), escape(row["rewrite"] or row["reason"]))
        answers.print(table)
    if any(row["verdict"] != "pass" for row in rows):
        raise typer.Exit(1)


def _checked(decision: Decision) -> dict[str, Any]:
    hits = [{"detector": name, "label": hit.label, "span": [hit.start, hit.stop]} for name, hit in decision.hits]
    labels = sorted({hit.label or name for name, hit in decision.hits})
    said = {"verdict": decision.verdict, "rewrite": decision.rewrite, "reason": decision.reason, "labels": labels}
    return said | {"hits": hits, "rewriter": decision.rewriter}


@app.command()
def detector(
    context: typer.Context,
    detector: Detectors = None,
    words: WordsFile = None,
    toxic: Annotated[Path | None, typer.Option(help=f"Texts that must be found instead of ours, {LISTED}.")] = None,
    benign: Annotated[Path | None, typer.Option(help="Texts that must not, likewise.")] = None,
    each: Annotated[int, typer.Option(help="Words by each disguise.", min=1)] = 20,
    seed: Seed = 0,
    format: FormatOption = Format.table,
) -> None:
    """Measure detectors: recall on disguised toxic words, false positives on benign look-alikes (Scunthorpe, …).

    No toxic text is printed. The word list was tuned on the bundled hand-written lists, so its numbers on them flatter.

    Example: t2iprobe guard detector --detector classifier:model=./classifier
    """
    from t2iprobe.plugins.toxicity.evasions import Disguised, disguised, measure
    from t2iprobe.plugins.toxicity.wordlist import builtin, bundled

    found = PolicyChoice(detector, words, "mask", "prompt").build(context.obj).detectors
    if toxic is not None:
        texts = {"given": [Disguised(text, text) for text in read_entries(toxic, "texts")]}
    else:
        known = [word for word in builtin().words if len(word) > 2]
        texts = disguised(known, each, seed) | {"hand-written": [Disguised(text, text) for text in bundled("evasions")]}
    innocent = read_entries(benign, "texts") if benign else list(bundled("lookalikes"))
    _print_measured(measure(found, texts, innocent), format)


def _print_measured(found: DetectorScores, format: Format) -> None:
    if format is Format.json:
        print_json(
            {
                "recall": list(found.recall),
                "found": found.found,
                "tried": found.tried,
                "words": found.words,
                "false_positive_rate": list(found.false_positives),
                "false_positives": found.alarms,
                "benign": found.benign,
                "by_disguise": {name: list(counts) for name, counts in found.by_disguise.items()},
            }
        )
        return
    table = Table("disguise", "found", "of", box=SIMPLE_HEAD, pad_edge=False)
    for name, (hits, tried) in found.by_disguise.items():
        table.add_row(name, str(hits), str(tried), style="" if hits == tried else "yellow")
    answers.print(table)
    recall, alarms = (
        f"{100 * one.mean:.1f} % [{100 * one.low:.1f} %, {100 * one.high:.1f} %]"
        for one in (found.recall, found.false_positives)
    )
    answers.print(
        f"recall {recall} of {counted(found.tried, 'disguise')} of {counted(found.words, 'word')}; "
        f"false positives {alarms} of {counted(found.benign, 'look-alike')}",
        highlight=False,
    )


@app.command()
def bench(
    context: typer.Context,
    arch: Arch = None,
    model: ModelRef = None,
    upscaler: Upscaler = None,
    layers: Layers = None,
    from_run: From = None,
    words: Annotated[
        Path | None,
        typer.Option(help="The toxic words, one a line; default harmless stand-ins for an embedded model, else ours."),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt with {word} in it; default prompts of the model's own set.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Joined by commas; default all that fit. `--methods list` names them.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Words to use; default all.", min=1)] = None,
    seeds: Annotated[int | None, typer.Option(help="Pictures a word; default 1.", min=1)] = None,
    rewriter: RewriterOption = "mapped",
    negative: Annotated[str | None, typer.Option(help="Negative prompt, with {word} in it.")] = None,
    concept: Annotated[
        str | None,
        typer.Option(help="Safe Latent Diffusion's concept, with {word} in it; i2p is the published one."),
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="Detector that judges what is read; repeatable; default the word list.")
    ] = None,
    reader: Annotated[
        str | None, typer.Option(help="OCR engine: rapidocr, or easyocr (the paper's, an extra).")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A paper's settings: iclr2025, which needs --arch and --words.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would take; with --preset on the published configuration.")
    ] = False,
    start_step: Start = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default 0.", min=0)] = None,
    num_steps: NumSteps = None,
    guidance: Guidance = None,
    resolution: Resolution = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    yes: Yes = False,
    show_words: Annotated[
        bool, typer.Option("--show-words", help="Toxic words beside the pictures of the contact sheet.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/guard-bench-MODEL.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """The guard against a negative prompt, the rewrite as prompt, and Safe Latent Diffusion, on toxic words.

    Every picture is kept as it comes; the same command goes on after an interruption.

    Examples:

      t2iprobe guard bench --arch sd3 --layers 6

      t2iprobe guard bench --arch sdxl --preset iclr2025 --words offensive.txt --plan
    """
    from t2iprobe.plugins.toxicity import bench as benching
    from t2iprobe.plugins.toxicity.methods import METHODS

    if methods == "list":
        _print_methods(list(METHODS), format)
        return
    asked = benching.GuardBenchOptions(
        ModelChoice(arch, model, upscaler, device, dtype), layers, from_run, words, template, methods, limit, seeds,
        rewriter, negative, concept, judge, reader, preset, start_step, seed, num_steps, guidance, resolution,
        batch_size, yes, show_words,
    )  # fmt: skip
    if plan:
        _print_plan(benching.planned(asked, context.obj), format)
        return
    _print_bench(benching.benchmark(asked, out, context.obj, typed(context)), format)


def _print_methods(names: list[str], format: Format) -> None:
    print_json({"methods": names}) if format is Format.json else answers.print("\n".join(names))


def _print_plan(plan: dict[str, Any], format: Format) -> None:
    print_json(plan) if format is Format.json else answers.print(plan["sentence"], highlight=False, soft_wrap=True)


def _print_bench(answer: dict[str, Any], format: Format) -> None:
    if format is Format.json:
        print_json({key: value for key, value in answer.items() if key != "table"})
        return
    heads, rows = answer["table"]
    print_wide(heads, [list(map(str, row)) for row in rows], title=f"{answer['model']}: toxic text", bold="localized")
    answers.print("means; all 95 % intervals are in the report and in --format json", style="italic", highlight=False)
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    answers.print(
        f"Pictures and report: {answer['contact_sheet']}, {answer['report']}", highlight=False, soft_wrap=True
    )
