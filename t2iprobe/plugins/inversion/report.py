"""The answers of ``t2iprobe invert`` as sections of a report; the terminal prints the sections' tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from t2iprobe.core.names import counted
from t2iprobe.plugins.inversion.analysis.intervals import said
from t2iprobe.plugins.inversion.training import OTHER, curves_of, last_of_itself
from t2iprobe.report.sections import Cell, ReportTable, Section

Numbers = Mapping[str, Any]
Drawn = Mapping[str, Image]
SHEETS = 4  # picture sheets in a report


def tables(answer: Numbers) -> dict[str, ReportTable]:
    """The tables of a command's answer, by heading."""
    parts = [part for name, numbers in answer.items() if name in SECTIONS for part in SECTIONS[name](numbers, {})]
    return {part.title: part.table for part in parts if part.table is not None}


def sentence(numbers: Numbers) -> str:
    """The answer in one sentence: the first method's latents against true noise, and what chance alone would give."""
    method = numbers["methods"][0]
    text = f"Latents of {method} correlate by {_correlated(numbers, method)}"
    areas = {row["what"]: row for row in numbers["plain"]["rows"]}[method]
    if numbers["sampled"] and areas["difference"] is not None:
        text += f"; they miss the noise by {_missed(areas, numbers['plain'])}"
    return text + "."


def _correlated(numbers: Numbers, method: str) -> str:
    across = numbers["correlation"]
    excess = {row["what"]: row["excess"] for row in across["rows"]}[method]
    low, high = across["excess_of_noise"]
    verdict = ", so noise would do as much" if excess <= high else ""  # structure can only raise the correlation
    return (
        f"{excess:+.3f} over the floor of {across['floor']:.3f} ({numbers['rows']} images of independent noise: "
        f"{low:+.3f} to {high:+.3f}{verdict})"
    )


def _sign(gap: Sequence[float | None]) -> int:
    """The sign of a difference; 0 where its interval does not show one."""
    _, low, high = gap
    return 0 if low is None or high is None else (low > 0) - (high < 0)


def _missed(areas: Numbers, part: Numbers) -> str:
    gap = areas["difference"]
    shown = _sign(gap) and _sign(gap) == _sign(areas["beside_other"])
    verdict = "" if shown else ", which shows no difference"
    counts = f"{counted(part['rows_with_both'], 'image')} of {counted(part['prompts_with_both'], 'prompt')}"
    return (
        f"{areas['error_plain']:.2f} in plain areas, {areas['error_rest']:.2f} elsewhere (by image {said(gap)}, "
        f"{counts}{verdict})"
    )


def analysis(numbers: Numbers, drawn: Drawn) -> Iterator[Section]:
    """The sections on an analysis.

    Args:
        numbers: the analysis.
        drawn: its plots and picture sheets, by name.
    """
    sheets = {f"pictures-{i}": f"{method}: noise to image and back" for i, method in enumerate(numbers["methods"])}
    if pictures := _figures(drawn, sheets)[:SHEETS]:
        yield Section("Pictures", _mask_text(numbers), figures=pictures)
    yield _reconstruction(numbers)
    yield _correlation(numbers, drawn)
    yield _triangle(numbers, drawn)
    yield _plain(numbers, drawn)
    yield _assignment(numbers, drawn)
    if maps := _figures(drawn, {f"location-{i}": method for i, method in enumerate(numbers.get("location", {}))}):
        text = (
            "Mean distance of each state of a trajectory to points between noise and latent; the white line is the "
            "nearest point."
        )
        yield Section("Where the trajectory lies", text, figures=maps)


def _table(rows: Sequence[Numbers], columns: Mapping[str, str], digits: int = 3) -> ReportTable:
    """One row per record, with a column for each of some keys under its heading."""
    return ReportTable(list(columns.values()), [[_cell(row.get(key)) for key in columns] for row in rows], digits)


