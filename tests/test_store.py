"""The activation store: exact, checked, resumable, bounded, and a donor like any other."""

from __future__ import annotations

import errno
import json
import multiprocessing
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.cli import main
from t2iprobe.core import parse
from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError, DamagedError, LockedError, RunExistsError, SiteError, StoreError
from t2iprobe.core.interventions import ablate, patch
from t2iprobe.core.model import Generation, Model, Run
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.lock import LOCK, lock
from t2iprobe.core.store import codecs, keys, verify
from t2iprobe.core.store.buffers import Buffers
from t2iprobe.core.store.capture import capture, layout_of, plan
from t2iprobe.core.store.codecs import NONE, Codec
from t2iprobe.core.store.layout import Layout, SiteLayout
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.core.store.worker import Worker
from t2iprobe.core.store.writer import ActivationWriter
from t2iprobe.core.study import export
from t2iprobe.core.study.stored_results import StoredResults
from t2iprobe.core.sweep import TrialResult
from t2iprobe.core.trials import Trial, source

COND, UNCOND = Branch.COND, Branch.UNCOND
PROMPTS = ["a sign that says DOG", "a red CAT on the sign", "the sign"]
STEPS = 3
SITE = "blocks.0.mlp.out"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def build(adapter: type[Adapter] = SD3) -> Model:
    return Model(adapter.tiny(), adapter())


@pytest.fixture(scope="module")
def sd3() -> Model:
    return build()


def generation(model: Model, steps: int = STEPS) -> Generation:
    return model.generation(PROMPTS, seed=[0, 1, 2], num_steps=steps)


def stored(model: Model, where: keys.Where, sites: Any, *, steps: int = STEPS, **options: Any) -> ActivationStore:
    asked = generation(model, steps)
    return capture(model, asked, layout_of(model, asked, sites, **{"batch": 2, **options}), where)


def pixels(run: Run) -> Any:
    return np.stack([np.asarray(image, np.int16) for image in run.images])


# writing by hand: one site, made-up values


def layout(rows: int = 3, steps: Sequence[int] = (0, 1), *, batch: int = 2, site: str = SITE, **more: Any) -> Layout:
    prompts = tuple(f"prompt {row}" for row in range(rows))
    entry = SiteLayout(site, ("token", "channel"), more.pop("static", False))
    return Layout((entry,), prompts, tuple(range(rows)), tuple(steps), batch=batch, **more)


