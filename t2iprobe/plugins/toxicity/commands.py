"""``t2iprobe guard``: pictures without toxic text, and how well that works. Imports torch only inside the commands."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, answers, print_json, print_plan, tell
from t2iprobe.cli.tables import print_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.textfile import entries, read_entries
from t2iprobe.plugins.toxicity.options import (
    DetectorBenchOptions,
    GuardBenchOptions,
    GuardCheckOptions,
    GuardRunOptions,
)

if TYPE_CHECKING:
    from t2iprobe.plugins.toxicity.evasions import DetectorScores

app = typer.Typer(
    help="Keep toxic text out of images: the layers that write the text get a rewritten prompt, the rest of the "
    "model gets the prompt as it is.",
    no_args_is_help=True,
)


@app.command()
@takes(GuardRunOptions)
def run(options: GuardRunOptions, context: typer.Context) -> None:
    """Draw images of prompts, without toxic text. Exit code 1 if a prompt is refused.

    To resume an interrupted run, give the same command again.

    Examples:

      t2iprobe guard run --arch sd3 --layers 6 --words words.txt --prompt 'a red framed sign that says "GRUM"'

      t2iprobe guard run --model REF --from runs/localize-REF --prompts prompts.txt --detector classifier:model=DIR
    """
    from t2iprobe.plugins.toxicity.running import draw

    answer = draw(options, context.obj)
    if options.plan:
        print_plan(answer, options.format)
        return
    _print_run(answer, options.format)
    if answer["refused"]:
        raise typer.Exit(1)


def _print_run(answer: dict[str, Any], format: Format) -> None:
    if format is Format.json:
        print_json(answer)
        return
    rows = [(row["row"], row["verdict"], _outcome(row), row["picture"] or "-") for row in answer["prompts"]]
    print_table(("row", "verdict", "prompt of the localized layers", "picture"), rows)
    tell(
        f"{answer['sentence']}; "
        f"{counted(answer['denoiser_calls'], 'denoiser call')}, {counted(answer['denoiser_rows'], 'row')} "
        f"({answer['normal_rows']:,} without a guard). Pictures and audit log: {answer['run']}"
    )
    tell(f"Contact sheet: {answer['contact_sheet'] or 'none'}, report: {answer['report']}")


def _outcome(row: dict[str, Any]) -> str:
    return str(row["rewrite"] or row["reason"])


@app.command()
@takes(GuardCheckOptions)
def check(options: GuardCheckOptions, context: typer.Context) -> None:
    """What a guard would do about prompts; needs no model. Exit code 1 if any is toxic.

    Examples:

      t2iprobe guard check 'a sign that says "HELLO"'

      t2iprobe guard check - --detector classifier:model=./classifier < prompts.txt
    """
    policy = options.policy(context.obj)
    prompts = entries(sys.stdin.read()) if options.text == ("-",) else options.text
    if not prompts:
        raise ConfigError("nothing to check: give a prompt, or - to read one per line from stdin")
    rows = []
    for decision in map(policy.decide, prompts):
        labels = sorted({hit.label or name for name, hit in decision.hits})
        rows.append({**decision.facts(), "rewrite": decision.rewrite, "labels": labels})
    if options.format is Format.json:
        print_json({"prompts": rows})
    else:
        table = [(row["verdict"], ", ".join(row["labels"]), _outcome(row)) for row in rows]
        print_table(("verdict", "kinds", "rewrite"), table)
    if any(row["verdict"] != "pass" for row in rows):
        raise typer.Exit(1)


@app.command()
@takes(DetectorBenchOptions)
def detector(options: DetectorBenchOptions, context: typer.Context) -> None:
    """Measure detectors: recall on disguised toxic words, false positives on benign look-alikes (Scunthorpe, …).

    No toxic text is printed. The built-in word list was tuned on the bundled hand-written lists, so its numbers on them
    are optimistic.

    Example: t2iprobe guard detector --detector classifier:model=./classifier
    """
    from t2iprobe.plugins.toxicity.evasions import Disguised, disguised, measure
    from t2iprobe.plugins.toxicity.wordlist import builtin, bundled

    detectors = options.detectors(context.obj)
    for each in detectors:
        each.prepare()
    if options.toxic is not None:
        texts = {"given": [Disguised(text, text) for text in read_entries(options.toxic, "texts")]}
    else:
        texts = disguised([word for word in builtin().words if len(word) > 2], options.words_per_disguise, options.seed)
        texts["hand-written"] = [Disguised(text, text) for text in bundled("evasions")]
    benign = read_entries(options.benign, "texts") if options.benign else bundled("lookalikes")
    _print_scores(measure(detectors, texts, benign), options.format)


def _print_scores(scores: DetectorScores, format: Format) -> None:
    if format is Format.json:
        print_json(asdict(scores))
        return
    print_table(("disguise", "found", "of"), [(name, *counts) for name, counts in scores.by_disguise.items()])
    recall, alarms = (
        f"{100 * rate.mean:.1f} % [{100 * rate.low:.1f} %, {100 * rate.high:.1f} %]"
        for rate in (scores.recall, scores.false_positive_rate)
    )
    tell(
        f"recall {recall} of {counted(scores.tried, 'disguise')} of {counted(scores.words, 'word')}; "
        f"false positives {alarms} of {counted(scores.benign, 'look-alike')}"
    )


@app.command()
@takes(GuardBenchOptions)
def bench(options: GuardBenchOptions, context: typer.Context) -> None:
    """Compare the guard with a negative prompt, prompt replacement, and Safe Latent Diffusion, on toxic words.

    To resume an interrupted run, give the same command again.

    Examples:

      t2iprobe guard bench --arch sd3 --layers 6

      t2iprobe guard bench --arch sdxl --preset iclr2025 --words offensive.txt --plan
    """
    from t2iprobe.plugins.toxicity import bench as benching
    from t2iprobe.plugins.toxicity.methods import METHODS

    if options.method == ("list",):
        names = list(METHODS)
        print_json({"methods": names}) if options.format is Format.json else tell("\n".join(names))
    elif options.plan:
        print_plan(benching.cost_plan(options, context.obj), options.format)
    else:
        _print_bench(benching.benchmark(options, context.obj), options.format)


def _print_bench(answer: dict[str, Any], format: Format) -> None:
    from t2iprobe.plugins.toxicity.report import HEADS, cells

    if format is Format.json:
        print_json(answer)
        return
    rows = [cells(row, brief=True) for row in answer["methods"]]
    styles = ["bold" if row[0] == "localized" else "" for row in rows]
    print_table(HEADS, rows, title=f"{answer['model']}: toxic text", styles=styles)
    answers.print("means; all 95 % intervals are in the report and in --format json", style="italic")
    tell(answer["sentence"], "bold")
    tell(f"Pictures and report: {answer['contact_sheet']}, {answer['report']}")
