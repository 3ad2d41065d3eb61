"""What an analysis says of noise that has nothing to hide: no structure, no plain areas that are worse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from t2iprobe.plugins.inversion import analyze, report

ROWS, SHAPE = 24, (2, 8, 8)


def run(rng: np.random.Generator, latent: Any) -> Any:
    """Finished, with one method; what the analyses ask of it and no more."""
    noise = rng.standard_normal((ROWS, *SHAPE))
    return SimpleNamespace(
        noise=noise,
        clean=rng.standard_normal(noise.shape),
        arms=["euler"],
        latent=lambda arm: latent(rng, noise),
        rows=list(range(ROWS)),
        prompts=[f"prompt {row}" for row in range(ROWS)],
        path="runs/made-up",
        sampled=True,
    )


def on_rows(one: Any, mask: np.ndarray[Any, Any]) -> str:
    options = analyze.AnalysisSettings()
    parts = {"correlation": analyze.correlations(one, options), "plain": analyze.plain_areas(one, mask, options)}
    return report.sentence({"methods": one.arms, "rows": ROWS, "sampled": True, **parts})


def areas(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Half or more of each picture is plain, in rows from a place of its own."""
    start = rng.integers(1, 5, ROWS)
    return np.arange(8)[None, :, None] * np.ones((ROWS, 1, 8)) >= start[:, None, None]


def independent(rng: np.random.Generator, noise: Any) -> Any:
    return rng.standard_normal(noise.shape)


def structured(rng: np.random.Generator, noise: Any) -> Any:
    """Less of the noise the further down, and the same in all pictures."""
    share = np.linspace(1, 0.5, 8)[:, None]
    return share * noise + 0.4 * rng.standard_normal((ROWS, 1, 1, 1))


def test_verdicts_on_noise_are_wrong_in_a_twentieth_of_runs() -> None:
    rng, count = np.random.default_rng(0), 100
    said = [on_rows(run(rng, independent), areas(rng)) for _ in range(count)]
    for verdict in ("so noise would do as much", "shows no difference"):
        wrong = sum(verdict not in one for one in said) / count
        assert wrong <= 0.09, verdict  # 0.05, and what so few runs leave open


def test_noise_that_is_weaker_in_plain_areas_makes_them_no_better() -> None:
    """A latent that knows nothing misses weak noise by less: that says nothing of the latent."""
    rng, count, wrong = np.random.default_rng(4), 60, 0
    for _ in range(count):
        mask, one = areas(rng), run(rng, independent)
        one.noise *= np.where(mask[:, None], 0.7, 1.1)
        gap = {row["what"]: row for row in analyze.plain_areas(one, mask, analyze.AnalysisSettings())["rows"]}["euler"]
        assert gap["difference"][2] < 0
        wrong += "shows no difference" not in on_rows(one, mask)
    assert wrong / count <= 0.1


def test_verdicts_on_a_latent_that_has_structure() -> None:
    rng = np.random.default_rng(1)
    found = on_rows(run(rng, structured), areas(rng))
    assert "do as much" not in found and "no difference" not in found
    assert f"({ROWS} images of independent noise" in found and f"{ROWS} images of {ROWS} prompts)" in found


def test_true_noise_stands_in_the_table_of_plain_areas() -> None:
    """Its spread there is what a perfect latent would have; it has no error."""
    rng = np.random.default_rng(2)
    one, mask = run(rng, lambda rng, noise: noise), areas(rng)
    rows = {row["what"]: row for row in analyze.plain_areas(one, mask, analyze.AnalysisSettings())["rows"]}
    inside = np.broadcast_to(mask[:, None], one.noise.shape)
    assert rows["true noise"]["std_plain"] == pytest.approx(one.noise[inside].std())
    assert rows["true noise"]["spread_difference"] == rows["euler"]["spread_difference"]
    assert rows["true noise"]["error_plain"] is None and rows["euler"]["error_plain"] == 0


def test_a_share_by_prompt_is_what_knows_the_prompt_only() -> None:
    """16 pictures of 4 prompts: one of the four pictures of a prompt is the right one."""
    rng = np.random.default_rng(3)
    one = run(rng, independent)
    one.prompts = [f"prompt {row % 4}" for row in range(ROWS)]
    found = analyze.assignments(one, analyze.AnalysisSettings())
    assert found["chance_by_prompt"] == pytest.approx(4 / ROWS) and found["rows"][0]["spread"] is None
