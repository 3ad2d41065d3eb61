"""Analyses of noise, images and latents: against closed forms and against other implementations."""

from __future__ import annotations

import math
from itertools import permutations
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis import (
    alignment,
    assignment,
    correlation,
    geometry,
    normality,
    plain,
    texture,
)
from t2iprobe.plugins.inversion.analysis.arrays import Array
from t2iprobe.plugins.inversion.analyze import AnalysisSettings, patches
from t2iprobe.plugins.inversion.inverted import Inverted

RNG = np.random.default_rng(0)


def test_patches_that_do_not_tile_the_images_are_refused() -> None:
    run = cast(Inverted, SimpleNamespace(rows=[0, 1, 2], noise=np.zeros((3, 4, 8, 8))))
    assert patches(run, AnalysisSettings(patch=4)) == (4, 64, 20)
    with pytest.raises(ConfigError, match="patches of 10 do not tile 8 x 8"):
        patches(run, AnalysisSettings(patch=10))


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def simulated_floor(count: int, size: int, top: int, draws: int) -> float:
    sets = (noise(count, size, seed=draw) for draw in range(draws))
    return float(np.mean([correlation.top_correlations(drawn, top) for drawn in sets]))


@pytest.mark.parametrize(
    ("count", "size", "drawn_once"), [(8192, 192, 0.0386), (8192, 256, 0.0403), (2048, 192, 0.0787)]
)
def test_floor_of_independent_noise(count: int, size: int, drawn_once: float) -> None:
    """By other code, from one set of numbers each."""
    expected = correlation.floor(count, size)
    assert expected == pytest.approx(drawn_once, abs=0.0011)
    assert simulated_floor(count, size, 20, draws=2) == pytest.approx(expected, abs=0.0015)


def test_the_analytic_floor_is_the_mean_of_simulations() -> None:
    drawn = simulated_floor(400, 48, 10, draws=60)
    assert correlation.floor(400, 48, 10) == pytest.approx(drawn, rel=0.01)


@pytest.mark.parametrize(("count", "patches"), [(24, 1), (24, 9), (64, 4)])
def test_independent_noise_leaves_its_range_in_a_twentieth_of_sets(count: int, patches: int) -> None:
    low, high = correlation.noise_range(count, 32, patches, 10)
    sets = noise(250 * patches, count, 32, seed=7)
    each: Array = np.array([correlation.top_correlations(one, 10).mean() for one in sets])
    drawn = each.reshape(250, patches).mean(axis=1)
    outside = ((drawn < low) | (drawn > high)).mean()
    assert 0.01 <= outside <= 0.09
    assert low < correlation.floor(count, 32, 10) < high


def test_top_correlations_are_those_of_numpy() -> None:
    data = noise(50, 12) @ noise(12, 12, seed=1)
    every = np.abs(np.corrcoef(data.T)[np.triu_indices(12, 1)])
    assert correlation.top_correlations(data, 5) == pytest.approx(np.sort(every)[:-6:-1])


def test_patch_correlation_sees_planted_correlation_in_its_patch_only() -> None:
    images = noise(3000, 1, 16, 8)
    images[:, :, :8] += 2 * noise(3000, 1, 1, 1, seed=1)  # r = 4/5 between any two pixels above
    found = correlation.patch_correlation(images)
    above, below = (correlation.top_correlations(images[:, :, rows], 20).mean() for rows in (slice(8), slice(8, 16)))
    assert above == pytest.approx(0.8, abs=0.03)
    assert below == pytest.approx(correlation.floor(3000, 64), abs=0.004)
    assert found.mean == pytest.approx((above + below) / 2)
    assert found.std == pytest.approx((above - below) / 2, abs=0.01)


def test_constant_numbers_correlate_with_nothing() -> None:
    data = noise(20, 6)
    data[:, :3] = 1
    assert correlation.top_correlations(data, 15)[3:] == pytest.approx(0)


def test_autocorrelation_of_a_moving_average() -> None:
    """The mean of two neighbours in x has correlation 1/2 at lag 1 in x and 0 in y: 1/4 on average."""
    base = noise(4, 3, 128, 129)
    found = texture.autocorrelation(base[..., 1:] + base[..., :-1], 3).mean(0)
    assert found == pytest.approx([1, 0.25, 0, 0], abs=0.02)


