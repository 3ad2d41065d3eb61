"""Editing methods against other ways to compute the same: processors, least squares, loading by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import Tensor, nn

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.cli.papers import PAPERS
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.contracts.editor import Edited, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.sweep import TrialBatch
from t2iprobe.core.trials import source, target
from t2iprobe.plugins.editing import closed_form, outside, photo
from t2iprobe.plugins.editing.closed_form import ClosedForm, KVEdit, applied, solved
from t2iprobe.plugins.editing.options import PAPER_STARTS
from t2iprobe.plugins.editing.patching import LocalizedEditor, LocalizedLora, PromptSwap
from t2iprobe.plugins.editing.prompt_to_prompt import PromptToPrompt, map_sites
from t2iprobe.plugins.editing.sweep import EditMethod, EditSweep
from t2iprobe.plugins.inversion.ddim import DDIM, Euler
from t2iprobe.plugins.metrics.image import MSE, SSIM, MaskedMSE, MaskedPSNR, MaskedSSIM
from t2iprobe.plugins.metrics.text import F1
from t2iprobe.sampling import decoded, inverted_pictures, model_denoiser, used_schedule
from t2iprobe.testing.editors import EDITOR_LAWS, EditorCase

# as many tokens in both, and as few of them shared as can be: random weights hardly tell one word from another
PAIR = Pair.from_prompts('a sign that says "DOG"', 'on the of with "CAT"', 3)
OTHER = Pair.from_prompts('the sign in red that says "OX"', 'an of the red with on "HE"', 4)
STEPS = {"num_steps": 4}
MASKED = {kind.name: kind for kind in (MaskedSSIM, MaskedPSNR, MaskedMSE)}


def tiny(adapter: type[Adapter]) -> Model:
    return Model(adapter.tiny(), adapter())


@pytest.fixture(scope="module")
def sd() -> Model:
    return tiny(SD)


@pytest.fixture(scope="module")
def sd3() -> Model:
    return tiny(SD3)


def task(model: Model, *pairs: Pair, layers: tuple[int, ...] = (1, 2), **more: Any) -> EditTask:
    settings = STEPS | more.pop("settings", {})
    return EditTask(model, pairs or (PAIR,), layers, settings=settings, batch_size=8, **more)


def gap(one: Image.Image, other: Image.Image) -> int:
    """The largest difference, in levels of 255."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def plain(model: Model, prompt: str, seed: int = 3, **settings: Any) -> Image.Image:
    return model.run(model.generation(prompt, seed, **STEPS | settings)).images[0]


# localized and prompt-swap


