"""A saved LoRA is drawn as diffusers draws it on a pipeline of its own, and leaves nothing behind when it is taken off.

The files are written here, tensor by tensor; the other side is ``load_lora_weights`` and a call of a stock pipeline.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.ovis import OvisImage
from t2iprobe.architectures.pixart import PixArtSigma
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.editing.patching import loaded
from t2iprobe.training.lora import Lora

LENGTH = 24  # tokens
PROMPT, SEED, STEPS = 'a sign that says "OPEN"', 3, 2
FAMILIES = (SD, SDXL, SD3, Flux, DeepFloydIF)
TEXT = ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")
Weights = dict[str, Tensor]


def denoiser_modules(pipeline: Any, component: str) -> dict[str, Any]:
    """Two linear layers of the first and last attention, and what text enters by."""
    found = {
        path: module
        for path, module in getattr(pipeline, component).named_modules()
        if path.endswith(("to_q", "to_k", "add_k_proj", "add_v_proj", "to_out.0")) and hasattr(module, "in_features")
    }
    return dict(list(found.items())[:3] + list(found.items())[-3:])


def text_modules(pipeline: Any) -> dict[str, dict[str, Any]]:
    """Layers of the CLIP text encoders, by component."""
    parts = {name: part for name, part in pipeline.components.items() if type(part).__name__.startswith("CLIPText")}
    return {
        name: {path: one for path, one in part.named_modules() if path.endswith(TEXT)} for name, part in parts.items()
    }


def drawn(module: Any, rank: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    first = torch.randn(rank, module.in_features, generator=chance)
    return first, 0.4 * torch.randn(module.out_features, rank, generator=chance)


def weights(parts: dict[str, dict[str, Any]], rank: Callable[[int], int] = lambda number: 2) -> Weights:
    """As diffusers names them."""
    chance, found = torch.Generator().manual_seed(1), {}
    for part, modules in parts.items():
        for number, (path, module) in enumerate(modules.items()):
            for letter, value in zip("AB", drawn(module, rank(number), chance), strict=True):
                found[f"{part}.{path}.lora_{letter}.weight"] = value
    return found


def settings(part: str, modules: dict[str, Any], **given: Any) -> dict[str, Any]:
    """peft's settings as diffusers keeps them in a file."""
    config = LoraConfig(**{"r": 2, "lora_alpha": 7, "target_modules": sorted(modules), **given}).to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return {f"{part}.{key}": value for key, value in plain.items()}


def write(path: Path, tensors: Weights, metadata: dict[str, Any] | None = None) -> Path:
    kept = None if metadata is None else {"format": "pt", "lora_adapter_metadata": json.dumps(metadata, default=str)}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, kept)
    return path


# kinds of files: each gets a pipeline of the family and the component that denoises


def plain(path: Path, pipeline: Any, part: str) -> Path:
    """No alpha at all, so that it is the rank, and the rank is not the same everywhere."""
    return write(path, weights({part: denoiser_modules(pipeline, part)}, lambda number: 2 + number % 2))


def with_patterns(path: Path, pipeline: Any, part: str) -> Path:
    modules = denoiser_modules(pipeline, part)
    first, *_, last = modules
    patterns = {"rank_pattern": {first: 4}, "alpha_pattern": {first: 1.0, last: 9.0}}
    tensors = weights({part: modules}, lambda number: 2 if number else 4)
    return write(path, tensors, settings(part, modules, **patterns))


def rslora(path: Path, pipeline: Any, part: str) -> Path:
    modules = denoiser_modules(pipeline, part)
    return write(path, weights({part: modules}), settings(part, modules, use_rslora=True))


def dora(path: Path, pipeline: Any, part: str) -> Path:
    modules = denoiser_modules(pipeline, part)
    vectors = {f"{part}.{one}.lora_magnitude_vector": 1 + torch.rand(m.out_features) for one, m in modules.items()}
    return write(path, weights({part: modules}) | vectors, settings(part, modules, use_dora=True))