def made_up(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Any bits there are: also NaN with payloads, infinities and negative zeros."""
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    bits[..., :1, :] = 0
    return torch.from_numpy(bits).view(dtype).reshape(shape)


def fill(writer: ActivationWriter, values: Tensor, units: Sequence[int] | None = None) -> None:
    """Stream ``values`` (step, row, token, channel) as a run would."""
    (entry,) = writer.layout.entries
    for unit in writer.todo if units is None else units:
        with writer.unit(unit) as rows:
            for number, step in enumerate(writer.layout.steps):
                writer.add([Key(entry.name, step, COND)], tuple(rows), values[number, list(rows)])


def bits(value: Tensor) -> Any:
    return value.contiguous().view(torch.uint8)


CODECS = [NONE, Codec("zstd", 1, "shuffle"), Codec("lz4", 1, "bitshuffle")]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(CODECS),
    rows=st.integers(1, 5),
    batch=st.integers(1, 4),
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True).map(sorted),
    rest=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    site=st.sampled_from([SITE, "text", "__odd.text"]),
    static=st.booleans(),
)
def test_round_trip_is_exact(
    dtype: torch.dtype,
    codec: Codec,
    rows: int,
    batch: int,
    steps: list[int],
    rest: tuple[int, int],
    site: str,
    static: bool,
) -> None:
    values = made_up((len(steps), rows, *rest), dtype)
    where = MemoryStore()
    with ActivationWriter(where, "run", layout(rows, steps, batch=batch, site=site, codec=codec, static=static)) as one:
        fill(one, values)
    store = ActivationStore(where)
    assert (store.sites, store.layout.steps, store.missing) == ((site,), tuple(steps), ())
    for number, step in enumerate(steps):
        expected = values[0 if static else number]
        assert torch.equal(bits(store[site, step, COND]), bits(expected))
        assert torch.equal(bits(store.fetch(site, step, COND, [rows - 1, 0])), bits(expected[[rows - 1, 0]]))
    assert store[site, steps[0], COND].dtype == dtype


def test_a_dtype_that_has_no_stored_form_is_refused() -> None:
    with ActivationWriter(MemoryStore(), "run", layout()) as writer, pytest.raises(Exception, match="not complex64"):
        fill(writer, torch.zeros(2, 3, 1, 1, dtype=torch.complex64))


def test_a_slice_reads_no_neighbour() -> None:
    """One row at one step, of rows as large as real ones, costs that row's bytes and the index of its file."""
    where = Counting(MemoryStore())
    values = made_up((2, 4, 64, 1024), torch.float32)
    with ActivationWriter(where, "run", layout(4, batch=4, codec=NONE)) as writer:
        fill(writer, values)
    store = ActivationStore(where)
    store.fetch(SITE, 0, COND, [0])
    where.bytes = 0
    assert torch.equal(bits(store.fetch(SITE, 1, COND, [2])), bits(values[1, [2]]))
    assert where.bytes < 1.01 * values[0, 0].nbytes


def test_small_chunks_share_files() -> None:
    where = MemoryStore()
    with ActivationWriter(where, "run", layout(2, range(50))) as writer:
        fill(writer, made_up((50, 2, 4, 4), torch.float32))
    assert len([key for key in keys.listed(where) if f"/{COND}/c." in key]) == 1


def test_select_takes_steps_rows_and_tokens() -> None:
    values = torch.randn(3, 5, 4, 2)
    where = MemoryStore()
    with ActivationWriter(where, "run", layout(5, (0, 4, 8))) as writer:
        fill(writer, values)
    store = ActivationStore(where)
    assert torch.equal(store.select(SITE), values)
    picked = store.select(SITE, steps=[8, 0], rows=[4, 1, 4], tokens=[3, 0])
    assert torch.equal(picked, values[[2, 0]][:, [4, 1, 4]][:, :, [3, 0]])
    assert torch.equal(store.fetch(SITE, 4, COND, store.rows_of("prompt 3")), values[1, [3]])
    assert (SITE, 4, COND) in store and (SITE, 1, COND) not in store and (SITE, 4, UNCOND) not in store
    assert (len(store), store.rows, store.steps(SITE), store.steps("text")) == (1, 5, (0, 4, 8), ())


def test_what_is_not_there_is_said() -> None:
    where = MemoryStore()
    with ActivationWriter(where, "run", layout()) as writer:
        fill(writer, torch.zeros(2, 3, 1, 1), units=[1])
    store = ActivationStore(where)
    with pytest.raises(SiteError, match="at step 7, branch cond, is not in the store; it holds steps 0, 1"):
        store.fetch(SITE, 7, COND, [2])
    with pytest.raises(SiteError, match=f"it holds sites {SITE}"):
        store.fetch("text", 0, COND, [2])
    with pytest.raises(SiteError, match=r"rows \[3\] of .* which has 3"):
        store.fetch(SITE, 0, COND, [3])
    with pytest.raises(SiteError, match=r"rows 0, 1 of .* not captured yet"):
        store.select(SITE)
    with pytest.raises(SiteError, match="no token 1; there are 1"):
        store.select(SITE, rows=[2], tokens=[1])
    with pytest.raises(ConfigError, match="no captured run 'rum'; there are run"):
        ActivationStore(where, "rum")
    with pytest.raises(ConfigError, match="is not a Zarr store"):
        ActivationStore("/nowhere")


# from a model


@pytest.mark.parametrize("adapter", [SD3, SD], ids=lambda adapter: adapter.name)
def test_the_store_holds_what_the_cache_holds(adapter: type[Adapter], tmp_path: Path) -> None:
    model = build(adapter)
    some = ["text", "blocks.1.*", "blocks.2.*"]
    store = stored(model, tmp_path / "study.zarr", some)
    cache = model.run(generation(model), cache=some, batch_size=2).cache
    addresses = [(site.name, step, branch) for site in model.sites for step in range(9) for branch in Branch]
    held = [address for address in addresses if address in cache]
    static = {site.name for site in model.sites if site.static}
    assert [one for one in addresses if one in store and one[0] not in static] == [
        one for one in held if one[0] not in static
    ]
    assert set(store) == set(cache) and all(torch.equal(store[name], cache[name]) for name in cache)
    assert all(torch.equal(store[address], cache[address]) for address in held)
    assert store.sites == model.sites.match(*some).names


def test_every_evaluation_of_a_second_order_scheduler_is_kept(tmp_path: Path) -> None:
    model = build(SD)
    model.pipeline.scheduler = HeunDiscreteScheduler.from_config(model.pipeline.scheduler.config)
    site = "blocks.1.cross_attn.q"
    store = stored(model, tmp_path, site)
    cache = model.run(generation(model), cache=site, batch_size=2).cache
    for step, evaluation in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]:
        expected = cache.fetch(site, step, COND, range(3), evaluation)
        assert torch.equal(store.fetch(site, step, COND, range(3), evaluation), expected)
    assert Key(site, 2, COND, 1) not in store and not verify.verify(tmp_path).damaged
    with pytest.raises(SiteError, match="step 2, evaluation 2"):
        store.fetch(site, 2, COND, [0], 1)
    edits = [patch(store, site, rows={0: 1})]
    lock_step = model.run(generation(model), interventions=[patch({0: 1}, site)], batch_size=2)
    assert (pixels(model.run(generation(model), interventions=edits, batch_size=2)) == pixels(lock_step)).all()


