"""Families whose sites are found by probing: each keeps all laws, and a patch is what hooks written by hand do."""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils import is_ftfy_available

from t2iprobe.api.commands import capture
from t2iprobe.architectures import prx
from t2iprobe.architectures.ernie import ErnieImage
from t2iprobe.architectures.kandinsky3 import Kandinsky3
from t2iprobe.architectures.kandinsky5 import Kandinsky5
from t2iprobe.architectures.kolors import Kolors
from t2iprobe.architectures.lumina import LuminaNext
from t2iprobe.architectures.plugin import t2iprobe_register_adapters
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.architectures.prx import PRX, PRXPixel
from t2iprobe.architectures.tiny_parts import LATENT
from t2iprobe.core.contracts.adapter import layer_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.hooks import bound, prediction_of
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Site, Sites
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.no_bars import no_bars
from t2iprobe.testing.adapters import ADAPTER_LAWS, EVEN

FAMILIES: list[Any] = [adapter for adapter in t2iprobe_register_adapters() if issubclass(adapter, ProbedAdapter)]
PROMPTS = ("a sign that says DOG", "a red cat on the sign")
LACKING = dict.fromkeys((PRX, PRXPixel), "ftfy") if not is_ftfy_available() else {}


def cases(families: list[Any]) -> list[Any]:
    """One for each family, skipped where its pipeline needs a package that is not there."""
    marks = {family: pytest.mark.skip(f"needs {LACKING.get(family)}") for family in LACKING}
    return [pytest.param(family, id=family.name, marks=marks.get(family, ())) for family in families]


each_family = pytest.mark.parametrize("family", cases(FAMILIES))


@functools.cache
def tiny(family: type[ProbedAdapter]) -> Any:
    """One pipeline for all tests of a family: among the laws is that a run leaves nothing behind."""
    return family.tiny()


@each_family
def test_it_keeps_all_laws(family: type[ProbedAdapter]) -> None:
    for law in ADAPTER_LAWS:
        law(family(), tiny(family))


@each_family
def test_a_patch_is_what_hooks_do(family: type[ProbedAdapter]) -> None:
    """Text keys and values of every layer, and their masks, from the second row into the first."""
    model = Model(tiny(family), family())
    settings: dict[str, Any] = {"num_steps": 2, "guidance": family.guided_above}
    run = model.run(prompts(model), **settings)
    # everything that measures, stores or shows a picture takes red, green and blue; Qwen-Image 2.1 draws four
    assert {image.mode for image in run.images} == {"RGB"}
    plain, images = pixels(run), patched(model, **settings)
    with ExitStack() as stack:
        for site in text_sites(model):
            stack.callback(by_hand(model, site))
        hooked = model.run(prompts(model), **settings)
    assert images == pixels(hooked)
    assert images[0] != plain[0] and images[1] == plain[1]