def _cell(value: Any, digits: int = 3) -> Cell:
    """A number or text, or an estimate with its interval as text; a dash where there is none."""
    if value is None or isinstance(value, list | tuple):
        return said(value, digits)
    cell: Cell = value
    return cell


#: captions of plots and picture sheets, by name
CAPTIONS = {
    "correlation": "Correlation across images, autocorrelation within one, spectrum",
    "normality": "Quantiles and moments",
    "geometry": "Noise, image and latent",
    "plain": "Plain areas",
    "steps": "Where the inversion goes wrong",
    "assignment": "Assignment of noise and image",
    "interpolate": "Along the path",
    "edit": "What edits keep and change",
    "k": "By the share of steps that are replaced",
    "methods": "By method",
    "training": "Curves",
    **dict.fromkeys(("interpolate-pictures", "edit-pictures", "training-pictures"), "Pictures"),
}


def _section(title: str, text: str, table: ReportTable, drawn: Drawn, *names: str) -> Section:
    """A section with those of the named drawings that there are."""
    return Section(title, text, table, figures=_figures(drawn, {name: CAPTIONS[name] for name in names}))


def _figures(drawn: Drawn, captions: Mapping[str, str]) -> list[tuple[str, Image]]:
    return [(caption, drawn[name]) for name, caption in captions.items() if name in drawn]


def _mask_text(numbers: Numbers) -> str:
    options = numbers["options"]
    units = "0..1" if options["range"] == "unit" else "-1..1"
    place = f"the pictures, in {units}" if options["domain"] == "pixels" else "the states that are denoised"
    return (
        "A pixel is plain where the mean difference to its neighbours below and to the right is less than "
        f"{options['threshold']} in every channel of {place}: {100 * numbers['plain']['share']:.0f} % of the area. "
        "Maps of noise and latents show their first three channels, grey at 0."
    )


#: columns of the table of a run, with their headings
RUN = {
    "method": "method", "reconstruction": "|reconstruction − image|", "noise_error": "|latent − noise|",
    "noise_cosine": "cosine", "psnr": "PSNR", "ssim": "SSIM", "nfe_invert": "calls of inversion",
    "nfe_sample": "calls of reconstruction", "backward": "backward passes", "seconds": "seconds per picture",
}  # fmt: skip


def run_table(answer: Numbers) -> ReportTable:
    """One row per method: how well it finds the noise and makes the picture again, and what it costs."""
    rows = answer["methods"]
    differentiated = any(row.get("backward") for row in rows)
    return _table(rows, {name: head for name, head in RUN.items() if differentiated or name != "backward"})


def run_section(answer: Numbers, figures: Sequence[tuple[str, Image]]) -> Section:
    """The section on a run, which needs no analysis."""
    text = "Means over pictures, in the space that is denoised. Calls are model calls per picture, guidance included."
    return Section("Inversion", text, run_table(answer), figures=figures)


def _reconstruction(numbers: Numbers) -> Section:
    """How well pictures were reconstructed, and at what cost."""
    text = (
        "Means over pictures, in the space that is denoised; differences to the first method are taken picture by "
        "picture, with 95 % intervals. Calls are the model calls for inverting and reconstructing one picture, "
        "guidance included."
    )
    first, *others = numbers["reconstruction"]["rows"]
    beside = {"gap": f"PSNR, difference to {first['method']}"} if others and first.get("psnr") else {}
    columns = {
        "method": "method", "reconstruction": "|reconstruction − image|", "noise_error": "|latent − noise|",
        "noise_cosine": "cosine to noise", "psnr": "PSNR", **beside, "ssim": "SSIM", "calls": "calls",
        "ms": "ms per picture",
    }  # fmt: skip
    rows = []
    for row in (first, *others):
        means = {name: value[0] for name, value in row.items() if isinstance(value, list)}
        calls = int(means["nfe_invert"] + means["nfe_sample"])
        backward = f"{calls}, {int(means['backward'])} of them with a backward pass"
        gap = said(row["beside_first"].get("psnr"), 2)
        cost = {"calls": backward if means["backward"] else calls, "ms": round(1000 * means["seconds"], 1)}
        rows.append({"method": row["method"], **means, "gap": gap, **cost})
    return Section("Reconstruction", text, _table(rows, columns))