def with_text(path: Path, pipeline: Any, part: str) -> Path:
    parts = {part: denoiser_modules(pipeline, part), **text_modules(pipeline)}
    metadata: dict[str, Any] = {}
    for name, modules in parts.items():
        metadata |= settings(name, modules, lora_alpha=3 if name == part else 5)
    return write(path, weights(parts), metadata)


def text_only(path: Path, pipeline: Any, part: str) -> Path:
    return write(path, weights(text_modules(pipeline)))


def kohya(path: Path, pipeline: Any, part: str, alphas: tuple[float, ...] = (1.0,)) -> Path:
    """sd-scripts' names, text encoders too; SDXL's U-Net by the names of its first code."""
    tensors: Weights = {}
    several = "text_encoder_2" in pipeline.components
    heads = {part: "lora_unet_", "text_encoder": "lora_te1_" if several else "lora_te_", "text_encoder_2": "lora_te2_"}
    chance = torch.Generator().manual_seed(1)
    for name, modules in {part: denoiser_modules(pipeline, part), **text_modules(pipeline)}.items():
        for number, (where, module) in enumerate(modules.items()):
            long = where if name == part else f"text_model.{where.removeprefix('text_model.')}"
            key = heads[name] + (sgm(long) if several and name == part else long).replace(".", "_")
            tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"] = drawn(module, 2, chance)
            tensors[f"{key}.alpha"] = torch.tensor(alphas[number % len(alphas)])
    return write(path, tensors)


def sgm(path: str) -> str:
    """An attention of the tiny SDXL (one layer a block) as the first code counted its blocks."""
    kind, block, _, layer, rest = path.split(".", 4)
    if kind == "mid_block":
        return "middle_block.1." + path.split(".", 3)[3]
    if kind == "down_blocks":
        return f"input_blocks.{2 * int(block) + int(layer) + 1}.1.{rest}"
    return f"output_blocks.{2 * int(block) + int(layer)}.1.{rest}"


def kohya_flux(path: Path, pipeline: Any, part: str) -> Path:
    """One matrix pair for queries, keys and values together."""
    chance, width, tensors = torch.Generator().manual_seed(1), pipeline.transformer.inner_dim, Weights()
    for where in ("double_blocks_0_img_attn_qkv", "double_blocks_0_txt_attn_qkv"):
        tensors[f"lora_unet_{where}.lora_down.weight"] = torch.randn(2, width, generator=chance)
        tensors[f"lora_unet_{where}.lora_up.weight"] = torch.randn(3 * width, 2, generator=chance)
        tensors[f"lora_unet_{where}.alpha"] = torch.tensor(1.0)
    return write(path, tensors)


CASES = [
    *((family, kind) for family in FAMILIES for kind in (plain, with_patterns)),
    *((family, with_text) for family in (SD, SDXL, SD3, Flux)),
    *((SD3, kind) for kind in (rslora, dora)),
    *((SD, kind) for kind in (kohya, text_only)),
    (SDXL, kohya),
    (Flux, kohya_flux),
]


def stock(pipeline: Any) -> np.ndarray[Any, Any]:
    """A picture by a call of the pipeline itself; a tiny T5 reads 24 tokens, and diffusers would give it more."""
    long = {"max_sequence_length": LENGTH} if hasattr(pipeline, "transformer") else {}
    generator = torch.Generator().manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pipeline(PROMPT, num_inference_steps=STEPS, generator=generator, **long)
    return np.asarray(found.images[0])


def ours(model: Model) -> np.ndarray[Any, Any]:
    return np.asarray(model.run(model.generation(PROMPT, SEED, num_steps=STEPS)).images[0])


def everything(model: Model) -> dict[str, Any]:
    """Every weight, whether it learns, and which class of module has it."""
    found: dict[str, Any] = {}
    for name, part in model.pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            found |= {f"{name}.{path}": type(module) for path, module in part.named_modules()}
            found |= {f"{name}.{key} learns": one.requires_grad for key, one in part.named_parameters()}
            found |= {f"{name}.{key}": value.clone() for key, value in part.state_dict().items()}
            found[f"{name} trains"] = part.training
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key]
        for key, value in one.items()
    )