def test_autocorrelation_of_one_noise_image_and_of_a_constant() -> None:
    white = texture.autocorrelation(noise(1, 3, 64, 64), 8)[0]
    assert np.abs(white[1:]).max() < 5 / math.sqrt(2 * 3 * 64 * 64)
    assert not texture.autocorrelation(np.ones((1, 1, 8, 8)), 2).any()


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 8, 12), (4, 16, 16)])
def test_autocorrelation_of_white_noise_spreads_more_at_longer_lags(channels: int, height: int, width: int) -> None:
    """At 7 apart an 8 x 8 image has an eighth of the neighbours that it has pixels."""
    mean, std = texture.white(channels, height, width, 7)
    drawn = texture.autocorrelation(noise(6000, channels, height, width), 7)[:, 1:]
    assert drawn.mean(0) == pytest.approx(np.full(7, mean), abs=5 * std.max() / math.sqrt(6000))
    assert drawn.std(0) == pytest.approx(std, rel=0.05)


def test_spectrum_of_noise_is_flat_and_of_a_wave_is_a_line() -> None:
    centres, white = texture.radial_spectrum(2 * noise(50, 1, 32, 32), 8)
    assert white.mean(0) == pytest.approx(4, rel=0.15)
    wave = np.cos(2 * np.pi * 8 * np.arange(32) / 32)
    _, line = texture.radial_spectrum(np.broadcast_to(wave, (1, 1, 32, 32)), 8)
    assert centres[line[0].argmax()] == pytest.approx(0.25, abs=1 / 16)
    assert np.sort(line[0])[-2] == pytest.approx(0, abs=1e-12)


def test_spectrum_follows_parseval() -> None:
    image = noise(1, 2, 16, 16)
    _, power = texture.radial_spectrum(image, 1)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16)))
    inside = (radius > 0) & (radius <= 0.5)
    full = (np.abs(np.fft.fft2(image)) ** 2).mean((0, 1)) / 256
    assert power[0, 0] == pytest.approx(full[inside].mean())


def test_moments_of_a_known_distribution() -> None:
    found = normality.moments(np.random.default_rng(0).exponential(size=(100, 4000)))
    assert found == pytest.approx((1, 1, 2, 6), abs=0.25)


def test_kl_of_two_normals() -> None:
    """KL(N(0, 1) || N(1, 4)) = ln 2 + (1 + 1)/8 - 1/2."""
    first, second = noise(2000, 50), 1 + 2 * noise(2000, 50, seed=1)
    expected = math.log(2) + 2 / 8 - 0.5
    assert normality.gaussian_kl(first, second) == pytest.approx(expected, abs=0.01)
    assert normality.coordinate_kl(first, second) == pytest.approx(expected, abs=0.01)


def test_coordinate_kl_sees_what_the_overall_kl_cannot() -> None:
    """Half of the numbers too wide, half too narrow, with the overall deviation of 1."""
    wide = noise(4000, 40, seed=1) * np.where(np.arange(40) < 20, 1.2, math.sqrt(2 - 1.44))
    assert normality.gaussian_kl(noise(4000, 40), wide) < 1e-3
    assert normality.coordinate_kl(noise(4000, 40), wide) > 0.05


@pytest.mark.parametrize("count", [8, 16, 100])
def test_coordinate_kl_of_noise_against_noise_is_what_few_rows_cost(count: int) -> None:
    found = normality.coordinate_kl(noise(count, 40_000), noise(count, 40_000, seed=1))
    assert found == pytest.approx(normality.coordinate_kl_of_noise(count), rel=0.03)
    assert math.isinf(normality.coordinate_kl_of_noise(3))


def test_shapiro_keeps_its_level_and_finds_what_is_not_normal() -> None:
    assert normality.shapiro_rejected(noise(400, 300)) == pytest.approx(0.05, abs=0.035)
    assert normality.shapiro_rejected(np.random.default_rng(0).uniform(size=(20, 6000)), entries=1000) == 1