@pytest.mark.parametrize("adapter", [SD3, SD], ids=lambda adapter: adapter.name)
def test_a_store_is_a_donor_like_the_others(adapter: type[Adapter], tmp_path: Path) -> None:
    model = build(adapter)
    sites, asked = model.text_sites(model.n_layers // 2), generation(model)
    store = stored(model, tmp_path, sites, batch=3)
    plain = model.run(asked, cache=sites)
    rows = {0: 1}
    donors = [patch(store, sites, rows=rows), patch(plain.cache, sites, rows=rows), patch(rows, sites)]
    disk, memory, lock_step = (pixels(model.run(asked, interventions=[edit])) for edit in donors)
    assert (disk == memory).all() and (disk == lock_step).all() and (disk != pixels(plain))[0].any()


def test_static_sites_are_stored_once_and_read_at_any_step(tmp_path: Path) -> None:
    model = build(SD)
    site = "blocks.1.cross_attn.k"
    store = stored(model, tmp_path, [site, "blocks.1.cross_attn.q"], steps=4)
    shapes = {size.site: size.shape for size in verify.table(tmp_path)}
    assert (len(shapes[site]), len(shapes["blocks.1.cross_attn.q"])) == (3, 4)
    cache = model.run(generation(model, 4), cache=site, batch_size=2).cache
    assert all(torch.equal(store[site, step, UNCOND], cache[site, step, UNCOND]) for step in range(4))


def test_an_edited_run_is_not_taken_for_static(tmp_path: Path) -> None:
    model = build(SD)
    site, asked = "blocks.1.cross_attn.k", model.generation(PROMPTS[0], num_steps=2)
    edit = ablate(site, scope=None)
    with (
        ActivationWriter(tmp_path / "a", "run", layout_of(model, asked, site)) as writer,
        pytest.raises(ConfigError, match="static=False"),
        writer.unit(0),
    ):
        model.run(asked, cache=site, into=writer, interventions=[edit])
    with ActivationWriter(tmp_path / "b", "run", layout_of(model, asked, site, static=False)) as writer, writer.unit(0):
        run = model.run(asked, cache=site, into=writer, interventions=[edit])
    assert len(run.cache) == 0
    assert not ActivationStore(tmp_path / "b")[site, 1, COND].any()


def test_only_the_steps_and_branches_asked_for_are_kept(sd3: Model, tmp_path: Path) -> None:
    site = "blocks.1.joint_attn.k"
    asked = generation(sd3, 4)
    kept = layout_of(sd3, asked, site, steps=[0, 2], branches=[COND], batch=3)
    store = capture(sd3, asked, kept, tmp_path)
    cache = sd3.run(asked, cache=site).cache
    assert [step for step in range(4) if (site, step, COND) in store] == [0, 2]
    assert (site, 0, UNCOND) not in store
    assert torch.equal(store[site, 2, COND], cache[site, 2, COND])
    with pytest.raises(ConfigError, match="this run has steps 0-3"):
        layout_of(sd3, asked, site, steps=[4])


def test_a_site_that_never_came_is_no_finished_unit(sd3: Model, tmp_path: Path) -> None:
    asked = generation(sd3)
    kept = layout_of(sd3, asked, ["blocks.0.mlp.out", "blocks.1.mlp.out"], batch=3)
    with ActivationWriter(tmp_path, "run", kept) as writer:
        with pytest.raises(StoreError, match=r"blocks\.1\.mlp\.out did not arrive"), writer.unit(0) as rows:
            sd3.run(asked, cache="blocks.0.mlp.out", into=writer, rows=rows)
        assert writer.todo == [0]


def test_a_step_that_never_came_is_no_finished_unit() -> None:
    with (
        ActivationWriter(MemoryStore(), "run", layout(2, (0, 1, 2))) as writer,
        pytest.raises(StoreError, match="did not arrive at step 1"),
        writer.unit(0) as rows,
    ):
        for step in (0, 2):
            writer.add([Key(SITE, step, COND)], tuple(rows), torch.zeros(2, 1, 1))


def test_out_of_memory_halves_the_batch_and_the_store_is_whole(
    sd3: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, asked = "blocks.1.mlp.out", generation(sd3)
    expected = sd3.run(asked, cache=site, batch_size=1).cache
    real, calls = sd3.denoiser.forward, 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        rows = kwargs["hidden_states"].shape[0]
        if rows > 2 and calls > 1:  # the second step of every batch of more than one row
            raise torch.OutOfMemoryError("on purpose")
        return real(*args, **kwargs)

    monkeypatch.setattr(sd3.denoiser, "forward", forward)
    store = capture(sd3, asked, layout_of(sd3, asked, site, batch=3), tmp_path)
    for step in range(STEPS):
        torch.testing.assert_close(store[site, step, COND], expected[site, step, COND])


# damage


def damaged_copies(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every chunk in turn with one bit flipped; it is whole again afterwards."""
    rng = np.random.default_rng(0)
    for path in sorted([*folder.rglob("c/**/*"), *folder.rglob("c.*")]):
        if path.is_file():
            whole = path.read_bytes()
            broken = bytearray(whole)
            broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            yield path.relative_to(folder).as_posix(), path
            path.write_bytes(whole)


@pytest.mark.parametrize("codec", [NONE, Codec("zstd", 1, "shuffle")], ids=lambda codec: codec.name)
@pytest.mark.parametrize("width", [3, 20_000], ids=["chunks share a file", "a row is a chunk"])
def test_a_flipped_bit_in_any_chunk_is_reported(codec: Codec, width: int, tmp_path: Path) -> None:
    with ActivationWriter(tmp_path, "run", layout(4, codec=codec)) as writer:
        fill(writer, torch.randn(2, 4, 4, width))
    assert not verify.verify(tmp_path).damaged
    seen = 0
    for name, path in damaged_copies(tmp_path):
        assert [one.chunk for one in verify.verify(tmp_path).damaged] == [name]
        if f"/{COND}/" in name:
            with pytest.raises(DamagedError, match=name):
                ActivationStore(tmp_path).select(SITE)
            seen += 1
        assert path.is_file()
    assert seen >= 2


def test_a_damaged_row_is_not_read_past_and_others_still_read(tmp_path: Path) -> None:
    values = torch.randn(1, 2, 4, 20_000)
    with ActivationWriter(tmp_path, "run", layout(2, (0,), codec=NONE)) as writer:
        fill(writer, values)
    (path,) = (path for path in tmp_path.rglob(f"{COND}/c.*") if path.is_file())
    broken = bytearray(path.read_bytes())
    broken[10] ^= 1  # in the first row
    path.write_bytes(broken)
    store = ActivationStore(tmp_path)
    assert torch.equal(store.fetch(SITE, 0, COND, [1]), values[0, [1]])
    with pytest.raises(DamagedError):
        store.fetch(SITE, 0, COND, [0])
    path.unlink()
    with pytest.raises(DamagedError, match="it is missing"):
        store.fetch(SITE, 0, COND, [1])
    assert [one.reason for one in verify.verify(tmp_path).damaged] == ["it is missing"]


# interruption


class Failing(WrapperStore[MemoryStore]):
    """A disk that is full after some writes of activations."""

    def __init__(self, store: MemoryStore, room: int = 10**9) -> None:
        super().__init__(store)
        self.room = room

    async def set(self, key: str, value: Any) -> None:
        if "/c/" in key or "/c." in key:
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        await super().set(key, value)


class Counting(WrapperStore[MemoryStore]):
    """Counts the bytes that are read."""

    bytes = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        self.bytes += 0 if found is None else len(found)
        return found


def test_a_full_disk_is_one_clear_error_and_the_rest_reads(sd3: Model) -> None:
    inner, site = MemoryStore(), ["blocks.0.mlp.out", "blocks.1.mlp.out"]
    whole = stored(sd3, MemoryStore(), site, batch=1)
    full = Failing(inner)
    asked = generation(sd3)
    kept = layout_of(sd3, asked, site, batch=1)
    ActivationWriter(full, "capture", kept).close()
    for room in (3, 9, 1, 7):
        full.room = room
        with pytest.raises(StoreError, match=r"cannot be written: no space left"):
            capture(sd3, asked, kept, full)
        store = ActivationStore(inner)
        for row in set(range(3)) - set(store.missing):
            assert torch.equal(store.fetch(site[0], 1, COND, [row]), whole.fetch(site[0], 1, COND, [row]))
        if not store.missing:
            break
    full.room = 10**9
    capture(sd3, asked, kept, full)
    store = ActivationStore(inner)
    assert not store.missing and all(torch.equal(store[name, 2, COND], whole[name, 2, COND]) for name in site)


def test_an_interrupted_capture_goes_on_where_it_stopped(sd3: Model, tmp_path: Path) -> None:
    site, asked = "blocks.1.mlp.out", generation(sd3)
    kept = layout_of(sd3, asked, site, batch=1)
    steps = 0

    def stop(rows: int, step: int) -> None:
        nonlocal steps
        steps += 1
        if steps == STEPS + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(sd3, asked, kept, tmp_path, on_step=stop)
    assert ActivationStore(tmp_path).missing == (1, 2)
    seen: list[int] = []
    there: list[int] = []
    store = capture(sd3, asked, kept, tmp_path, on_step=lambda rows, step: seen.append(step), on_skip=there.append)
    assert (there, len(seen)) == ([1], 2 * STEPS)
    cache = sd3.run(asked, cache=site, batch_size=1).cache
    assert all(torch.equal(store[site, step, COND], cache[site, step, COND]) for step in range(STEPS))


def test_other_activations_under_one_name_are_refused_untouched(sd3: Model, tmp_path: Path) -> None:
    stored(sd3, tmp_path, "blocks.1.mlp.out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunExistsError, match=r"sites: \['blocks\.1\.mlp\.out'\] there, .*steps: "):
        asked = generation(sd3)
        capture(sd3, asked, layout_of(sd3, asked, "blocks.0.mlp.out", steps=[0]), tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def writing(folder: Path, ready: Any) -> None:
    """What a process does that is killed."""
    prompts = tuple(f"prompt {i}" for i in range(40))
    kept = Layout((SiteLayout("text", ("token", "channel")),), prompts, tuple(range(40)), tuple(range(6)), batch=2)
    with lock(folder), ActivationWriter(folder / "study.zarr", "run", kept) as writer:
        ready.set()
        verify.sweep_up(folder)  # as capture does
        for unit in writer.todo:
            with writer.unit(unit) as rows:
                for step in kept.steps:
                    value = torch.stack([torch.full((64, 64), 100.0 * step + row) for row in rows])
                    writer.add([Key("text", step, Branch.COND)], tuple(rows), value)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # as in test_study_kill.py
def test_killed_at_any_moment_nothing_false_is_read_and_it_goes_on(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")
    for wait in (0.02, 0.08):
        ready = forked.Event()
        process = forked.Process(target=writing, args=(tmp_path, ready))
        process.start()
        assert ready.wait(60)
        with pytest.raises(LockedError, match=f"process {process.pid} on "), lock(tmp_path):
            pass
        time.sleep(wait)
        process.kill()
        process.join()
        store = ActivationStore(tmp_path)
        done = [row for row in range(40) if row not in store.missing]
        assert not verify.verify(tmp_path).damaged
        for row in done:
            assert (store.fetch("text", 5, COND, [row]) == 500 + row).all()
    writing(tmp_path, threading.Event())
    store = ActivationStore(tmp_path)
    assert not store.missing and not verify.garbage(tmp_path)
    assert torch.equal(store.select("text")[:, :, 0, 0], torch.arange(6.0)[:, None] * 100 + torch.arange(40.0))


def test_garbage_is_what_no_mark_covers(tmp_path: Path) -> None:
    with ActivationWriter(tmp_path, "run", layout(4)) as writer:
        fill(writer, torch.randn(2, 4, 3, 3))
    whole = keys.listed(LocalStore(tmp_path))
    (tmp_path / "activations/run/committed/c/1").unlink()
    left = tmp_path / f"activations/run/{SITE}/{COND}/c.0.0.0.x.partial"
    left.write_bytes(b"half")
    assert ActivationStore(tmp_path).missing == (2, 3)
    found = verify.sweep_up(tmp_path)
    assert sorted(found) == sorted([f"activations/run/{SITE}/{COND}/c.0.1.0.0", left.relative_to(tmp_path).as_posix()])
    assert len(keys.listed(LocalStore(tmp_path))) == len(whole) - 2
    assert not verify.garbage(tmp_path) and ActivationStore(tmp_path).missing == (2, 3)


# bounded memory


def test_the_queue_holds_no_more_than_its_limit() -> None:
    held, most, count = 0, 0, threading.Lock()
    gate = threading.Event()

    def work(item: int) -> None:
        nonlocal held
        gate.wait()
        with count:
            held -= item

    worker = Worker(work, 100)

    def feed() -> None:
        nonlocal held, most
        for _ in range(50):
            worker.put(30, 30)
            with count:
                held += 30
                most = max(most, held)

    feeder = threading.Thread(target=feed)
    feeder.start()
    time.sleep(0.05)
    assert held == 90
    gate.set()
    feeder.join()
    worker.wait()
    worker.close()
    assert most <= 120  # a put that has returned may be counted before the work that made room


def test_memory_is_used_again_but_not_hoarded() -> None:
    buffers = Buffers(100)
    small, other, large = torch.ones(10), torch.ones(12), torch.ones(50)
    first = buffers.take(small)
    buffers.give(first)
    assert buffers.take(other) is not first and buffers.take(small.double()) is not first
    assert buffers.take(small) is first and buffers.take(small) is not first
    for buffer in (first, large):  # more than the limit: alone
        buffers.give(buffer)
    assert buffers.take(small) is not first and buffers.take(large) is large


def test_pieces_of_one_file_by_several_threads_all_arrive(tmp_path: Path) -> None:
    """A run in smaller batches than a unit: each piece reads its file, changes it and writes it again."""
    value = torch.randn(3, 16, 4, 4)
    kept = layout(16, range(3), batch=16)
    with ActivationWriter(tmp_path, "run", kept) as writer, writer.unit(0):
        for row in range(16):
            for step in range(3):
                writer.add([Key(SITE, step, COND)], [row], value[step, row : row + 1])
    assert torch.equal(ActivationStore(tmp_path).select(SITE), value)


def test_an_error_in_the_thread_is_raised_where_values_are_put() -> None:
    def work(item: int) -> None:
        raise OSError(errno.EIO, "on purpose")

    worker = Worker(work, 10)
    with pytest.raises(OSError, match="on purpose"):
        for _ in range(100):
            worker.put(1, 10)
    worker.abandon()
    worker.close()


def test_shards_in_the_making_keep_to_their_share() -> None:
    from t2iprobe.core.store.layout import grid

    kept, row = layout(64, range(1000), batch=8), 4096
    few, many = (grid(kept, kept.entries[0], (32, 32), row, arrays, 64 << 20) for arrays in (1, 2000))
    assert few.steps == (4 << 20) // (8 * row) and many.steps * 8 * row * 2000 <= 64 << 20
    assert grid(kept, kept.entries[0], (4096, 1024), 16 << 20, 1, 1).chunk == (1, 1, 4096, 1024)


# packing


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_to_the_nearest_and_keeps_what_is_special(dtype: torch.dtype) -> None:
    value = torch.randn(1000, dtype=torch.float64).to(dtype)
    value[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]).to(dtype)
    value[4:10] = torch.finfo(dtype).tiny / torch.tensor([1, 2, 3, 7, 100, 900], dtype=torch.float64).to(dtype)
    new = codecs.to_tensor(codecs.rounded(codecs.to_numpy(value), dtype, 4), str(dtype).removeprefix("torch."))
    assert torch.equal(new[:4].nan_to_num(7), value[:4].nan_to_num(7))
    error, size = (new[4:].double() - value[4:].double()).abs(), value[4:].double().abs()
    tiny = torch.finfo(dtype).tiny  # below it the bits lie evenly, and the error is one of the smallest normal number
    assert 2**-7 < (error / size.clamp(min=tiny)).max() <= 2**-5
    mantissa = codecs.DTYPES[dtype][2]
    assert torch.equal(bits(torch.from_numpy(codecs.rounded(codecs.to_numpy(value), dtype, mantissa))), bits(value))


def test_rounding_makes_a_store_smaller_and_is_said(sd3: Model, tmp_path: Path) -> None:
    site = "blocks.1.mlp.out"
    exact = stored(sd3, tmp_path / "exact", site)
    coarse = stored(sd3, tmp_path / "coarse", site, round_bits=4)
    small, large = (verify.table(tmp_path / name)[0].stored for name in ("coarse", "exact"))
    assert small < 0.7 * large
    assert (exact.layout.round_bits, coarse.layout.round_bits) == (None, 4)
    torch.testing.assert_close(coarse[site, 1, COND], exact[site, 1, COND], rtol=2**-5, atol=0)


def test_packing_is_chosen_by_what_it_saves() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).view(np.float32)
    smooth = np.repeat(np.arange(1 << 12, dtype=np.float32), 64)
    assert codecs.choose([noise]) == NONE
    found = codecs.choose([smooth])
    assert found.name != "none" and found.ratio < 0.1
    assert codecs.choose([]) == NONE


def test_the_plan_says_what_it_will_take(sd3: Model, tmp_path: Path) -> None:
    asked = generation(sd3)
    found = plan(sd3, asked, layout_of(sd3, asked, ["text", "blocks.*.joint_attn.k"], steps=[0, 2], batch=3))
    capture(sd3, asked, found.layout, tmp_path)
    sizes = verify.table(tmp_path)
    assert found.raw == sum(size.raw for size in sizes)
    assert found.stored == pytest.approx(sum(size.stored for size in sizes), rel=0.2)
    assert found.rows == 3 * STEPS * 2 and found.seconds > 0


def test_the_plan_counts_skip_layer_guidance(sd3: Model, tmp_path: Path) -> None:
    skip = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9}
    asked = sd3.generation(PROMPTS, num_steps=4, guidance=3.0, options=skip)
    found = plan(sd3, asked, layout_of(sd3, asked, "blocks.0.joint_attn.k"))
    store = capture(sd3, asked, found.layout, tmp_path)
    assert found.raw == sum(size.raw for size in verify.table(tmp_path))
    assert store.branches("blocks.0.joint_attn.k") == tuple(Branch)


def test_a_plan_takes_latents_and_texts_of_several_rows(sd3: Model) -> None:
    latents = torch.zeros(3, 4, 8, 8)
    asked = sd3.generation(PROMPTS, num_steps=STEPS, latents=latents, options={"negative_prompt": ["", "a", "b"]})
    assert plan(sd3, asked, layout_of(sd3, asked, "text")).rows == 3 * STEPS * 2


# elsewhere: labels, URLs, scores


def test_xarray_shows_labels(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    values = torch.randn(2, 3, 4, 2)
    with ActivationWriter(tmp_path, "run", layout(3, (0, 4))) as writer:
        fill(writer, values)
    with xarray.open_zarr(tmp_path, group=f"activations/run/{SITE}", chunks=None) as found:
        assert found["cond"].dims == ("step", "batch", "token", "channel")
        assert found["step"].values.tolist() == [0, 4] and found["seed"].values.tolist() == [0, 1, 2]
        assert set(found.coords) == {"step", "prompt", "seed"}
        assert np.array_equal(found["cond"].sel(step=4).values[found["prompt"].values == "prompt 2"][0], values[1, 2])


def test_xarray_shows_a_whole_store(tmp_path: Path) -> None:
    """Sites of different sizes, captured after a study in the same store; and none that was removed."""
    xarray = pytest.importorskip("xarray")
    StoredResults(tmp_path, ["a"], ["ssim"])
    for name, channels in (("blocks.0.mlp.out", 2), ("blocks.1.mlp.out", 3)):
        with ActivationWriter(tmp_path, name, layout(site=name)) as writer:
            fill(writer, torch.randn(2, 3, 4, channels))
    with xarray.open_datatree(tmp_path, engine="zarr") as found:
        shapes = [found[f"activations/blocks.{i}.mlp.out/blocks.{i}.mlp.out/cond"].shape for i in (0, 1)]
        assert shapes == [(2, 3, 4, 2), (2, 3, 4, 3)] and "ssim" in found.data_vars
    verify.remove_activations(tmp_path, "blocks.1.mlp.out")
    with xarray.open_datatree(tmp_path, engine="zarr") as found:
        assert list(found["activations"]) == ["blocks.0.mlp.out"]


def test_any_url_that_fsspec_knows_will_do() -> None:
    where = "memory://test-store/study.zarr"
    values = torch.randn(2, 3, 4, 2)
    with ActivationWriter(where, "run", layout()) as writer:
        fill(writer, values, units=[0])
    with ActivationWriter(where, "run", layout()) as writer:
        assert writer.todo == [1]
        fill(writer, values)
    assert torch.equal(ActivationStore(where).select(SITE), values)
    assert verify.verify(where).damaged == [] and verify.table(where)[0].raw == values.nbytes


def test_an_object_store_over_s3_will_do() -> None:
    pytest.importorskip("moto")
    obstore = pytest.importorskip("obstore")
    from moto.server import ThreadedMotoServer
    from zarr.storage import ObjectStore

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        import urllib.request

        url = f"http://{host}:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        remote = obstore.store.S3Store(
            "bucket", endpoint=url, access_key_id="x", secret_access_key="x", region="us-east-1",
            virtual_hosted_style_request=False, client_options={"allow_http": True},
        )  # fmt: skip
        where = ObjectStore(remote)
        values = torch.randn(2, 3, 4, 2)
        with ActivationWriter(where, "run", layout()) as writer:
            fill(writer, values)
        assert torch.equal(ActivationStore(where).select(SITE), values)
        assert verify.verify(where).damaged == []
        verify.remove_activations(where)
        assert not verify.activations(where)
    finally:
        server.stop()


def scores(folder: Path) -> Path:
    """Two trials of two pairs, one of them not measured."""
    memory = StoredResults(folder / "study.zarr", ["a, b", "c"], ["ocr_f1", "ssim"])
    trials = [source(), Trial("6", ("k",), (6,))]
    values = {"source": 0.5, "6": 1.0}
    memory.put(
        TrialResult(0, {label: {"ocr_f1": one, "ssim": one + 1} for label, one in values.items()}, {}, 1, 1), trials
    )
    memory.put(TrialResult(1, {"6": {"ocr_f1": 0.25, "ssim": 1.25}}, {}, 1, 1), trials[1:])
    return folder


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_scores_are_exported_with_their_labels(ending: str, tmp_path: Path) -> None:
    out = tmp_path / f"scores.{ending}"
    export.write(export.scores(scores(tmp_path / "run")), out)
    if ending == "csv":
        lines = out.read_text().splitlines()
        assert lines == [
            "trial,pair,ocr_f1,ssim", 'source,"a, b",0.5,1.5', "source,c,,", '6,"a, b",1.0,2.0', "6,c,0.25,1.25",
        ]  # fmt: skip
        return
    table = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    assert table[1] == {"trial": "source", "pair": "c", "ocr_f1": None, "ssim": None}
    assert table[3] == {"trial": "6", "pair": "c", "ocr_f1": 0.25, "ssim": 1.25}


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"t2iprobe\[parquet\]"):
        export.write([{"trial": "a"}], tmp_path / "scores.parquet")


# the command line

Call = Callable[..., tuple[int, str, str]]
LINES = '\ufeff\na sign that says "OPEN"\n  # not this\na red cat\n\nthe sign\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny"
    SD3.tiny().save_pretrained(path)
    return str(path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: str) -> Call:
    """Runs the command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(LINES)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2iprobe", *(folder if part == "FOLDER" else part for part in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


ASK = (
    "capture",
    "--model",
    "FOLDER",
    "--sites",
    "blocks.*.joint_attn.k",
    "--prompts",
    "prompts.txt",
    "--num-steps",
    "3",
)


def test_capture_end_to_end(call: Call, tmp_path: Path) -> None:
    ask = (*ASK, "--steps", "0:3:2", "--out", "run", "--format", "json")
    code, out, err = call(*ask, "--max-bytes", "1kB", "--yes")
    answer = json.loads(out)
    assert code == 0 and "plan: 3 sites × 2 of 3 steps × 3 prompts" in err, err
    assert (answer["rows"], answer["steps"], answer["sites"]) == (3, [0, 2], 3)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["state"] == "finished" and manifest["settings"]["options"]["steps"] == "0:3:2"
    assert manifest["settings"]["weights"] and manifest["arguments"]["out"] == "run" and manifest["plugins"]
    store = ActivationStore(tmp_path / "run")
    assert store.prompts == ('a sign that says "OPEN"', "a red cat", "the sign")
    code, again, err = call(*ask)
    assert code == 0 and "has this run already" in err
    assert json.loads(again)["stored_bytes"] == answer["stored_bytes"]

    code, out, _ = call("store", "info", "run", "--format", "json")
    sizes = json.loads(out)["arrays"]
    assert code == 0 and sum(size["raw"] for size in sizes) == answer["raw_bytes"]
    assert call("store", "info", "run")[0] == 0 and call("store", "verify", "run")[0] == 0

    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    code, out, err = call(*ask, "--seed", "1")
    assert (code, out) == (2, "") and "seed: 0 there, 1 now" in err
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_store_verify_and_rm(call: Call, tmp_path: Path) -> None:
    assert call(*ASK, "--out", "run", "--batch-size", "2")[0] == 0
    run = tmp_path / "run"
    chunk = next(path for path in sorted(run.rglob(f"{COND}/c.*")) if path.is_file())
    broken = bytearray(chunk.read_bytes())
    broken[0] ^= 255
    chunk.write_bytes(broken)
    code, out, _ = call("store", "verify", "run", "--format", "json")
    name = chunk.relative_to(run / "study.zarr").as_posix()
    assert code == 1 and [one["chunk"] for one in json.loads(out)["damaged"]] == [name]
    assert name in call("store", "verify", "run")[1]

    (run / "study.zarr/activations/capture/committed/c/0").unlink()
    (run / "manifest.json.part").write_text("x")
    with lock(run):
        assert "is being written by process" in call("store", "rm", "run")[2]
    code, out, _ = call("store", "rm", "run", "--format", "json")
    assert code == 0 and json.loads(out)["removed"] == 3 * 2 + 1
    assert not (run / "manifest.json.part").exists()
    code, out, err = call(*ASK, "--out", "run", "--batch-size", "2", "--format", "json")
    assert code == 0 and "1 of 3 prompts were captured before" in err, err
    assert call("store", "verify", "run")[0] == 0


def test_store_rm_asks_before_it_removes_activations(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ActivationWriter(tmp_path / "run/study.zarr", "run", layout()) as writer:
        fill(writer, torch.randn(2, 3, 3, 3))
    monkeypatch.setattr("builtins.input", lambda: "n")
    assert call("store", "rm", "run", "--activations")[0] == 2
    assert ActivationStore(tmp_path / "run").missing == ()
    monkeypatch.setattr("builtins.input", lambda: "y")
    assert call("store", "rm", "run", "--activations")[0] == 0
    assert not (tmp_path / "run/study.zarr/activations").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_store_rm_touches_nothing_outside_the_store(call: Call, tmp_path: Path) -> None:
    with ActivationWriter(tmp_path / "run/study.zarr", "capture", layout()) as writer:
        fill(writer, torch.randn(2, 3, 3, 3))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    for name, said in (
        ("../../../precious", "no captured run"),
        ("captur", "did you mean capture"),
        ("", "--run is empty"),
    ):
        code, out, err = call("store", "rm", "run", "--activations", "--run", name, "--yes")
        assert (code, out) == (2, "") and said in err, err
    code, _, err = call("store", "rm", "run", "--run", "capture")
    assert code == 2 and "--run does nothing without --activations" in err
    assert contents(tmp_path) == before

    (tmp_path / "run/study.zarr/activations").rename(tmp_path / "elsewhere")
    (tmp_path / "run/study.zarr/activations").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    code, out, err = call("store", "rm", "run", "--activations", "--yes")
    assert (code, out) == (2, "") and "is a link" in err
    assert contents(tmp_path) == before


def test_links_in_a_run_folder_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "run" / f".{runfolder.MANIFEST}.part").symlink_to(tmp_path / "thesis.txt")
    runfolder.write_manifest(tmp_path / "run", {"settings": {}})
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(ConfigError, match="is a link"), lock(tmp_path / "run"):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert runfolder.read_manifest(tmp_path / "run") == {"settings": {}}


def test_store_export_at_the_command_line(call: Call, tmp_path: Path) -> None:
    scores(tmp_path / "run")
    code, out, _ = call("store", "export", "run", "--out", "scores.csv", "--format", "json")
    assert code == 0 and json.loads(out)["rows"] == 4 and (tmp_path / "scores.csv").is_file()
    code, out, err = call("store", "export", "run", "--out", "scores.xls")
    assert (code, out) == (2, "") and "neither in .csv nor in .parquet" in err


BAD = {
    "beyond the budget": ((*ASK, "--max-bytes", "1kB"), "more than --max-bytes 1kB"),
    "no size": ((*ASK, "--max-bytes", "lots"), "is not a size"),
    "no file": ((*ASK[:6], "nowhere.txt"), "cannot read the prompts in nowhere.txt"),
    "no prompt": ((*ASK[:6], "empty.txt"), "empty.txt holds no prompts"),
    "no text": ((*ASK[:6], "binary.txt"), "binary.txt is UTF-16 text"),
    "no site": (("capture", "--model", "FOLDER", "--sites", "blocks.*.cross_attn.k", *ASK[5:]), "no site matches"),
    "no step": ((*ASK, "--steps", "2:9"), "0:3"),
    "no branch": ((*ASK, "--branch", "con"), "cond"),
    "no model": (("capture", *ASK[3:]), "name a model"),
    "no run": (("store", "info", "nowhere"), "not a Zarr store"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(what: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# only this\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    arguments, said = BAD[what]
    code, out, err = call(*arguments, *(("--out", "run") if arguments[0] == "capture" else ()))
    assert (code, out) == (2, ""), err
    assert said in err and not (tmp_path / "run").exists()


def test_sizes_are_read_and_written() -> None:
    assert [parse.size(text) for text in ("10GiB", "500 MB", "7", "1.5k")] == [10 << 30, 500_000_000, 7, 1500]
    assert [parse.size_text(count) for count in (0, 999, 12_345, 5e9)] == ["0 B", "999 B", "12.3 kB", "5 GB"]


HOW_TO = Path(__file__).parents[1] / "docs" / "how-to" / "capture-activations.md"


@pytest.mark.docs
def test_the_how_to_runs(call: Call, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for kind, block in re.findall(r"```(bash|python)\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL):
        if kind == "bash":
            for line in block.splitlines():
                command, *words = shlex.split(line, comments=True)
                if command == "t2iprobe":  # not as a process of its own, which takes seconds to import torch
                    assert call(*words)[0] == 0, line
                else:
                    subprocess.run(["bash", "-ec", line], check=True)
        else:
            exec(compile(block, str(HOW_TO), "exec"), names)
    assert (tmp_path / "patched.png").is_file() and not verify.activations(tmp_path / "runs/keys")
