"""Interpolations, edits, ablations and trainings as tables and sections of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from t2iprobe.core.report import Cell, Section, Table

Found = Mapping[str, Any]
Drawn = Mapping[str, Image]


def interpolation_table(found: Found) -> Table:
    """Each end's pictures at the ends and in the middle of the way."""
    names = [name for name in found["rows"][0] if name not in ("what", "share", "step")]
    shares = sorted({row["share"] for row in found["rows"]})
    kept = {shares[0], shares[len(shares) // 2], shares[-1]}
    rows: list[list[Cell]] = [
        [row["what"], row["share"], *(_cell(row[name]) for name in names)]
        for row in found["rows"]
        if row["share"] in kept
    ]
    return Table(["between", "share", *(name.replace("_", " ") for name in names)], rows, 3)


def interpolation(found: Found, drawn: Drawn) -> Iterator[Section]:
    """Pictures between two."""
    text = (
        f"{found['pairs']} pairs of pictures with the same prompt, {found['way']} of whole vectors: between true "
        "noises and between latents. The Fréchet distance is of pixels' principal components to the run's own "
        "pictures, no FID; it is the same for all where latents are as good as noise."
    )
    yield _section("Interpolation", text, interpolation_table(found), drawn, ("interpolate", "interpolate-pictures"))


def edit_table(found: Found) -> Table:
    """What was kept and what was changed."""
    names = [name for name, value in found["rows"][0].items() if isinstance(value, list)]
    heads = [name.replace("_", " ") for name in names]
    rows: list[list[Cell]] = [
        [row["what"], *(_interval(row.get(name)) for name in names), row["diversity"]] for row in found["rows"]
    ]
    return Table(["from", *heads, "diversity"], rows, 3)


def editing(found: Found, drawn: Drawn) -> Iterator[Section]:
    """Latents under another prompt."""
    text = (
        f"{found['rows_of_pictures']} pictures sampled again under another prompt, guidance {found['guidance']:g}; "
        "means with 95 % intervals. An edit from true noise is what an edit from a perfect latent would be; other "
        f"noise keeps nothing. Variations: {found['variations']} pictures of one latent mixed with fresh noise, "
        f"a = {found['mix']:g}."
    )
    yield _section("Edits", text, edit_table(found), drawn, ("edit", "edit-pictures"))


ABLATED = (
    "method", "num_steps", "guidance", "nfe_invert", "excess", "std", "autocorrelation", "noise_error", "noise_cosine",
    "reconstruction", "psnr", "ssim", "error_plain", "error_rest", "std_plain", "std_rest",
)  # fmt: skip
HEADS = {
    "num_steps": "T", "guidance": "w", "nfe_invert": "calls up", "excess": "correlation over floor",
    "autocorrelation": "autocorrelation at 1", "noise_error": "|latent − noise|", "noise_cosine": "cosine to noise",
    "reconstruction": "|again − image|", "error_plain": "error, plain", "error_rest": "error, elsewhere",
    "std_plain": "std, plain", "std_rest": "std, elsewhere",
}  # fmt: skip


def ablation_table(rows: Sequence[Found]) -> Table:
    """A row a setting."""
    names = [name for name in ABLATED if any(row.get(name) is not None for row in rows)]
    cells: list[list[Cell]] = [[_cell(row.get(name)) for name in names] for row in rows]
    return Table([HEADS.get(name, name) for name in names], cells, 3)


def ablation(found: Found, drawn: Drawn) -> Iterator[Section]:
    """Settings side by side."""
    text = (
        f"{found['images']} pictures a setting, the same noise for all. Calls up are those of the model for the "
        f"inversion of one picture{found['budget_text']}. The floor of the correlation is {found['floor']:.4f}."
    )
    yield _section("Settings", text, ablation_table(found["rows"]), drawn, ("k", "methods"))


def training_table(found: Found) -> Table:
    """Each curve's beginning, end and where it saturates."""
    curves = found["pooled"] or {name: {"mean": one} for name, one in next(iter(found["curves"].values())).items()}
    rows: list[list[Cell]] = []
    for name, values in curves.items():
        settled = found["saturation"].get(name)
        mean = values["mean"]
        ends = mean[-2] if name.startswith(("p1.", "p3.latent")) and len(mean) > 1 else mean[-1]
        rows.append([name.replace("_", " "), _cell(mean[0]), _cell(ends), "–" if settled is None else settled])
    last = found["steps"][-1]
    return Table(
        ["curve", f"at step {found['steps'][0]}", f"at the end ({last}, or before it)", "flat from step"], rows, 3
    )


def training(found: Found, drawn: Drawn) -> Iterator[Section]:
    """Noise and pictures through a training."""
    text = (
        f"{found['rows']} pictures of the same noise by each of {len(found['steps'])} checkpoints, {found['method']} "
        f"with {found['num_steps']} steps; {len(found['trainings'])} trainings pooled. P1 compares pictures with the "
        "last checkpoint's, P2 is each checkpoint's own inversion, P3 the inversion of the last one's pictures. A "
        "curve is flat from where it stays within a tenth of its way of its end; the last checkpoint's likeness to "
        f"itself is left out. Chance of a shared neighbour is {found['chance_knn']:.2f}, of a right assignment "
        f"{found['chance_assignment']:.4f}."
    )
    yield _section("Through the training", text, training_table(found), drawn, ("training", "training-pictures"))


def _section(title: str, text: str, table: Table, drawn: Drawn, names: Sequence[str]) -> Section:
    figures = [(title, drawn[name]) for name in names if name in drawn]
    return Section(title, text, table=table, figures=figures)


def _interval(value: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    mean, low, high = value
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _cell(value: Any) -> Cell:
    return "–" if value is None else value