def _correlation(numbers: Numbers, drawn: Drawn) -> Section:
    """Correlation with its floor, what a single image shows, and how normal the numbers are."""
    text = (
        "The correlation of pixels across images (E1 of arXiv 2410.23530) depends on the number of images: only what "
        "exceeds the floor of independent normal numbers counts, and only if it is outside the range of 95 % of such "
        "sets. Autocorrelation is within an image; its range is that of the mean over as many images of white noise. "
        "The mean KL of true noise is in brackets; “not normal” is the share of latents that the Shapiro–Wilk test "
        "rejects at 5 %."
    )
    across, white, noise = numbers["correlation"], numbers["texture"]["white"], numbers["normality"]["noise"]
    within = {row["what"]: row["autocorrelation"][1] for row in numbers["texture"]["rows"]}
    normal = {row["what"]: row for row in numbers["normality"]["rows"]}
    known = "" if noise["coordinate_kl"] is None else f" (noise: {noise['coordinate_kl']:.3f})"
    moments = {
        "mean": "mean", "std": "std", "excess_kurtosis": "kurtosis", "coordinate_kl": f"KL per number{known}",
        "shapiro_rejected": f"not normal {_noise(noise['shapiro_rejected'], 2)}",
    }  # fmt: skip
    columns = {
        "what": "what", "correlation": "correlation",
        "excess": f"over the floor {across['floor']:.4f} {_noise(across['excess_of_noise'], 4)}",
        "within": f"autocorrelation at lag 1 {_noise((white['low'][0], white['high'][0]), 4)}", **moments,
    }  # fmt: skip
    blank = dict.fromkeys(moments, "")  # images need not be normal
    rows = []
    for row in across["rows"]:
        what, values = row["what"], {"correlation": row["mean"], "excess": row["excess"], "within": within[row["what"]]}
        rows.append({**normal.get(what, blank), "what": what, **values})
    table = _table(rows, columns, 4)
    return _section("Correlation and normality", text, table, drawn, "correlation", "normality")


def _noise(bounds: Sequence[float], digits: int) -> str:
    low, high = bounds
    return f"(noise: {low:.{digits}f} to {high:.{digits}f})"


def _triangle(numbers: Numbers, drawn: Drawn) -> Section:
    """The angles and sides of the triangle."""
    text = (
        "Noise, image and latent as three points. Angles are arccos of the mean cosine and need not sum to 180; those "
        "of the most probable triangle do. Other noise is noise that has nothing to do with the pictures."
    )
    part = numbers["triangle"]
    columns = ["latent", *(f"angle at {name}" for name in part["corners"]), "most probable", *part["sides"]]
    rows = [
        [
            row["what"],
            *row["angles"],
            " ".join(f"{angle}°" for angle in row["most_probable"] or ()) or "–",
            *row["lengths"],
        ]
        for row in part["rows"]
    ]
    return _section("Triangle", text, ReportTable(columns, rows, 1), drawn, "geometry")


