"""A pipeline whose class no adapter names is tried out, and gets the sites that a curated adapter has."""

from __future__ import annotations

import importlib
import json
import warnings
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from shell import invoke
from typer.testing import CliRunner

from t2iprobe.architectures.auto import probed
from t2iprobe.cli.app import build
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError, ModelError, SiteError
from t2iprobe.core.model import Model
from t2iprobe.core.shadow import shadowed
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.unnamed import few_blocks
from t2iprobe.testing.adapters import ADAPTER_LAWS

FAMILIES = (
    ("chroma", "Chroma"),
    ("flux", "Flux"),
    ("ovis", "OvisImage"),
    ("krea2", "Krea2"),
    ("nucleus", "NucleusImage"),
    ("pixart", "PixArtSigma"),
    ("qwenimage", "QwenImage"),
    ("sd3", "SD3"),
    ("sdxl", "SDXL"),
)


def curated(module: str, name: str) -> type[Adapter]:
    found: type[Adapter] = getattr(importlib.import_module(f"t2iprobe.architectures.{module}"), name)
    return found


@pytest.mark.parametrize(("module", "name"), FAMILIES)
def test_it_finds_what_the_curated_adapter_has(module: str, name: str) -> None:
    family = curated(module, name)
    pipeline = family.tiny()
    auto = probed(pipeline)

    def found(adapter: Adapter) -> list[Any]:
        sites = [site for site in adapter.sites(pipeline) if site.kind in family.text_kv]
        return sorted((site.module, site.channels or (0, 0), site.stream, site.kind) for site in sites)

    assert found(auto()) == found(family())
    assert auto.guides_apart == family.guides_apart
    assert ("added_cond_kwargs" in auto.doubt) == (name == "SDXL")  # the pooled vector, which no site is
    for scale in (0.0, 1.0, 3.0):
        calls = [Model(pipeline, one).rows({"guidance": scale, "num_steps": 2}) for one in (auto(), family())]
        assert calls[0] == calls[1], scale


def test_it_keeps_the_laws() -> None:
    pipeline = curated("qwenimage", "QwenImage").tiny()
    adapter = probed(pipeline)()
    for law in ADAPTER_LAWS:
        law(adapter, pipeline)


def loaded(pipeline: Any) -> tuple[Model, list[str]]:
    """A pipeline loaded where no adapter serves it, and what is said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = Plugins((), installed=False).load(pipeline)
    return model, [str(one.message) for one in said]


def test_a_loaded_pipeline_is_served_after_a_check() -> None:
    model, said = loaded(curated("pixart", "PixArtSigma").tiny())
    assert "no adapter names PixArtSigmaPipeline: it is tried out, which may take minutes" in said
    assert (
        f"what was found by probing PixArtSigmaPipeline keeps {len(ADAPTER_LAWS)} of {len(ADAPTER_LAWS)} laws" in said
    )
    assert model.adapter.name == "auto:PixArtSigmaPipeline"
    assert len(model.run("a sign", num_steps=2, cache="blocks.0.cross_attn.k").cache) > 0


def test_a_broken_law_refuses_what_relies_on_it() -> None:
    """SDXL's pooled vector is in a mapping: patches of keys and values are whole, the rest is refused."""
    model, said = loaded(curated("sdxl", "SDXL").tiny())
    assert any("there is no site `text` (patching text from the target's run" in one for one in said)
    with pytest.raises(SiteError, match="no site matches 'text'"):
        model.run("a sign", num_steps=1, cache="text")
    images = torch.zeros(1, 3, *model.picture_size())
    with pytest.raises(ModelError, match=r"added_cond_kwargs.*cannot be called by itself; write an adapter"):
        model.adapter.encode_images(model.pipeline, images)
    assert model.run("a sign", num_steps=1, cache="blocks.0.cross_attn.k").cache


def test_a_pipeline_that_breaks_a_law_is_refused() -> None:
    """Each row is drawn with the first row's text, which no call shows."""

    class Mixed(StableDiffusionPipeline):
        def encode_prompt(self, *args: Any, **more: Any) -> Any:
            text, *others = super().encode_prompt(*args, **more)
            return text.flip(0) + text.mean(0), *others

    pipeline = Mixed(**curated("sd", "SD").tiny().components, requires_safety_checker=False)
    with pytest.raises(ModelError, match=r"breaks \w+ \(.*on which every command relies.*; write an adapter for it"):
        loaded(pipeline)
    with pytest.warns(UserWarning, match="it is tried out"):
        model = Plugins((), installed=False).load(pipeline, check=False)
    assert model.adapter.name == "auto:Mixed"


