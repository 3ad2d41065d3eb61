"""Inversion studies: what is on the disk, resume, sources, and analyses of runs whose answer is known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion import compute_noise_ddim
from PIL import Image

from t2iprobe.core.batch_room import Room
from t2iprobe.core.contracts.inverter import InversionInputs, Trajectory
from t2iprobe.core.errors import ConfigError, RunExistsError, StoppedError
from t2iprobe.core.model import Model
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.study.stored_results import open_study
from t2iprobe.plugins.inversion import ablate as ablation
from t2iprobe.plugins.inversion import (
    analyze,
    arms,
    edit,
    imageonly,
    interpolate,
    ledits,
    pictures,
    plots,
    resample,
    sources,
)
from t2iprobe.plugins.inversion.analysis import correlation
from t2iprobe.plugins.inversion.arms import InversionArm, parse_arm
from t2iprobe.plugins.inversion.exact import EditFriendly
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import InterpolateOptions, InvertEditOptions, InvertOptions
from t2iprobe.plugins.inversion.question import InversionQuestion
from t2iprobe.plugins.inversion.run import InversionStudy, in_parts
from t2iprobe.plugins.inversion.trajectory_store import SAMPLE, phase
from t2iprobe.registry.manager import Plugins
from t2iprobe.report.figures import CELL
from t2iprobe.sampling import decoded, encoded, fresh_noise, schedule_of, used_schedule

PLUGINS = Plugins(installed=False)
INVERTERS = PLUGINS.inverters()
STEPS = 4


def tiny(arch: str) -> Model:
    adapter = PLUGINS.adapters()[arch]
    return Model(adapter.tiny(), adapter(), ref=f"tiny-random-{arch}")


@pytest.fixture(scope="module")
def sd3() -> Model:
    return tiny("sd3")


def question(*methods: str, rows: int = 5, source: sources.Source | None = None, **options: Any) -> InversionQuestion:
    chosen = InvertOptions(**{"num_steps": STEPS, "batch_size": 2} | options)
    source = source or sources.repeated(["a red cat", "a dog"], rows, 3)
    return InversionQuestion(source, tuple(map(parse_arm, methods)), chosen)


def study(model: Model, asked: InversionQuestion) -> InversionStudy:
    return InversionStudy(model, asked, INVERTERS, [PLUGINS.metrics()["psnr"]()])  # type: ignore[list-item]


ORACLE = f"oracle:steps={STEPS}"
FORWARD = f"forward:steps={STEPS}"


@pytest.fixture(scope="module")
def finished(sd3: Model, tmp_path_factory: pytest.TempPathFactory) -> Inverted:
    """Euler, an oracle that knows every step, and forward diffusion through all steps."""
    path = tmp_path_factory.mktemp("inverted") / "run"
    return Inverted(study(sd3, question("euler", ORACLE, FORWARD, rows=6)).run(path))


def test_a_picture_is_the_pipelines_own(sd3: Model, finished: Inverted) -> None:
    """Same prompt, seed, steps, no guidance: what is sampled here is what the pipeline gives."""
    own = sd3.run(sd3.generation(finished.prompts, finished.seeds, num_steps=STEPS, guidance=1.0))
    for row, image in enumerate(own.images):
        assert np.abs(np.asarray(image, int) - np.asarray(finished.picture("source", row), int)).max() <= 1


def test_walks_scores_and_pictures_belong_together(finished: Inverted) -> None:
    noise, clean = finished.noise, finished.clean
    assert np.array_equal(finished.state(None, 0), noise) and np.array_equal(finished.state(None, STEPS), clean)
    assert np.array_equal(finished.state("euler", STEPS), clean)
    latent = finished.latent("euler")
    assert finished.score("noise_error", "euler") == pytest.approx(np.abs(latent - noise).mean((1, 2, 3)), rel=1e-5)
    missed = np.abs(finished.rebuilt("euler") - clean).mean((1, 2, 3))
    assert finished.score("reconstruction", "euler") == pytest.approx(missed, rel=1e-5)
    assert finished.score("nfe_invert", "euler").tolist() == [STEPS] * 6
    assert np.array_equal(noise[:2], fresh_noise(torch.zeros(2, *noise.shape[1:]), finished.seeds[:2]).numpy())


def test_the_step_between_two_states_is_the_prediction(finished: Inverted) -> None:
    """On the levels of the manifest: x' = x + (s' - s) v, by sampling and by inversion alike."""
    sigmas = [sigma for _, sigma in finished.manifest["levels"]]
    for arm in (None, "euler"):
        for step in range(STEPS):
            moved = finished.state(arm, step) + (sigmas[step + 1] - sigmas[step]) * finished.output(arm, step)
            assert np.allclose(moved, finished.state(arm, step + 1), atol=1e-5)


def test_an_oracle_finds_the_noise_and_forward_diffusion_is_what_it_says(finished: Inverted) -> None:
    assert np.allclose(finished.latent(ORACLE), finished.noise, atol=1e-4)
    assert finished.score("nfe_invert", ORACLE).tolist() == [0] * 6
    sigma = finished.manifest["levels"][0][1]
    assert sigma == 1  # so the latent is fresh noise, of the row's seed and not of the picture
    again = fresh_noise(torch.zeros(6, *finished.noise.shape[1:]), [seed + 1_000_003 for seed in finished.seeds])
    assert np.allclose(finished.latent(FORWARD), again.numpy(), atol=1e-6)


class Killed(Exception):
    """In place of a signal."""


def test_killed_anywhere_it_goes_on_with_the_same_numbers(sd3: Model, finished: Inverted, tmp_path: Path) -> None:
    """After any call of the denoiser; uncommitted rows read as NaN, committed ones are not walked again."""
    asked, path = question("euler", ORACLE, FORWARD, rows=6), tmp_path / "run"
    for calls in (2, 15, 26):
        left = calls

        def told(rows: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        with pytest.raises(Killed):
            study(sd3, asked).run(path, on_rows=told)
        manifest = json.loads((path / runfolder.MANIFEST).read_text())
        assert manifest["state"] == runfolder.INTERRUPTED
    known = open_study(path / runfolder.STORE, manifest["scores"])
    done = known.done
    assert done.any() and not done.all() and np.isnan(known.column("noise_error")[~done]).all()
    walked = 0

    def count(rows: int) -> None:
        nonlocal walked
        walked += rows

    again = Inverted(study(sd3, asked).run(path, on_rows=count))
    whole = study(sd3, asked).cost().rows
    assert 0 < walked < whole and again.manifest["spent"]["denoiser_rows"] > whole
    for arm in finished.arms:
        assert np.array_equal(again.latent(arm), finished.latent(arm))
        assert np.array_equal(again.score("psnr", arm), finished.score("psnr", arm))
    assert np.array_equal(again.pictures("euler"), finished.pictures("euler"))


def test_stopped_between_units_and_ends_only(sd3: Model, finished: Inverted, tmp_path: Path) -> None:
    """Without trajectories the sampling is walked again where an oracle needs it; the numbers are the same."""
    asked, path, stop = question("euler", ORACLE, FORWARD, rows=6, keep="ends"), tmp_path / "run", Stop()

    def told(rows: int) -> None:
        stop.asked = True

    with pytest.raises(StoppedError, match="2 of 6 rows"):
        study(sd3, asked).run(path, on_rows=told, stop=stop)
    run = Inverted(study(sd3, asked).run(path))
    assert np.array_equal(run.latent("euler"), finished.latent("euler"))
    assert ActivationStore(path, SAMPLE).sites == ("noise", "clean")
    assert "state" in ActivationStore(finished.path, phase("invert", "euler")).sites
    assert "location" not in analyze.analyze(run)
    with pytest.raises(RunExistsError, match=r"num_steps: 4 there, 5 now"):
        study(sd3, question("euler", ORACLE, FORWARD, rows=6, keep="ends", num_steps=5)).run(path)


@pytest.mark.parametrize("arch", ["sd3", "flux"])
def test_levels_are_those_that_the_pipeline_visits(arch: str) -> None:
    """Also where the pipeline shifts them by the size of the picture."""
    model, seen = tiny(arch), []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(float(kwargs.get("timestep", args[0] if args else None).flatten()[0]))

    handle = model.denoiser.register_forward_pre_hook(look, with_kwargs=True)
    model.run(model.generation(["a cat"], 0, num_steps=STEPS, guidance=1.0))
    handle.remove()
    found = used_schedule(model, STEPS)
    scale = found.timesteps[0] / seen[0]  # FLUX is told thousandths
    assert [scale * one for one in seen] == pytest.approx(found.timesteps, rel=1e-4)
    assert found.levels[-1].sigma == 0 and not model.denoiser._forward_pre_hooks


@pytest.mark.parametrize("arch", ["sd", "sdxl", "if", "flux"])
def test_every_family_runs(arch: str, tmp_path: Path) -> None:
    model = tiny(arch)
    method = "euler" if arch == "flux" else "ddim"
    run = Inverted(study(model, question(method, rows=3, num_steps=2, guidance=2.0)).run(tmp_path / "run"))
    assert np.isfinite(run.latent(method)).all() and run.picture(method, 2).size == model.picture_size()[::-1]
    assert run.manifest["spent"]["denoiser_rows"] == 3 * (2 * 2 + 2 + 2 * 2)  # guidance doubles all but the inversion


def test_given_pictures(sd3: Model, tmp_path: Path) -> None:
    """They are inverted as they are; their true noise is not known, so nothing is compared with it."""
    size = sd3.picture_size()
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("b", "red"), ("a", "blue")):
        Image.new("RGB", size[::-1], colour).save(folder / f"{name}.png")
    source = sources.folder(folder, size, ["a square"], 0)
    assert source.pictures is not None and source.pictures[:, 0, 0, 0].tolist() == [0, 255]  # in the order of names
    asked = question("euler", source=source, num_steps=2)
    run = Inverted(study(sd3, asked).run(tmp_path / "run"))
    assert not run.sampled and np.array_equal(run.pictures("source"), source.pictures)
    assert np.allclose(run.clean, encoded(sd3, source.pictures).numpy(), atol=1e-6)
    assert np.isnan(run.score("noise_error", "euler")).all() and np.isfinite(run.score("psnr", "euler")).all()


def picture(folder: Path, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Path:
    folder.mkdir()
    Image.new(mode, size).save(folder / "one.png")
    return folder


def test_pictures_that_do_not_fit(tmp_path: Path) -> None:
    size = (16, 16)
    with pytest.raises(ConfigError, match=r"has 8 x 16 pixels, the model makes 16 x 16; add --fit"):
        sources.folder(picture(tmp_path / "size", size=(8, 16)), size, [], 0)
    with pytest.raises(ConfigError, match=r"mode RGBA, the model takes RGB"):
        sources.folder(picture(tmp_path / "mode", "RGBA"), size, [], 0)
    fitted = sources.folder(tmp_path / "mode", size, [], 0, fit=True).pictures
    assert fitted is not None and (fitted == 255).all()  # transparent is white
    with pytest.raises(ConfigError, match="1 pictures for 2 prompts"):
        sources.folder(tmp_path / "mode", size, ["a", "b"], 0)
    with pytest.raises(ConfigError, match="is not a folder"):
        sources.folder(tmp_path / "absent", size, [], 0)
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="no picture"):
        sources.folder(tmp_path / "none", size, [], 0)
    (tmp_path / "none" / "broken.png").write_text("no picture")
    with pytest.raises(ConfigError, match="is not a readable picture"):
        sources.folder(tmp_path / "none", size, [], 0)


def test_encoding_and_decoding_are_on_one_scale() -> None:
    """IF denoises pixels, so there and back is the identity up to 8 bits."""
    model = tiny("if")
    given = np.random.default_rng(0).integers(0, 256, (3, *model.picture_size(), 3)).astype(np.uint8)
    states = encoded(model, given)
    assert float(states.min()) >= -1 and float(states.max()) <= 1
    assert np.array_equal(decoded(model, states), given)


def test_reencoding_inverts_what_the_autoencoder_makes(sd3: Model, tmp_path: Path) -> None:
    run = Inverted(study(sd3, question("euler", rows=2, reencode=True)).run(tmp_path / "run"))
    expected = encoded(sd3, run.pictures("source")).numpy()
    assert np.allclose(run.state("euler", STEPS), expected, atol=1e-4)
    assert not np.allclose(run.state("euler", STEPS), run.clean, atol=1e-2)


def test_arms_read_back_and_refuse() -> None:
    arm = parse_arm("fixed-point:iterations=2,anderson=true")
    assert arm == parse_arm(arm.label) and arm.build(INVERTERS).anderson is True  # type: ignore[attr-defined]
    assert arms.parse_arm("fixed-point:average_from=none").build(INVERTERS).average_from is None  # type: ignore[attr-defined]
    for text, message in [
        ("forwards", "did you mean forward"),
        ("forward:step=2", "no setting 'step'; did you mean steps"),
        ("belm:a=1", "has none"),
        ("forward:steps=two", "must be a number, found 'two'"),
        ("uni-inv:ask_clean=1", "true or false"),
        ("forward:2", "NAME:key=value"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_arm(text).build(INVERTERS)
    with pytest.raises(ConfigError, match="label of its own"):
        question("euler", "euler")
    with pytest.raises(ConfigError, match="sampler=own"):
        question("euler", "rf-solver", sampler="own")


def test_methods_are_examined_before_they_are_used(sd3: Model) -> None:
    with pytest.raises(ConfigError, match=r"ddim supports .* epsilon, v_.*; this one predicts flow; use .*euler"):
        _ = study(sd3, question("ddim")).examined
    schedule = schedule_of(DDIMScheduler(prediction_type="v_prediction"), 20)
    with pytest.warns(UserWarning, match=r"ddim-stock misses the noise by .* v at another state"):
        assert arms.examined(INVERTERS["ddim-stock"](), schedule).error > 0.1
    with pytest.warns(UserWarning, match="one level further"):
        arms.examined(parse_arm("forward:level=reference").build(INVERTERS), schedule)

    class Wrong(INVERTERS["ddim"]):  # type: ignore[misc,valid-type]
        def back(self, run: Any, step: int, x: Any, output: Any) -> Any:
            return 1.01 * super().back(run, step, x, output)

    with pytest.raises(ConfigError, match="does not invert this schedule"):
        arms.examined(Wrong(), schedule)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edit_friendly_gives_any_image_back(prediction: str) -> None:
    schedule = schedule_of(DDIMScheduler(prediction_type=prediction, steps_offset=1, set_alpha_to_one=False), 10)
    image, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = torch.tanh
    method = EditFriendly()
    found = method.invert(lambda x, t: model(x), schedule, image, InversionInputs(noise=noise))
    given = InversionInputs(companion=found.companion)
    assert torch.allclose(method.sample(lambda x, t: model(x), schedule, found.noise, given).clean, image)
    other = method.sample(lambda x, t: model(x) / 2, schedule, found.noise, given).clean
    assert not torch.allclose(other, image, atol=0.1)
    for step in range(10):  # each state is noised by itself
        alpha, sigma = schedule.levels[step]
        drawn = (found.states[step] - alpha * image) / sigma
        assert abs(float(drawn.std()) - 1) < 0.25 and abs(float((drawn * noise).mean())) < 0.3


def test_the_noise_of_a_step_is_diffusers() -> None:
    """Against LEDITS++'s own function for a DDIM scheduler."""
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    schedule = schedule_of(scheduler, 10)
    scheduler.set_timesteps(10)
    image, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = EditFriendly().invert(lambda x, t: torch.tanh(x), schedule, image, InversionInputs(noise=noise))
    assert found.companion is not None
    for step, timestep in enumerate(scheduler.timesteps):
        states, output = found.states, found.outputs[step]
        drawn, _ = compute_noise_ddim(scheduler, states[step + 1], states[step], int(timestep), output, 1.0)
        assert torch.allclose(found.companion[:, step], drawn, rtol=1e-3)


