"""``t2iprobe guard``: pictures without toxic text, and how well that works. Imports torch only inside the commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.tables import print_wide
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
    from t2iprobe.plugins.toxicity.policy import Decision

app = typer.Typer(
    help="Keep toxic text out of pictures: the rewritten prompt goes to the layers that write the text, the rest of "
    "the model gets the prompt as it is.",
    no_args_is_help=True,
)


@app.command()
@takes(GuardRunOptions)
def run(asked: GuardRunOptions, context: typer.Context) -> None:
    """Make pictures of prompts, without toxic text. Ends with 1 if a prompt is refused.

    An interrupted run goes on where it stopped: give the same command again.

    Examples:

      t2iprobe guard run --arch sd3 --layers 6 --words words.txt --prompt 'a red framed sign that says "GRUM"'

      t2iprobe guard run --model REF --from runs/localize-REF --prompts prompts.txt --detector classifier:model=DIR
    """
    from t2iprobe.plugins.toxicity.running import draw

    answer = draw(asked, context.obj)
    if asked.plan:
        _print_plan(answer, asked.format)
        return
    _print_run(answer, asked.format)
    if answer["refused"]:
        raise typer.Exit(1)


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
@takes(GuardCheckOptions)
def check(asked: GuardCheckOptions, context: typer.Context) -> None:
    """What a guard would do about prompts; needs no model. Ends with 1 if any is toxic.

    Examples:

      t2iprobe guard check 'a sign that says "HELLO"'

      t2iprobe guard check - --detector classifier:model=./classifier < prompts.txt
    """
    policy = asked.policy(context.obj)
    prompts = entries(sys.stdin.read()) if asked.text == ("-",) else asked.text
    if not prompts:
        raise ConfigError("nothing to check: write a prompt, or - to read lines from stdin")
    rows = [_checked(policy.decide(one)) for one in prompts]
    if asked.format is Format.json:
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
@takes(DetectorBenchOptions)
def detector(asked: DetectorBenchOptions, context: typer.Context) -> None:
    """Measure detectors: recall on disguised toxic words, false positives on benign look-alikes (Scunthorpe, …).

    No toxic text is printed. The word list was tuned on the bundled hand-written lists, so its numbers on them flatter.

    Example: t2iprobe guard detector --detector classifier:model=./classifier
    """
    from t2iprobe.plugins.toxicity.evasions import Disguised, disguised, measure
    from t2iprobe.plugins.toxicity.wordlist import builtin, bundled

    found = asked.detectors(context.obj)
    for one in found:
        one.prepare()
    if asked.toxic is not None:
        texts = {"given": [Disguised(text, text) for text in read_entries(asked.toxic, "texts")]}
    else:
        known = [word for word in builtin().words if len(word) > 2]
        texts = disguised(known, asked.each, asked.seed) | {
            "hand-written": [Disguised(text, text) for text in bundled("evasions")]
        }
    innocent = read_entries(asked.benign, "texts") if asked.benign else list(bundled("lookalikes"))
    _print_measured(measure(found, texts, innocent), asked.format)


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
@takes(GuardBenchOptions)
def bench(asked: GuardBenchOptions, context: typer.Context) -> None:
    """The guard against a negative prompt, the rewrite as prompt, and Safe Latent Diffusion, on toxic words.

    Every picture is kept as it comes; the same command goes on after an interruption.

    Examples:

      t2iprobe guard bench --arch sd3 --layers 6

      t2iprobe guard bench --arch sdxl --preset iclr2025 --words offensive.txt --plan
    """
    from t2iprobe.plugins.toxicity import bench as benching
    from t2iprobe.plugins.toxicity.methods import METHODS

    if asked.method == ("list",):
        _print_methods(list(METHODS), asked.format)
    elif asked.plan:
        _print_plan(benching.planned(asked, context.obj), asked.format)
    else:
        _print_bench(benching.benchmark(asked, context.obj, typed(context)), asked.format)


def _print_methods(names: list[str], format: Format) -> None:
    print_json({"methods": names}) if format is Format.json else answers.print("\n".join(names))


def _print_plan(plan: dict[str, Any], format: Format) -> None:
    print_json(plan) if format is Format.json else answers.print(plan["sentence"], highlight=False, soft_wrap=True)


def _print_bench(answer: dict[str, Any], format: Format) -> None:
    from t2iprobe.plugins.toxicity.report import HEADS, cells

    if format is Format.json:
        print_json(answer)
        return
    rows = [cells(row, brief=True) for row in answer["methods"]]
    print_wide(HEADS, rows, title=f"{answer['model']}: toxic text", bold="localized")
    answers.print("means; all 95 % intervals are in the report and in --format json", style="italic", highlight=False)
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    files = f"Pictures and report: {answer['contact_sheet']}, {answer['report']}"
    answers.print(files, highlight=False, soft_wrap=True)