def test_quantiles_of_a_shifted_normal_lie_on_its_line() -> None:
    theory, found = normality.quantiles(3 + 2 * noise(200, 500), 21)
    assert found == pytest.approx(3 + 2 * theory, abs=0.05)


def test_a_known_triangle() -> None:
    """3-4-5, right-angled at the noise, in five dimensions and turned."""
    turn = np.linalg.qr(noise(5, 5))[0]
    corners = np.zeros((3, 1, 5))
    corners[1, 0, 0], corners[2, 0, 1] = 3, 4
    found = geometry.triangle(*(corners @ turn + 7))
    assert found.lengths[0] == pytest.approx([5, 4, 3])
    assert found.angles == pytest.approx([90, math.degrees(math.atan2(4, 3)), math.degrees(math.atan2(3, 4))])
    assert found.each_angle.sum(1) == pytest.approx(180)


def test_the_papers_angle_is_the_arccos_of_the_mean_cosine() -> None:
    """Half of the rows 0 degrees (nearly), half 90: 60 degrees, not 45."""
    start, end = np.zeros((2, 2)), np.array([[1.0, 0], [1, 0]])
    found = geometry.triangle(start, end, np.array([[2.0, 1e-9], [0, 1]]))
    assert found.angles[0] == pytest.approx(60, abs=1e-4)
    assert found.each_angle.mean(0)[0] == pytest.approx(45, abs=1e-4)


def test_triangle_of_independent_noise_is_equilateral() -> None:
    found = geometry.triangle(noise(30, 4000), noise(30, 4000, seed=1), noise(30, 4000, seed=2))
    assert found.angles == pytest.approx([60, 60, 60], abs=1)


def test_most_probable_triangle_is_found_by_brute_force_too() -> None:
    first, second = RNG.normal(40, 3, 4000), RNG.normal(61, 3, 4000)
    angles = np.stack([first, second, 180 - first - second], axis=1)
    chances = [np.histogram(column, np.arange(0.5, 180))[0] for column in angles.T]
    every = {
        (a, b, 180 - a - b): chances[0][a - 1] * chances[1][b - 1] * chances[2][180 - a - b - 1]
        for a in range(1, 179)
        for b in range(1, 180 - a)
    }
    found = geometry.most_probable_triangle(angles)
    assert every[found] == max(every.values())
    assert found == pytest.approx((40, 61, 79), abs=2)


def test_most_probable_triangle_need_not_be_the_peaks() -> None:
    """Peaks of 50, 60 and 80 do not close; the answer sums to 180."""
    found = geometry.most_probable_triangle(RNG.normal((50, 60, 80), 5, (5000, 3)))
    assert sum(found) == 180
    assert found == pytest.approx((47, 57, 77), abs=4)


def test_slerp_is_rotation_in_three_dimensions() -> None:
    first, second = (one / np.linalg.norm(one) for one in (noise(3), noise(3, seed=1)))
    axis = np.cross(first, second)
    angle = math.atan2(np.linalg.norm(axis), first @ second)
    expected = Rotation.from_rotvec(0.3 * angle * axis / np.linalg.norm(axis)).apply(first)
    assert geometry.slerp(first[None], second[None], 0.3)[0] == pytest.approx(expected)


def test_slerp_takes_whole_pictures_as_vectors() -> None:
    """Noise stays noise; the mean of two does not, and rows of pixels would each turn by another angle."""
    first, second = noise(4, 3, 16, 16), noise(4, 3, 16, 16, seed=1)
    middle = geometry.slerp(first, second, 0.5)
    assert middle.shape == first.shape
    assert np.linalg.norm(middle.reshape(4, -1), axis=1) == pytest.approx(math.sqrt(3 * 256), rel=0.05)
    cosines = [alignment.embedding_cosine(middle, end) for end in (first, second)]
    assert cosines[0] == pytest.approx(cosines[1], abs=0.05)
    for row in range(4):  # a picture's result does not depend on the others, and all its pixels take the same shares
        shares = np.linalg.lstsq(
            np.stack([first[row].ravel(), second[row].ravel()], 1), middle[row].ravel(), rcond=None
        )
        assert float(shares[1][0]) == pytest.approx(0, abs=1e-12)
    assert middle.std() == pytest.approx(1, abs=0.05)
    assert geometry.lerp(first, second, 0.5).std() == pytest.approx(math.sqrt(0.5), abs=0.05)
    kept = geometry.lerp(first, second, 0.5, keep_norm=True)
    assert np.linalg.norm(kept[0]) == pytest.approx((np.linalg.norm(first[0]) + np.linalg.norm(second[0])) / 2)
    assert geometry.slerp(first, second, 0) == pytest.approx(first)
    assert geometry.slerp(first, second, 1) == pytest.approx(second)
    assert geometry.slerp(first, 2 * first, 0.5) == pytest.approx(1.5 * first)
    with pytest.raises(ConfigError, match="opposite"):
        geometry.slerp(first, -first, 0.5)