def _plain(numbers: Numbers, drawn: Drawn) -> Section:
    """Plain areas compared with the rest."""
    text = (
        "Mean |latent − noise| and standard deviation of the latent where the image is plain and elsewhere, and their "
        "differences with 95 % intervals (those of errors are taken image by image). The true noise had a part in "
        "making areas plain, so it need not be the same there as elsewhere; compressed sizes also differ because areas "
        "differ in size: compare with the rows of true and other noise. Local variance is that within 3 x 3 numbers, "
        "bits are those of a number after compression: both are lower where a latent has structure that noise lacks."
    )
    columns = {
        "what": "latent", "error_plain": "error, plain", "error_rest": "error, elsewhere",
        "difference": "difference by image", "beside_other": "less that of other noise", "std_plain": "std, plain",
        "std_rest": "std, elsewhere", "spread_difference": "difference", "local_plain": "local variance, plain",
        "local_rest": "elsewhere", "bits_plain": "bits, plain", "bits_rest": "elsewhere",
    }  # fmt: skip
    return _section("Plain areas", text, _table(numbers["plain"]["rows"], columns), drawn, "plain", "steps")


def _assignment(numbers: Numbers, drawn: Drawn) -> Section:
    """How often noise and image are nearest to each other."""
    part = numbers["assignment"]
    text = (
        "Share of rows whose nearest partner is their own. By L2, images of low contrast are near every noise: hubs. "
        "Chosen is the share of second ones that are the nearest to some first one. "
        f"Chance is {part['chance']:.4f}; if the two have nothing in common, all of these numbers stay at or below "
        f"{part['most_by_chance']:.3f} in 95 % of such tables. A guess that knows only a picture's prompt is right for "
        f"{part['chance_by_prompt']:.3f}."
    )
    columns = {
        "from": "first", "to": "second", "measure": "by", "to_second": "first finds second",
        "to_first": "second finds first", "hungarian": "one to one", "top_hub": "top hub", "chosen": "chosen",
    }  # fmt: skip
    return _section("Assignment", text, _table(part["rows"], columns), drawn, "assignment")


