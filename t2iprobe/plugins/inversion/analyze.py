"""From a finished inversion to its numbers: :func:`analyze`, with one function for each part of the answer.

Every table has a row for true noise, which says what the number would be for a perfect latent. States and predictions
are read one step at a time, so memory never holds more than a few sets of latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis import assignment, correlation, geometry, normality, plain, texture
from t2iprobe.plugins.inversion.analysis.intervals import Between, over, spanned
from t2iprobe.plugins.inversion.inverted import Inverted

States = NDArray[Any]
Numbers = dict[str, Any]
Domain = Literal["pixels", "states"]
Range = Literal["unit", "signed"]
TRUE, OTHER, IMAGE = "true noise", "other noise", "image"
TOP = 20  # correlations kept in each patch
LAGS, RINGS = 8, 16
GROUPED = 512  # from this many rows on, assignments are made in groups
GROUPS = 8


@dataclass(frozen=True)
class AnalysisSettings:
    """How to measure what can be measured in more than one way.

    Args:
        patch: side length of the patches for the correlation; default the largest up to 8 that tiles the images.
        threshold: threshold below which pixels count as plain.
        domain: whether differences are taken between pixels of the pictures or between cells of what is denoised.
        range: whether the threshold refers to pictures in 0..1 (``unit``) or -1..1 (``signed``).
        groups: number of disjoint groups for assignments; default 8 from 512 rows on, else 1.
        points: number of points between noise and latent at which distances to the trajectory are taken.
        seed: seed of the other noise and of samples.
    """

    patch: int | None = None
    threshold: float = 0.025
    domain: Domain = "pixels"
    range: Range = "unit"
    groups: int | None = None
    points: int = 25
    seed: int = 0


def analyze(
    run: Inverted, options: AnalysisSettings | None = None, tell: Callable[[str], None] = lambda part: None
) -> Numbers:
    """The whole analysis, as plain values.

    Args:
        run: the finished inversion.
        options: how to measure.
        tell: called with the name of each part before it begins.
    """
    options = options or AnalysisSettings()
    mask = plain_mask(run, options)
    parts: dict[str, Callable[[], Numbers]] = {
        "reconstruction": lambda: reconstruction(run),
        "correlation": lambda: correlations(run, options),
        "texture": lambda: textures(run),
        "normality": lambda: normalities(run, options),
        "triangle": lambda: triangles(run, options),
        "assignment": lambda: assignments(run, options),
        "plain": lambda: plain_areas(run, mask, options),
    }
    if run.trajectory:
        parts["location"] = lambda: locations(run, options)
    if run.trajectory and run.sampled:
        parts["steps"] = lambda: step_errors(run, mask)
    answer = about(run) | {"options": dataclasses.asdict(options)}
    for name, part in parts.items():
        tell(name)
        answer[name] = part()
    return answer


def about(run: Inverted) -> Numbers:
    """What was measured."""
    manifest = run.manifest
    return {
        "model": manifest.get("model", ""),
        "prediction": manifest["prediction"],
        "rows": len(run.rows),
        "shape": list(run.noise.shape[1:]),
        "num_steps": run.steps,
        **{name: run.settings[name] for name in ("adapter", "guidance", "inversion_guidance")},
        "sampled": run.sampled,
        "methods": run.arms,
        "spent": manifest.get("spent", {}),
    }


def sets(run: Inverted, *, image: bool = False) -> Iterator[tuple[str, States]]:
    """True noise and every method's latents, by name, and the images on request."""
    yield TRUE, run.noise
    yield from ((arm, run.latent(arm)) for arm in run.arms)
    if image:
        yield IMAGE, run.clean


def other_noise(run: Inverted, seed: int) -> States:
    """Standard normal numbers that have nothing to do with the run."""
    return np.random.default_rng([seed, 1]).standard_normal(run.noise.shape).astype(np.float32)


def reconstruction(run: Inverted) -> Numbers:
    """How well the pictures were reconstructed, at what cost, and the sizes involved (E13)."""
    rows = []
    for arm in run.arms:
        scores = {name: over(run.score(name, arm), run.prompts) for name in run.score_names}
        beside = {name: beside_first(run, name, arm) for name in run.score_names}
        rows.append({"method": arm, "size": _size(run.latent(arm)), **scores, "beside_first": beside})
    return {"rows": rows, "sizes": {TRUE: _size(run.noise), IMAGE: _size(run.clean)}}