def test_location_of_a_track_along_the_segment() -> None:
    start, end = noise(6, 2, 3), noise(6, 2, 3, seed=1)
    shares = np.array([0.0, 0.25, 0.75])
    track = (1 - shares)[:, None, None, None] * start + shares[:, None, None, None] * end
    found = [geometry.location(state, start, end, points=5) for state in track]
    assert [one.nearer_noise for one in found] == [1, 1, 0]
    assert [one.distances.argmin() for one in found] == [0, 1, 3]
    lengths = np.linalg.norm((start - end).reshape(6, -1), axis=1)
    assert found[1].distances == pytest.approx(np.abs(np.linspace(0, 1, 5) - 0.25) * lengths.mean())
    assert [one.share for one in found] == pytest.approx(shares)
    assert [one.off_line for one in found] == pytest.approx([0, 0, 0], abs=1e-12)


def test_projection_measures_the_distance_off_the_line() -> None:
    start, end = np.zeros((1, 3)), np.array([[2.0, 0, 0]])
    found = geometry.location(np.array([[1.0, 3, 4]]), start, end)
    assert (found.share, found.off_line) == pytest.approx((0.5, 5))


def test_assignment_costs_are_scipys() -> None:
    first, second = noise(7, 5), noise(7, 5, seed=1)
    for measure, name in (("l2", "sqeuclidean"), ("cosine", "cosine"), ("pearson", "correlation")):
        assert assignment.costs(first, second, measure) == pytest.approx(cdist(first, second, name))  # type: ignore[arg-type]


def test_assignment_of_nothing_in_common_is_chance() -> None:
    found = assignment.assignment(noise(2000, 4), noise(2000, 4, seed=1), groups=8)
    assert found.rows == 250 and found.chance == 1 / 250
    for share in (found.image_to_noise, found.noise_to_image, found.hungarian):
        assert share == pytest.approx(found.chance, abs=3 * math.sqrt(found.chance / 2000))


def test_images_of_low_contrast_are_hubs_for_distance_only() -> None:
    """Every image is its noise faintly, on a content of its own and of very different strength."""
    start = noise(60, 400)
    start *= 20 / np.linalg.norm(start, axis=1, keepdims=True)  # as in many dimensions, where lengths hardly vary
    image = (start * 0.5 + noise(60, 400, seed=1)) * np.geomspace(0.3, 6, 60)[:, None]
    distance = assignment.assignment(start, image)
    assert distance.image_to_noise > 0.9 > 2 * distance.noise_to_image
    assert distance.top_hub > 5 * distance.chance and distance.chosen < 0.6
    likeness = assignment.assignment(start, image, "cosine")
    assert likeness.noise_to_image > 0.9 and likeness.chosen > 0.9
    assert assignment.assignment(start, image).hungarian > distance.noise_to_image


def test_hungarian_solves_what_nearest_cannot() -> None:
    start = np.array([[0.0], [1.0], [2.0]])
    found = assignment.assignment(start, start + 0.9)
    assert found.hungarian == 1 and found.image_to_noise == pytest.approx(1 / 3)


def test_top_k_counts_those_nearer_than_the_own() -> None:
    table = np.array([[3.0, 1, 2], [5, 0, 4], [1, 2, 0]])
    assert assignment.top_k(table, 1) == pytest.approx((2 / 3, 2 / 3))
    assert assignment.top_k(table, 2) == pytest.approx((1, 2 / 3))
    assert assignment.top_k(table, 3) == (1, 1)