def test_few_blocks_of_each_kind_are_checked_where_these_run() -> None:
    pipeline = curated("sd3", "SD3").tiny()
    blocks = pipeline.transformer.transformer_blocks
    blocks.extend(list(blocks) * 2)
    adapter = curated("sd3", "SD3")()
    with few_blocks(adapter, pipeline):
        assert len(blocks) == 3
    assert len(blocks) > 3
    with shadowed(pipeline.transformer, "forward", lambda *args, **more: blocks[3]), few_blocks(adapter, pipeline):
        assert len(blocks) > 3


def test_video_is_refused() -> None:
    class Film(StableDiffusionPipeline):
        def __call__(self, prompt: str, num_frames: int = 8, generator: Any = None) -> Any: ...

    with pytest.raises(ModelError, match=r"Film draws video \(its call takes num_frames\)"):
        probed(Film(**curated("sd", "SD").tiny().components, requires_safety_checker=False))


def test_what_is_no_picture_is_said() -> None:
    class Numbers(StableDiffusionPipeline):
        def __call__(self, *args: Any, **more: Any) -> Any:
            return ([len(super().__call__(*args, **more).images)],)

    pipeline = Numbers(**curated("sd", "SD").tiny().components, requires_safety_checker=False)
    with pytest.raises(ModelError, match="Numbers gives a int for each prompt where a picture is expected"):
        Plugins(installed=False).load(pipeline).run("a sign", num_steps=1)


def test_what_cannot_be_seen_is_refused() -> None:
    pipeline = curated("sdxl", "SDXL").tiny()
    with (
        shadowed(pipeline, "unet", None),
        pytest.raises(ModelError, match=r"no transformer or unet, its networks are vae, .*own `denoiser`"),
    ):
        probed(pipeline)
    with shadowed(pipeline, "encode_prompt", lambda *args, **more: 1 / 0), pytest.raises(ModelError, match="ZeroDivi"):
        probed(pipeline)
    pipeline.unet.to("meta")
    with pytest.raises(ModelError, match="its weights have to be loaded"):
        probed(pipeline)


def test_the_command_lists_which_laws_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def holds(adapter: Any, pipeline: Any) -> None:
        """Nothing to check."""

    def breaks(adapter: Any, pipeline: Any) -> None:
        raise AssertionError(f"{adapter.name} is wrong")

    monkeypatch.setattr("t2iprobe.testing.adapters.ADAPTER_LAWS", [holds, breaks])
    outcome = CliRunner().invoke(build(), ["check-adapter", "--arch", "sdxl", "--format", "json"])
    assert outcome.exit_code == 1
    laws = json.loads(outcome.stdout)["laws"]
    assert [(law["law"], law["holds"], law["found"]) for law in laws] == [
        ("holds", True, ""),
        ("breaks", False, "sdxl is wrong"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.adapter:Mine"], "nowhere.adapter:Mine cannot be imported"),
        (["t2iprobe.architectures.sd"], "needs package.module:Class, found 't2iprobe.architectures.sd'"),
        (["t2iprobe.core.sites:Site"], "is not a class derived from Adapter"),
        (["t2iprobe.architectures.probed:ProbedAdapter"], "lacks name, pipelines, tiny"),
        (["t2iprobe.architectures.sd:SD", "--arch", "sd"], "leave out --model and --arch"),
    ],
)
def test_a_class_that_cannot_be_checked_is_one_sentence(words: list[str], said: str) -> None:
    outcome = invoke("check-adapter", *words)
    assert isinstance(outcome.exception, ConfigError) and said in str(outcome.exception)


def test_a_class_that_no_plugin_registers_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def served(adapter: Any, pipeline: Any) -> None:
        assert (adapter.name, type(pipeline).__name__) == ("sd", "StableDiffusionPipeline")

    monkeypatch.setattr("t2iprobe.testing.adapters.ADAPTER_LAWS", [served])
    outcome = invoke("check-adapter", "t2iprobe.architectures.sd:SD")
    assert outcome.exit_code == 0 and "1 of 1 laws hold" in outcome.output
