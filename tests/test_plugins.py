"""Finding plugins: what is loaded, what is put aside and why, and who answers for a name."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from t2iprobe import hookimpl
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.registry import hookspecs, manager
from t2iprobe.registry.manager import PluginRow, Plugins

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
    metric = {"direction": "higher", "needs": "image", "score": None}
    return type(name.title(), (), {"name": name, **metric, **attributes})


def bare(*extra: object) -> Plugins:
    """Only these plugins."""
    return Plugins((), installed=False, extra=extra)


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


def test_an_incomplete_metric_puts_its_plugin_aside_with_a_sentence() -> None:
    half = type("Brightness", (), {"name": "brightness", "needs": "image"})
    plugins = bare(registering("half", half), registering("good", called("ssim")))
    assert list(plugins.metrics()) == ["ssim"]
    assert row(plugins, "half").reason == "the metric Brightness lacks direction, score"


def test_each_kind_has_its_own_hook() -> None:
    kinds = {
        "t2iprobe_register_adapters": Plugins.adapters,
        "t2iprobe_register_models": Plugins.models,
        "t2iprobe_register_metrics": Plugins.metrics,
        "t2iprobe_register_readers": Plugins.readers,
        "t2iprobe_register_prompt_sets": Plugins.prompt_sets,
        "t2iprobe_register_localizers": Plugins.localizers,
        "t2iprobe_register_inverters": Plugins.inverters,
        "t2iprobe_register_executors": Plugins.executors,
    }
    everything: dict[str, Callable[..., Any]] = {hook: lambda hook=hook: [called(hook)] for hook in kinds}
    plugins = bare(plugin("mine", t2iprobe_register_commands=lambda: {"do": None}, **everything))
    assert {hook: list(ask(plugins)) for hook, ask in kinds.items()} == {hook: [hook] for hook in kinds}
    assert plugins.commands() == {"do": None}


def test_a_clash_of_names_names_both_plugins() -> None:
    plugins = bare(registering("ours", called("ssim")), registering("theirs", called("ssim")))
    with pytest.raises(ConfigError, match=r"'ssim'.*'ours' and 'theirs'"):
        plugins.metrics()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (plugin("bad", t2iprobe_register_magic=lambda: None), "unknown hook"),
        (plugin("bad", t2iprobe_register_metrics=lambda surprise: []), "surprise"),
    ],
    ids=["hook", "argument"],
)
def test_what_is_not_in_the_contract_puts_only_that_plugin_aside(broken: object, reason: str) -> None:
    plugins = bare(broken, registering("good", called("ssim")))
    assert list(plugins.metrics()) == ["ssim"]
    assert row(plugins, "bad").status == "broken"
    assert reason in row(plugins, "bad").reason
    assert row(plugins, "good").status == "ok"


def test_a_hook_that_raises_is_listed_and_stops_nothing_else() -> None:
    def fail() -> list[type]:
        raise ImportError("no module named engine")

    plugins = bare(plugin("bad", t2iprobe_register_metrics=fail), registering("good", called("ssim")))
    assert list(plugins.metrics()) == ["ssim"]
    assert row(plugins, "bad").reason == "t2iprobe_register_metrics raised ImportError: no module named engine"


def test_an_import_that_raises_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t2i_bad.py").write_text("raise OSError('the disk\\nis gone')")
    monkeypatch.syspath_prepend(tmp_path)
    announce(monkeypatch, EntryPoint("bad", "t2i_bad", manager.GROUP))
    plugins = Plugins((), extra=[registering("good", called("ssim"))])
    assert list(plugins.metrics()) == ["ssim"]
    assert row(plugins, "bad") == PluginRow("bad", "", "broken", "import failed: OSError: the disk is gone")


def test_a_plugin_for_another_api_is_listed_and_never_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t2i_future.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    announce(monkeypatch, EntryPoint("future", "t2i_future", "t2iprobe.v2"), EntryPoint("other", "os", "othertool.v1"))
    assert Plugins(()).listing() == [PluginRow("future", "", "skipped", "made for plugin API v2; this is v1")]
    assert "t2i_future" not in sys.modules


def test_an_installed_plugin_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t2i_good.py").write_text(
        "from t2iprobe import hookimpl\n@hookimpl\ndef t2iprobe_register_commands(): return {'do': None}"
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


def test_two_adapters_for_one_pipeline_class_are_an_error() -> None:
    with pytest.raises(ConfigError, match="'a' and 'b'"):
        adapters("OnePipeline", "OnePipeline").adapter_for("OnePipeline")


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


@pytest.mark.parametrize("shown", [True, False])
def test_a_folder_loads_without_bars_and_leaves_the_switches(
    saved: Path, shown: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    def switches() -> tuple[bool, bool, bool]:
        libraries = (diffusers_logging, transformers_logging)
        return (*(one.is_progress_bar_enabled() for one in libraries), are_progress_bars_disabled())

    before = switches()
    for library in (diffusers_logging, transformers_logging):
        (library.enable_progress_bar if shown else library.disable_progress_bar)()
    try:
        wanted = switches()
        hub(str(saved))
        assert switches() == wanted and wanted[0] is shown
        assert "Loading" not in capfd.readouterr().err
    finally:
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


def test_finding_plugins_and_commands_imports_no_torch() -> None:
    code = (
        "import sys; from t2iprobe.registry.manager import Plugins; "
        "plugins = Plugins(); plugins.commands(); plugins.listing(); "
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


@pytest.mark.docs
def test_the_how_to_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("brightness")
    monkeypatch.setitem(sys.modules, "brightness", module)
    for block in re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(HOW_TO), "exec"), module.__dict__)