@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda one: getattr(one, "name", one.__name__))
def test_a_file_is_drawn_as_diffusers_draws_it_and_leaves_nothing(
    family: type[Adapter], kind: Callable[..., Path], tmp_path: Path
) -> None:
    model, other = Model(family.tiny(), family()), family.tiny()
    path = kind(tmp_path / "lora.safetensors", other, model.adapter.denoiser)
    before, base = everything(model), ours(model)
    other.load_lora_weights(str(path))
    want = stock(other)
    assert not np.array_equal(want, base)

    lora = Lora.load(model, path)
    assert np.array_equal(ours(model), want)
    learning = [one for one in lora.parameters() if one.requires_grad]
    with lora.disabled():
        assert np.array_equal(ours(model), base)
    assert [one for one in lora.parameters() if one.requires_grad] == learning
    assert np.array_equal(ours(model), want)
    lora.save(tmp_path / "again")
    lora.detach()
    assert same(everything(model), before) and np.array_equal(ours(model), base)

    fresh = family.tiny()
    fresh.load_lora_weights(str(tmp_path / "again"))
    assert np.array_equal(stock(fresh), want)


@pytest.mark.parametrize("family", [PixArtSigma, OvisImage], ids=lambda family: family.name)
def test_a_pipeline_without_a_loader_takes_peft_folders(family: type[Adapter], tmp_path: Path) -> None:
    """Saved from here, peft draws the same; loaded again, so does the model; taken off, nothing is left."""
    model, other = Model(family.tiny(), family()), family.tiny()
    before, base = everything(model), ours(model)
    lora = Lora.attach(model, list(denoiser_modules(model.pipeline, "transformer")), rank=2)
    with torch.no_grad():
        for one in lora.parameters():
            one.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    want = ours(model)
    assert not np.array_equal(want, base)
    path = lora.save(tmp_path / "lora")
    lora.detach()
    assert same(everything(model), before)

    PeftModel.from_pretrained(other.transformer, str(path))  # changes its modules, whatever is made of the result
    assert np.array_equal(ours(Model(other, family())), want)
    lora = Lora.load(model, path)
    assert np.array_equal(ours(model), want)
    lora.detach()
    with loaded(model, path, 0.0):
        assert np.array_equal(ours(model), base)
    assert same(everything(model), before)
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        Lora.load(model, with_text(tmp_path / "lora.safetensors", SD3.tiny(), "transformer"))


def test_what_diffusers_cannot_scale_is_said(tmp_path: Path) -> None:
    """This diffusers loses kohya's alphas where they differ between modules; its warning is not kept back."""
    model, other = Model(SD.tiny(), SD()), SD.tiny()
    path = kohya(tmp_path / "lora.safetensors", other, "unet", alphas=(1.0, 2.0))
    for load in (lambda: other.load_lora_weights(str(path)), lambda: Lora.load(model, path)):
        with pytest.warns(RuntimeWarning, match="alpha_pattern keys did not match"):
            load()
    assert np.array_equal(ours(model), stock(other))


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("kind", [with_text, rslora, dora])
def test_a_scale_is_diffusers_adapter_weight(kind: Callable[..., Path], scale: float, tmp_path: Path) -> None:
    model, other = Model(SD3.tiny(), SD3()), SD3.tiny()
    path = kind(tmp_path / "lora.safetensors", other, "transformer")
    other.load_lora_weights(str(path), adapter_name="other")
    other.set_adapters("other", scale)
    with loaded(model, path, scale):
        assert np.array_equal(ours(model), stock(other))