@pytest.mark.parametrize("measure", ["l2", "cosine", "pearson"])
def test_pictures_that_are_all_the_same_are_found_by_chance(measure: assignment.Measure) -> None:
    """One picture of every noise, as an untrained model makes it: nothing tells whose it is."""
    found = assignment.assignment(noise(40, 20), np.tile(noise(1, 20, seed=1), (40, 1)), measure)
    shares = (found.image_to_noise, found.noise_to_image, found.hungarian)
    assert shares == pytest.approx((1 / 40, 1 / 40, 1 / 40), abs=0.08)
    assert (found.near_noise, found.near_image) == pytest.approx((5 / 40, 5 / 40))


def test_ties_are_drawn_by_lot() -> None:
    """The mean over all orders of equal candidates, by enumeration."""
    table = np.array([[0.0, 0, 1], [0, 0, 0], [0, 1, 1]])
    for k in (1, 2):
        drawn = []
        for column, own in zip(table.T, range(3), strict=True):
            orders = [sorted(range(3), key=lambda row: (column[row], order[row])) for order in permutations(range(3))]
            drawn.append(np.mean([own in order[:k] for order in orders]))
        assert assignment.top_k(table, k)[0] == pytest.approx(np.mean(drawn))


def test_what_chance_finds_of_noise_and_pictures_with_nothing_in_common() -> None:
    """All three accuracies by three measures below the limit in 95 % of tables, hubs or not."""
    rng, above = np.random.default_rng(0), 0
    limit = assignment.most_by_chance(16, 1, 9)
    measures: tuple[assignment.Measure, ...] = ("l2", "cosine", "pearson")
    for _ in range(400):
        first, second = rng.standard_normal((2, 16, 8))
        second *= np.geomspace(0.2, 5, 16)[:, None]
        found = [assignment.assignment(first, second, measure) for measure in measures]
        above += max(max(one.image_to_noise, one.noise_to_image, one.hungarian) for one in found) > limit
    assert above / 400 <= 0.05
    assert limit == pytest.approx(4 / 16) and assignment.most_by_chance(4, 1, 10**6) == 1


def test_an_assignment_tells_who_is_among_the_nearest() -> None:
    """Each image is beside its noise by two and a half places, so its own is the third or fourth nearest."""
    start = np.arange(20.0)[:, None]
    found = assignment.assignment(start, start + 2.4)
    assert found.image_to_noise == pytest.approx(1 / 20) and found.near_noise == 1 and found.near_image > 0.8
    apart = assignment.assignment(noise(400, 4), noise(400, 4, seed=1))
    assert apart.near_noise == pytest.approx(assignment.NEAR / 400, abs=0.02)


def test_plain_mask_of_a_half_smooth_picture() -> None:
    image = np.zeros((1, 2, 4, 6))
    image[:, 0, :, 3:] = RNG.uniform(1, 2, (4, 3)).cumsum(1)  # every step to the right is at least 1
    mask = plain.plain_mask(image)
    assert mask[0, :, :2].all() and not mask[0, :, 2:5].any()  # column 2 has the edge at its right


def test_plain_needs_all_channels_below_the_threshold() -> None:
    image = np.zeros((1, 2, 1, 3))
    image[0, 1, 0] = [0, 0.06, 0.1]
    assert plain.plain_mask(image).tolist() == [[[False, True, True]]]
    assert plain.plain_mask(image, 0.031).all()


def test_areas_are_compared_apart() -> None:
    mask = np.zeros((1, 2, 4), bool)
    mask[..., :1] = True
    truth, values = np.zeros((1, 3, 2, 4)), np.ones((1, 3, 2, 4))
    values[..., 0] = 5
    values[..., 1] = -1
    found = plain.compare_areas(values, truth, mask)
    assert (found.share, found.error_plain, found.error_rest, found.std_plain) == (0.25, 5, 1, 0)
    assert found.std_rest == pytest.approx(np.std([-1, 1, 1]))
    assert math.isnan(plain.compare_areas(values, truth, np.zeros_like(mask)).error_plain)


