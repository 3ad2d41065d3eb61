"""Starts, merges, penalties and states of continual personalization, against analytic cases and peft itself."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.continual.initializers import INITIALIZERS, PEFT, Start, free_rows, null_columns
from t2iprobe.plugins.continual.mergers import ExactSum, FactorSum, KeepLast, Magnitude, Svd, TaskUpdate, Ties
from t2iprobe.plugins.continual.methods import METHODS, PAPER, method, methods
from t2iprobe.plugins.continual.regularizers import CLora, Ewc, OLora
from t2iprobe.plugins.continual.subspace import Osf
from t2iprobe.plugins.continual.task_state import TaskState, fused, weight_of
from t2iprobe.training.lora import Lora
from t2iprobe.training.targets import choose, count

MODULES = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.add_k_proj")


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SD3.tiny(), SD3())


@pytest.fixture
def weights(model: Model) -> Iterator[dict[str, Tensor]]:
    """A copy of the denoiser's, which every test must leave behind."""
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    yield before
    after = model.denoiser.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def random_state(rank: int = 2, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sizes = {MODULES[0]: (16, 16), MODULES[1]: (16, 16)}
    state = {}
    for path, (out, width) in sizes.items():
        state[f"{path}.lora_A.weight"] = torch.randn(rank, width, generator=draw)
        state[f"{path}.lora_B.weight"] = torch.randn(out, rank, generator=draw)
    return state


def learnt(state: dict[str, Tensor], seed: int = 0) -> TaskUpdate:
    def delta(path: str) -> Tensor:
        return state[f"{path}.lora_B.weight"] @ state[f"{path}.lora_A.weight"]

    return TaskUpdate(MODULES, state, delta, len(state[f"{MODULES[0]}.lora_A.weight"]), seed)


def dense(state: TaskState) -> dict[str, Tensor]:
    found = {path: state.dense(path) for path in MODULES}
    assert all(one is not None for one in found.values())
    return found  # type: ignore[return-value]


def stable_rank(matrix: Tensor) -> float:
    values = torch.linalg.svdvals(matrix.double())
    return float(values.square().sum() / values[0] ** 2)


class TestColumnStart:
    """The paper's numbers at r = 64, d = 640 (continual.md, section 2)."""

    before = torch.randn(64, 640, generator=torch.Generator().manual_seed(0)) / 64

    def test_is_the_published_codes_vector(self) -> None:
        """There: the last row of V^T of each column's SVD, as a 1 x r matrix; its sign is LAPACK's choice."""
        found = null_columns(self.before)
        for j in range(0, 640, 80):
            wanted = torch.linalg.svd(self.before[:, j].double()[None], full_matrices=True).Vh[-1]
            assert min((found[:, j] - wanted).norm(), (found[:, j] + wanted).norm()) < 1e-6

    def test_columns_are_orthogonal_and_long(self) -> None:
        found = null_columns(self.before)
        assert (found * self.before).sum(dim=0).abs().max() < 1e-6
        assert torch.allclose(found.norm(dim=0), torch.ones(640), atol=1e-6)
        assert float(found.norm() / self.before.norm()) == pytest.approx(math.sqrt(64), rel=0.01)
        values = torch.linalg.svdvals(found)
        assert stable_rank(found) == pytest.approx(1.03, abs=0.01)
        assert float(values[0] ** 2 / values.square().sum()) == pytest.approx(0.973, abs=0.003)

    def test_zero_column_stays_finite(self) -> None:
        assert torch.isfinite(null_columns(torch.zeros(4, 3))).all()

    def test_rank_one_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="column-ortho needs a rank of at least 2"):
            INITIALIZERS["column-ortho"]().check({"a": 16}, 1, 5)

    @pytest.mark.parametrize(("name", "rank"), [("column-ortho-matched", 1.03), ("column-ortho-gaussian", 37)])
    def test_matched_starts_have_the_gaussian_norm(self, name: str, rank: float) -> None:
        drawn = torch.randn(64, 640, generator=torch.Generator().manual_seed(1)) / 64
        start: Any = INITIALIZERS[name]()
        found = start.columns(self.before, drawn)
        assert float(found.norm()) == pytest.approx(float(drawn.norm()), rel=1e-5)
        assert (found * self.before).sum(dim=0).abs().max() < 1e-6
        assert stable_rank(found) == pytest.approx(rank, rel=0.05)


