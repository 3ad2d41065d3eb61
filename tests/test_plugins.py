"""Finding plugins: what is loaded, what is put aside and why, and who answers for a name."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer

from t2iprobe import hookimpl
from t2iprobe.cli import main
from t2iprobe.cli.app import build
from t2iprobe.core.errors import ConfigError, DamagedError, ModelError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.scoring import Scored
from t2iprobe.core.trials import Trial
from t2iprobe.registry import hookspecs, kinds, manager
from t2iprobe.registry.manager import PluginRow, Plugins
from t2iprobe.report.aggregates import aggregate_sections, aggregated
from t2iprobe.report.sections import Section

ROOT = Path(__file__).parents[1]
HOW_TO = ROOT / "docs" / "how-to" / "write-a-plugin.md"


def plugin(name: str, **hooks: Callable[..., Any]) -> ModuleType:
    """A plugin module with the given hook functions."""
    module = ModuleType(name)
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(function))
    return module


def registering(name: str, *classes: type) -> ModuleType:
    """A plugin that registers metrics."""
    return plugin(name, t2iprobe_register_metrics=lambda: list(classes))


def called(name: str, **attributes: object) -> type:
    parts = {"direction": "higher", "needs": "image", "score": None, "pipelines": frozenset(), "summary": "mine"}
    return type(name.title(), (), {"name": name, **parts, **attributes})


def bare(*extra: object) -> Plugins:
    """Only these plugins."""
    return Plugins((), installed=False, extra=extra)


def broken(plugins: Plugins, ask: Callable[[Plugins], object], reason: str) -> Any:
    """What is left where the plugin ``bad`` is broken for this reason, which is listed, and warned of once."""
    with pytest.warns(UserWarning, match=r"the plugin 'bad' is broken: .*T2IPROBE_DISABLE_PLUGINS=bad") as warned:
        answer = ask(plugins)
        ask(plugins)
    assert len(warned) == 1
    assert (row(plugins, "bad").status, row(plugins, "bad").reason) == ("broken", reason)
    return answer


def row(plugins: Plugins, name: str) -> PluginRow:
    (found,) = (row for row in plugins.listing() if row.name == name)
    return found


def announce(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    """Pretend that installed packages announce these entry points."""
    monkeypatch.delenv(manager.DISABLE, raising=False)
    found = EntryPoints(points)
    monkeypatch.setattr(manager, "entry_points", lambda **only: found.select(**only))


def test_a_registered_class_is_found_by_its_name() -> None:
    metric = called("ssim")
    plugins = bare(registering("mine", metric))
    assert plugins.metrics() == {"ssim": metric}
    assert plugins.readers() == {}
    assert row(plugins, "mine").hooks == ("t2iprobe_register_metrics",)


class Unread(ABC):
    """A reader whose method is left out."""

    name = "unread"

    @abstractmethod
    def read(self, image: object) -> list[str]: ...


@pytest.mark.parametrize(
    ("kind", "thing", "reason"),
    [
        ("metrics", type("Half", (), {"name": "half", "needs": "image"}), "the metric Half lacks direction, score"),
        ("localizers", type("Mine", (), {"summary": "mine"}), "the localizer Mine lacks name"),
        ("executors", type("Mine", (), {"name": 3}), "the executor Mine lacks name"),
        ("adapters", type("Mine", (), {"name": "mine"}), "the adapter Mine lacks pipelines"),
        ("readers", Unread, "the reader Unread lacks read"),
    ],
)  # fmt: skip
def test_an_incomplete_class_is_left_out_with_a_sentence(kind: str, thing: type, reason: str) -> None:
    hook = f"t2iprobe_register_{kind}"
    good = called("good")
    plugins = bare(plugin("bad", **{hook: lambda: [thing, good]}), plugin("other", **{hook: lambda: [called("else")]}))
    assert list(broken(plugins, lambda ask: getattr(ask, kind)(), reason)) == ["good", "else"]


@pytest.mark.parametrize(
    ("kind", "answer", "reason"),
    [
        ("metrics", "brightness", "a list, found 'brightness'"),
        ("metrics", None, "a list, found None"),
        ("commands", "ocr", "a dict, found 'ocr'"),
    ],
)
def test_an_answer_of_another_type_is_left_out_with_a_sentence(kind: str, answer: object, reason: str) -> None:
    hook = f"t2iprobe_register_{kind}"
    plugins = bare(plugin("bad", **{hook: lambda: answer}))
    assert broken(plugins, lambda ask: getattr(ask, kind)(), f"{hook} must return {reason}") == {}


def test_each_kind_has_its_own_hook() -> None:
    asks = {
        "t2iprobe_register_adapters": Plugins.adapters,
        "t2iprobe_register_models": Plugins.models,
        "t2iprobe_register_metrics": Plugins.metrics,
        "t2iprobe_register_readers": Plugins.readers,
        "t2iprobe_register_prompt_sets": Plugins.prompt_sets,
        "t2iprobe_register_localizers": Plugins.localizers,
        "t2iprobe_register_inverters": Plugins.inverters,
        "t2iprobe_register_executors": Plugins.executors,
    }
    everything: dict[str, Callable[..., Any]] = {hook: lambda hook=hook: [called(hook)] for hook in asks}
    group = typer.Typer()
    plugins = bare(plugin("mine", t2iprobe_register_commands=lambda: {"do": group}, **everything))
    assert {hook: list(ask(plugins)) for hook, ask in asks.items()} == {hook: [hook] for hook in asks}
    assert plugins.commands() == {"do": group}


def test_a_name_belongs_to_the_plugin_that_was_loaded_first() -> None:
    first, second = called("ssim"), called("ssim")
    plugins = bare(registering("ours", first), registering("bad", second))
    reason = "its metric 'ssim' is left out, because 'ours' has 'ssim'"
    assert broken(plugins, Plugins.metrics, reason) == {"ssim": first}


@pytest.mark.parametrize(("name", "owner"), [("patch", "localization"), ("report", "t2iprobe")])
def test_no_plugin_replaces_a_command(name: str, owner: str) -> None:
    groups = {name: typer.Typer(), "mine": typer.Typer()}
    plugins = Plugins(installed=False, extra=[plugin("bad", t2iprobe_register_commands=lambda: groups)])
    reason = f"its command '{name}' is left out, because '{owner}' has '{name}'"
    found = broken(plugins, Plugins.commands, reason)
    assert found["mine"] is groups["mine"] and found.get(name) is not groups[name]


def test_the_names_of_the_command_line_are_those_that_it_adds() -> None:
    added = typer.main.get_command(build()).commands.keys() - Plugins(installed=False).commands().keys()
    assert added == set(kinds.OWN["commands"])


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (plugin("bad", t2iprobe_register_magic=lambda: None), "unknown hook"),
        (plugin("bad", t2iprobe_register_metrics=lambda surprise: []), "surprise"),
    ],
    ids=["hook", "argument"],
)
def test_what_is_not_in_the_contract_puts_only_that_plugin_aside(unfit: object, reason: str) -> None:
    with pytest.warns(UserWarning, match="the plugin 'bad' is broken"):
        plugins = bare(unfit, registering("good", called("ssim")))
    assert list(plugins.metrics()) == ["ssim"]
    assert row(plugins, "bad").status == "broken"
    assert reason in row(plugins, "bad").reason
    assert row(plugins, "good").status == "ok"


@pytest.mark.parametrize("error", [ImportError("no module named engine"), SystemExit("no engine")])
def test_a_hook_that_raises_is_listed_and_stops_nothing_else(error: BaseException) -> None:
    def fail(result: object = None) -> list[type]:
        raise error

    bad = plugin("bad", t2iprobe_register_metrics=fail, t2iprobe_report_sections=fail)
    plugins = bare(bad, registering("good", called("ssim")))
    reason = f"t2iprobe_register_metrics raised {type(error).__name__}: {error}"
    assert list(broken(plugins, Plugins.metrics, reason)) == ["ssim"]
    both = f"{reason}; t2iprobe_report_sections raised {type(error).__name__}: {error}"
    assert broken(plugins, lambda ask: ask.report_sections(None), both) == []  # type: ignore[arg-type]
    assert plugins.versions().keys() == {"bad", "good"}


def test_a_damaged_study_is_no_fault_of_the_plugin_that_reads_it() -> None:
    def fail(result: object) -> list[Section]:
        raise DamagedError("scores are not what was written")

    plugins = bare(plugin("good", t2iprobe_report_sections=fail))
    with pytest.raises(DamagedError, match="not what was written"):
        plugins.report_sections(None)  # type: ignore[arg-type]
    assert row(plugins, "good").status == "ok"


def test_a_section_of_another_type_is_left_out() -> None:
    section = Section("Mine")
    plugins = bare(plugin("bad", t2iprobe_report_sections=lambda result: [section, "more"]))
    reason = "t2iprobe_report_sections must return Sections, found 'more'"
    assert broken(plugins, lambda ask: ask.report_sections(None), reason) == [section]  # type: ignore[arg-type]


def test_a_function_that_is_not_marked_is_named() -> None:
    module = registering("bad", called("ssim"))
    module.t2iprobe_register_readers = list  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="t2iprobe_register_readers must be marked with @t2iprobe.hookimpl"):
        plugins = bare(module)
    assert row(plugins, "bad").status == "broken" and list(plugins.metrics()) == ["ssim"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("raise OSError('the disk\\nis gone')", "OSError: the disk is gone"), ("raise SystemExit(3)", "SystemExit: 3")],
)
def test_an_import_that_raises_is_listed(
    code: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "t2i_bad.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    announce(monkeypatch, EntryPoint("bad", "t2i_bad", manager.GROUP))
    with pytest.warns(UserWarning, match=f"the plugin 'bad' is broken: import failed: {reason}"):
        plugins = Plugins((), extra=[registering("good", called("ssim"))])
    assert list(plugins.metrics()) == ["ssim"]
    assert row(plugins, "bad") == PluginRow("bad", "", "broken", f"import failed: {reason}")


def test_a_check_asks_every_hook_and_says_what_each_plugin_provides() -> None:
    def fail() -> list[type]:
        raise ImportError("no engine")

    bad = plugin("bad", t2iprobe_register_readers=fail, t2iprobe_load_pipeline=lambda ref: ref)
    plugins = bare(registering("good", called("ssim"), called("psnr")), bad)
    with pytest.warns(UserWarning, match="the plugin 'bad' is broken"):
        assert plugins.provided() == {"good": {"metrics": ["ssim", "psnr"]}}
    assert row(plugins, "good").status == "ok"
    reasons = row(plugins, "bad").reason
    assert "register_readers raised ImportError: no engine" in reasons and "loads 'no-such-model'" in reasons


def test_the_check_of_the_command_ends_with_1_if_a_plugin_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def ended(*words: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["t2iprobe", "plugins", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    (tmp_path / "t2i_raises.py").write_text(
        "from t2iprobe import hookimpl\n@hookimpl\ndef t2iprobe_register_metrics(): raise OSError('no engine')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    announce(monkeypatch)
    assert ended("--check") == 0
    announce(monkeypatch, EntryPoint("bad", "t2i_raises", manager.GROUP))
    assert ended() == 0
    capsys.readouterr()
    assert ended("--check", "--names") == 1
    assert "ssim" in capsys.readouterr().out
    assert ended("--check", "--format", "json") == 1
    out, err = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out)["plugins"]}
    assert err.startswith("warning: the plugin 'bad' is broken: t2iprobe_register_metrics raised OSError: no engine (")
    assert rows["hub"]["provides"] == {} and "ssim" in rows["metrics"]["provides"]["metrics"]
    assert rows["bad"]["reason"] == "t2iprobe_register_metrics raised OSError: no engine"


def test_a_plugin_for_another_api_is_listed_and_never_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t2i_future.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    announce(monkeypatch, EntryPoint("future", "t2i_future", "t2iprobe.v2"), EntryPoint("other", "os", "othertool.v1"))
    assert Plugins(()).listing() == [PluginRow("future", "", "skipped", "made for plugin API v2; this is v1")]
    assert "t2i_future" not in sys.modules


def test_an_installed_plugin_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t2i_good.py").write_text(
        "from t2iprobe import hookimpl\n@hookimpl\ndef t2iprobe_register_commands():"
        "\n import typer\n return {'do': typer.Typer()}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    announce(monkeypatch, EntryPoint("good", "t2i_good", manager.GROUP))
    assert list(Plugins(()).commands()) == ["do"]
    assert Plugins((), installed=False).listing() == []


def test_a_taken_plugin_name_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, EntryPoint("hub", "os", manager.GROUP))
    rows = Plugins(("t2iprobe.plugins.hub.plugin",)).listing()
    assert [(row.name, row.status) for row in rows] == [("hub", "ok"), ("hub", "skipped")]


def test_plugins_can_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, EntryPoint("third", "os", manager.GROUP))
    monkeypatch.setenv(manager.DISABLE, "third, hub")
    rows = Plugins(("t2iprobe.plugins.hub.plugin",)).listing()
    assert [(row.name, row.reason) for row in rows] == [
        (name, f"disabled by {manager.DISABLE}") for name in ("hub", "third")
    ]
    monkeypatch.setenv(manager.DISABLE, "all")
    rows = Plugins(("t2iprobe.plugins.hub.plugin",)).listing()
    assert [(row.name, row.status) for row in rows] == [("hub", "ok"), ("third", "skipped")]


def test_hook_calls_can_be_traced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(manager.TRACE, "1")
    bare(registering("mine", called("ssim"))).metrics()
    assert "t2iprobe_register_metrics" in capsys.readouterr().err


def adapters(*served: str) -> Plugins:
    """Adapters a, b, … that serve one pipeline class each."""
    classes = [called(name, pipelines=frozenset({kind})) for name, kind in zip("abc", served, strict=False)]
    return bare(plugin("mine", t2iprobe_register_adapters=lambda: classes))


def test_an_adapter_is_found_by_the_pipelines_class() -> None:
    assert adapters("OnePipeline", "TwoPipeline").adapter_for("TwoPipeline").name == "b"


def test_an_unknown_pipeline_class_names_what_is_near_and_known() -> None:
    with pytest.raises(ModelError, match=r"did you mean TwoPipeline\?"):
        adapters("OtherThing", "TwoPipeline").adapter_for("TwooPipeline")


def test_no_adapter_takes_a_pipeline_class_from_another() -> None:
    ours, theirs = (called(name, pipelines=frozenset({"OnePipeline"})) for name in ("ours", "theirs"))
    first, bad = (plugin(name, t2iprobe_register_adapters=lambda found=found: [found]) for name, found in
                  (("first", ours), ("bad", theirs)))  # fmt: skip
    reason = "its adapter 'theirs' is left out, because 'first' has 'OnePipeline'"
    assert broken(bare(first, bad), lambda ask: ask.adapter_for("OnePipeline"), reason) is ours


def test_a_loader_that_raises_does_not_keep_the_others_from_loading() -> None:
    def fail(ref: str) -> None:
        raise KeyError(ref)

    def refuse(ref: str) -> None:
        raise ModelError("it has no weights")

    good = plugin("good", t2iprobe_load_pipeline=lambda ref: f"{ref} of good")
    plugins = bare(good, plugin("bad", t2iprobe_load_pipeline=fail))
    reason = "t2iprobe_load_pipeline raised KeyError: 'mine'"
    assert broken(plugins, lambda ask: ask.load_pipeline("mine", LoadOptions("cpu")), reason) == "mine of good"
    with pytest.raises(ModelError, match="it has no weights"):
        bare(good, plugin("mine", t2iprobe_load_pipeline=refuse)).load_pipeline("mine", LoadOptions("cpu"))


def test_the_first_plugin_that_knows_a_model_loads_it() -> None:
    def load(ref: str, options: LoadOptions) -> str | None:
        return f"{ref} on {options.device}" if ref == "owner/mine" else None

    mine = plugin("mine", t2iprobe_load_pipeline=load)
    plugins = Plugins(("t2iprobe.plugins.hub.plugin",), installed=False, extra=[mine])
    assert plugins.load_pipeline("owner/mine", LoadOptions("cpu")) == "owner/mine on cpu"
    with pytest.raises(ModelError, match="no plugin knows the model 'nothing'"):
        plugins.load_pipeline("nothing", LoadOptions("cpu"))


def hub(ref: str, device: str | None = "cpu", dtype: str | None = None) -> Any:
    """Load through the bundled loader alone."""
    plugins = Plugins(("t2iprobe.plugins.hub.plugin",), installed=False)
    return plugins.load_pipeline(ref, LoadOptions(device, dtype))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A real pipeline on disk, the smallest there is."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(8, block_out_channels=(4,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
                       norm_num_groups=2, layers_per_block=1, add_attention=False)  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_in_the_dtype_that_was_asked_for(saved: Path) -> None:
    import torch

    assert hub(str(saved)).unet.dtype == torch.float32
    assert hub(str(saved), dtype="bfloat16").unet.dtype == torch.bfloat16


def test_corrupt_weights_say_so(saved: Path) -> None:
    weights = saved / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"weights of .* are corrupt"):
        hub(str(saved))


def test_a_folder_that_is_no_pipeline_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"a folder, but not a pipeline: it has no model_index.json .*notes\.txt"):
        hub(str(tmp_path))


def test_a_missing_folder_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        hub("./nowhere/else")


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [("cuda:99", None, "sees .* GPUs"), ("gpu", None, "device"), ("cpu", "int8", "dtype")],
)
def test_a_device_or_dtype_that_is_not_to_be_had_says_so(device: str, dtype: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hub("owner/name", device, dtype)


@pytest.mark.parametrize(("shown", "forbidden"), [(True, None), (True, True), (False, None)])
def test_a_folder_loads_without_bars_and_leaves_the_switches(
    saved: Path, shown: bool, forbidden: bool | None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the environment forbids bars, which the switches of the libraries do not know."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    downloads, variable = sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS"
    monkeypatch.setattr(downloads, variable, None)

    def switches() -> tuple[bool, bool, bool]:
        libraries = (diffusers_logging, transformers_logging)
        return (*(one.is_progress_bar_enabled() for one in libraries), are_progress_bars_disabled())

    before = switches()
    for library in (diffusers_logging, transformers_logging):
        (library.enable_progress_bar if shown else library.disable_progress_bar)()
    try:
        wanted = switches()
        monkeypatch.setattr(downloads, variable, forbidden)
        hub(str(saved))
        assert switches() == (*wanted[:2], forbidden or wanted[2]) and wanted[0] is shown
        assert "Loading" not in capfd.readouterr().err
    finally:
        monkeypatch.setattr(downloads, variable, None)
        for library, on in zip((diffusers_logging, transformers_logging), before, strict=False):
            (library.enable_progress_bar if on else library.disable_progress_bar)()


def test_what_another_pipeline_has_is_left_out(saved: Path) -> None:
    plugins = Plugins(("t2iprobe.plugins.hub.plugin",), installed=False)
    assert plugins.load_pipeline(str(saved), LoadOptions("cpu", without=("unet",))).unet is None


def test_an_unreachable_hub_points_to_local_folders() -> None:
    with pytest.raises(ModelError, match=r"(hub cannot be reached|HF_HUB_OFFLINE is set).*local folder"):
        hub("owner/name")


@pytest.mark.parametrize(
    ("kind", "hint"),
    [("GatedRepoError", r"accept its licence.*hf auth login"), ("RepositoryNotFoundError", "check the name")],
)
def test_a_refused_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, kind: str, hint: str) -> None:
    from huggingface_hub import errors

    from t2iprobe.plugins.hub import load

    error_class = getattr(errors, kind)

    def refuse(*args: object, **kwargs: object) -> None:
        """As diffusers does: an OSError because of the hub's error."""
        raise OSError("cannot load") from error_class.__new__(error_class)

    monkeypatch.setattr(load.HfApi, "model_info", refuse)
    with pytest.raises(ModelError, match=hint):
        hub("owner/name")