def test_the_gap_of_spreads_is_that_of_the_pooled_numbers() -> None:
    """With a mask of unequal share in each image, which a mean of the images' own deviations would be wrong about."""
    values = 3 + noise(20, 2, 6, 6) * np.linspace(0.5, 2, 6)
    mask = np.random.default_rng(1).random((20, 6, 6)) < np.linspace(0.1, 0.9, 20)[:, None, None]
    inside = np.broadcast_to(mask[:, None], values.shape)
    found = plain.spread_gap(plain.power_sums(values, mask).mean(0))
    assert float(found) == pytest.approx(values[inside].std() - values[~inside].std())


def test_structure_is_seen_nearby_and_by_packing() -> None:
    """Noise has variance 1 nearby and 7 bits a number; a smooth half has little of either."""
    values = noise(8, 3, 32, 32)
    mask = np.zeros((8, 32, 32), bool)
    mask[:, :, :16] = True
    same = plain.structure(values, mask)
    assert (same.local_plain, same.local_rest) == pytest.approx((1, 1), abs=0.05)
    entropy = np.log2(np.sqrt(2 * np.pi * np.e)) - np.log2(2 * plain.SPREAD / 255)
    assert same.bits_plain == pytest.approx(entropy, rel=0.05)
    values[..., :16] = np.arange(16) / 100
    found = plain.structure(values, mask)
    assert found.local_plain < 0.1 and found.bits_plain < 1  # a column of the neighbours is noise at the border
    assert found.bits_rest == pytest.approx(same.bits_rest, rel=0.02)
    none = plain.structure(values[..., :2], np.ones((8, 32, 2), bool))
    assert math.isnan(none.local_plain) and math.isnan(none.bits_rest)


def test_a_latent_cell_is_plain_where_all_its_pixels_are() -> None:
    mask = np.ones((1, 4, 4), bool)
    mask[0, 0, 3] = False
    assert plain.shrunk_mask(mask, 2).tolist() == [[[True, False], [True, True]]]
    with pytest.raises(ConfigError, match="tile"):
        plain.shrunk_mask(mask, 3)


def test_the_error_of_a_step_keeps_areas_apart() -> None:
    sampled, mask = noise(2, 1, 4, 4), np.zeros((2, 4, 4), bool)
    mask[..., 0] = True
    assert plain.step_error(sampled, sampled, mask) == (0, 0, 0, 100)
    half = plain.step_error(sampled / 2, sampled, mask)
    assert half.error == pytest.approx(abs(sampled).mean() / 2) and half.std_ratio == pytest.approx(50)
    moved = plain.step_error(sampled + 3 * mask[:, None], sampled, mask)
    assert (moved.error, moved.error_plain, moved.error_rest) == pytest.approx((0.75, 3, 0))


def test_cka_against_its_definition_by_covariances() -> None:
    """||X'Y||^2 / (||X'X|| ||Y'Y||), the other form of arXiv 1905.00414."""
    first, second = noise(40, 6), noise(40, 9, seed=1)
    second[:, :6] += first
    x, y = first - first.mean(0), second - second.mean(0)
    norms = [np.linalg.norm(one.T @ other) for one, other in ((x, y), (x, x), (y, y))]
    assert alignment.cka(first, second) == pytest.approx(norms[0] ** 2 / (norms[1] * norms[2]))


def test_cka_ignores_rotation_and_scale_and_not_more() -> None:
    data = noise(50, 8) * np.arange(1, 9)
    turn = np.linalg.qr(noise(8, 8, seed=1))[0]
    assert alignment.cka(data, 3 * data @ turn + 1) == pytest.approx(1)
    assert alignment.cka(data, data / np.arange(1, 9)) < 0.99
    assert alignment.cka(noise(1500, 5), noise(1500, 5, seed=1)) < 0.02