class TestRowStart:
    def test_reads_nothing_that_was_learnt(self) -> None:
        draw = torch.Generator().manual_seed(0)
        first, up = torch.randn(64, 640, generator=draw) / 64, torch.randn(640, 64, generator=draw) * 1e-3
        drawn = torch.randn(64, 640, generator=draw) / 64
        found = free_rows(drawn, up @ first)
        assert (found @ first.T).abs().max() < 1e-6
        assert float(found.norm()) == pytest.approx(float(drawn.norm()), rel=1e-5)
        assert stable_rank(found) == pytest.approx(64, rel=1e-4)

    def test_ten_tasks_of_rank_64_fill_640_inputs(self) -> None:
        start = INITIALIZERS["row-ortho"]()
        start.check({"a": 640}, 64, 10)
        with pytest.raises(ConfigError, match=r"room for 10 tasks of rank 64 .* choose a rank of at most 58"):
            start.check({"a": 640}, 64, 11)


class TestStartsOnAModel:
    def started(self, model: Model, name: str, state: TaskState) -> Any:
        return INITIALIZERS[name]().attach(Start(model, MODULES, 2, state, seed=3))

    def test_first_task_starts_alike(self, model: Model, weights: dict[str, Tensor]) -> None:
        """Whatever the method does later; the SVD start of OSF is no LoRA and stays apart."""
        states = []
        for name in PAPER:
            lora: Any = method(name).initializer.attach(Start(model, MODULES, 2, TaskState("x"), seed=3))
            states.append(lora.state())
            lora.detach()
        assert all(torch.equal(states[0][key], one[key]) for one in states for key in states[0])
        assert all(not one[f"{path}.lora_B.weight"].any() for one in states for path in MODULES)

    def test_continue_takes_the_adapter(self, model: Model, weights: dict[str, Tensor]) -> None:
        state = TaskState("x", 1, adapter=random_state())
        lora = self.started(model, "continue", state)
        assert all(torch.equal(value, state.adapter[key]) for key, value in lora.state().items())
        lora.detach()

    @pytest.mark.parametrize("name", ["column-ortho", "column-ortho-matched", "column-ortho-gaussian"])
    def test_column_starts_use_the_last_rows(self, name: str, model: Model, weights: dict[str, Tensor]) -> None:
        rows = {path: random_state()[f"{path}.lora_A.weight"] for path in MODULES}
        lora = self.started(model, name, TaskState("x", 1, delta={path: torch.eye(16) for path in MODULES}, rows=rows))
        for path in MODULES:
            first, second = lora.matrices(path)
            assert (first * rows[path]).sum(dim=0).abs().max() < 1e-6
            assert not second.any()
        lora.detach()

    def test_osf_moves_the_least_directions_only(self, model: Model, weights: dict[str, Tensor]) -> None:
        before = {name for name, one in model.denoiser.named_parameters() if one.requires_grad}
        osf = Osf.attach(model, MODULES, rank=3)
        trained = {name for name, one in model.denoiser.named_parameters() if one.requires_grad}
        assert len(trained) == 3 * len(MODULES)
        with torch.no_grad():
            for one in osf.parameters():
                one.mul_(1.5)
        path = MODULES[0]
        left, _, _ = torch.linalg.svd(weights[f"{path}.weight"])
        change = osf.delta(path).detach()
        assert change.norm() > 0.01
        assert (left[:, :-3].T @ change).norm() < 1e-5 * change.norm()
        osf.detach()
        assert {name for name, one in model.denoiser.named_parameters() if one.requires_grad} == before

    @pytest.mark.parametrize("name", [*PEFT, "peft:init=pissa_niter_2"])
    def test_every_start_of_peft_begins_at_the_model_and_learns(
        self, name: str, model: Model, weights: dict[str, Tensor]
    ) -> None:
        """A start that were another one under its name would not show; those that peft makes kaiming are refused."""
        before = predicted(model)
        lora: Any = method(f"{name}+exact").initializer.attach(Start(model, MODULES, 2, TaskState("x"), seed=3))
        assert distance(predicted(model), before) < 1e-5
        learning = [one for one in lora.parameters() if one.requires_grad]
        assert learning and len(learning) == len(MODULES) * (1 if name == "mica" else 2)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        text = model.adapter.encode_prompts(model.pipeline, ["a dog"])
        out = model.adapter.predict(model.pipeline, latents, torch.tensor([500.0]), text)
        grads = torch.autograd.grad(out.square().mean(), learning, allow_unused=True)
        assert any(grad is not None and grad.any() for grad in grads)
        lora.detach()

    def test_an_odd_rank_is_refused_before_the_start(self) -> None:
        start = method("orthogonal+exact").initializer
        start.check({"a": 16}, 2, 5)
        with pytest.raises(ConfigError, match=r"the start orthogonal cannot have rank 3: .* even"):
            start.check({"a": 16}, 3, 5)

    def test_pissa_moves_the_base_and_gives_it_back(self, model: Model, weights: dict[str, Tensor]) -> None:
        lora = method("pissa+exact").initializer.attach(Start(model, MODULES, 2, TaskState("x"), seed=3))
        assert not torch.equal(weight_of(model.denoiser, MODULES[0]), weights[f"{MODULES[0]}.weight"])
        lora.detach()