def test_the_change_of_a_weight_has_the_scale_of_its_module(tmp_path: Path) -> None:
    model = Model(SD3.tiny(), SD3())
    path = with_patterns(tmp_path / "lora.safetensors", model.pipeline, "transformer")
    modules, given = list(denoiser_modules(model.pipeline, "transformer")), torch.randn(5, 16)
    lora = Lora.load(model, path)
    assert [lora.scale(one) for one in modules] == [1 / 4, *[7 / 2] * (len(modules) - 2), 9 / 2]
    for one in modules:
        layer = model.denoiser.get_submodule(one)
        with torch.no_grad():
            on = layer(given)
            with lora.disabled():
                off = layer(given)
            assert torch.allclose(given @ lora.delta(one).T, on - off, atol=1e-4)
    lora.detach()
    Lora.load(model, dora(tmp_path / "dora.safetensors", SD3.tiny(), "transformer"))
    with pytest.raises(ConfigError, match="is a DoRA"):
        lora.delta(modules[0])


def test_a_lora_of_another_model_changes_nothing(tmp_path: Path) -> None:
    """FLUX would grow to the shape of the file, and the others would take what fits."""
    model = Model(Flux.tiny(), Flux(), ref="tiny flux")
    before = everything(model)
    wide = {name: torch.zeros(2, 64) if "lora_A" in name else torch.zeros(64, 2) for name in plain_keys(model)}
    for tensors, said in (
        (wide, "LoRA of a model other than tiny flux: at x_embedder it maps 64 to 64 channels"),
        ({"transformer.nowhere.lora_A.weight": torch.zeros(2, 4)}, "there is no module nowhere in the transformer"),
        ({"transformer.x_embedder.lora_A.weight": torch.zeros(2, 4)}, "one of the two matrices of x_embedder"),
        ({"unet.conv_in.lora_A.weight": torch.zeros(2, 4)}, "another model: none of it fits the transformer"),
        ({"conv_in.weight": torch.zeros(2, 4)}, "its first weight is conv_in.weight"),
    ):
        path = write(tmp_path / "lora.safetensors", tensors)
        with pytest.raises(ConfigError, match=said):
            Lora.load(model, path)
        assert same(everything(model), before)


def plain_keys(model: Model) -> list[str]:
    return [f"transformer.x_embedder.lora_{letter}.weight" for letter in "AB"]


def test_a_part_that_diffusers_leaves_out_is_said(tmp_path: Path) -> None:
    model = Model(Flux.tiny(), Flux())
    modules = {"transformer": denoiser_modules(model.pipeline, "transformer")}
    extra = {"text_encoder_2.encoder.lora_A.weight": torch.zeros(2, 4)}
    path = write(tmp_path / "lora.safetensors", weights(modules) | extra)
    with pytest.warns(UserWarning, match="drops what .* has for text_encoder_2"):
        Lora.load(model, path)


def test_a_name_that_diffusers_does_not_know_is_said(tmp_path: Path) -> None:
    """Without an output projection among them diffusers takes kohya's names in a text encoder for others."""
    model, other = Model(SD.tiny(), SD()), SD.tiny()
    path = kohya(tmp_path / "lora.safetensors", other, "unet")
    odd = {key: value for key, value in load_file(path).items() if "out_proj" not in key}
    with pytest.warns(UserWarning, match=r"drops 4 weights .* such as encoder.layers.0.self_attn.to_q_lora"):
        lora = Lora.load(model, write(path, odd))
    other.load_lora_weights(str(path))
    assert np.array_equal(ours(model), stock(other))
    lora.detach()


def test_a_folder_of_several_and_one_of_none(tmp_path: Path) -> None:
    model = Model(SD.tiny(), SD())
    with pytest.raises(ConfigError, match=r"there is no .safetensors file in this folder"):
        Lora.load(model, tmp_path)
    for name in ("one", "two"):
        plain(tmp_path / f"{name}.safetensors", model.pipeline, "unet")
    with pytest.raises(ConfigError, match=r"several LoRAs \(one.safetensors, two.safetensors\); give the path"):
        Lora.load(model, tmp_path)
    Lora.load(model, tmp_path / "two.safetensors")


def test_a_lora_on_a_text_encoder_alone_stops_another_one(tmp_path: Path) -> None:
    model = Model(SD.tiny(), SD())
    Lora.load(model, text_only(tmp_path / "lora.safetensors", model.pipeline, "unet"))
    with pytest.raises(ConfigError, match="already has a LoRA"):
        Lora.attach(model, ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"])
