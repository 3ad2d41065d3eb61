"""What a researcher types in Python works as it is typed."""

from __future__ import annotations

import gc
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import t2iprobe as t2i
from t2iprobe.api import calls
from t2iprobe.core.errors import ConfigError, SiteError, StoppedError
from t2iprobe.core.interventions import names
from t2iprobe.core.store.capture import capture, layout_of
from t2iprobe.plugins.organisms.recipes import WEIGHTS

A, B = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
K, V, Z = (f"blocks.6.joint_attn.{port}" for port in "kvz")
STEPS = 4
pytestmark = pytest.mark.skipif(
    not (WEIGHTS / "tiny-sd3" / "model_index.json").is_file(), reason="the weights of tiny-sd3 are not there"
)


@pytest.fixture(scope="module")
def model() -> t2i.Model:
    return t2i.load("tiny-sd3", device="cpu")


@pytest.fixture(scope="module")
def run(model: t2i.Model) -> t2i.Run:
    return model.run(B, seed=0, num_steps=STEPS, cache="blocks.6.joint_attn.[kv]")


def same(one: t2i.Run, other: t2i.Run) -> bool:
    return [image.tobytes() for image in one.images] == [image.tobytes() for image in other.images]


def test_a_prompt_prompts_and_a_generation_are_the_same_run(model: t2i.Model, run: t2i.Run) -> None:
    generation = model.generation(B, 0, num_steps=STEPS)
    for again in (model.run(generation), model.run([B], seed=[0], num_steps=STEPS)):
        assert same(run, again) and again.prompts == (B,)


def test_a_whole_cache_is_patched_as_its_sites_are(model: t2i.Model, run: t2i.Run) -> None:
    listed = model.run(A, num_steps=STEPS, interventions=[t2i.patch(run.cache, run.cache.sites)])
    whole = model.run(A, num_steps=STEPS, patch=run.cache)
    assert same(listed, whole) and not same(whole, model.run(A, num_steps=STEPS))


def test_a_single_name_is_a_name(model: t2i.Model) -> None:
    zero = t2i.Intervention(lambda act, hook: act * 0, Z)
    assert zero.sites == (Z,) == names(Z)
    assert not model.run(A, num_steps=2, cache=Z, interventions=[zero]).cache[Z].any()


def test_a_cache_is_read_like_a_dictionary(run: t2i.Run) -> None:
    cache = run.cache
    assert list(cache) == list(cache.keys()) == [K, V] and len(cache) == 2
    assert K in cache and Z not in cache and (K, 0, t2i.Branch.COND) in cache
    assert cache.branches(K) == (t2i.Branch.UNCOND, t2i.Branch.COND)
    assert cache.evaluations(K) == tuple((step, 0) for step in range(STEPS))
    tokens, channels = cache[K, 0, t2i.Branch.COND].shape[1:]
    assert cache[K].shape == (1, STEPS, 2, tokens, channels)
    assert all(torch.equal(value, cache[name]) for name, value in cache.items())
    assert torch.equal(cache[K][:, 2, 1], cache[K, 2, t2i.Branch.COND])
    with pytest.raises(SiteError, match=r"did you mean blocks\.6\.joint_attn\.k or"):
        cache["blocks.6.joint_attn.kk"]
    with pytest.raises(SiteError, match="at step 9"):
        cache[K, 9, t2i.Branch.COND]


def test_rows_and_branches_that_are_left_out_leave_no_axis_out(model: t2i.Model) -> None:
    """One branch, several rows in batches of one: the axes stay where they are."""
    cache = model.run([A, B, A], num_steps=2, guidance=1.0, cache=K, batch_size=1).cache
    assert cache[K].shape[:3] == (3, 2, 1) and torch.equal(cache[K][0], cache[K][2])