class TestMerge:
    @pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # two adapters are meant
    def test_exact_is_both_adapters_at_once(self, model: Model, weights: dict[str, Tensor]) -> None:
        """peft's own way: both on the model, each with weight 1."""
        one, two = random_state(seed=0), random_state(seed=1)
        state = ExactSum().merge(ExactSum().merge(TaskState("x"), learnt(one)), learnt(two))
        with fused(model, MODULES, state):
            merged = predicted(model)
        denoiser: Any = model.denoiser
        for name, matrices in (("one", one), ("two", two)):
            denoiser.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(MODULES)), name)
            denoiser.load_state_dict(
                {key.replace(".weight", f".{name}.weight"): value for key, value in matrices.items()}, strict=False
            )
        denoiser.set_adapters(["one", "two"], [1.0, 1.0])
        summed = predicted(model)
        denoiser.delete_adapters(["one", "two"])
        denoiser.unload_lora()
        plain = predicted(model)
        assert distance(merged, summed) < 1e-4
        assert distance(merged, plain) > 0.1

    def test_exact_counts_its_rank(self) -> None:
        state = TaskState("x")
        for seed in range(3):
            state = ExactSum().merge(state, learnt(random_state(seed=seed)))
        assert (state.rank, state.tasks, state.kinds) == (6, 3, ["delta"])
        assert max(int(torch.linalg.matrix_rank(one)) for one in dense(state).values()) == 6

    def test_factor_sum_is_exact_and_cross_terms(self) -> None:
        one, two = random_state(seed=0), random_state(seed=1)
        state = FactorSum().merge(FactorSum().merge(TaskState("x"), learnt(one)), learnt(two))
        for path, found in dense(state).items():
            (a, b), (c, d) = ((m[f"{path}.lora_A.weight"], m[f"{path}.lora_B.weight"]) for m in (one, two))
            assert torch.allclose(found, b @ a + d @ c + b @ c + d @ a, atol=1e-5)
        assert state.rank == 2

    def test_magnitude_laws(self) -> None:
        draw = torch.Generator().manual_seed(0)
        old, new = torch.randn(40, 30, generator=draw), torch.randn(40, 30, generator=draw)
        merge = Magnitude().tensor
        found = merge(old, new)
        assert torch.equal(merge(torch.zeros_like(old), new), new)
        assert torch.equal(found.abs(), torch.maximum(old.abs(), new.abs()))
        assert ((found == old) | (found == new)).all()
        assert torch.equal(merge(found, found), found)
        assert torch.equal(merge(old, -old), -old)  # a tie is the new task's
        assert torch.equal(Magnitude(0.0).tensor(old, new), old)

    def test_magnitude_replaces_and_has_no_rank_bound(self) -> None:
        state = Magnitude().merge(
            Magnitude().merge(TaskState("x"), learnt(random_state())), learnt(random_state(seed=1))
        )
        assert state.rank is None
        assert int(torch.linalg.matrix_rank(dense(state)[MODULES[0]])) > 4

    @pytest.mark.parametrize("name", [name for name in METHODS if name != "osf"])
    def test_first_task_is_kept_as_it_is(self, name: str) -> None:
        one = random_state()
        state = method(name).merger.merge(TaskState("x"), learnt(one))
        for path, found in dense(state).items():
            assert torch.allclose(found, learnt(one).delta(path), atol=1e-5)

    def test_ties_keeps_the_large_that_agree(self) -> None:
        old, new = torch.tensor([4.0, -3.0, 0.1, 2.0]), torch.tensor([2.0, 3.5, 0.1, 0.0])
        # the smaller half of each goes; 4 and 2 agree, and of -3 and 3.5 the heavier sign wins
        assert Ties(density=0.5).tensor(old, new).tolist() == pytest.approx([3.0, 3.5, 0.0, 0.0])

    def test_dare_hangs_on_its_seed_alone(self) -> None:
        state = ExactSum().merge(TaskState("x"), learnt(random_state()))
        merger = method("dare").merger
        made = [dense(merger.merge(state, learnt(random_state(seed=1), seed=seed)))[MODULES[0]] for seed in (1, 1, 2)]
        torch.rand(3)
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])

    def test_svd_is_the_best_of_its_rank(self) -> None:
        first = Svd().merge(TaskState("x"), learnt(random_state()))
        state = Svd().merge(first, learnt(random_state(seed=1)))
        for path, found in dense(state).items():
            whole = sum(learnt(random_state(seed=seed)).delta(path) for seed in (0, 1))
            values = torch.linalg.svdvals(whole)
            assert float((found - whole).norm()) == pytest.approx(float(values[2:].norm()), rel=1e-4)
        assert state.rank == 2 and state.kinds == ["adapter"]
        assert first.bytes == state.bytes