def test_out_of_memory_halves_what_runs_at_once() -> None:
    seen = []

    def walk(part: slice) -> Trajectory:
        rows = list(range(part.start, part.stop))
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        seen.append(rows)
        values = torch.tensor(rows, dtype=torch.float32)[None, :, None]
        return Trajectory(values, values, 7, values[0])

    room = Room()
    found = Trajectory.joined(in_parts(room, "walk", 5, walk))
    assert seen == [[0, 1], [2, 3], [4]] and found.nfe == 7
    assert found.states.flatten().tolist() == [0, 1, 2, 3, 4] and found.companion is not None
    in_parts(room, "walk", 3, walk)  # what fits is known by now
    assert seen[3:] == [[0, 1], [2]]


def test_true_noise_is_in_every_table(finished: Inverted) -> None:
    found = analyze.analyze(finished)
    json.dumps(found, allow_nan=False)
    rows = {row["what"]: row for row in found["correlation"]["rows"]}
    floor = found["correlation"]["floor"]
    assert floor == correlation.floor(6, 4 * 64, 20) and rows[ORACLE]["mean"] == pytest.approx(
        rows["true noise"]["mean"]
    )
    assert rows["true noise"]["excess"] == pytest.approx(rows["true noise"]["mean"] - floor)
    normal = {row["what"]: row for row in found["normality"]["rows"]}
    assert normal["true noise"]["std"] == pytest.approx(1, abs=0.05)
    areas = {row["what"]: row for row in found["plain"]["rows"]}
    assert areas["other noise"]["error_rest"] == pytest.approx(2 / np.sqrt(np.pi), abs=0.05)
    sides = {row["what"]: row for row in found["triangle"]["rows"]}
    assert sides["other noise"]["lengths"][1] == pytest.approx(np.sqrt(2 * 256), rel=0.05)
    assert found["triangle"]["sides"][1] == "noise-latent"