def test_a_store_is_read_and_patched_from_as_a_cache(model: t2i.Model, run: t2i.Run, tmp_path: Path) -> None:
    generation = model.generation(B, 0, num_steps=STEPS)
    store = capture(model, generation, layout_of(model, generation, [K, V], steps=None), tmp_path / "study.zarr")
    assert store.keys() == (K, V) and torch.equal(store[K], run.cache[K])
    assert same(model.run(A, num_steps=STEPS, patch=store), model.run(A, num_steps=STEPS, patch=run.cache))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompts": 3}, "takes a prompt, a list of prompts or a Generation, found 3 of type int"),
        ({"prompts": [A, None]}, "found None of type NoneType"),
        ({"prompts": t2i.Generation((A,), (0,)), "seed": 1}, "seed beside a Generation"),
        ({"prompts": A, "patch": {0: 1}}, "takes a cache or a store, found a dict"),
        ({"prompts": A, "patch": t2i.ablate(Z)}, "put an Intervention into interventions="),
        ({"prompts": A, "num_inference_steps": 4}, "run takes no num_inference_steps=; use num_steps="),
        ({"prompts": A, "clip_skip": 1}, "options={'clip_skip': …}"),
        ({"prompts": A, "negative_prompt": B, "options": {"negative_prompt": A}}, "negative prompt is given twice"),
        ({"prompts": A, "negative_prompt": B, "guidance": 1.0}, "works through classifier-free guidance"),
        ({"prompts": A, "sead": 4}, "run takes no sead=; did you mean seed"),
        ({"prompts": A, "interventions": t2i.ablate(Z)}, "takes a list"),
        ({"prompts": A, "interventions": [Z]}, "found 'blocks.6.joint_attn.z'"),
        ({"prompts": A, "cache": [None]}, "names or patterns, such as .* found None"),
    ],
)
def test_another_kind_of_argument_is_said_in_a_sentence(model: t2i.Model, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        model.run(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda run: t2i.patch(run, K), "found a Run; pass its .cache"),
        (lambda run: t2i.patch(K, run.cache), "found a str; write t2i.patch"),
        (lambda run: t2i.ablate(K, kind="mean", reference=run), "reference= takes a cache or a store, found a Run"),
        (lambda run: t2i.ablate(K, step=3), "a scope has no 'step'; did you mean steps"),
        (lambda run: t2i.ablate(K, scope=t2i.Scope(heads=1), heads=2), "heads is given twice"),
        (lambda run: t2i.Scope(branches="condd"), "takes some of uncond, cond, skip, found 'condd'"),
        (lambda run: t2i.Scope(steps="0:3"), "steps= takes whole numbers, such as 5 or range"),
        (lambda run: t2i.Generation("cat", (0, 1, 2)), r"write \('cat',\)"),
        (lambda run: run.cache[K, 3], r"read activations as cache\[name\] or cache\[name, step, branch\]"),
    ],
)
def test_what_could_only_fail_in_a_hook_is_refused_when_it_is_made(
    run: t2i.Run, make: Callable[[t2i.Run], object], said: str
) -> None:
    with pytest.raises(t2i.errors.ConfigError, match=said):
        make(run)


def test_a_part_of_the_scope_may_stand_alone(model: t2i.Model) -> None:
    """Above all, "uncond" is not "cond" as well, which it contains as text."""
    scope = t2i.ablate(Z, steps=1, branches="uncond", heads=range(2)).scope
    assert scope == t2i.Scope(steps=(1,), branches=(t2i.Branch.UNCOND,), heads=(0, 1))
    assert scope.covers(1, t2i.Branch.UNCOND) and not scope.covers(1, t2i.Branch.COND)
    named = t2i.Intervention(lambda act, hook: act * (hook.name != Z), [Z, K], t2i.Scope(branches="uncond"))
    cache = model.run(A, num_steps=1, cache=[Z, K], interventions=[named]).cache
    assert cache[K].any() and not cache[Z, 0, t2i.Branch.UNCOND].any() and cache[Z, 0, t2i.Branch.COND].any()


def test_a_site_is_found_by_its_name(model: t2i.Model) -> None:
    assert model.sites[K].name == K == model.sites[model.sites.names.index(K)].name
    with pytest.raises(t2i.errors.SiteError, match="near"):
        model.sites["blocks.6.joint_attn.kk"]


@pytest.mark.parametrize(("name", "near"), [("load_model", "load"), ("Cache", "ActivationCache")])
def test_a_name_that_is_not_there_has_near_ones(name: str, near: str) -> None:
    with pytest.raises(AttributeError, match=f"did you mean .*{near}"):
        getattr(t2i, name)


def test_a_run_without_cache_is_no_donor(model: t2i.Model, run: t2i.Run) -> None:
    with pytest.raises(ConfigError, match="pass its"):
        model.run(A, patch=run)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="contains no activations"):
        model.run(A, patch=model.run(A, num_steps=1).cache)


def test_a_guard_is_run_like_the_model(model: t2i.Model) -> None:
    guard = t2i.guard(model, layers="6")
    assert isinstance(guard, t2i.Guard) and guard.layers_guarded == (6,)
    assert same(guard.run(A, num_steps=2), model.run(A, num_steps=2))


def shown(model: t2i.Model, run: t2i.Run) -> Iterator[tuple[object, str]]:
    yield model, "layers=12"
    yield model.sites, "joint_attn.{in,text,q,k,v,pattern,z,out} × 12"
    yield run, "1 image, ActivationCache(2 sites"
    yield run.cache, "2 sites, 1 row"


def test_everything_shows_itself(model: t2i.Model, run: t2i.Run) -> None:
    for one, said in shown(model, run):
        assert said in repr(one) and len(repr(one)) < 400
        assert "<t" in one._repr_html_()  # type: ignore[attr-defined]
    assert "&quot;SHUT&quot;" in run._repr_html_() and "data:image/png" in run._repr_html_()


