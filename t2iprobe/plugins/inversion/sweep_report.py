"""Interpolations, edits, ablations and trainings as tables and sections of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from t2iprobe.plugins.inversion.paired import said
from t2iprobe.plugins.inversion.training import OTHER
from t2iprobe.report.sections import Cell, ReportTable, Section

Found = Mapping[str, Any]
Drawn = Mapping[str, Image]


def interpolation_table(found: Found) -> ReportTable:
    """The pictures at the ends and in the middle of the path, for each kind of end."""
    every = dict.fromkeys(name for row in found["rows"] for name in row)
    names = [name for name in every if name not in ("what", "share", "step")]
    shares = sorted({row["share"] for row in found["rows"]})
    kept = {shares[0], shares[len(shares) // 2], shares[-1]}
    rows: list[list[Cell]] = [
        [row["what"], row["share"], *(_spread(name, row.get(name)) for name in names)]
        for row in found["rows"]
        if row["share"] in kept
    ]
    return ReportTable(["between", "share", *(name.replace("_", " ") for name in names)], rows, 3)


def interpolation(found: Found, drawn: Drawn) -> Iterator[Section]:
    """The section on pictures between two others."""
    text = (
        f"{found['pairs']} pairs of pictures with the same prompt, {found['way']} of whole vectors: between true "
        "noises and between latents. The Fréchet distance is of pixels' principal components to the run's own "
        "pictures, no FID. Where latents are as good as noise, what stands beside noise is 0 but for chance: "
        "differences of the same pairs, with 95 % intervals over prompts, and for the Fréchet distance how often "
        "chance alone makes as large a difference."
    )
    yield _section("Interpolation", text, interpolation_table(found), drawn, ("interpolate", "interpolate-pictures"))


def edit_table(found: Found) -> ReportTable:
    """What edits kept and what they changed."""
    names = [name for name, value in found["rows"][0].items() if isinstance(value, list)]
    beside = list(found["rows"][-1]["beside_noise"])
    heads = [*names, "diversity", *(f"{name}, beside noise" for name in beside)]
    rows: list[list[Cell]] = [
        [
            row["what"], *(said(row.get(name)) for name in names), row["diversity"],
            *(said(row.get("beside_noise", {}).get(name)) for name in beside),
        ]
        for row in found["rows"]
    ]  # fmt: skip
    return ReportTable(["from", *(head.replace("_", " ") for head in heads)], rows, 3)


def editing(found: Found, drawn: Drawn) -> Iterator[Section]:
    """The section on latents sampled under another prompt."""
    text = (
        f"{found['rows_of_pictures']} pictures sampled again under another prompt, guidance {found['guidance']:g}; "
        "means with 95 % intervals over prompts, and differences to true noise, picture by picture. An edit from true "
        "noise is what an edit from a perfect latent would be; other "
        f"noise keeps nothing. Variations: {found['variations']} pictures of one latent mixed with fresh noise, "
        f"a = {found['mix']:g}."
    )
    yield _section("Edits", text, edit_table(found), drawn, ("edit", "edit-pictures"))


ABLATED = (
    "method", "num_steps", "guidance", "nfe_invert", "excess", "std", "autocorrelation", "noise_error", "noise_cosine",
    "reconstruction", "psnr", "psnr_beside_first", "ssim", "error_plain", "error_rest", "std_plain", "std_rest",
)  # fmt: skip
HEADS = {
    "num_steps": "T", "guidance": "w", "nfe_invert": "calls up", "excess": "correlation over floor",
    "autocorrelation": "autocorrelation at 1", "noise_error": "|latent − noise|", "noise_cosine": "cosine to noise",
    "reconstruction": "|again − image|", "error_plain": "error, plain", "error_rest": "error, elsewhere",
    "std_plain": "std, plain", "std_rest": "std, elsewhere", "psnr_beside_first": "psnr, beside the first method's",
}  # fmt: skip


def ablation_table(rows: Sequence[Found]) -> ReportTable:
    """One row per setting."""
    names = [name for name in ABLATED if any(row.get(name) is not None for row in rows)]
    cells: list[list[Cell]] = [[_spread(name, row.get(name)) for name in names] for row in rows]
    return ReportTable([HEADS.get(name, name) for name in names], cells, 3)


def ablation(found: Found, drawn: Drawn) -> Iterator[Section]:
    """The section that compares settings."""
    low, high = found["excess_of_noise"]
    text = (
        f"{found['images']} pictures a setting, the same noise for all. Calls up are those of the model for the "
        f"inversion of one picture{found['budget_text']}. The floor of the correlation is {found['floor']:.4f}; "
        f"independent noise is {low:+.4f} to {high:+.4f} over it in 95 % of sets. PSNR is also compared "
        "picture by picture with that of the first method of the same steps and guidance, with a 95 % interval over "
        "prompts."
    )
    yield _section("Settings", text, ablation_table(found["rows"]), drawn, ("k", "methods"))


def training_table(found: Found) -> ReportTable:
    """Where each curve begins, ends and saturates."""
    each = {name: {"mean": one} for name, one in next(iter(found["curves"].values())).items()}
    means = {name: one["mean"] for name, one in (found["pooled"] or each).items()}
    rows: list[list[Cell]] = []
    for name, mean in means.items():
        if name.endswith(OTHER):
            continue
        settled, other = found["saturation"].get(name), means.get(name + OTHER)
        ends = mean[-2] if name.startswith(("p1.", "p3.latent")) and len(mean) > 1 else mean[-1]
        apart = "" if other is None else _cell(other[0])
        flat = "–" if settled is None else settled
        rows.append([name.replace("_", " "), _cell(mean[0]), apart, _cell(ends), flat])
    last = found["steps"][-1]
    heads = ["curve", f"at step {found['steps'][0]}", "with another noise", f"at the end ({last}, or before it)"]
    return ReportTable([*heads, "flat from step"], rows, 3)


def training(found: Found, drawn: Drawn) -> Iterator[Section]:
    """The section on noise and pictures through a training."""
    text = (
        f"{found['rows']} pictures of the same noise by each of {len(found['steps'])} checkpoints, {found['method']} "
        f"with {found['num_steps']} steps; {len(found['trainings'])} trainings pooled. P1 compares pictures with the "
        "last checkpoint's, P2 is each checkpoint's own inversion, P3 the inversion of the last one's pictures. A "
        "curve is flat from where it stays within a tenth of its way of its end, or (P2 of a single training) within "
        "what chance may do, by 95 % intervals over prompts for all checkpoints at once; the last checkpoint's "
        "likeness to itself is left out. With another noise is the first checkpoint's likeness to the last one's "
        "pictures or latents of the same prompt and other noise: only what is above has to do with the noise. Chance "
        f"of a shared neighbour is {found['chance_knn']:.2f}, of a right assignment {found['chance_assignment']:.4f}."
    )
    yield _section("Through the training", text, training_table(found), drawn, ("training", "training-pictures"))


def _section(title: str, text: str, table: ReportTable, drawn: Drawn, names: Sequence[str]) -> Section:
    figures = [(title, drawn[name]) for name in names if name in drawn]
    return Section(title, text, table=table, figures=figures)


def _spread(name: str, value: Any) -> Cell:
    """Text for a number, a mean with its interval, or a difference of Fréchet distances with its chance."""
    if name == "frechet_beside_noise" and value is not None:
        return f"{value[0]:+.3f} (p = {value[1]:.2g})"
    return said(value) if isinstance(value, list | tuple) else _cell(value)


def _cell(value: Any) -> Cell:
    return "–" if value is None else value
