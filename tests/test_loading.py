"""Loading checkpoints as people have them: which files, in which precision, and where the weights wait."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusion3Pipeline, StableDiffusionPipeline
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled
from original_layout import save_sd, save_sdxl
from safetensors.torch import load_file, save_file

import t2iprobe as t2i
from t2iprobe.architectures import tiny_parts
from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.krea2 import Krea2
from t2iprobe.architectures.pixart import PixArtSigma
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core import threads
from t2iprobe.core.contracts.adapter import layer_table
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.hub_advice import explained
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.model import Model, Run
from t2iprobe.core.option_groups import ModelOptions
from t2iprobe.core.placement import Demand, Placement, choose, every_way, stored
from t2iprobe.core.runs import provenance
from t2iprobe.plugins.hub import files
from t2iprobe.plugins.hub import load as hub
from t2iprobe.registry import placing
from t2iprobe.registry.few_steps import few_steps
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.no_bars import no_bars
from t2iprobe.registry.variations import parse_lora

GB = 10**9
PLUGINS = Plugins(installed=False)


def saved(pipeline: Any, folder: Path, **more: Any) -> str:
    with no_bars():
        pipeline.save_pretrained(folder, **more)
    return str(folder)


def pixels(run: Run) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def drawn(model: Model) -> np.ndarray[Any, Any]:
    return pixels(model.run(["a cat", "a dog"], num_steps=2))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SD3 with plain and half-precision weights, the latter in shards."""
    folder, pipeline = tmp_path_factory.mktemp("sd3"), SD3.tiny()
    saved(pipeline, folder)
    return saved(pipeline.to(torch.float16), folder, variant="fp16", max_shard_size="20KB")