def _size(values: States) -> float:
    """The mean absolute value."""
    return float(np.abs(values).mean())


def beside_first(run: Inverted, name: str, arm: str) -> Between | None:
    """A score minus that of the first method, picture by picture, because all methods have the same pictures."""
    first = run.arms[0]
    return None if arm == first else over(run.score(name, arm) - run.score(name, first), run.prompts)


def patches(run: Inverted, options: AnalysisSettings) -> tuple[int, int, int]:
    """For the correlation: the side length of a patch, the entries in it, and how many correlations of it are kept.

    Raises:
        ConfigError: there are too few images, or the patches do not tile them.
    """
    if len(run.rows) < 3:
        raise ConfigError(
            f"a correlation across images needs at least 3 images, {run.path} has {len(run.rows)}; make a run "
            "of more pictures"
        )
    channels, height, width = run.noise.shape[1:]
    patch = options.patch or max(side for side in range(1, 9) if height % side == 0 and width % side == 0)
    if height % patch or width % patch:
        raise ConfigError(f"patches of {patch} do not tile {height} x {width}; choose a side that divides both")
    size = channels * patch * patch
    return patch, size, min(TOP, size * (size - 1) // 2)


def excess(run: Inverted, values: States, options: AnalysisSettings) -> float:
    """The correlation of values across images, minus what independent noise has on average."""
    patch, size, top = patches(run, options)
    return correlation.patch_correlation(values, patch, top).mean - correlation.floor(len(values), size, top)


def noise_floor(run: Inverted, options: AnalysisSettings) -> Numbers:
    """The correlation that as many images of independent noise have on average, and the range of 95 % of such sets."""
    patch, size, top = patches(run, options)
    floor = correlation.floor(len(run.rows), size, top)
    span = correlation.noise_range(len(run.rows), size, run.noise[0].size // size, top)
    facts = {"patch": patch, "numbers": size, "top": top, "rows_of_images": len(run.rows), "floor": floor}
    return facts | {"excess_of_noise": [bound - floor for bound in span]}


def correlations(run: Inverted, options: AnalysisSettings) -> Numbers:
    """Correlation between pixels across images (E1), with the floor that independent noise reaches."""
    noise, rows = noise_floor(run, options), []
    for what, values in sets(run, image=True):
        across = correlation.patch_correlation(values, noise["patch"], noise["top"])
        rows.append({"what": what, **across._asdict(), "excess": across.mean - noise["floor"]})
    return {**noise, "rows": rows}


def textures(run: Inverted) -> Numbers:
    """Autocorrelation and spectrum within an image, which need no set, with the range of white noise's mean."""
    channels, height, width = run.noise.shape[1:]
    lags = min(LAGS, height - 1, width - 1)
    rings = max(2, min(RINGS, height // 2, width // 2))
    rows = []
    for what, values in sets(run, image=True):
        lagged, (frequencies, power) = texture.autocorrelation(values, lags), texture.radial_spectrum(values, rings)
        means = {"autocorrelation": lagged.mean(0), "autocorrelation_std": lagged.std(0), "spectrum": power.mean(0)}
        rows.append({"what": what, **plain_values(means)})
    mean, std = texture.white(channels, height, width, lags)
    half = 1.96 * std / len(run.rows) ** 0.5
    white = {"mean": mean, "std": std.tolist(), "low": (mean - half).tolist(), "high": (mean + half).tolist()}
    return {"frequencies": frequencies.tolist(), "white": white, "rows": rows}


def normalities(run: Inverted, options: AnalysisSettings) -> Numbers:
    """How normal latents are (E2)."""
    reference, rows = other_noise(run, options.seed), []
    quantiles: dict[str, list[float]] = {}
    for what, values in sets(run):
        normal, own = normality.quantiles(values)
        quantiles |= {what: own.tolist(), "normal": normal.tolist()}
        distances = {
            "kl": normality.gaussian_kl(reference, values),
            "coordinate_kl": _or_none(normality.coordinate_kl, reference, values),
            "shapiro_rejected": normality.shapiro_rejected(values, seed=options.seed),
        }
        rows.append({"what": what, **normality.moments(values)._asdict(), **distances})
    count, level = len(run.rows), 0.05
    noise = {
        "coordinate_kl": plain_values(normality.coordinate_kl_of_noise(count)),
        "shapiro_rejected": [float(stats.binom.ppf(share, count, level)) / count for share in (0.025, 0.975)],
    }
    return {"rows": rows, "quantiles": quantiles, "level": level, "noise": noise}


def _or_none(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result, or ``None`` where it is not defined for this set."""
    try:
        return function(*arguments)
    except ConfigError:
        return None


def triangles(run: Inverted, options: AnalysisSettings) -> Numbers:
    """Noise, image and latent as a triangle (E3), and the most probable one (E4)."""
    rows = []
    for what, values in [(OTHER, other_noise(run, options.seed)), *((arm, run.latent(arm)) for arm in run.arms)]:
        triangle = geometry.triangle(run.noise, run.clean, values)
        angles, probable = triangle.each_angle, _or_none(geometry.most_probable_triangle, triangle.each_angle)
        numbers = {
            "angles": triangle.angles.tolist(),
            "angles_std": angles.std(0).tolist(),
            "each_angle": angles.round(3).tolist(),
            "most_probable": probable and list(probable),
            "lengths": triangle.lengths.mean(0).tolist(),
            "lengths_std": triangle.lengths.std(0).tolist(),
        }
        rows.append({"what": what, **numbers})
    sides = ["image-latent", "noise-latent", "noise-image"]
    return {"corners": ["noise", "image", "latent"], "sides": sides, "rows": rows}


def locations(run: Inverted, options: AnalysisSettings) -> Numbers:
    """Where between noise and latent each state of a trajectory lies (E5)."""
    trajectories: dict[str, Numbers] = {}
    for arm in run.arms:
        latent = run.latent(arm)
        if not np.array_equal(latent, run.noise):  # an oracle for all steps finds the noise itself
            sampling = {"sampling": _located(run, None, latent, options)} if run.sampled else {}
            trajectories[arm] = sampling | {"inversion": _located(run, arm, latent, options)}
    return trajectories


def _located(run: Inverted, arm: str | None, latent: States, options: AnalysisSettings) -> Numbers:
    states = (run.state(arm, step) for step in range(run.steps + 1))
    located = [geometry.location(state, run.noise, latent, options.points) for state in states]
    columns = dict(zip(geometry.Location._fields, map(list, zip(*located, strict=True)), strict=True))
    return columns | {"distances": np.stack(columns["distances"], axis=1).tolist()}


def assignments(run: Inverted, options: AnalysisSettings) -> Numbers:
    """Which noise made which image, and the same for latents (E6)."""
    groups = options.groups or (GROUPS if len(run.rows) >= GROUPED else 1)
    pairs = [("noise", IMAGE, run.noise, run.clean)] if run.sampled else []
    for arm in run.arms:
        pairs.append((f"latent {arm}", IMAGE, run.latent(arm), run.clean))
        if run.sampled:
            pairs.append(("noise", f"latent {arm}", run.noise, run.latent(arm)))
    rows = []
    for source, target, first, second in pairs:
        for measure in assignment.MEASURES:
            shares = assignment.assignment(first, second, measure, groups)
            numbers = {
                "to_second": shares.noise_to_image,
                "to_first": shares.image_to_noise,
                "spread": shares.groups.std(0).tolist() if groups > 1 else None,
                "hungarian": shares.hungarian,
                "to_second_near": shares.near_image,
                "to_first_near": shares.near_noise,
                "top_hub": shares.top_hub,
                "chosen": shares.chosen,
            }
            rows.append({"from": source, "to": target, "measure": measure, **numbers})
    size = len(run.rows) // groups
    chances = {
        "chance": 1 / size,
        "most_by_chance": assignment.most_by_chance(size, groups, 3 * len(rows)),
        "chance_by_prompt": _by_prompt(run.prompts, size, groups),
        "near": assignment.NEAR,
        "chance_near": min(1.0, assignment.NEAR / size),
    }
    return {"groups": groups, "rows_of_group": size, **chances, "rows": rows}


def _by_prompt(prompts: Sequence[str], size: int, groups: int) -> float:
    """The share of right pairs for a guess that knows a picture's prompt and nothing else."""
    parts = [prompts[group * size : (group + 1) * size] for group in range(groups)]
    return sum(len(set(part)) for part in parts) / (size * groups)


def plain_mask(run: Inverted, options: AnalysisSettings) -> plain.Mask:
    """(row, y, x) at the resolution of what is denoised: where the image is plain (E8)."""
    scale = 1.0 if options.range == "unit" else 2.0
    if options.domain == "states":
        return plain.plain_mask(run.clean * scale / 2, options.threshold)
    masks = []
    for row in range(len(run.rows)):  # one by one: pixels take far more memory than what is denoised
        pixels = np.asarray(run.picture("source", row)).transpose(2, 0, 1)[None] / 255.0
        mask = plain.plain_mask(pixels * scale, options.threshold)
        masks.append(plain.shrunk_mask(mask, mask.shape[-1] // run.noise.shape[-1]))
    return np.concatenate(masks)


def plain_areas(run: Inverted, mask: plain.Mask, options: AnalysisSettings) -> Numbers:
    """Latents against true noise, inside and outside plain areas (E8).

    True noise had a part in making areas plain, so even unrelated noise may miss it by less there: see
    ``beside_other``.
    """
    other = other_noise(run, options.seed)
    expected = _gaps(np.abs(other - run.noise).mean(1), mask)
    rows = []
    for what, values in [(OTHER, other), *sets(run)]:
        areas = plain.compare_areas(values, run.noise, mask)._asdict() | plain.structure(values, mask)._asdict()
        gaps = _gaps(np.abs(values - run.noise).mean(1), mask)
        between = {
            "difference": over(gaps, run.prompts),
            "beside_other": None if what == OTHER else over(gaps - expected, run.prompts),
            "spread_difference": _spreads(values, mask, run.prompts),
        }
        none = dict.fromkeys(("error_plain", "error_rest", "difference", "beside_other")) if what == TRUE else {}
        rows.append({"what": what, **plain_values(areas), **between, **none})
    both = [prompt for prompt, gap in zip(run.prompts, expected, strict=True) if np.isfinite(gap)]
    return {"share": float(mask.mean()), "rows_with_both": len(both), "prompts_with_both": len(set(both)), "rows": rows}


def _gaps(error: States, mask: plain.Mask) -> States:
    """Error in plain areas minus error elsewhere, (row,); NaN for an image that has only one of the two."""
    plain_there, rest = mask.sum((1, 2)), (~mask).sum((1, 2))
    with np.errstate(invalid="ignore"):
        return np.asarray((error * mask).sum((1, 2)) / plain_there - (error * ~mask).sum((1, 2)) / rest)


def _spreads(values: States, mask: plain.Mask, prompts: Sequence[str]) -> Between | None:
    """Standard deviation in plain areas minus that elsewhere, of all images together, with an interval over prompts."""
    sums = plain.power_sums(values, mask)
    if not sums[:, [0, 3]].any(0).all():
        return None
    return spanned(lambda rows: plain.spread_gap(sums[rows].sum(0)), prompts)


def step_errors(run: Inverted, mask: plain.Mask) -> Numbers:
    """The error of the prediction at every step of the inversion (E9)."""
    by_arm: dict[str, Numbers] = {}
    for arm in run.arms:
        errors = [plain.step_error(run.output(arm, step), run.output(None, step), mask) for step in range(run.steps)]
        by_arm[arm] = dict(zip(plain.StepError._fields, map(plain_values, zip(*errors, strict=True)), strict=True))
    return by_arm


def plain_values(value: Any) -> Any:
    """The values for JSON, which has no NaN: what is not defined becomes ``None``."""
    if isinstance(value, dict):
        return {key: plain_values(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain_values(inner) for inner in value]
    number = float(value)
    return number if np.isfinite(number) else None