def predicted(model: Model) -> Tensor:
    """What the denoiser says of fixed noise."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text = model.adapter.encode_prompts(model.pipeline, ["a dog"])
        return model.adapter.predict(model.pipeline, latents, torch.tensor([500.0]), text)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


class TestFuse:
    def test_peft_takes_a_merge_back_and_ours_does_not(self, model: Model, weights: dict[str, Tensor]) -> None:
        """The trap: fuse_lora, then add_adapter, and the model is the base again, with no more than a warning."""
        denoiser: Any = model.denoiser
        config = LoraConfig(r=2, lora_alpha=2, target_modules=list(MODULES), init_lora_weights=False)
        denoiser.add_adapter(config, "one")
        denoiser.fuse_lora()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            denoiser.add_adapter(config, "two")
        path = MODULES[0]
        trapped = torch.allclose(weight_of(denoiser, path), weights[f"{path}.weight"], atol=1e-6)
        denoiser.delete_adapters(["one", "two"])
        denoiser.unload_lora()
        denoiser.load_state_dict(weights)
        assert trapped, "peft no longer takes the merge back; say so in fusing.py"

        state = ExactSum().merge(TaskState("x"), learnt(random_state()))
        with fused(model, MODULES, state):
            lora = Lora.attach(model, MODULES, rank=2)
            now = weight_of(denoiser, path) - weights[f"{path}.weight"]
            assert torch.allclose(now, state.dense(path), atol=1e-5)  # type: ignore[arg-type]
            lora.detach()

    def test_half_precision_says_what_it_loses(self) -> None:
        """Relative error of small changes to float16 weights (continual.md, section 4 c): 81 %, 9 % and 1 %."""
        model = Model(SD3.tiny(), SD3())
        path = MODULES[0]
        draw = torch.Generator().manual_seed(0)
        layer: Any = model.denoiser.get_submodule(path)
        layer.weight = torch.nn.Parameter(torch.randn(640, 640, generator=draw) * 0.05)
        layer.in_features = layer.out_features = 640
        change = torch.randn(640, 640, generator=draw)
        lost = {}
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            model.denoiser.to(dtype)
            for size in (1e-5, 1e-4, 1e-3):
                with fused(model, [path], TaskState("x", 1, delta={path: change * size})) as share:
                    lost[dtype, size] = share
            model.denoiser.to(torch.float32)
        assert [lost[torch.float32, size] < 1e-3 for size in (1e-5, 1e-4, 1e-3)] == [True] * 3
        assert lost[torch.float16, 1e-5] > 0.5 > lost[torch.float16, 1e-4] > 0.02 > lost[torch.float16, 1e-3]
        assert lost[torch.bfloat16, 1e-5] > 0.9

    def test_another_scopes_state_is_refused(self, model: Model, weights: dict[str, Tensor]) -> None:
        state = TaskState("x", 1, delta={"transformer_blocks.2.attn.to_q": torch.ones(16, 16)})
        with pytest.raises(ConfigError, match="this scope does not adapt"), fused(model, MODULES, state):
            pass


class TestState:
    def test_comes_back_and_says_its_bytes(self, tmp_path: Path) -> None:
        state = TaskState(
            "base", 3, random_state(), {"a": torch.ones(2, 3)}, {"a": torch.ones(1, 3)},
            {"ewc": {"a": torch.ones(2, 3)}}, 6,
        )  # fmt: skip
        state.save(tmp_path / "one.safetensors")
        found = TaskState.load(tmp_path / "one.safetensors", "base")
        assert (found.tasks, found.rank, found.kinds) == (3, 6, ["adapter", "delta", "rows", "ewc"])
        assert all(torch.equal(found.adapter[key], value) for key, value in state.adapter.items())
        assert torch.equal(found.memory["ewc"]["a"], torch.ones(2, 3))
        assert found.bytes == state.bytes == 4 * (4 * 2 * 16 + 6 + 3 + 6)
        assert [one.name for one in tmp_path.iterdir()] == ["one.safetensors"]
        with pytest.raises(ConfigError, match="belongs to another model"):
            TaskState.load(tmp_path / "one.safetensors", "other")

    def test_a_damaged_one_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "one.safetensors"
        path.write_bytes(b"no tensors")
        with pytest.raises(ConfigError, match=r"one.safetensors is damaged"):
            TaskState.load(path, "base")

    def test_all_is_float32(self) -> None:
        state = ExactSum().merge(TaskState("x"), learnt(random_state()))
        assert {one.dtype for one in state.tensors.values()} == {torch.float32}


class TestPenalties:
    @contextmanager
    def on(self, model: Model, state: dict[str, Tensor]) -> Iterator[Lora]:
        lora = Lora.attach(model, MODULES, rank=2)
        try:
            lora.restore(state)
            yield lora
        finally:
            lora.detach()

    def test_c_lora(self, model: Model, weights: dict[str, Tensor]) -> None:
        past, now = ExactSum().merge(TaskState("x"), learnt(random_state())), random_state(seed=1)
        wanted = sum((dense(past)[path] * learnt(now).delta(path)).square().sum() for path in MODULES)
        with self.on(model, now) as lora:
            found = CLora(2.0).penalty(past, lora, MODULES)()
            assert found.item() == pytest.approx(2 * float(wanted), rel=1e-4)
            assert torch.autograd.grad(found, lora.matrices(MODULES[0])[0])[0].any()

    def test_o_lora_is_the_sum_over_all_tasks(self, model: Model, weights: dict[str, Tensor]) -> None:
        """From the triangular root alone, which is smaller than the adapters once they are many."""
        memory: Any = {}
        past = [random_state(seed=seed) for seed in range(12)]
        for state in past:
            with self.on(model, state) as lora:
                trainer: Any = SimpleNamespace(lora=lora)
                memory = OLora().remember(memory, trainer, MODULES)
        assert {tuple(root.shape) for root in memory.values()} == {(16, 16)}
        now = random_state(seed=20)
        with self.on(model, now) as lora:
            found = OLora(1.0).penalty(TaskState("x", 12, memory={"o-lora": memory}), lora, MODULES)().item()
        keys = [f"{path}.lora_A.weight" for path in MODULES]
        wanted = sum((one[key] @ now[key].T).square().sum() for one in past for key in keys)
        assert found == pytest.approx(float(wanted), rel=1e-4)

    def test_ewc_is_the_mean_squared_gradient(self, model: Model, weights: dict[str, Tensor]) -> None:
        """With the loss of row n replaced by n times a linear function of the weight, the mean is known."""
        weight = weight_of(model.denoiser, MODULES[0])

        class Feed:
            def rows(self, numbers: list[int]) -> Any:
                return SimpleNamespace(clean=torch.zeros(1, 1), conditioning=None, number=numbers[0])

        class Objective:
            count = 0

            def draw(self, rows: int, generator: torch.Generator) -> Tensor:
                return torch.zeros(rows)

            def losses(self, *_: Any) -> Tensor:
                self.count += 1
                return (self.count * 3.0 * weight[0, 0] + 0 * weight_of(model.denoiser, MODULES[1]).sum())[None]

        with self.on(model, random_state()) as lora:
            settings = SimpleNamespace(seed=0)
            trainer: Any = SimpleNamespace(lora=lora, feed=Feed(), objective=Objective(), settings=settings)
            found = Ewc(rows=2).remember({MODULES[0]: torch.ones(16, 16)}, trainer, MODULES)
            value = Ewc(4.0).penalty(TaskState("x", 1, memory={"ewc": found}), lora, MODULES)().item()
        assert float(found[MODULES[0]][0, 0]) == pytest.approx(1 + (3**2 + 6**2) / 2)
        assert float(found[MODULES[0]][1, 1]) == 1
        assert not weight.requires_grad
        delta = learnt(random_state()).delta
        wanted = sum((found[path] * delta(path).square()).sum() for path in MODULES)
        assert value == pytest.approx(2 * float(wanted), rel=1e-4)


class TestNames:
    def test_parts(self) -> None:
        found = method("row-ortho+ties:density=0.3,weight=2+ewc:strength=5,rows=2")
        assert (found.initializer.name, found.merger, found.regularizer) == ("row-ortho", Ties(0.3, 2.0), Ewc(5.0, 2))
        assert isinstance(method("naive").merger, KeepLast)
        assert method("peft:init=pissa_niter_2+exact").record()["initializer"] == {
            "name": "peft",
            "init": "pissa_niter_2",
        }

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("nave", "no method 'nave'; did you mean naive"),
            ("gaussian+exat", "no merger 'exat'; did you mean exact?"),
            ("gaussian+ties:denisty=1", "has no setting 'denisty'; did you mean density?"),
            ("gaussian+ties:density=x", "density must be a number, found 'x'"),
            ("gaussian+ties:density=2", "above 0 and below 1; found 2"),
            ("gaussian+exact+ewc:strength=0", "the strength must be above 0"),
            ("gaussian+keep", "continue and keep can only be used together"),
            ("continue+exact", "continue and keep can only be used together"),
            ("osf+factor-sum", "osf trains no adapter"),
            ("pissa+factor-sum", "leaves the weights as they are"),
            ("a+b+c+d", r"write a method as START\+MERGE"),
            ("peft:init=pisa+exact", "no start 'pisa'; did you mean pissa"),
            ("peft:init=eva+exact", "the start eva needs inputs of the task's own data"),
            ("peft:init=lora_ga+exact", "the start lora_ga needs gradients"),
            ("peft:init=corda+exact", "the start corda needs covariances"),
            ("peft:init=loftq+exact", "the start loftq needs a quantised model"),
        ],
    )
    def test_refusals(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
            method(text)

    def test_twice(self) -> None:
        with pytest.raises(ConfigError, match="naive is given twice"):
            methods(["naive", "naive"])


def test_published_sdxl_has_the_papers_targets() -> None:
    """560 projections of 140 attentions, and the parameters at r = 64 and r = 4 (continual.md, section 7)."""
    unet = SDXL.full_size()
    pipeline = SimpleNamespace(unet=unet)
    targets = choose(SDXL(), pipeline, "all-attention")
    assert len(targets.modules) == 560
    assert {path.rpartition(".attn")[2][2:] for path in targets.modules} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert count(SDXL(), pipeline, targets, 64).trained == 92_897_280
    assert count(SDXL(), pipeline, targets, 4).trained == 5_806_080
    assert sum(unet.get_submodule(path).weight.numel() for path in targets.modules) == 955_187_200  # type: ignore[union-attr,operator]