def test_every_bundled_plugin_is_ok_and_its_components_load() -> None:
    plugins = Plugins(installed=False)
    for ask in (plugins.adapters, plugins.metrics, plugins.readers, plugins.prompt_sets, plugins.commands):
        ask()
    assert [row for row in plugins.listing() if row.status != "ok"] == []
    assert all(row.hooks for row in plugins.listing())
    assert {"sd", "sdxl", "sd3", "flux"} <= set(plugins.adapters())


def test_every_hook_has_a_bundled_user() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("t2iprobe_")}
    used = {hook for row in Plugins(installed=False).listing() for hook in row.hooks}
    assert used == hooks


def test_finding_plugins_and_commands_and_reporting_a_study_import_no_torch() -> None:
    code = (
        "import sys; from t2iprobe.registry.manager import Plugins; "
        "plugins = Plugins(); plugins.commands(); plugins.listing(); plugins.models(); plugins.aggregates(); "
        "import t2iprobe.report.studies, t2iprobe.plugins.localization.output, t2iprobe.plugins.localization.report; "
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.docs
def test_the_how_to_has_every_hook_with_its_arguments() -> None:
    text = HOW_TO.read_text(encoding="utf-8")
    for name, spec in vars(hookspecs).items():
        if name.startswith("t2iprobe_"):
            assert f"`{name}({', '.join(inspect.signature(spec).parameters)})`" in text
            assert inspect.getdoc(spec)


def test_an_aggregate_of_stored_scores_reaches_the_answer_of_a_study_and_its_page() -> None:
    class Odds:
        """Right per wrong."""

        name, of = "odds", ("right", "wrong")

        def statistic(self, means: Any) -> Any:
            return means[..., 0] / means[..., 1]

    class Study:
        """Scores of source, target and a patch, on two pairs."""

        right, wrong = np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 5.0]])
        scores = {"right_target": right, "wrong_target": wrong, "right_source": right}

        def alike(self, trials: Sequence[Trial]) -> list[Sequence[Trial]]:
            return [trials]

        def scored(self, trials: Sequence[Trial]) -> Scored:
            kept = {name: values[: 2 + len(trials)] for name, values in self.scores.items()}
            return Scored(kept, "right_target", "right_source", clusters=[0, 1])

    result: Any = Study()
    plugins = bare(plugin("mine", t2iprobe_register_aggregates=lambda: [Odds, called("fid")]))
    patch = Trial("4", ("blocks.4.joint_attn.k",))
    found = aggregated(result, plugins, [patch])
    assert {name: {label: one.mean for label, one in rows.items()} for name, rows in found.items()} == {
        "odds_target": {"source": 0.0, "target": 2.0, "4": 0.5}
    }
    (section,) = aggregate_sections(result, plugins, [patch])
    assert section.table is not None and [row[:3] for row in section.table.rows][-1] == ["odds_target", "4", 0.5]
    assert aggregate_sections(result, bare(), [patch]) == []
    bad = bare(plugin("bad", t2iprobe_register_aggregates=lambda: [called("odd", of=("right",), statistic=None)]))
    reason = "the aggregate 'odd' raised TypeError: 'NoneType' object is not callable"
    assert broken(bad, lambda ask: aggregated(result, ask, [patch]), reason) == {}