def test_the_version_is_there() -> None:
    assert t2i.__version__.count(".") == 2


# a function for every command

SMALL = {"method": "single", "layers": [5, 6, 7], "num_steps": 5, "prompt_set": "signs", "quiet": True}


@pytest.fixture(scope="module")
def found(model: t2i.Model, tmp_path_factory: pytest.TempPathFactory) -> t2i.Result:
    return t2i.localize(model, pairs=5, out=tmp_path_factory.mktemp("runs") / "words", **SMALL)


def test_localize_is_the_command(model: t2i.Model, found: t2i.Result) -> None:
    asked = found.manifest["arguments"]["question"]
    assert (asked["model"], asked["method"], asked["set"]) == ("tiny-sd3", "single", {"layers": "5,6,7"})
    assert (asked["limit"], asked["held_out"], asked["num_steps"]) == (5, 0, SMALL["num_steps"])
    again = t2i.localize(model, pairs=5, out=found.path, **SMALL)
    assert again.manifest == found.manifest
    with pytest.raises(t2i.T2IProbeError, match="holds a study with other settings"):
        t2i.localize(model, pairs=4, out=found.path, **SMALL)


def test_a_result_shows_what_it_holds(found: t2i.Result) -> None:
    assert found.finding is not None and found.layers == found.finding.layers == (6,)
    assert found.finding.sentence in repr(found) and found.finding.sentence[:12] in found._repr_html_()
    assert len(found.to_frame()) == found.answers and {"trial", "pair", found.rank} <= set(found.to_frame().columns)
    dataset = found.to_xarray()
    assert dict(dataset.sizes) == {"trial": len(found.trials), "pair": 5} and found.rank in dataset
    assert found.plot().width > 500 and found.report().is_file()


def test_a_ranking_says_its_unit(found: t2i.Result) -> None:
    ranking = found.ranking
    assert ranking.unit == "share of the way from source to target" and ranking.unit in repr(ranking)
    assert [one.value.mean for one in ranking] == sorted((one.value.mean for one in ranking), reverse=True)
    assert all(one.way == one.value for one in ranking) and [one.layer for one in ranking if one.named] == [6]
    assert set(ranking.to_frame()["unit"]) <= {ranking.unit}