def test_errors_by_step_are_zero_for_an_oracle(finished: Inverted) -> None:
    found = analyze.analyze(finished)["steps"]
    assert max(found[ORACLE]["error"]) < 1e-6
    assert all(value > 1e-3 for value in found["euler"]["error"]) and found[FORWARD]["error"] == [None] * STEPS


def test_where_the_walks_lie(finished: Inverted) -> None:
    """Sampling starts at the noise, inversion ends at the latent; the map's distances are what they say."""
    found = analyze.analyze(finished, analyze.AnalysisSettings(points=3))["location"]["euler"]
    assert found["sampling"]["share"][0] == pytest.approx(0, abs=1e-6)
    assert found["inversion"]["share"][0] == pytest.approx(1, abs=1e-6)
    assert found["sampling"]["nearer_noise"][0] == 1 and found["inversion"]["nearer_noise"][0] == 0
    noise, latent = finished.noise, finished.latent("euler")
    half = np.linalg.norm((finished.clean - (noise + latent) / 2).reshape(6, -1), axis=1).mean()
    assert found["sampling"]["distances"][1][STEPS] == pytest.approx(half, rel=1e-5)


def test_plain_areas_are_looked_for_where_one_says(finished: Inverted) -> None:
    wide = analyze.plain_mask(finished, analyze.AnalysisSettings(threshold=1.0))
    assert wide.all() and wide.shape == (6, 8, 8)
    unit = analyze.plain_mask(finished, analyze.AnalysisSettings(threshold=0.2))
    signed = analyze.plain_mask(finished, analyze.AnalysisSettings(threshold=0.4, range="signed"))
    assert np.array_equal(unit, signed) and 0 < unit.mean() < 1
    states = analyze.plain_mask(finished, analyze.AnalysisSettings(threshold=0.8, domain="states"))
    assert not np.array_equal(states, unit)


