"""The measurement of memory, and what follows from it: pictures at once, slices, tiles, and more offloading."""

from __future__ import annotations

import functools
import gc
import importlib
import mmap
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cramped import cramped, first_rows, text_rows

from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core import measuring as measure
from t2iprobe.core import placement
from t2iprobe.core.batch_room import Need, Room
from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.measuring import DeviceMemory, HighWater, available, device_memory, peak
from t2iprobe.core.model import Generation, Model, Run
from t2iprobe.core.placement import Placement
from t2iprobe.registry import placing

MEBIBYTE, GB = 2**20, 10**9


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_is_what_was_held_for_a_while() -> None:
    """Twice: the first peak must not count as the second's."""
    gc.collect()  # what earlier tests left must not be freed meanwhile
    for size in (200, 60):
        with peak(torch.device("cpu")) as found, mmap.mmap(-1, size * MEBIBYTE) as fresh:  # not from malloc's own
            for start in range(0, len(fresh), mmap.PAGESIZE):
                fresh[start] = 1
        assert found.bytes is not None
        assert size * 0.9 <= found.bytes / MEBIBYTE <= size + 40


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_where_it_cannot_be_measured_nothing_is_said(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if device == "cpu":
        monkeypatch.setattr(measure, "PROCESS", tmp_path / "nowhere")
    with peak(torch.device(device)) as found:
        pass
    assert found.bytes is None


@pytest.mark.parametrize(("images", "drawn"), [(1, [1, 1]), (2, [1, 1]), (4, [1, 3]), (100, [1, 4])])
def test_a_probe_measures_time_on_no_more_images_than_will_be_drawn(
    images: int, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = Model(SD.tiny(), SD()), []
    run = model.run

    def counted(generation: Generation, **how: Any) -> Run:
        asked.append(len(generation.prompts))
        return run(generation, **how)

    monkeypatch.setattr(model, "run", counted)
    probe = model.probe({"guidance": 2.0}, images)
    assert asked == drawn
    assert 0 < probe.seconds_a_row < 5
    assert 0 < probe.seconds_an_image < 5


def test_what_comes_once_a_picture_is_not_counted_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder of 4 s, a denoiser of 1 s a call, on a clock that only they move: a plan counts each where it is."""
    model, now = Model(SD.tiny(), SD()), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds: float) -> Any:
        return lambda module, args: now.__setitem__(0, now[0] + seconds)

    model.pipeline.vae.decoder.register_forward_pre_hook(takes(4.0))
    model.denoiser.register_forward_pre_hook(takes(1.0))
    probe = model.probe({"guidance": 2.0}, 8)
    assert probe.seconds_a_row * 8 == pytest.approx(1.0) and probe.seconds_an_image * 4 == pytest.approx(4.0)


# how many at once


def test_rows_follow_from_what_each_takes_and_what_is_free() -> None:
    measured = Need.of({1: 16 * GB, 4: 19 * GB}, fixed=0)
    assert measured == Need(GB, 15 * GB)  # weights are the same for any number of rows
    assert measured.rows(24 * GB) == 9 and measured.rows(10 * GB) == 1
    assert Need.of({2: 19 * GB}, fixed=15 * GB) == Need(2 * GB, 15 * GB)
    assert Need.of({1: 9 * GB, 4: 9 * GB}, 0).each == 1  # something else decides the peak


def test_a_size_is_expected_then_measured_and_grows_or_shrinks() -> None:
    room, limit = Room(), 26 * GB
    expected = Need(3 * GB, 15 * GB)

    def most(wanted: int = 64) -> int:
        return room.most("draw", wanted, room.need("draw", expected), limit)

    assert most() == 3
    room.saw("draw", 3, 18 * GB)
    assert most() == 11 and most(wanted=8) == 8  # a third of what was expected
    room.shrink("draw", 11)
    assert most() == 5
    room.saw("draw", 5, 22 * GB)
    assert most() == 7  # more than half, because a measured batch says so, and less than what failed
    room.shrink("draw", 7)
    assert most() == 3


def test_a_size_that_was_asked_for_is_tried_whatever_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2iprobe.core.model_memory.device_memory", lambda device: DeviceMemory(2_700_000))
    model = Model(SD.tiny(), SD())
    found = model.at_once({})
    assert (found.rows, found.each, found.free) == (2, 16 * 16 * 1250 * 4, 2_700_000)
    assert str(found) == "at most 2 pictures at once (1.28 MB a picture, 2.7 MB available)"
    assert str(model.at_once({}, 9)) == "at most 9 pictures at once as asked"
    with cramped(model.denoiser, 1000, text_rows) as seen:
        model.run(["a cat"] * 5, num_steps=1, guidance=1.0)
        model.run(["a cat"] * 5, num_steps=1, guidance=1.0, batch_size=4)
    assert seen == [2, 2, 1, 4, 1]


def test_a_gpu_is_measured_between_the_first_step_and_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by numbers: 15 GB of weights and 1 GB a picture, where 2.5 MB a picture were expected of it."""
    model, rows = Model(SD.tiny(), SD()), [0]

    def count(module: Any, args: Any, kwargs: Any) -> None:
        rows[0] = len(kwargs["encoder_hidden_states"])

    model.denoiser.register_forward_pre_hook(count, with_kwargs=True)
    monkeypatch.setattr(HighWater, "bytes", property(lambda self: 15 * GB + rows[0] * GB))
    monkeypatch.setattr("t2iprobe.core.model_memory.device_memory", lambda device: DeviceMemory(20 * GB, 15 * GB))
    model.run(["a cat"] * 2, num_steps=2, guidance=1.0)
    assert model.at_once({"guidance": 1.0}).rows == 5 and model.at_once({"guidance": 1.0}).each == GB


def test_a_container_leaves_less_than_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "job" / "step"
    own.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    for folder, most in ((own, "max"), (own.parent, str(GB))):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{GB // 2}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {GB // 10}\n")
    monkeypatch.setattr(measure, "PROCESS", tmp_path)
    monkeypatch.setattr(measure, "GROUPS", tmp_path)
    assert available() == GB - GB // 2 + GB // 10
    assert device_memory(torch.device("cpu")) == DeviceMemory(available() // 2)


# decoding


@pytest.mark.parametrize("adapter", [SD, SD3])
def test_pictures_are_decoded_in_slices_bit_for_bit(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all pictures at once would take is known beforehand, so nothing has to fail first."""
    model = Model(adapter.tiny(), adapter())
    whole = model.run(["a cat", "a dog", "a cow"], num_steps=1)
    monkeypatch.setattr("t2iprobe.core.batches.DECODING", 2 * model.memory.picture_bytes({}))
    with cramped(model.pipeline.vae.decoder, 1000, first_rows) as seen:
        sliced = model.run(["a cat", "a dog", "a cow"], num_steps=1)
    assert seen == [2, 1]
    assert [one.tobytes() for one in sliced.images] == [one.tobytes() for one in whole.images]


def test_a_picture_that_cannot_be_decoded_whole_is_decoded_in_tiles() -> None:
    model = Model(SD.tiny(), SD())
    whole = model.run("a cat", num_steps=1)
    side = model.pipeline.vae.config.sample_size

    def small(module: Any, args: Any) -> None:
        if args[0].shape[-1] > 4:
            raise torch.OutOfMemoryError("on purpose")

    model.pipeline.vae.decoder.register_forward_pre_hook(small)
    with pytest.warns(UserWarning, match="decoded in overlapping tiles"):
        tiles = model.run("a cat", num_steps=1)
    assert tiles.images[0].size == whole.images[0].size and model.memory.tiles
    assert model.pipeline.vae.config.sample_size == side and not model.pipeline.vae.use_tiling


# more offloading


@pytest.mark.filterwarnings("ignore:.*:UserWarning:(accelerate|diffusers)")
def test_a_model_that_does_not_fit_after_all_moves_to_the_next_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU plays the device; ``none`` and ``model`` are made to fail, ``group`` works."""
    model, plain = (Model(SD3.tiny(), SD3()) for _ in range(2))
    demand = placement.demand_of(model.pipeline, {})
    model.placement = Placement("cpu", "float32", "none", demand, lower=("model", "group"))
    model.memory.step_down = functools.partial(placing.step_down, model.pipeline)

    def small(module: Any, args: Any) -> None:
        if model.placement.offload != "group":
            raise torch.OutOfMemoryError("on purpose")

    model.denoiser.register_forward_pre_hook(small)
    with pytest.warns(UserWarning) as said:
        run = model.run("a cat", num_steps=2)
    ways = [str(one.message) for one in said if "single picture" in str(one.message)]
    assert [way.rpartition("--offload ")[2] for way in ways] == ["model)", "group)"]
    assert run.images[0].tobytes() == plain.run("a cat", num_steps=2).images[0].tobytes()
    assert model.placement.lower == () and not model.memory.make_room(decoding=False)


def test_a_placement_that_was_asked_for_is_kept() -> None:
    model = Model(SD.tiny(), SD())
    model.placement = Placement("cpu", "float32", "none", placement.demand_of(model.pipeline, {}))
    with cramped(model.denoiser, 0, text_rows), pytest.raises(T2IProbeError, match="out of memory with 1 row"):
        model.run("a cat", num_steps=1)


# loading


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_checkpoint_is_not_held_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SD3 as wide as it is, in a process of its own: 1.4 GB of weights, read from files that count as well."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    loading = importlib.import_module("loading")
    loading.save("sd3-width", tmp_path)
    found = loading.in_a_process(tmp_path, side=64, steps=1)
    assert found["weights"] > GB
    assert found["loading"] < 1.2 * found["weights"] and found["both"] < 1.4 * found["weights"]