def test_without_a_folder_the_run_goes_with_its_result(model: t2i.Model, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = t2i.prompt_set("signs", limit=1)
    result = t2i.patch_layers(model, pairs=pairs, layers=[5, 6], num_steps=2, guidance=1.0)
    said = capsys.readouterr()
    assert "plan: 1 pair × 2 trials" in said.err and said.out == ""
    assert result.all_pairs == tuple(pairs) and [one.layers for one in result.trials[2:]] == [(5,), (6,)]
    folder = result.path
    assert folder.is_dir()
    del result
    gc.collect()
    assert not folder.parent.exists()


def test_quiet_is_quiet(model: t2i.Model, capsys: pytest.CaptureFixture[str]) -> None:
    result = t2i.patch_layers(model, pairs=[(A, B)], layers=6, num_steps=1, quiet=True)
    assert result.all_pairs == (t2i.Pair.from_prompts(A, B),)
    assert capsys.readouterr() == ("", "")


def test_a_built_pipeline_is_a_model(model: t2i.Model) -> None:
    result = t2i.patch_layers(model.pipeline, source=A, target=B, layers=6, num_steps=1, quiet=True)
    assert result.manifest["arguments"]["question"]["model"] == "StableDiffusion3Pipeline"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_step": 3}, "localize takes no 'num_step'; did you mean num_steps"),
        ({"device": "cuda"}, "the model is built already"),
        ({"pairs": 3, "limit": 4}, "give one"),
        ({"pairs": [A, B]}, "pairs= takes a list of"),
        ({"concept": "txt"}, "unknown concept 'txt'"),
        ({"pairs": 4, "held_out": 4}, "leaves none to search on"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(
    model: t2i.Model, wrong: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match=said):
        t2i.localize(model, quiet=True, **wrong)
    assert not list(tmp_path.iterdir())


def test_an_edit_is_a_result_with_its_methods(model: t2i.Model) -> None:
    edited = t2i.edit(model, source=A, target=B, layers=[6], num_steps=4, method=["localized"], quiet=True)
    assert edited.layers == (6,) and list(edited.compared()["method"]) == ["source", "prompt-swap", "localized"]
    assert edited.report().is_file() and edited.sheet.width > 100 and "localized" in repr(edited)


def test_captured_activations_are_a_donor(model: t2i.Model, run: t2i.Run) -> None:
    store = t2i.capture(model, B, "blocks.6.joint_attn.[kv]", num_steps=STEPS, quiet=True)
    assert torch.equal(store[K], run.cache[K])
    assert same(model.run(A, num_steps=STEPS, patch=store), model.run(A, num_steps=STEPS, patch=run.cache))
    with pytest.raises(ConfigError, match="prompt 2 begins with '# ', like a comment, found '# no prompt'"):
        t2i.capture(model, [A, "# no prompt"], K, quiet=True)
    with pytest.raises(
        ConfigError, match="cannot capture steps 25: this run has steps 0-3; choose among them or raise"
    ):
        layout_of(model, model.generation(A, num_steps=STEPS), K, steps=[25])
    assert t2i.capture(model, B, K, num_steps=STEPS, steps=range(0, 4, 2), quiet=True).layout.steps == (0, 2)


def test_an_inversion_gives_arrays_and_a_table(model: t2i.Model) -> None:
    found = t2i.invert(model, prompts=[A, B], limit=2, num_steps=2, method="euler", keep="ends", quiet=True)
    assert found.run.prompts == [A, B] and len(found.run.noise) == 2
    assert list(found.to_frame()["method"]) == ["euler"] and "<table>" in found._repr_html_()


def test_finetuning_leaves_the_model_as_it_was(model: t2i.Model, run: t2i.Run) -> None:
    options = {"data": "digits", "train_steps": 1, "train_batch_size": 1, "limit": 2, "num_steps": 1, "quiet": True}
    tuned = t2i.finetune(model, layers=6, scope=["localized"], **options)
    assert tuned.loras[0].is_dir() and tuned.to_frame()["layers"].tolist() == [[6]]
    assert same(model.run(B, num_steps=STEPS), run)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: t2i.edit(model, sauce=A), "edit takes no 'sauce'; did you mean source"),
        (lambda model: t2i.invert(model, device="cpu"), "invert: the model is built already"),
        (lambda model: t2i.continual(model, workers=2), "workers=2 needs a model name"),
        (lambda model: t2i.finetune(model, layers=6), "nothing to learn from"),
        (lambda model: t2i.edit(model, source=A, target=B, quiet=True), "name the layers: layers=6, or from_run=RUN"),
    ],
)
def test_other_commands_say_what_cannot_be(model: t2i.Model, call: Callable[[t2i.Model], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call(model)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_concepts_are_learnt_one_after_another(model: t2i.Model) -> None:
    small = {"train_steps": 1, "rank": 1, "train_batch_size": 1, "samples": 1, "num_steps": 1, "order": 0, "seed": 0}
    learnt = t2i.continual(model, method="naive", reference="none", metric="concept", quiet=True, **small)
    assert learnt.to_frame()["method"].tolist() == ["naive"] and learnt.report().is_file()


# two results beside each other, and the examples


@pytest.fixture(scope="module")
def compared(model: t2i.Model, found: t2i.Result) -> t2i.Comparison:
    other = t2i.localize(model, pairs=4, **SMALL | {"layers": [6, 7, 8]})
    return t2i.compare(found, other)


def test_a_comparison_names_layers_intervals_and_costs(compared: t2i.Comparison) -> None:
    assert compared.common == (6,) and compared.differing == ["pairs"]
    assert [one.layer for one in compared.layers] == [5, 6, 7, 8] and compared.layers[0].ways[1] is None
    assert "Both name layer 6, with 25 pictures and 20 pictures" in repr(compared)
    assert "different pairs" in compared.sentence and "<table>" in compared._repr_html_()
    assert compared.to_frame().set_index("layer").loc[6, ["first_named", "second_named"]].all()


def test_what_cannot_be_compared_is_said(found: t2i.Result, run: t2i.Run) -> None:
    with pytest.raises(ConfigError, match="found a Run"):
        t2i.compare(found, run)  # type: ignore[arg-type]


def test_the_quickest_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "patch_one_layer.py"))
    assert {path.name for path in tmp_path.iterdir()} == {"source.png", "target.png", "patched.png"}


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, t2iprobe; t2iprobe.__version__, t2iprobe.localize, t2iprobe.edit; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_stopped_says_how_to_keep_it(model: t2i.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise StoppedError("52 answers are kept")

    monkeypatch.setattr("t2iprobe.plugins.localization.commands.localized", stopped)
    with pytest.raises(StoppedError, match="give out= to keep"):
        t2i.localize(model, quiet=True)


@pytest.mark.parametrize(
    ("at_a_shell", "in_python"),
    [
        ("this takes about 5 h; add --yes to do it", "this takes about 5 h; add yes=True to do it"),
        ("give --layers or --from, not both", "give layers or from_run, not both"),
        ("see `t2iprobe sites --arch sd3`, or --held-out 4", "see `t2iprobe sites --arch sd3`, or held_out=4"),
    ],
)
def test_messages_name_keyword_arguments(at_a_shell: str, in_python: str) -> None:
    assert calls.in_python(at_a_shell) == in_python