def test_svcca_is_the_mean_canonical_correlation() -> None:
    """Two of three directions shared, the second with correlation 1/sqrt(2), the third not at all."""
    common, own, other = noise(20_000, 2), noise(20_000, 2, seed=1), noise(20_000, 2, seed=2)
    first = np.concatenate([common, own[:, :1]], 1)
    second = np.concatenate([common[:, :1], common[:, 1:] + other[:, :1], other[:, 1:]], 1) @ noise(3, 3, seed=3)
    assert alignment.svcca(first, second, 3) == pytest.approx((1 + math.sqrt(0.5) + 0) / 3, abs=0.01)


def test_svcca_refuses_ranks_that_say_nothing() -> None:
    with pytest.raises(ConfigError, match="between 1 and 9"):
        alignment.svcca(noise(10, 20), noise(10, 20), 10)
    with pytest.raises(ConfigError, match="smaller rank"):
        alignment.svcca(noise(50, 3), noise(50, 20), 5)


def test_knn_overlap_by_sorting_and_by_chance() -> None:
    first, second = noise(60, 4), noise(60, 4) + 0.5 * noise(60, 4, seed=1)
    near = []
    for data in (first, second):
        table = cdist(data, data)
        near.append([set(np.argsort(row)[1:8]) for row in table])
    expected = np.mean([len(a & b) / 7 for a, b in zip(*near, strict=True)])
    assert alignment.knn_overlap(first, second, 7) == pytest.approx(expected)
    assert alignment.knn_overlap(first, 2 * first, 7) == 1
    assert alignment.knn_overlap(noise(800, 5), noise(800, 5, seed=1), 50) == pytest.approx(50 / 799, abs=0.01)


def test_embedding_cosines_row_by_row() -> None:
    assert alignment.embedding_cosine([[1, 0], [1, 1]], [[0, 2], [3, 3]]) == pytest.approx([0, 1])
    assert alignment.embedding_cosine([[1, 0]], [[1, 1]]) == pytest.approx(math.sqrt(0.5))


def test_correlation_matches_the_distribution_of_one_pair() -> None:
    """r^2 of a single pair is Beta(1/2, (n - 2)/2): its floor is near the median of |r|."""
    drawn = stats.pearsonr(noise(4000, 30), noise(4000, 30, seed=1), axis=1).statistic
    assert correlation.floor(30, 2, 1) == pytest.approx(np.median(np.abs(drawn)), abs=0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda: correlation.patch_correlation(noise(5, 1, 12, 8)),
        lambda: correlation.top_correlations(noise(2, 9)),
        lambda: correlation.floor(100, 3, 20),
        lambda: texture.autocorrelation(noise(1, 1, 8, 8), 8),
        lambda: texture.autocorrelation(noise(8, 8), 2),
        lambda: normality.coordinate_kl(noise(5, 3), noise(5, 4)),
        lambda: normality.coordinate_kl(np.ones((5, 3)), noise(5, 3)),
        lambda: geometry.triangle(noise(2, 3), noise(2, 3), noise(2, 3, seed=1)),
        lambda: geometry.triangle(noise(2, 3), noise(2, 4), noise(2, 3)),
        lambda: geometry.most_probable_triangle(np.full((3, 3), 90.0)),
        lambda: geometry.location(noise(3, 4), noise(3, 4, seed=1), noise(3, 4, seed=1)),
        lambda: geometry.location(noise(3, 5), noise(3, 4), noise(3, 4, seed=1)),
        lambda: assignment.assignment(noise(5, 3), noise(5, 3), groups=4),
        lambda: assignment.costs(noise(5, 3), noise(5, 3), "l1"),  # type: ignore[arg-type]
        lambda: plain.compare_areas(noise(1, 1, 4, 4), noise(1, 1, 4, 4), np.ones((1, 2, 2), bool)),
        lambda: plain.step_error(noise(3, 1, 2, 2), noise(2, 1, 2, 2), np.ones((3, 2, 2), bool)),
        lambda: alignment.cka(np.ones((4, 3)), noise(4, 3)),
        lambda: alignment.cka(noise(4, 3), noise(5, 3)),
        lambda: alignment.knn_overlap(noise(10, 3), noise(10, 3)),
        lambda: alignment.embedding_cosine(noise(4, 3), noise(4, 2)),
    ],
)
def test_bad_input_is_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]