# which files


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"max_shard_size": "20KB"},
        {"variant": "fp16"},
        {"variant": "fp16", "max_shard_size": "20KB"},
        {"safe_serialization": False},
    ],
    ids=["plain", "shards", "variant", "shards of a variant", "pickled"],
)
@pytest.mark.parametrize("adapter", [SD, SDXL, SD3, DeepFloydIF, Flux], ids=lambda one: one.name)
@pytest.mark.filterwarnings("ignore:.*has weights only as the variant fp16")
def test_a_repository_draws_as_the_pipeline_it_was_saved_from(
    adapter: Any, how: dict[str, Any], tmp_path: Path
) -> None:
    pipeline = adapter.tiny()
    folder = saved(pipeline, tmp_path, **how)
    sizes = {} if adapter is not Flux else {"height": 16, "width": 16}
    own, model = Model(pipeline, adapter()), t2i.load(folder, plugins=PLUGINS)
    pictures = [pixels(one.run("a cat", num_steps=2, **sizes)) for one in (own, model)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1  # not 0: where a tensor lies in memory decides its last bit


def test_half_precision_takes_half_precision_files(sd3: str) -> None:
    names = [*(file.relative_to(sd3).as_posix() for file in Path(sd3).rglob("*")), "sd3.safetensors"]
    assert files.variant_of(names, "float32") is None
    assert files.variant_of(names, "bfloat16") == files.variant_of(names, "float16") == "fp16"
    plain, half = files.chosen(names, None), files.chosen(names, "fp16", without=("text_encoder_3",))
    assert "transformer/diffusion_pytorch_model.safetensors" in plain and not any("fp16" in name for name in plain)
    assert any("transformer/diffusion_pytorch_model.fp16-00001-of" in name for name in half)
    assert not {name for name in half if "text_encoder_3" in name or (name in plain and name.endswith(".safetensors"))}
    assert {"model_index.json", "scheduler/scheduler_config.json"} <= {*plain} & {*half}
    assert "sd3.safetensors" not in plain


def test_a_variant_that_is_not_there_names_those_that_are(sd3: str) -> None:
    with pytest.raises(ModelError, match="no variant bf16; it has fp16"):
        t2i.load(sd3, variant="bf16", plugins=PLUGINS)


def test_the_bytes_of_a_pipeline_are_read_from_headers(sd3: str) -> None:
    found = files.demand(Path(sd3), "fp16", itemsize=2)
    pipeline = t2i.load(sd3, dtype="bfloat16", plugins=PLUGINS).pipeline
    assert found is not None
    for name in ("transformer", "vae", "text_encoder_3"):  # T5 has one tensor under two names
        tensors = getattr(pipeline, name).state_dict().values()
        assert found.components[name] == sum({one.data_ptr(): one.nbytes for one in tensors}.values()), name


def test_a_repository_without_network_is_read_from_the_cache(
    sd3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a hand-copied cache is: the hub cannot say which files there are."""

    def unreachable(*args: Any, **more: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(hub, "hf_hub_download", lambda ref, name, **more: f"{sd3}/{name}")
    assert t2i.load("owner/name", plugins=PLUGINS).adapter.name == "sd3"
    shutil.copy(f"{sd3}/model_index.json", tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", lambda ref, name, **more: f"{tmp_path}/{name}")
    with pytest.raises(ModelError, match="but no file of weights"):
        t2i.load("owner/name", plugins=PLUGINS)


def test_a_subfolder_is_the_pipeline(sd3: str) -> None:
    above, name = str(Path(sd3).parent), Path(sd3).name
    assert t2i.load(above, subfolder=name, plugins=PLUGINS).adapter.name == "sd3"
    with pytest.raises(ModelError, match=r"no nowhere/model_index\.json"):
        t2i.load(above, subfolder="nowhere", plugins=PLUGINS)


def test_sd3_without_t5(sd3: str) -> None:
    model = t2i.load(sd3, without=["text_encoder_3", ""][:1], plugins=PLUGINS)
    assert model.pipeline.text_encoder_3 is None and model.pipeline.tokenizer_3 is None
    assert drawn(model).shape == drawn(t2i.load(sd3, plugins=PLUGINS)).shape
    with pytest.raises(ConfigError, match="no component 'unet'"):
        t2i.load(sd3, without=["unet"], plugins=PLUGINS)


# single files


@pytest.fixture(scope="module")
def alone(sd3: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the transformer alone, a little changed."""
    weights = load_file(f"{sd3}/transformer/diffusion_pytorch_model.safetensors")
    file = tmp_path_factory.mktemp("alone") / "mine.safetensors"
    save_file({key: value * 1.01 for key, value in weights.items()}, file)
    return file


def test_a_file_with_the_denoiser_alone_takes_the_rest_from_its_configuration(alone: Path, sd3: str) -> None:
    model, other = t2i.load(str(alone), config=sd3, plugins=PLUGINS), t2i.load(sd3, plugins=PLUGINS)
    key = "transformer_blocks.0.attn.to_q.weight"
    own, plain = (one.denoiser.state_dict()[key] for one in (model, other))
    assert torch.equal(own, plain * 1.01)
    assert (drawn(model) != drawn(other)).any()


def test_a_whole_file_is_loaded_by_the_class_of_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a configuration, by the repository that diffusers knows the file by."""
    (tmp_path / "mine.safetensors").touch()
    asked: dict[str, Any] = {}

    def read(path: str, **more: Any) -> Any:
        asked.update(more, path=path)
        return SD.tiny()

    folder = saved(SD.tiny(), tmp_path / "sd")
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", read)
    monkeypatch.setattr(hub.single_file, "configuration", lambda path: folder)
    model = t2i.load(str(tmp_path / "mine.safetensors"), plugins=PLUGINS)
    assert model.adapter.name == "sd" and asked["config"] == folder and asked["dtype"] == torch.float32


@pytest.fixture(params=["sd", "sdxl"])
def original(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """A pipeline, one file with all of its weights by their original names, and a folder with its configuration."""
    pipeline: Any = SD.tiny()
    if request.param == "sdxl":  # diffusers tells the two text encoders apart by their widths
        pipeline, more = SDXL.tiny(), {"projection_class_embeddings_input_dim": 24 + 6 * 8}
        unet = tiny_parts.enliven(type(pipeline.unet).from_config(pipeline.unet.config, **more))
        parts = {"text_encoder": tiny_parts.clip(8), "text_encoder_2": tiny_parts.clip_with_projection(24)}
        pipeline.register_modules(unet=unet, **parts)
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    folder = Path(saved(pipeline, tmp_path / "config"))
    for file in folder.glob("*/*.safetensors"):
        file.unlink()
    {"sd": save_sd, "sdxl": save_sdxl}[request.param](pipeline, tmp_path / "mine.safetensors")
    return pipeline, tmp_path / "mine.safetensors", folder


def test_a_whole_file_is_the_pipeline_it_was_written_from(original: tuple[Any, Path, Path]) -> None:
    """The layout of files from civitai; what is predicted comes from the configuration."""
    pipeline, file, folder = original
    model, own = t2i.load(str(file), config=str(folder), plugins=PLUGINS), t2i.load(pipeline)
    assert model.adapter.prediction(model.pipeline) == "v_prediction"
    assert np.abs(drawn(model) - drawn(own)).max() <= 1
    patched = [one.run(["a cat", "a dog"], num_steps=2, interventions=[t2i.patch({1: 0}, one.text_sites(1))])
               for one in (model, own)]  # fmt: skip
    assert np.abs(pixels(patched[0]) - pixels(patched[1])).max() <= 1


def test_a_file_that_lacks_weights_is_a_sentence(original: tuple[Any, Path, Path]) -> None:
    _, file, folder = original
    weights = load_file(file)
    removed = next(key for key in weights if "output_blocks.1.1" in key)
    save_file({key: value for key, value in weights.items() if key != removed}, file)
    with pytest.raises(ModelError, match=r"lacks weights that the configuration of .*config=REF"):
        t2i.load(str(file), config=str(folder), plugins=PLUGINS)


def test_a_file_whose_configuration_cannot_be_fetched_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **more: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    save_file({"cond_stage_model.transformer.x": torch.zeros(1)}, tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"needs the configuration \(config\) of stable-diffusion-v1-5/.*hf download"):
        t2i.load(str(tmp_path / "mine.safetensors"), plugins=PLUGINS)


def test_a_gguf_file_is_the_denoiser(alone: Path, sd3: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(str(tmp_path / "mine.gguf"), "sd3")
    for key, value in load_file(alone).items():
        blocks = value.ndim == 2 and value.shape[1] % 32 == 0
        packed = {"tensor": gguf.quants.quantize(value.numpy(), kind), "raw_dtype": kind} if blocks else {}
        writer.add_tensor(key, **{"tensor": value.numpy()} | packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = t2i.load(str(tmp_path / "mine.gguf"), config=sd3, plugins=PLUGINS)
    assert "quantised (gguf)" in str(model.placement)
    assert np.abs(drawn(model) - drawn(t2i.load(str(alone), config=sd3, plugins=PLUGINS))).max() <= 3


def test_a_file_of_a_class_that_diffusers_reads_no_files_of_is_refused(tmp_path: Path) -> None:
    folder = saved(PixArtSigma.tiny(), tmp_path)
    with pytest.raises(ConfigError, match=r"no single file of a PixArtTransformer2DModel: put .* into a folder"):
        PLUGINS.load(str(tmp_path / "transformer/diffusion_pytorch_model.safetensors"), config=folder)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("mine.gguf", {}, "has only a denoiser.*config=REF"),
        ("mine.ckpt", {}, "neither .safetensors nor .gguf"),
        ("mine.safetensors", {"device_map": "balanced"}, "not for a single file"),
    ],
)
def test_a_file_that_does_not_suffice_says_what_to_add(
    name: str, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    with pytest.raises((ModelError, ConfigError), match=message):
        t2i.load(str(tmp_path / name), plugins=PLUGINS, **more)


@pytest.mark.parametrize(
    ("way", "package"), [("bnb-4bit", "bitsandbytes"), ("torchao-int8", "torchao"), ("bnb-3bit", "no quantisation")]
)
def test_quantising_names_the_package_it_needs(
    way: str, package: str, sd3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.quantization, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=package):
        t2i.load(sd3, quantize=way, plugins=PLUGINS)


class Halves(torch.Tensor):
    """A tensor in two parts, as torchao makes them."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scales"], None


def test_quantised_weights_count_and_hash_as_they_are_stored() -> None:
    one = torch.zeros(8, 8).as_subclass(Halves)
    one.codes, one.scales = torch.zeros(8, 8, dtype=torch.int8), torch.ones(8)  # type: ignore[attr-defined]
    assert [inner.nbytes for inner in stored(one)] == [64, 32]
    assert stored(one.scales) == [one.scales]  # type: ignore[attr-defined]


# precision


@pytest.mark.parametrize(
    ("adapter", "bf16", "expected"),
    [
        (SD3, True, torch.bfloat16),
        (SD3, False, torch.float16),
        (SDXL, True, torch.float16),
    ],
)
def test_a_gpu_gets_the_precision_of_the_family(
    adapter: Any, bf16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadOptions, "torch_device", lambda self: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    assert LoadOptions().torch_dtype(adapter.half) == expected
    assert LoadOptions(dtype="float32").torch_dtype(adapter.half) == torch.float32
    assert LoadOptions().torch_dtype() == torch.float32  # embedded models, training, inversion


def test_a_decoder_that_overflows_counts_in_float32() -> None:
    pipeline, adapter = SDXL.tiny().to(torch.float16), SDXL()
    fixed = adapter.activations(pipeline, (1024, 1024))
    pipeline.vae.register_to_config(force_upcast=True)  # as the published autoencoder is
    assert adapter.activations(pipeline, (1024, 1024)) == 2 * fixed


# where the weights wait

LARGE = Demand(
    {"transformer": 16 * GB, "text_encoder_3": 10 * GB, "vae": GB // 5},
    {"transformer": GB, "vae": 3 * GB},
    GB // 4,
)


@pytest.mark.parametrize(("free", "expected"), [(80, "none"), (31, "none"), (24, "model"), (12, "group"), (4, "group")])
def test_the_fastest_placement_that_fits(free: int, expected: str) -> None:
    assert choose(LARGE, free * GB) == expected


def test_the_table_of_the_documentation_is_what_would_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    placement = importlib.import_module("placement")
    assert placement.table() in (root / "docs" / "how-to" / "run-on-your-gpu.md").read_text()


def test_a_placement_that_does_not_fit_is_refused_with_numbers() -> None:
    with pytest.raises(
        ModelError, match=r"29\.2 GB with offload none, 17\.0 GB with offload model.*2\.0 GB of the device"
    ):
        choose(LARGE, 2 * GB)
    with pytest.raises(ModelError, match=r"17\.0 GB with offload model, and 12\.0 GB .*take offload auto"):
        choose(LARGE, 12 * GB, "model")
    assert choose(LARGE, 12 * GB, "sequential") == "sequential" and choose(LARGE, None) == "none"
    with pytest.raises(ModelError, match="does not fit"):
        choose(LARGE, 12 * GB, whole=True)


@pytest.mark.filterwarnings("ignore:.*")  # accelerate's, about devices that are the same here
@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
@pytest.mark.parametrize("adapter", [SDXL, SD3, DeepFloydIF])
def test_a_placed_pipeline_draws_and_is_patched_as_ever(adapter: Any, offload: Any) -> None:
    """The CPU plays the device, as in tests/test_offload.py."""

    def swapped(model: Model) -> Run:
        generation = model.generation(["a cat", "a dog on the sign", "a cat"], 0, num_steps=2)
        return model.run(generation, interventions=[t2i.patch({2: 1}, model.text_sites(1))])

    pipeline = adapter.tiny()
    digest = provenance.digest([pipeline])
    placing.apply(pipeline, offload, torch.device("cpu"))
    model = Model(pipeline, adapter())
    assert (pixels(swapped(model)) == pixels(swapped(Model(adapter.tiny(), adapter())))).all()
    assert provenance.digest([pipeline]) == digest  # a run is told from another by its weights, wherever they are


@pytest.mark.filterwarnings("ignore:.*")  # accelerate's, about devices that are the same here
def test_out_of_memory_leaves_no_component_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next try would find the denoiser there beside the text encoders, as diffusers offloads by component."""
    pipeline, freed = SD.tiny(), []
    pipeline.enable_model_cpu_offload(device="cpu")
    free = pipeline.maybe_free_model_hooks

    def small(module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError("too many rows")

    pipeline.unet.register_forward_pre_hook(small)
    monkeypatch.setattr(pipeline, "maybe_free_model_hooks", lambda: freed.append(free()))
    run = Model(pipeline, SD()).run(["a cat"] * 4, num_steps=1, guidance=1.0)
    assert len(run.images) == 4 and len(freed) == 3  # one failure and two batches


def test_free_memory_decides_and_a_failure_is_one_sentence(sd3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake GPU with less memory than the weights: announced, and tried."""
    tried: list[str] = []

    def refuse(pipeline: Any, offload: str, device: torch.device, together: tuple[str, ...]) -> None:
        tried.append(offload)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(placing, "free_bytes", lambda device: 1_000_000)
    monkeypatch.setattr(placing, "held_bytes", lambda pipeline, device: 0)
    monkeypatch.setattr(placing, "apply", refuse)
    with pytest.raises(ModelError, match=r"GB of weights could not be put on cpu.*offload none.*out of memory"):
        t2i.load(sd3, resolution=8, plugins=PLUGINS)
    assert tried == ["none"]


def test_pictures_are_decoded_in_tiles_where_a_whole_one_would_not_fit(
    sd3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    demand = PLUGINS.load(sd3, weights=False).placement.demand  # type: ignore[union-attr]
    least = [min(map(one.needs, every_way(False))) for one in (demand.in_tiles(), demand)]
    assert least[0] < least[1]
    for bytes_needed, tiles in zip(least, (True, False), strict=True):
        free = int(bytes_needed / 0.95) + 1
        monkeypatch.setattr(placing, "free_bytes", lambda device, free=free: free)
        model = PLUGINS.load(sd3, weights=False)
        assert model.placement is not None
        assert (model.placement.tiles, model.memory.tiles, "tiles" in str(model.placement)) == (tiles, tiles, tiles)
    monkeypatch.setattr(placing, "free_bytes", lambda device: 1000)
    with pytest.raises(ModelError, match="does not fit"):
        PLUGINS.load(sd3, weights=False)


def test_too_little_main_memory_is_said_before_loading(sd3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "available", lambda: 1000)
    with pytest.raises(ModelError, match="GB of main memory are free"):
        t2i.load(sd3, plugins=PLUGINS)


def test_gradients_need_the_denoiser_on_the_device() -> None:
    Placement("cuda", "bfloat16", "model", LARGE).check_gradients()
    with pytest.raises(ConfigError, match=r"gradients need.*\(offload group\)"):
        Placement("cuda", "bfloat16", "group", LARGE).check_gradients()


def test_offloading_from_a_cpu_is_refused(sd3: str) -> None:
    with pytest.raises(ConfigError, match="the device is a CPU"):
        t2i.load(sd3, device="cpu", offload="model", plugins=PLUGINS)
    with pytest.raises(ConfigError, match="give one of them"):
        t2i.load(sd3, offload="none", device_map="cpu", plugins=PLUGINS)
    assert "spread over the devices (cpu)" in str(t2i.load(sd3, device_map="cpu", plugins=PLUGINS).placement)


# what people change


def test_a_scheduler_keeps_what_is_predicted(tmp_path: Path) -> None:
    pipeline = SD.tiny()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    folder = saved(pipeline, tmp_path)
    plain = t2i.load(folder, plugins=PLUGINS)
    other = t2i.load(folder, scheduler="euler-discrete:timestep_spacing=trailing", plugins=PLUGINS)
    assert plain.adapter.prediction(plain.pipeline) == other.adapter.prediction(other.pipeline) == "v_prediction"
    assert type(other.pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    assert other.pipeline.scheduler.config.timestep_spacing == "trailing"
    assert provenance.facts(plain, {})["decides"] != provenance.facts(other, {})["decides"]
    with pytest.raises(ConfigError, match=r"scheduler for this model.*'flow'"):
        t2i.load(folder, scheduler="flow", plugins=PLUGINS)
    with pytest.raises(ConfigError, match="no setting 'spacing'"):
        t2i.load(folder, scheduler="ddim:spacing=trailing", plugins=PLUGINS)


def test_loras_are_loaded_with_their_weights(sd3: str, tmp_path: Path) -> None:
    from t2iprobe.training.lora import Lora

    base = t2i.load(sd3, plugins=PLUGINS)
    tuned = Lora.attach(base, ["transformer_blocks.0.attn.to_q"], rank=2)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.normal_(std=0.5)
    tuned.save(tmp_path / "lora")
    tuned.detach()
    file = next((tmp_path / "lora").glob("*.safetensors"))
    full, none = (t2i.load(sd3, lora=ref, plugins=PLUGINS) for ref in (str(file), f"{file}:0"))
    assert (drawn(full) != drawn(base)).any() and (drawn(none) == drawn(base)).all()
    first, second = (provenance.facts(one, {})["decides"] for one in (full, none))
    assert first["weights"] == second["weights"] and first != second
    assert parse_lora("owner/name:0.7") == ("owner/name", 0.7) and parse_lora("C:/x") == ("C:/x", 1.0)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # in bare diffusers
def test_several_loras_add_up_as_in_diffusers(tmp_path: Path) -> None:
    """One in diffusers' format, one in kohya's."""
    folder, places = saved(SD.tiny(), tmp_path / "sd"), ("mid_block.attentions.0", "up_blocks.0.attentions.0")
    chance, files_of = torch.Generator().manual_seed(0), []
    for number, place in enumerate(f"{place}.transformer_blocks.0.attn2.to_k" for place in places):
        down, up = (torch.randn(shape, generator=chance) for shape in ((2, 32), (32, 2)))
        head, names = f"unet.{place}.", ("lora_A.weight", "lora_B.weight")
        if number:
            head, names = f"lora_unet_{place.replace('.', '_')}.", ("lora_down.weight", "lora_up.weight")
        weights = dict(zip((head + name for name in names), (down, up), strict=True))
        file = tmp_path / f"lora{number}.safetensors"
        save_file(weights | ({f"{head}alpha": torch.tensor(2.0)} if number else {}), file)
        files_of.append(str(file))
    model = t2i.load(folder, lora=[f"{files_of[0]}:0.5", f"{files_of[1]}:-2"], plugins=PLUGINS)
    own = SD.tiny()
    for number, file in enumerate(files_of):
        own.load_lora_weights(file, adapter_name=str(number))
    own.set_adapters(["0", "1"], [0.5, -2.0])
    assert np.abs(drawn(model) - drawn(Model(own, SD()))).max() <= 1
    assert np.abs(drawn(model) - drawn(Model(SD.tiny(), SD()))).max() > 1


@pytest.mark.parametrize(
    ("names", "scheduler", "config", "expected"),
    [
        (["sdxl-turbo"], "EulerAncestralDiscreteScheduler", {}, (4, 0.0)),
        (["mine", "ByteDance/SDXL-Lightning_8step_lora:1.0"], "EulerDiscreteScheduler", {}, (8, 0.0)),
        (["mine"], "LCMScheduler", {}, (4, 1.0)),
        (["mine"], "LCMScheduler", {"time_cond_proj_dim": 256}, (4, 8.0)),
        (["mine"], "FlowMatchEulerDiscreteScheduler", {"guidance_embeds": False}, (4, 0.0)),
        (["stable-diffusion-xl-base-1.0"], "EulerDiscreteScheduler", {"guidance_embeds": True}, None),
    ],
)
def test_few_step_models_are_recognised(names: list[str], scheduler: str, config: Any, expected: Any) -> None:
    found = few_steps(names, scheduler, config)
    assert (found and (found.num_steps, found.guidance)) == expected


def test_a_few_step_model_draws_so_by_default(sd3: str, tmp_path: Path) -> None:
    shutil.copytree(sd3, tmp_path / "sd3.5-turbo")
    model = t2i.load(str(tmp_path / "sd3.5-turbo"), plugins=PLUGINS)
    assert model.steps() == 4 and model.guided() == 1 and "called turbo" in model.few_steps
    assert model.steps(7) == 7


def test_commands_and_python_take_the_same_options() -> None:
    asked = ModelOptions(model="x", lora="a:0.5", without="vae,unet", offload="model", quantize="bnb-4bit")
    assert LoadOptions(**asked.loading) == LoadOptions(
        offload="model", without=("vae", "unet"), lora=("a:0.5",), quantize="bnb-4bit"
    )


def test_options_that_would_have_no_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="embedded model: variant, quantize"):
        t2i.load("tiny-sd3", variant="fp16", quantize="bnb-4bit", plugins=PLUGINS)
    with pytest.raises(ConfigError, match="built already"):
        t2i.load(SD.tiny(), variant="fp16", plugins=PLUGINS)


# messages


class Refusing(BaseHTTPRequestHandler):
    """A hub that answers everything in one way: a status, its code and its message; README.md is its only file."""

    answer = (404, "", "")

    def do_GET(self) -> None:
        status, code, message = type(self).answer
        body = json.dumps({"error": message}).encode()
        if code == "EntryNotFound" and "/api/" in self.path:
            status, body = 200, json.dumps({"id": "owner/name", "siblings": [{"rfilename": "README.md"}]}).encode()
        self.send_response(status)
        for key, value in (("X-Error-Code", code), ("X-Error-Message", message), ("Content-Length", str(len(body)))):
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Refusing]]:
    """A local hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Refusing
    server.shutdown()
    server.server_close()


GATED = "Access to model owner/name is restricted"


@pytest.mark.parametrize(
    ("answer", "ref", "said"),
    [
        (
            (401, "GatedRepo", GATED),
            "owner/name",
            r"is gated: accept .*https://huggingface.co/owner/name,.*hf auth login",
        ),
        ((403, "GatedRepo", GATED), "owner/name/a.safetensors", r"^owner/name is gated.*co/owner/name,.*hf auth login"),
        ((404, "RepoNotFound", "Repository not found"), "owner/name", "has no model owner/name.*hf auth login"),
        ((404, "RevisionNotFound", "Invalid rev id"), "owner/name", "no such revision.*owner/name/tree/main"),
        (
            (404, "EntryNotFound", "Entry not found"),
            "owner/name",
            "has no model_index.json.*owner/name/FILE.safetensors",
        ),
        ((404, "EntryNotFound", "none"), "owner/name/a.safetensors", "owner/name has no a.safetensors"),
        (
            (401, "", "Invalid credentials in Authorization header"),
            "owner/name",
            "the token.*hf auth login.*unset HF_TOKEN",
        ),
        ((403, "", "Access to this resource is disabled."), "owner/name", "has disabled owner/name"),
        ((403, "", "no permission"), "owner/name", "huggingface.co/settings/tokens.*hf auth login"),
        ((429, "", "rate limit"), "owner/name", "too many requests.*hf auth login"),
        ((503, "", "down"), "owner/name", "answers 503 for owner/name: try again later"),
    ],
)
def test_what_the_hub_refuses_names_the_next_command(
    answer: tuple[int, str, str], ref: str, said: str, refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusing, "answer", answer)
    with pytest.raises(ModelError, match=said):
        t2i.load(ref, plugins=PLUGINS)


def test_a_lora_that_the_hub_refuses_names_the_next_command(
    refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = saved(SD.tiny(), tmp_path / "sd")
    monkeypatch.setattr("diffusers.loaders.lora_base.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("diffusers.loaders.lora_base.model_info", HfApi().model_info)
    monkeypatch.setattr(refusing, "answer", (401, "GatedRepo", GATED))
    with pytest.raises(ConfigError, match=r"the LoRA cannot be fetched: owner/name is gated.*hf auth login"):
        t2i.load(folder, lora="owner/name", plugins=PLUGINS)


def test_a_lora_without_network_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cached = saved(SD.tiny(), tmp_path / "sd"), tmp_path / "hub" / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    (cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
    head = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v."
    weights = {f"{head}lora_A.weight": torch.randn(2, 32), f"{head}lora_B.weight": torch.randn(32, 2)}
    save_file(weights, cached / "snapshots" / ("a" * 40) / "mine.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = t2i.load(folder, lora="owner/name:0.5", plugins=PLUGINS)
    assert np.abs(drawn(model) - drawn(t2i.load(folder, plugins=PLUGINS))).max() > 0
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set .*`hf download owner/other`"):
        t2i.load(folder, lora="owner/other", plugins=PLUGINS)


def test_what_this_machine_refuses_names_the_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/cache")
    said = {
        number: explained("owner/name", OSError(number, "no", "/cache/blobs/x"))
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
    }
    assert all("export HF_HOME=FOLDER" in one for one in said.values())
    assert "the disk is full" in said[errno.EDQUOT] and "not writable" in said[errno.EROFS]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "hf download owner/name a/b.gguf" in explained("owner/name/a/b.gguf", ConnectionError("no route"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in explained("owner/name", OfflineModeIsEnabled("offline"))


def test_a_damaged_index_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"})[:-3])
    with pytest.raises(ModelError, match="cannot be loaded: JSONDecodeError"):
        t2i.load(str(tmp_path), plugins=PLUGINS)


def test_a_pipeline_that_diffusers_lacks_a_package_for_names_it(sd3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StableDiffusion3Pipeline, "_backends", ["torch", "no_such_package"], raising=False)
    with pytest.raises(ConfigError, match="for StableDiffusion3Pipeline: pip install no_such_package"):
        PLUGINS.load(sd3)


def test_half_precision_on_a_cpu_is_loaded_in_silence(
    sd3: str, alone: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder, from a file, and as an embedded model."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    for ref, config in ((sd3, None), (str(alone), sd3), ("tiny-sd3", None)):
        PLUGINS.load(ref, config=config, dtype="float16")
        assert not caplog.messages


# structure without weights


@pytest.mark.parametrize("adapter", [SD, SDXL, SD3, Flux, DeepFloydIF, Krea2], ids=lambda one: one.name)
def test_the_structure_of_a_model_is_found_without_reading_weights(adapter: Any, tmp_path: Path) -> None:
    """Damaged weights prove that they are not read; sites, table and sizes are those of the loaded model."""
    folder = saved(adapter.tiny(), tmp_path)
    whole = t2i.load(folder, plugins=PLUGINS)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    empty = PLUGINS.load(folder, weights=False)
    assert {one.device.type for one in empty.denoiser.parameters()} == {"meta"}
    assert list(empty.sites) == list(whole.sites) and empty.picture_size() == whole.picture_size()
    assert layer_table(empty.adapter, empty.pipeline) == layer_table(whole.adapter, whole.pipeline)
    assert empty.weight_bytes == whole.weight_bytes and empty.steps(3) == whole.steps(3)


def test_the_structure_of_a_denoiser_in_a_file_is_that_of_its_configuration(alone: Path, sd3: str) -> None:
    empty, whole = (PLUGINS.load(str(alone), config=sd3, weights=weights) for weights in (False, True))
    assert list(empty.sites) == list(whole.sites)


def test_transformers_does_not_ask_for_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says when the first pipeline is imported, in a logger that reaches the user."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.utils.import_utils")
    words = "`CLIPImageProcessor` requires torchvision (not installed); falling back", "something else"
    monkeypatch.setattr(logger, "handlers", [handler])

    def load_pipeline(*args: Any) -> None:
        for one in words:
            logger.error(one)
        raise ConfigError("as far as this")

    monkeypatch.setattr(t2i.Plugins, "load_pipeline", load_pipeline)
    with pytest.raises(ConfigError, match="as far as this"):
        t2i.load("tiny-sd3")
    assert said == ["something else"]


def test_a_small_model_gets_one_thread_and_the_next_large_one_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads_for(width: int, device: str = "cpu") -> int:
        model = Mock(device=torch.device(device), denoiser=torch.nn.Linear(width, width, device="meta"))
        threads.choose_threads(model)
        return torch.get_num_threads()

    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert [threads_for(10, "cuda"), threads_for(10), threads_for(10), threads_for(4_000)] == [4, 1, 1, 4]
        torch.set_num_threads(3)  # not torch's default: the user's own
        assert threads_for(10) == 3
        torch.set_num_threads(4)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert threads_for(10) == 4
    finally:
        torch.set_num_threads(before)