def test_drawings_show_something(finished: Inverted) -> None:
    options = analyze.AnalysisSettings(threshold=0.2)
    drawn = plots.figures(analyze.analyze(finished, options))
    assert {"correlation", "geometry", "normality", "plain", "assignment", "steps", "location-0"} <= set(drawn)
    for image in drawn.values():
        assert image.width > 400 and len(image.getcolors(1 << 24) or ()) > 50
    sheet = pictures.overview(finished, analyze.plain_mask(finished, options), "euler", 2)
    assert sheet.width > 7 * CELL and sheet.height < 4 * CELL


@pytest.fixture(scope="module")
def sampler(sd3: Model, finished: Inverted) -> resample.LevelSampler:
    return resample.LevelSampler(sd3, finished)


def test_interpolation_ends_at_the_pictures(
    sampler: resample.LevelSampler, finished: Inverted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0 and 1 the pictures between true noises are the run's own, so their distance is that of the pairs alone."""
    metrics = [PLUGINS.metrics()["ssim"]()]  # type: ignore[list-item]
    options = InterpolateOptions(run=finished.path, limit=2, points=3)
    read: list[float] = []

    def brightness(pixels: Any, prompts: Any) -> list[float]:
        read.append(float(pixels.mean()))
        return [float(picture.mean()) for picture in pixels]

    prompted = Mock(wraps=resample.model_denoiser)
    monkeypatch.setattr(resample, "model_denoiser", prompted)
    found, drawn = interpolate.interpolate(sampler, options, ["euler"], metrics, brightness)
    assert prompted.call_count <= 1  # all sets of pictures have the same prompts
    assert [row["read"] for row in found["rows"]] == pytest.approx(read)  # each set of pictures once
    rows = {(row["what"], row["share"]): row for row in found["rows"]}
    assert found["pairs"] == 2 and set(rows) == {(what, s) for what in ("true noise", "euler") for s in (0, 0.5, 1)}
    assert rows["true noise", 0]["ssim_to_morph"] > 0.999 and rows["true noise", 1]["ssim_to_morph"] > 0.999
    assert rows["true noise", 0.5]["ssim_to_noise"] == 1 and rows["euler", 0]["ssim_to_noise"] < 0.999
    assert drawn["interpolate-pictures"].height > 4 * CELL
    gap, chance = rows["euler", 0.5]["frechet_beside_noise"]
    assert gap == pytest.approx(rows["euler", 0.5]["frechet"] - rows["true noise", 0.5]["frechet"])
    gap = rows["euler", 0.5]["read_beside_noise"][0]
    assert gap == pytest.approx(rows["euler", 0.5]["read"] - rows["true noise", 0.5]["read"])
    mean, *bounds = rows["euler", 0.5]["diversity_beside_noise"]
    assert mean == pytest.approx(rows["euler", 0.5]["diversity"] - rows["true noise", 0.5]["diversity"])
    assert 0 < chance <= 1 and len(bounds) == 2 and "frechet_beside_noise" not in rows["true noise", 0]


def test_couples_share_a_prompt() -> None:
    assert interpolate.couples(["a", "b", "a", "b", "a", "a"], 9) == [(0, 2), (1, 3), (4, 5)]
    assert interpolate.couples(["a", "b", "a", "b"], 1) == [(0, 2)]
    with pytest.raises(ConfigError, match="--distinct"):
        interpolate.couples(["a", "b"], 2)


def test_the_frechet_distance_of_pictures() -> None:
    """0 to itself; a shift by a grey level costs its square in every pixel that the components see."""
    own = np.random.default_rng(0).integers(0, 200, (200, 2, 2, 3)).astype(np.uint8)
    apart = interpolate.Frechet(own, 12)
    assert apart.to(own) == pytest.approx(0, abs=1e-6)
    assert apart.to(own + 20) == pytest.approx(12 * (20 / 255) ** 2, rel=1e-3)


def test_editing_to_the_own_prompt_changes_nothing(sampler: resample.LevelSampler, finished: Inverted) -> None:
    metrics = [PLUGINS.metrics()["ssim"]()]  # type: ignore[list-item]
    options = InvertEditOptions(run=finished.path, variations=2)
    found, _ = edit.edit(sampler, options, ["euler"], finished.prompts[:3], metrics)
    rows = {row["what"]: row for row in found["rows"]}
    assert rows["true noise"]["ssim_to_source"][0] > 0.999
    assert rows["euler"]["ssim_to_source"][0] > rows["other noise"]["ssim_to_source"][0]
    kept = [rows[what]["ssim_to_source"][0] for what in ("other noise", "true noise")]
    assert rows["other noise"]["beside_noise"]["ssim_to_source"][0] == pytest.approx(kept[0] - kept[1])
    assert rows["true noise"]["variations"][0] > 0 and "letters_to_target" not in rows["true noise"]

    class Letters:
        """Of the prompt that it is given."""

        name, needs = "letters", "prompt"

        def score(self, image: Image.Image, prompt: str) -> float:
            return float(len(prompt))

    options = InvertEditOptions(run=finished.path, variations=0)
    found, _ = edit.edit(sampler, options, ["euler"], ["a", "bc", "def"], [*metrics, Letters()])
    assert {row["letters_to_target"][0] for row in found["rows"]} == {2} and "ssim_to_source" in found["rows"][0]
    swapped = edit.deranged(finished.prompts, 3)
    assert all(new != old for new, old in zip(swapped, finished.prompts, strict=False))
    with pytest.raises(ConfigError, match="same prompt"):
        edit.deranged(["a", "a"], 2)


def test_another_model_is_refused(finished: Inverted) -> None:
    with pytest.raises(ConfigError, match="other weights"):
        resample.check_model(tiny("sdxl"), finished)


def test_ledits_borrows_the_model() -> None:
    model = tiny("sdxl")
    before = {name: type(one).__name__ for name, one in model.pipeline.unet.attn_processors.items()}
    given = np.full((1, 32, 32, 3), 90, np.uint8)
    made = ledits.edited(model, given, ["a cat"], ["a dog"], 3)
    assert made.shape == given.shape
    assert {name: type(one).__name__ for name, one in model.pipeline.unet.attn_processors.items()} == before
    with pytest.raises(ConfigError, match="multiples of 32"):
        ledits.edited(model, given[:, :16], ["a"], ["b"], 3)


def test_ledits_is_for_stable_diffusion_only(sd3: Model) -> None:
    with pytest.raises(ConfigError, match="not for a StableDiffusion3Pipeline"):
        ledits.editor(sd3)
    eight = SimpleNamespace(config=SimpleNamespace(in_channels=8))
    with pytest.raises(ConfigError, match="4 latent channels, this one has 8"):
        ledits.editor(SimpleNamespace(pipeline=SimpleNamespace(components={"unet": eight})))  # type: ignore[arg-type]


def flow(steps: int) -> Any:
    return schedule_of(FlowMatchEulerDiscreteScheduler(), steps)


def test_equal_calls_give_each_method_its_steps() -> None:
    methods = [
        InversionArm("euler"),
        InversionArm("rf-solver"),
        InversionArm("fixed-point", {"iterations": 3}),
        InversionArm("forward", {"steps": 2}),
    ]
    found = ablation.equal_calls(methods, 24, [1.0], INVERTERS, flow)
    steps = {arm.label: cell.num_steps for cell in found for arm in cell.arms}
    assert steps == {"euler": 24, "rf-solver": 12, "fixed-point:iterations=3": 6, "forward:steps=2": 26}
    with pytest.raises(ConfigError, match="more than 3 model calls"):
        ablation.equal_calls([InversionArm("fixed-point", {"iterations": 3})], 3, [1.0], INVERTERS, flow)


def test_cells_of_an_ablation(finished: Inverted) -> None:
    found = ablation.cells(
        [InversionArm("euler"), InversionArm("forward", {"steps": 2})], [0, 2, 30], [10, 50], [1.0, 3.0]
    )
    assert [cell.name for cell in found] == ["T10-w1", "T10-w3", "T50-w1", "T50-w3"]
    assert [arm.label for arm in found[0].arms] == ["euler", "forward:steps=2"]
    alone = ablation.cells([InversionArm("belm")], [0, 2], [10], [1.0])[0].arms
    assert [arm.label for arm in alone] == ["belm", "forward:steps=0", "forward:steps=2"]
    assert [ablation.replaced(label) for label in ("euler", "forward:steps=3", "forward", "belm")] == [0, 3, 2, None]
    rows = {row["method"]: row for row in ablation.measured(finished, analyze.AnalysisSettings())}
    assert rows[ORACLE]["noise_error"] < 1e-4 and rows["true noise"]["std"] == pytest.approx(1, abs=0.05)


def test_what_is_no_inversion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        Inverted(tmp_path)
    (tmp_path / "manifest.json").write_text('{"settings": {}}')
    with pytest.raises(ConfigError, match="is not an inversion"):
        Inverted(tmp_path)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Batches of another size must not change how sums are split over threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", imageonly.FAMILIES, ids=lambda one: one.name)
def test_models_without_text_run_too(family: type[imageonly.ImageOnly], tmp_path: Path) -> None:
    """Their pictures are the pipeline's own from the same noise, where it takes labels or nothing."""
    pipeline = family.tiny()
    model = Model(pipeline, family(), ref=f"tiny-random-{family.name}")
    source = sources.repeated(family.prompts, 2, 0)
    asked = question("ddim", "forward:steps=1", source=source)
    run = Inverted(study(model, asked).run(tmp_path / "run"))
    given = {"class_labels": [0]} if family.name == "dit" else {"batch_size": 1}
    options = {"guidance_scale": 1.0} if family.name == "dit" else {}
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    own = pipeline(**given, **options, generator=generator, num_inference_steps=STEPS).images[0]
    if family.name != "ddpm":  # whose pipeline adds noise at every step
        assert np.abs(np.asarray(own, int) - np.asarray(run.picture("source", 0), int)).max() <= 1
    assert run.picture("ddim", 1).size == (16, 16) and np.isfinite(run.latent("forward:steps=1")).all()


def test_published_sizes_of_models_without_text() -> None:
    """DiT-XL/2 has 675 M parameters (arXiv 2212.09748), LDM on CelebA-HQ 274 M (arXiv 2112.10752), DDPM 35.7 M."""
    own = re.compile(r"transformer_blocks\.(?!0\.)\d+\.norm1\.emb")  # diffusers' copies of one embedding
    found = {
        one.name: sum(p.numel() for name, p in one.full_size().named_parameters() if not own.match(name)) / 1e6
        for one in imageonly.FAMILIES
    }
    assert found == pytest.approx({"ddpm": 35.7, "ldm": 274, "dit": 675}, rel=0.01)


def test_classes_by_number_and_by_name() -> None:
    pipeline = imageonly.ByClass.tiny()
    assert [imageonly.label_of(pipeline, text) for text in ("7", "tench", "")] == [7, 0, 1000]
    with pytest.raises(ConfigError, match="did you mean tench"):
        imageonly.label_of(pipeline, "tensh")