@pytest.mark.parametrize("start", [0, 1])
def test_a_localized_edit_of_a_u_net_is_injection_into_its_layers(sd: Model, start: int) -> None:
    """The target's text embeddings are put into four attention modules by hand."""
    text = sd.adapter.encode_prompts(sd.pipeline, [PAIR.target]).tokens
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    def inject(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        own = kwargs["encoder_hidden_states"].clone()
        if calls > start:
            own[1] = text[0]  # the conditional half
        return args, {**kwargs, "encoder_hidden_states": own}

    layers, settings = (1, 2, 4, 5), {"guidance": 20.0}
    paths = {sd.sites.named(f"blocks.{layer}.cross_attn.text").module for layer in layers}
    handles = [sd.denoiser.register_forward_pre_hook(count)]
    handles += [sd.denoiser.get_submodule(p).register_forward_pre_hook(inject, with_kwargs=True) for p in paths]
    try:
        expected = plain(sd, PAIR.source, **settings)
    finally:
        for handle in handles:
            handle.remove()
    edited = LocalizedEditor().edit(task(sd, layers=layers, start=start, settings=settings)).images[0]
    others = [plain(sd, PAIR.source, **settings), plain(sd, PAIR.target, **settings)]
    others.append(LocalizedEditor().edit(task(sd, layers=layers, start=1 - start, settings=settings)).images[0])
    assert gap(edited, expected) <= 1 and min(gap(edited, other) for other in others) > 3


def test_pairs_of_a_batch_do_not_mix(sd3: Model) -> None:
    both = LocalizedEditor().edit(task(sd3, PAIR, OTHER)).images
    alone = [LocalizedEditor().edit(task(sd3, pair)).images[0] for pair in (PAIR, OTHER)]
    assert [gap(*two) <= 1 for two in zip(both, alone, strict=True)] == [True, True] and gap(*alone) > 3
    swapped = PromptSwap().edit(task(sd3, PAIR, OTHER)).images
    assert gap(swapped[1], plain(sd3, OTHER.target, 4)) <= 1


def test_cond_leaves_the_unconditional_half(sd3: Model) -> None:
    settings = {"guidance": 30.0}
    given = task(sd3, layers=(0, 1, 2), settings=settings)
    both, cond = (LocalizedEditor(branches).edit(given).images[0] for branches in ("both", "cond"))
    assert gap(both, cond) > 0
    donors = patch({0: 1}, "blocks.*.joint_attn.[kv]", scope=given.scope(branches=(Branch.COND,)))
    run = sd3.run(sd3.generation([PAIR.source, PAIR.target], 3, **STEPS, **settings), interventions=[donors], rows=[0])
    assert gap(cond, run.images[0]) == 0


def test_a_start_step_beyond_the_run_is_refused(sd: Model) -> None:
    with pytest.raises(ConfigError, match=r"steps 0-3, counted from the noise"):
        task(sd, start=4)


# prompt-to-prompt


class SourcesMaps:
    """Prompt-to-Prompt as its authors have it: softmax weights of the edited row replaced in a processor."""

    def __init__(self, steps: dict[bool, int]) -> None:
        self.steps, self.calls = steps, 0

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        crossed = encoder_hidden_states is not None
        context = encoder_hidden_states if crossed else hidden_states
        q, k, v = (
            attn.head_to_batch_dim(one) for one in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        maps = attn.get_attention_scores(q, k).unflatten(0, (4, -1)).clone()
        if self.calls - 1 < self.steps[crossed]:
            maps[2] = maps[3]  # rows: edited and source without the prompt, then with it
        out = attn.batch_to_head_dim(torch.bmm(maps.flatten(0, 1), v))
        return attn.to_out[1](attn.to_out[0](out))


@pytest.mark.parametrize(("cross", "own"), [(1.0, 0.0), (0.5, 0.25), (0.75, 1.0)])
def test_queries_and_keys_of_the_source_are_its_maps(cross: float, own: float) -> None:
    model = tiny(SD)
    edited = PromptToPrompt(cross, own).edit(task(model)).images[0]
    processor = SourcesMaps({True: round(cross * 4), False: round(own * 4)})
    model.denoiser.set_attn_processor(processor)  # type: ignore[operator]

    def count(*_: Any) -> None:
        processor.calls += 1

    model.denoiser.register_forward_pre_hook(count)
    expected = model.run(model.generation([PAIR.target, PAIR.source], 3, **STEPS)).images[0]
    assert gap(edited, expected) <= 1 and gap(edited, plain(tiny(SD), PAIR.target)) > 3


def test_large_maps_are_left_alone(sd: Model) -> None:
    small = PromptToPrompt(0.0, 1.0, largest=0).edit(task(sd)).images[0]
    assert gap(small, plain(sd, PAIR.target)) <= 1
    assert gap(PromptToPrompt(0.0, 1.0).edit(task(sd)).images[0], small) > 3


@pytest.mark.parametrize(
    ("adapter", "texts", "own"),
    [
        (SDXL, ["cross_attn.k", "cross_attn.q"], ["self_attn.k", "self_attn.q"]),
        (DeepFloydIF, ["cross_attn.k", "cross_attn.q", "self_attn.k"], []),
        (SD3, ["joint_attn.k", "joint_attn.q", "self_attn.k"], ["dual_attn.k", "dual_attn.q"]),
        (Flux, ["joint_attn.k", "joint_attn.q", "self_attn.k"], []),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_maps_are_made_of(adapter: type[Adapter], texts: list[str], own: list[str]) -> None:
    model = tiny(adapter)
    found = map_sites(model)
    assert [sorted({model.sites.named(name).kind for name in names}) for names in found] == [texts, own]
    assert len(found[0]) == len(texts) * model.n_layers


def test_in_joint_attention_the_image_tokens_look_as_in_the_source(sd3: Model) -> None:
    """Maps of what the attention itself gets, qk-norm included, are the source's; the values are not."""
    seen: dict[str, list[Tensor]] = {"maps": [], "values": []}
    original = nn.functional.scaled_dot_product_attention

    def look(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        if q.shape[0] == 4 and k.shape[2] == q.shape[2] and q.shape[2] > 16:
            scores = (q[2:] @ k[2:].mT * q.shape[-1] ** -0.5).softmax(-1)
            seen["maps"].append(scores[:, :, :16])  # 4 x 4 image tokens come first
            seen["values"].append(v[2:])
        return original(q, k, v, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nn.functional, "scaled_dot_product_attention", look)
        PromptToPrompt(1.0, 0.0).edit(task(sd3))
    assert len(seen["maps"]) == 4 * sd3.n_layers
    for maps in seen["maps"]:
        torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-6)
    assert max(float((values[0] - values[1]).abs().max()) for values in seen["values"]) > 0.1


def test_prompts_of_other_lengths_are_warned_of(sd: Model) -> None:
    longer = Pair.from_prompts('a sign that says "DOG"', 'a sign that says "HORSE"', 3)
    with pytest.warns(UserWarning, match="maps token to token"):
        PromptToPrompt().edit(task(sd, longer))


# closed-form


def test_the_ridge_solution_is_that_of_least_squares() -> None:
    """The same problem as rows of an overdetermined system, by NumPy's SVD."""
    rng = np.random.default_rng(0)
    weight, source, target, kept = (rng.normal(size=(n, 6)) for n in (5, 20, 20, 9))
    ridge, preserve = 0.3, 2.0
    scale = ridge * np.trace(source.T @ source) / 6
    rows = np.concatenate([source, np.sqrt(preserve) * kept, np.sqrt(scale) * np.eye(6)])
    wanted = np.concatenate([target @ weight.T, np.sqrt(preserve) * kept @ weight.T, np.sqrt(scale) * weight.T])
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    sums = np.stack([source.T @ source, target.T @ source, kept.T @ kept])
    found = solved(torch.tensor(weight), torch.tensor(sums), ridge, preserve)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert np.abs(found.numpy() - weight).max() > 0.1


@pytest.mark.parametrize("adapter", [SD, SDXL, DeepFloydIF, SD3], ids=lambda adapter: adapter.name)
def test_keys_and_values_are_linear_in_the_text_that_is_gathered(adapter: type[Adapter]) -> None:
    model = tiny(adapter)
    sites = [site for layer in range(model.n_layers) for site in model.text_sites(layer)]
    names = {site.name for site in sites} | {closed_form.text_of(site) for site in sites}
    cache = model.run(model.generation(PAIR.source, 0, num_steps=2), cache=sorted(names)).cache
    for site in sites:
        text = cache[closed_form.text_of(site), 1, Branch.COND]
        linear: Any = model.denoiser.get_submodule(site.module)
        torch.testing.assert_close(linear(text), cache[site.name, 1, Branch.COND], rtol=1e-4, atol=1e-4)


def test_gathered_sums_are_those_of_the_cached_text(sd3: Model) -> None:
    """Of a run in which both layers are patched, conditional and unconditional half apart."""
    given = task(sd3, OTHER, PAIR, layers=(0, 2))
    edits, _ = ClosedForm(ridge=0.1).edits(given)
    sites = [site for layer in (0, 2) for site in sd3.text_sites(layer)]
    texts = [closed_form.text_of(site) for site in sites]
    generation = sd3.generation([PAIR.source, PAIR.target], 3, **STEPS)
    run = sd3.run(generation, interventions=[patch({0: 1}, [site.name for site in sites])], cache=texts)
    for site in sites:
        per_step = [run.cache[closed_form.text_of(site), step, Branch.COND].double() for step in range(4)]
        own, other = (torch.cat([rows[index] for rows in per_step]) for index in (0, 1))
        uncond = torch.cat([run.cache[closed_form.text_of(site), step, Branch.UNCOND][0].double() for step in range(4)])
        linear: Any = sd3.denoiser.get_submodule(site.module)
        sums = torch.stack([own.T @ own, other.T @ own, uncond.T @ uncond])
        expected = solved(linear.weight.detach(), sums, 0.1, 1.0)
        torch.testing.assert_close(edits[1].weights[site.module], expected, rtol=1e-3, atol=1e-4)
        assert (expected - linear.weight).abs().max() > 1e-2


def test_with_few_tokens_and_no_ridge_it_is_the_localized_edit(sd: Model) -> None:
    """24 tokens in 32 channels: the weights can answer exactly as the patch does; without guidance nothing is kept."""
    given = task(sd, settings={"guidance": 1.0})
    weights = ClosedForm(ridge=1e-10, preserve=0.0).edit(given).images[0]
    assert gap(weights, LocalizedEditor().edit(given).images[0]) <= 1
    assert gap(weights, plain(sd, PAIR.source, guidance=1.0)) > 3
    stiff = ClosedForm(ridge=1e8).edit(given).images[0]
    assert gap(stiff, plain(sd, PAIR.source, guidance=1.0)) <= 1


def test_kept_prompts_are_answered_as_before(sd: Model, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text(f"{OTHER.source}\n\n{OTHER.target}\n")

    def drift(**settings: Any) -> float:
        (one,), _ = ClosedForm(ridge=1e-3, **settings).edits(task(sd))
        with torch.no_grad():
            text = sd.adapter.encode_prompts(sd.pipeline, [OTHER.source]).tokens[0]
        path, weight = next(iter(one.weights.items()))
        linear: Any = sd.denoiser.get_submodule(path)
        return float((text @ (weight - linear.weight.detach()).T).norm())

    assert drift(prompts=str(tmp_path / "kept.txt"), preserve=100.0) < 0.2 * drift(preserve=0.0)


def weights_of(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}


def test_an_edit_is_saved_applied_and_leaves_nothing(sd: Model, tmp_path: Path) -> None:
    before, own = weights_of(sd), list(sd.denoiser.parameters())
    made = ClosedForm().edit(task(sd, PAIR, OTHER, keep=lambda number: tmp_path / f"{number}.safetensors"))
    loaded = KVEdit.load(tmp_path / "1.safetensors")
    (_, edit), _ = ClosedForm().edits(task(sd, PAIR, OTHER))
    assert loaded.facts["target"] == OTHER.target
    assert all(torch.equal(loaded.weights[name], weight) for name, weight in edit.weights.items())
    with pytest.raises(RuntimeError, match="stop"), applied(sd, loaded):
        assert not torch.equal(next(iter(loaded.weights.values())), before[f"{next(iter(loaded.weights))}.weight"])
        assert gap(plain(sd, OTHER.source, 4), made.images[1]) <= 1
        raise RuntimeError("stop")
    assert all(one is other for one, other in zip(own, sd.denoiser.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in weights_of(sd).items())


def test_edits_that_cannot_be(sd: Model, tmp_path: Path) -> None:
    path = sd.text_sites(0)[0].module
    with (
        pytest.raises(ConfigError, match=r"another model: .* is .* here"),
        applied(sd, KVEdit({path: torch.zeros(3, 3)})),
    ):
        pass
    with pytest.raises(ConfigError, match="no module nowhere"), applied(sd, KVEdit({"nowhere": torch.zeros(3, 3)})):
        pass
    (tmp_path / "broken.safetensors").write_text("no")
    with pytest.raises(ConfigError, match="is not a saved edit"):
        KVEdit.load(tmp_path / "broken.safetensors")
    flux = tiny(Flux)
    ClosedForm().check(flux, [0])
    with pytest.raises(ConfigError, match="image tokens use the same weights"):
        ClosedForm().check(flux, [2])


# LoRA


def make_lora(model: Model, folder: Path, targets: list[str]) -> None:
    """A LoRA with weights that do something, saved as diffusers does; on a copy of the model."""
    torch.manual_seed(1)
    model.denoiser.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))  # type: ignore[operator]
    state = get_peft_model_state_dict(model.denoiser)
    name = f"{model.adapter.denoiser}_lora_layers"
    type(model.pipeline).save_lora_weights(str(folder), **{name: state})


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    make_lora(tiny(SD3), folder, ["add_k_proj", "add_v_proj", "to_q"])
    return folder


def test_localized_with_a_lora_is_localized_on_the_model_with_it(lora: Path) -> None:
    model = tiny(SD3)
    before = weights_of(model)
    made = LocalizedLora(lora=str(lora)).edit(task(model, PAIR, OTHER))
    assert list(weights_of(model)) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    assert type(model.denoiser.get_submodule("transformer_blocks.1.attn.add_k_proj")) is nn.Linear
    assert made.sources is not None and gap(made.sources[1], plain(model, OTHER.source, 4)) > 2
    model.pipeline.load_lora_weights(str(lora))
    assert gap(made.sources[1], plain(model, OTHER.source, 4)) <= 1
    assert gap(made.images[1], LocalizedEditor().edit(task(model, OTHER)).images[0]) <= 1
    with pytest.raises(ConfigError, match="already has a LoRA"):
        LocalizedLora(lora=str(lora)).edit(task(model))


@pytest.mark.parametrize("law", EDITOR_LAWS, ids=lambda law: law.__name__)
def test_an_edit_with_a_lora_keeps_the_contract(law: Any, lora: Path) -> None:
    law(EditorCase(LocalizedLora, {"lora": str(lora)}, SD3))


def test_a_lora_that_does_not_fit_is_refused(lora: Path, sd: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of it fits the unet or a text encoder"):
        LocalizedLora(lora=str(lora)).check(sd, [0])
    make_lora(tiny(SDXL), tmp_path / "sdxl", ["to_k"])
    with pytest.raises(ConfigError, match="LoRA of a model other"):
        LocalizedLora(lora=str(tmp_path / "sdxl")).check(sd, [0])
    with pytest.raises(ConfigError, match="no LoRA can be read from"):
        LocalizedLora(lora=str(tmp_path / "nowhere")).check(sd, [0])
    with pytest.raises(ConfigError, match="needs a LoRA"):
        LocalizedLora().check(sd, [0])


# real pictures


@pytest.mark.parametrize("adapter", [SD, SDXL, SD3, Flux], ids=lambda adapter: adapter.name)
def test_rows_start_from_their_own_latents(adapter: type[Adapter]) -> None:
    """Also where the batch is split."""
    model = tiny(adapter)
    with photo.deterministic(model):
        shape = model.adapter.encode_images(model.pipeline, torch.zeros(1, 3, 16, 16)).shape[1:]
        latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        both = LocalizedEditor().edit(task(model, PAIR, OTHER, latents=latents)).images
        again = LocalizedEditor().edit(
            EditTask(model, (OTHER,), (1, 2), settings=STEPS, batch_size=1, latents=latents[1:])
        )
        noise = LocalizedEditor().edit(task(model, OTHER)).images[0]
    assert gap(both[1], again.images[0]) <= 1 and gap(both[1], noise) > 3 and gap(*both) > 3


@pytest.mark.parametrize("adapter", [SD, SDXL, SD3], ids=lambda adapter: adapter.name)
def test_a_picture_is_sampled_on_the_levels_that_it_is_inverted_on(adapter: type[Adapter]) -> None:
    """What an inverter samples from some noise is the pipeline's picture of that noise."""
    model = tiny(adapter)
    with photo.deterministic(model):
        shape = model.adapter.encode_images(model.pipeline, torch.zeros(1, 3, 16, 16)).shape
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        settings = {"guidance": 1.0, "num_steps": 5}
        picture = PromptSwap().edit(task(model, latents=noise, settings=settings)).images[0]
        inverter = {"flow": Euler, "epsilon": DDIM}[model.adapter.prediction(model.pipeline)]()
        with torch.no_grad():
            denoiser = model_denoiser(model, [PAIR.target])
            walk = inverter.sample(denoiser, used_schedule(model, 5), noise)
        assert gap(picture, Image.fromarray(decoded(model, walk.clean)[0])) <= 1
        found = inverted_pictures(inverter, model, np.asarray(picture).copy()[None], [PAIR.target], 5)
        assert found.noise.shape == noise.shape and float((found.noise - noise).abs().max()) > 0
    assert gap(picture, plain(model, PAIR.target, **settings)) > 3


def test_a_pipeline_that_draws_its_own_noise_is_refused() -> None:
    model = tiny(DeepFloydIF)
    with pytest.raises(ConfigError, match="takes no latents"):
        photo.inverted(model, Image.new("RGB", (16, 16)), "a sign", None, {})


def test_the_sampler_is_ddim_for_a_while(sd: Model) -> None:
    model = tiny(SD)
    before = model.pipeline.scheduler
    with pytest.raises(RuntimeError), photo.deterministic(model):
        assert model.pipeline.scheduler is not before and not model.pipeline.scheduler.config.clip_sample
        raise RuntimeError
    assert model.pipeline.scheduler is before


@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [
        ("RGBA", (16, 16), "is RGBA, the model draws RGB"),
        ("L", (16, 16), "is L"),
        ("RGB", (16, 20), "has 16×20 pixels, the model draws 16×16"),
    ],
)
def test_pictures_that_do_not_fit(tmp_path: Path, mode: str, size: tuple[int, int], said: str) -> None:
    Image.new(mode, size).save(tmp_path / "photo.png")
    with pytest.raises(ConfigError, match=said):
        photo.read(tmp_path / "photo.png", (16, 16))


def test_a_photo_is_edited_upright(tmp_path: Path) -> None:
    upright = Image.effect_noise((16, 16), 40).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    assert photo.read(tmp_path / "photo.png", (16, 16)).tobytes() == upright.tobytes()


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ConfigError, match="not a readable picture"):
        photo.read(tmp_path / "text.png", (16, 16))
    with pytest.raises(ConfigError, match="no such file"):
        photo.read(tmp_path / "none.png", (16, 16))


# what is compared


class Boxed:
    """Finds text in white pictures."""

    name = "boxed"

    def read(self, images: Any) -> list[str]:
        return ["DOG" for _ in images]

    def boxes(self, images: Any) -> list[list[Any]]:
        return [[(0, 0, 8, 8)] if np.asarray(image)[0, 0, 0] == 255 else [] for image in images]


def picture(level: int, **spots: tuple[slice, slice]) -> Image.Image:
    pixels = np.full((32, 32, 3), level, np.uint8)
    for place in spots.values():
        pixels[place] = 0
    return Image.fromarray(pixels)


def test_one_box_for_every_method_and_only_the_rest_counts() -> None:
    compare = outside.Outside(Boxed(), MASKED)  # type: ignore[arg-type]
    white, grey = picture(255), picture(128)
    inside = picture(255, hook=(slice(2, 6), slice(2, 6)))
    beyond = picture(255, hook=(slice(20, 24), slice(20, 30)))
    boxes = compare.box(white, grey)
    assert boxes == [(0, 0, 8, 8)]
    every = [compare.score(image, white, boxes) for image in (white, inside, beyond)]
    scores = {name: [scores[name] for scores in every] for name in every[0]}
    assert scores["mse_textless"] == [0.0, 0.0, pytest.approx(255**2 * 40 / 32**2)]
    assert scores["ssim_textless"][:2] == [1.0, 1.0] and scores["ssim_textless"][2] < 0.99
    assert scores["text_area"] == [64 / 1024] * 3


def test_the_difference_is_the_box_where_no_text_is_found() -> None:
    compare = outside.Outside(Boxed(), MASKED)  # type: ignore[arg-type]
    grey = picture(128)
    changed = picture(128, one=(slice(4, 6), slice(10, 12)), other=(slice(9, 10), slice(3, 4)))
    assert compare.box(grey, changed) == [(3, 4, 12, 10)] and compare.box(grey, grey) == []
    assert outside.area([(0, 0, 8, 8), (4, 0, 12, 8)], (32, 32)) == 96 / 1024
    with pytest.raises(ConfigError, match="gives no boxes of text"):
        outside.Outside(SimpleNamespace(name="blind", read=None), MASKED)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no text box"):
        outside.Outside(Boxed(), MASKED, "wrong")  # type: ignore[arg-type]


def test_pictures_are_compared_with_what_was_edited(lora: Path) -> None:
    """The task's picture, a real one, or that of a model with a LoRA; and the plan is what is spent."""
    model, scorer = tiny(SD3), Scorer("text", Boxed(), [F1()], [SSIM(), MSE()])  # type: ignore[arg-type]
    methods = [
        EditMethod(kind, LocalizedEditor().sites(model, [1]), (1,))
        for kind in (LocalizedLora(lora=str(lora)), LocalizedEditor())
    ]
    sweep = EditSweep(model, [OTHER, PAIR], methods, scorer, outside.Outside(Boxed(), MASKED), STEPS, 2)  # type: ignore[arg-type]
    trials = (source(), target(), *(trial for method in methods for trial in method.trials))
    asks = [TrialBatch(number, trials) for number in (0, 1)]
    first, second = sweep.measure(asks)
    assert [trial.label for trial in trials[2:]] == ["localized+lora", "source of localized+lora", "localized"]
    compared = {"localized+lora": "source of localized+lora"}
    for label, scores in second.scores.items():
        reference = second.images[compared.get(label, "source")]
        assert scores["mse"] == MSE().score(second.images[label], reference)
        assert set(scores) == set(sweep.names)
    assert second.scores["source"]["mse"] == 0 < second.scores["source of localized+lora"]["mse"]
    assert first.rows + second.rows == sweep.cost(asks).rows
    real = Image.effect_noise((16, 16), 90).convert("RGB")
    (again,) = dataclasses.replace(sweep, picture=real).measure([TrialBatch(1, trials[:2])])
    assert again.scores["source"]["mse"] == MSE().score(second.images["source"], real)


# the paper's settings

MODULES = {
    "sdxl": [f"up_blocks.0.attentions.2.transformer_blocks.{block}.attn2.to_k" for block in (1, 2, 3)],
    "sd3": ["transformer_blocks.10.attn.add_k_proj"],
    "if": ["up_blocks.1.attentions.3.add_k_proj"],
}
LEFT = {"sdxl": [50, 46], "sd3": [28, 26], "if": [50, 48]}


@pytest.fixture(params=[SDXL, SD3, DeepFloydIF], ids=lambda adapter: adapter.name)
def full(request: pytest.FixtureRequest) -> Iterator[Model]:
    """The published denoiser on the meta device, with the tiny pipeline's scheduler."""
    kind: type[Adapter] = request.param
    parts = {kind.denoiser: kind.full_size(), "scheduler": kind.tiny().scheduler}
    yield Model(SimpleNamespace(**parts, components={}), kind())


def test_the_presets_plan_on_the_published_models(full: Model) -> None:
    one, starts = PAPERS["iclr2025"][full.adapter.name], PAPER_STARTS[full.adapter.name]
    sites = LocalizedEditor().sites(full, one.layers)
    assert [full.sites.named(name).module for name in sites[::2]] == MODULES[full.adapter.name]
    assert [one.num_steps - start for start in starts] == LEFT[full.adapter.name]
    methods = [EditMethod(LocalizedEditor(), sites, one.layers, start) for start in starts]
    settings = {"num_steps": one.num_steps, "guidance": one.guidance}
    sweep = EditSweep(full, [PAIR] * 300, methods, None, None, settings, 8)  # type: ignore[arg-type]
    trials = (source(), target(), *(trial for method in methods for trial in method.trials))
    cost = sweep.cost([TrialBatch(number, trials) for number in range(300)])
    donors = 2 if full.adapter.name == "sd3" else 0  # a U-Net's need no row
    assert cost.images == 300 * (1 + 1 + 1 + 1 + donors) and cost.rows == cost.images * 2 * one.num_steps


def test_editors_say_how_many_pictures_they_make(sd: Model) -> None:
    """The plan counts with it."""
    for editor in (PromptSwap(), LocalizedEditor(), PromptToPrompt(), ClosedForm()):
        made: Edited = editor.edit(task(sd, PAIR, OTHER))
        assert made.rows == editor.rows_a_picture(sd, [2]) * 2 * 4 * 2 and len(made.images) == 2


def test_the_gatherer_gets_a_pair_in_one_batch_however_small(sd: Model) -> None:
    """It would take a source without its target for a text to keep."""
    edits = [ClosedForm().edits(dataclasses.replace(task(sd, PAIR, OTHER), batch_size=size))[0] for size in (1, 4)]
    for one, other in zip(*edits, strict=True):
        for path, weight in one.weights.items():
            assert torch.allclose(weight, other.weights[path], atol=1e-5)