@pytest.mark.parametrize("family", cases([*FAMILIES, Kolors]))
def test_a_saved_folder_is_the_family(family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--model FOLDER`` has the sites of the pipeline that was saved, and a patch draws the same."""
    pipeline = tiny(family)
    kind = type(pipeline)
    monkeypatch.setattr(diffusers, kind.__name__, kind)  # Kolors' is left out where sentencepiece is not installed
    encoder = type(pipeline.text_encoder)  # PRX's is not among transformers' names, as which diffusers saves it
    monkeypatch.setattr(f"transformers.{encoder.__name__}", encoder, raising=False)
    with no_bars():
        pipeline.save_pretrained(tmp_path)
    loaded, built = Plugins(installed=False).load(str(tmp_path)), Model(pipeline, family())
    assert loaded.adapter.name == family.name and list(loaded.sites) == list(built.sites)
    own = {name: value for name, value in vars(pipeline).items() if isinstance(value, int | str)}
    vars(loaded.pipeline).update(own)  # lengths of templates and sizes that the pipeline's class fixes
    images = [patched(model, num_steps=1, guidance=1.0) for model in (loaded, built)]
    assert images[0] == images[1]


@pytest.mark.parametrize("family", cases([family for family in FAMILIES if "full_size" in vars(family)]))
def test_layers_are_found_in_the_published_network(family: type[ProbedAdapter]) -> None:
    own, rows = layer_table(family(), tiny(family)), layer_table(family(), family.published())
    assert [row.index for row in rows] == list(range(len(rows)))
    assert len(rows) > len(own) and len(rows[0].sites) == len(own[0].sites)
    assert all(row.width % row.heads == 0 and row.heads > 2 for row in rows)


@each_family
def test_predicting_is_what_a_run_does(family: type[ProbedAdapter]) -> None:
    """``predict`` and ``starting`` give the denoiser what the pipeline gives it at the first step."""
    model = Model(tiny(family), family())
    height, width = (side // model.adapter.pixels_per_latent(model.pipeline) for side in model.picture_size())
    noise = torch.Generator().manual_seed(0)
    channels = model.adapter.encode_images(model.pipeline, torch.zeros(1, 3, *model.picture_size())).shape[1]
    latents = torch.randn(1, channels, height, width, generator=noise)
    check_prediction(model, latents, PROMPTS[0])
    longer = "a sign that says " * 20  # in pipelines that pad, another length
    if family.pads_to and not model.adapter.truncated(model.pipeline, longer):
        check_prediction(model, latents, longer)


def check_prediction(model: Model, latents: torch.Tensor, prompt: str) -> None:
    adapter, seen = model.adapter, dict[str, torch.Tensor]()
    assert isinstance(adapter, ProbedAdapter)

    def note(denoiser: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.setdefault("output", prediction_of(output))

    handle = model.denoiser.register_forward_hook(note, with_kwargs=True)
    model.run(prompt, latents=latents, num_steps=1, guidance=adapter.guided_above)
    handle.remove()
    times = model.pipeline.scheduler.timesteps[:1].clone()
    with torch.no_grad():
        text = adapter.encode_prompts(model.pipeline, [prompt])
        told = adapter.with_guidance(model.pipeline, text, adapter.guided_above)
        predicted = adapter.predict(model.pipeline, latents, times, told)
    expected = adapter.sign * adapter.unpacked(model.pipeline, seen["output"], latents.shape)
    assert predicted.shape == latents.shape
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)


def test_what_says_which_tokens_count_is_captured_and_patched(tmp_path: Path) -> None:
    """Lumina-Next's masks are truth values, which a store keeps as numbers."""
    model, sites = Model(LuminaNext.tiny(), LuminaNext()), "blocks.*.cross_attn.[kv]"
    store = capture(model, PROMPTS, sites, out=tmp_path / "run", num_steps=1, quiet=True)
    cache = model.run(PROMPTS, num_steps=1, cache=sites).cache
    others = ("a hat", "a shy fox on the hat")
    stored, cached = (model.run(others, num_steps=1, patch=donor) for donor in (store, cache))
    assert pixels(stored) == pixels(cached) != pixels(model.run(others, num_steps=1))


def prompts(model: Model) -> tuple[str, ...]:
    """Two prompts, of equal length where a patch needs it."""
    return EVEN[:2] if model.adapter.ragged else PROMPTS


def text_sites(model: Model) -> Sites:
    """Text keys and values of every layer."""
    return model.sites.match(*(f"blocks.*.{kind}" for kind in model.adapter.text_kv))


def patched(model: Model, **settings: Any) -> list[bytes]:
    """The pictures of two prompts, the first with the second's text keys and values."""
    return pixels(model.run(prompts(model), interventions=[patch({0: 1}, text_sites(model))], **settings))


def by_hand(model: Model, site: Site) -> Any:
    """A hook that copies the text of the second row into the first; the function removes it."""
    module, channels = model.denoiser.get_submodule(site.module), slice(*site.channels or (None,))
    call: dict[str, Any] = {}

    def note(denoiser: Any, args: Any, kwargs: Any) -> None:
        call.update(bound(denoiser, args, kwargs))

    def copied(value: torch.Tensor) -> torch.Tensor:
        axis = 1 + site.axes.index("token")
        length = value.shape[axis]
        text = slice(None)
        if site.stream == "text":
            text = model.adapter.text_spans(model.pipeline, call, length)[0]
        place = (*[slice(None)] * (axis - 1), text) if site.axes[-1] == "token" else (text, ..., channels)
        value = value.clone()
        value[(0, *place)] = value[(1, *place)]
        return value

    def before(inner: Any, args: Any, kwargs: Any) -> Any:
        given = dict(zip(inspect.signature(inner.forward).parameters, args, strict=False)) | kwargs
        value = given.get(site.port.key)
        return (args, kwargs) if value is None else ((), given | {site.port.key: copied(value)})

    noted = model.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    if site.port.side == "in":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda inner, args, output: copied(output))
    return lambda: (noted.remove(), handle.remove())