def interpolation(numbers: Numbers, drawn: Drawn) -> Iterator[Section]:
    """The section on pictures between two others: those at the ends and in the middle of the path."""
    text = (
        f"{numbers['pairs']} pairs of pictures with the same prompt, {numbers['way']} of whole vectors: between true "
        "noises and between latents. The Fréchet distance is that of the pixels' principal components to the run's own "
        "pictures, not an FID. Columns beside noise are differences to true noise over the same pairs, which are 0 "
        "but for chance if latents are as good as noise: with 95 % intervals over prompts, and for the Fréchet "
        "distance the probability p that chance alone makes as large a difference."
    )
    names = dict.fromkeys(name for row in numbers["rows"] for name in row if name != "step")
    shares = sorted({row["share"] for row in numbers["rows"]})
    kept = {shares[0], shares[len(shares) // 2], shares[-1]}
    rows = []
    for row in numbers["rows"]:
        gap, chance = row.get("frechet_beside_noise") or (None, None)
        beside = {} if gap is None else {"frechet_beside_noise": f"{gap:+.3f} (p = {chance:.2g})"}
        rows += [{**row, **beside}] * (row["share"] in kept)
    columns = {name: name.replace("_", " ") for name in names} | {"what": "between"}
    yield _section("Interpolation", text, _table(rows, columns), drawn, "interpolate", "interpolate-pictures")


def editing(numbers: Numbers, drawn: Drawn) -> Iterator[Section]:
    """The section on latents sampled under another prompt: what edits kept and what they changed."""
    text = (
        f"{numbers['rows_of_pictures']} pictures sampled again under another prompt, guidance {numbers['guidance']:g}; "
        "means with 95 % intervals over prompts, and differences to the edit from true noise, picture by picture. An "
        "edit from true noise is what a perfect latent would give; one from other noise keeps nothing. Variations: "
        f"{numbers['variations']} pictures of one latent mixed with fresh noise, a = {numbers['mix']:g}."
    )
    first, *_, last = numbers["rows"]
    names = [name for name, value in first.items() if isinstance(value, list)]
    beside = {f"{name}, beside noise": name for name in last["beside_noise"]}
    columns = {"what": "from"} | {name: name.replace("_", " ") for name in (*names, "diversity", *beside)}
    rows = [
        row | {head: row.get("beside_noise", {}).get(name) for head, name in beside.items()} for row in numbers["rows"]
    ]
    yield _section("Edits", text, _table(rows, columns), drawn, "edit", "edit-pictures")


#: columns of the table of settings, with their headings
ABLATED = {
    "method": "method", "num_steps": "T", "guidance": "w", "nfe_invert": "calls of inversion",
    "excess": "correlation over floor", "std": "std", "autocorrelation": "autocorrelation at lag 1",
    "noise_error": "|latent − noise|", "noise_cosine": "cosine to noise", "reconstruction": "|reconstruction − image|",
    "psnr": "psnr", "psnr_beside_first": "psnr, difference to the first method", "ssim": "ssim",
    "error_plain": "error, plain", "error_rest": "error, elsewhere", "std_plain": "std, plain",
    "std_rest": "std, elsewhere",
}  # fmt: skip


def ablation(numbers: Numbers, drawn: Drawn) -> Iterator[Section]:
    """The section that compares settings, one row per setting."""
    low, high = numbers["excess_of_noise"]
    text = (
        f"{numbers['images']} pictures per setting, the same noise for all. Calls of inversion are model calls per "
        f"picture{numbers['budget_text']}. The floor of the correlation is {numbers['floor']:.4f}; independent noise "
        f"is {low:+.4f} to {high:+.4f} over it in 95 % of sets. PSNR is also compared picture by picture with that of "
        "the first method of the same steps and guidance, with a 95 % interval over prompts."
    )
    rows = numbers["rows"]
    columns = {name: head for name, head in ABLATED.items() if any(row.get(name) is not None for row in rows)}
    yield _section("Settings", text, _table(rows, columns), drawn, "k", "methods")


def training(numbers: Numbers, drawn: Drawn) -> Iterator[Section]:
    """The section on noise and pictures through a training: where each curve begins, ends and saturates."""
    first, *_, last = steps = numbers["steps"]
    text = (
        f"{numbers['rows']} pictures from the same noise by each of {len(steps)} checkpoints, {numbers['method']} with "
        f"{numbers['num_steps']} steps; {len(numbers['trainings'])} trainings pooled. P1 compares pictures with the "
        "last checkpoint's, P2 is each checkpoint's inversion of its own pictures, P3 its inversion of the last one's. "
        "A curve is flat from the step after which it stays within a tenth of its range of its last value, or (P2 of a "
        "single training) within what chance allows, by 95 % intervals over prompts for all checkpoints at once; the "
        "last checkpoint's similarity to itself is left out. The column of another noise has the first checkpoint's "
        "similarity to the last one's pictures or latents of the same prompt and other noise: only what exceeds it has "
        f"to do with the noise. Chance of a shared neighbour is {numbers['chance_knn']:.2f}, of a right assignment "
        f"{numbers['chance_assignment']:.4f}."
    )
    columns = {
        "curve": "curve", "first": f"at step {first}", "other": "with another noise",
        "last": f"at the end ({last}, or before it)", "flat": "flat from step",
    }  # fmt: skip
    means = {name: curve["mean"] for name, curve in curves_of(numbers).items()}
    rows = []
    for name, mean in means.items():
        if not name.endswith(OTHER):
            end = mean[-2] if last_of_itself(name) and len(mean) > 1 else mean[-1]
            ends = {"first": mean[0], "other": means.get(name + OTHER, [""])[0], "last": end}
            rows.append({"curve": name.replace("_", " "), **ends, "flat": numbers["saturation"].get(name)})
    yield _section("Through the training", text, _table(rows, columns), drawn, "training", "training-pictures")


#: the answers that commands leave in a run folder, and what makes the report's sections from them
SECTIONS: dict[str, Callable[[Numbers, Drawn], Iterator[Section]]] = {
    "analysis": analysis,
    "interpolation": interpolation,
    "edit": editing,
    "ablation": ablation,
    "training": training,
}
