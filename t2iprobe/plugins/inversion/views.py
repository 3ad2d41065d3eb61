"""What the run folders of ``t2iprobe invert`` show: numbers of the run, and of what other commands added to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.cli.commandline import quoted
from t2iprobe.core.names import counted
from t2iprobe.core.pictures import opened
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.checksums import check, keep, read_json
from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.inversion import report as sections
from t2iprobe.plugins.inversion.analysis.intervals import mean_of
from t2iprobe.plugins.inversion.inverted import KIND, Inverted
from t2iprobe.plugins.inversion.pictures import rebuilt
from t2iprobe.report.figures import dot_plot
from t2iprobe.report.folder import ANSWER, PAGE, RunView, rounded, write
from t2iprobe.report.page import page_of
from t2iprobe.report.sections import Section

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

Numbers = Mapping[str, Any]
Drawn = Mapping[str, Image]
FIGURES = "figures"  # the folder of the plots
WITHIN = "ablation"  # the folder of an ablation within the run of a whole study
MAIN = ("k", "methods", "training")  # the main figure of a comparison of several runs: the first that there is
SHEET_OF_TRAINING = "training-pictures"
#: scores in the plot, with the headings of their panels
PANELS = {
    "reconstruction": "|reconstruction − image|",
    "noise_error": "|latent − noise|",
    "psnr": "PSNR of the reconstruction",
}


def keep_figures(path: Path, drawn: Drawn) -> None:
    """Keep plots as PNG."""
    keep(path, {f"{FIGURES}/{title}.png": image for title, image in drawn.items()})


def added(path: Path, name: str, numbers: Numbers, drawn: Drawn) -> dict[str, Any]:
    """Add what a command found in a run to the run's answer, with its plots; returns the answer.

    While the run is not finished, nothing but the plots and the page is kept.

    Args:
        path: the run's folder.
        name: key of the part.
        numbers: the numbers.
        drawn: the plots, by name.
    """
    keep_figures(path, drawn)
    view = run_view(path, {name: numbers})
    return write(path, view) or {**_answer(Inverted(path)), name: numbers, "run": str(path), "report": str(path / PAGE)}


def view(path: Path, plugins: Plugins) -> RunView:
    """What a folder of any of these commands shows.

    Raises:
        ConfigError: there is nothing to show yet.
    """
    return run_view(path) if runfolder.read_manifest(path).get("kind") == KIND else _comparison_view(path)


def run_view(path: Path, new: Numbers | None = None) -> RunView:
    """What a run shows, with what commands have added to it, and with a new part."""
    run, drawn = Inverted(path), _drawn(path)
    answer = rounded(_answer(run) | _parts(path) | dict(new or {}))
    if (path / WITHIN / ANSWER).is_file():
        answer["ablation"] = read_json(path / WITHIN / ANSWER)["ablation"]
        drawn = _drawn(path / WITHIN) | drawn
    if "analysis" in answer:
        answer["sentence"] = sections.sentence(answer["analysis"])
    sheet, plot = rebuilt([run]), _plot(answer)
    own = [("some pictures, their latents, and the reconstructions", sheet), ("means over pictures", plot)]
    parts = [sections.run_section(answer, own), *_sections(answer, drawn)]
    page = page_of(run.manifest, "inversion", answer["sentence"], parts)
    if "analysis" not in answer:
        page = replace(page, next_steps=[(quoted(["t2iprobe", "invert", "analyze", str(path)]), "tables and plots")])
    finished = run.manifest.get("state") == runfolder.FINISHED
    return RunView(page, answer if finished else None, sheet, plot)


def _answer(run: Inverted) -> dict[str, Any]:
    """The answer of the run itself."""
    rows: list[dict[str, Any]] = []
    for arm in run.arms:
        rows.append({"method": arm, **{name: mean_of(run.score(name, arm)) for name in run.score_names}})
    first = rows[0]
    noise = f", and its latents have a cosine of {first['noise_cosine']:.3f} to the noise" if run.sampled else ""
    counts = f"{counted(len(run.rows), 'picture')}, {counted(run.steps, 'step')}"
    return {
        "model": run.manifest.get("model", ""),
        "rows": len(run.rows),
        "num_steps": run.steps,
        "methods": rows,
        "examined": run.manifest["examined"],
        "spent": run.manifest.get("spent", {}),
        "sentence": f"{first['method']} reconstructs pictures with a mean error of {first['reconstruction']:.3f}"
        f"{noise} ({counts}).",
    }


def _plot(answer: Numbers) -> Image:
    rows = answer["methods"]
    shown = {title: name for name, title in PANELS.items() if any(row.get(name) is not None for row in rows)}
    unknown = float("nan")
    panels = {
        title: [None if row[name] is None else Interval(row[name], unknown, unknown) for row in rows]
        for title, name in shown.items()
    }
    return dot_plot([row["method"] for row in rows], panels)


def _comparison_view(path: Path) -> RunView:
    """What a folder with several runs shows: their comparison."""
    manifest, drawn, parts = runfolder.read_manifest(path), _drawn(path), _parts(path)
    name, numbers = next(iter(parts.items()))
    plot = next((drawn[title] for title in MAIN if title in drawn), None)
    if (sheet := drawn.get(SHEET_OF_TRAINING)) is None:
        sheet = rebuilt([Inverted(manifest.parent) for manifest in sorted(path.glob(f"*/{runfolder.MANIFEST}"))])
    page = page_of(manifest, name, numbers["sentence"], list(_sections(parts, drawn)))
    if name == "ablation":
        section = Section("Pictures", figures=[("the first prompts, every setting and method", sheet)])
        page = replace(page, sections=[*page.sections, section])
    return RunView(page, {"model": manifest.get("model", ""), **parts, "sentence": numbers["sentence"]}, sheet, plot)


def _sections(answer: Numbers, drawn: Drawn) -> Iterator[Section]:
    for name, make in sections.SECTIONS.items():
        if name in answer:
            yield from make(answer[name], drawn)


def _parts(path: Path) -> dict[str, Any]:
    """What commands have left in the folder's answer."""
    answer = read_json(path / ANSWER) if (path / ANSWER).is_file() else {}
    return {name: rounded(answer[name]) for name in sections.SECTIONS if name in answer}


def _drawn(path: Path) -> dict[str, Image]:
    return {file.stem: opened(check(file)) for file in sorted((path / FIGURES).glob("*.png"))}