def pixels(run: Any) -> list[bytes]:
    return [image.tobytes() for image in run.images]


def test_padding_changes_no_picture() -> None:
    """Kandinsky 5's pipeline lets a prompt read its padding; in a run it draws what it draws by itself."""
    pipeline = tiny(Kandinsky5)
    side, noise = 8 * LATENT, torch.Generator().manual_seed(0)
    with shadowed(pipeline, "resolutions", [(side, side)]), torch.no_grad():
        alone = pipeline([PROMPTS[0]], height=side, width=side, num_inference_steps=2, generator=[noise]).image[0]
    beside = Model(pipeline, Kandinsky5()).run(PROMPTS, num_steps=2).images[0]
    apart = np.abs(np.asarray(alone, np.int16) - np.asarray(beside, np.int16))
    assert apart.max() <= 2


def test_a_donor_of_another_padded_length_is_encoded_beside_its_target() -> None:
    """ERNIE-Image pads to a multiple of 64 tokens: a longer donor's text fits only if both are in one batch."""
    model = Model(tiny(ErnieImage), ErnieImage())
    settings: dict[str, Any] = {"interventions": [patch({0: 1}, model.sites.match("text"))], "num_steps": 1}
    apart, beside = (model.run((PROMPTS[0], "a " * 65), batch_size=size, **settings) for size in (1, 2))
    assert pixels(apart) == pixels(beside)


def test_a_pipeline_that_needs_a_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prx, "is_ftfy_available", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 't2iprobe\[prx\]'"):
        PRX().encode_prompts(PRX.tiny(), ["a sign"])


def test_a_step_does_not_encode_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    family = next(one for one in FAMILIES if one.name == "qwen-image")
    pipeline, adapter = family.tiny(), family()
    text = adapter.encode_prompts(pipeline, ["a sign"])
    latents = adapter.encode_images(pipeline, torch.zeros(1, 3, *adapter.picture_size(pipeline)))
    first = adapter.predict(pipeline, latents, torch.tensor([500.0]), text)
    monkeypatch.setattr(pipeline.text_encoder, "forward", None)
    with torch.no_grad():
        assert torch.equal(adapter.predict(pipeline, latents, torch.tensor([500.0]), text), first)


def test_kandinsky_3_draws_a_prompt_beside_a_longer_one_as_its_pipeline_draws_it_alone() -> None:
    """The network reads the mean of all tokens, and the pipeline cuts them behind the longest prompt of a batch."""
    model, seed = Model(Kandinsky3.tiny(), Kandinsky3()), 3
    height, width = model.picture_size()
    plain = model.pipeline(
        "a hat", num_inference_steps=2, height=height, width=width, generator=torch.Generator().manual_seed(seed)
    )
    beside = model.run(["a hat", "a long row of words on a red sign"], num_steps=2, seed=[seed, seed])
    one, other = (np.asarray(run.images[0], np.int16) for run in (plain, beside))
    assert abs(one - other).max() <= 1
