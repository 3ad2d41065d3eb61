"""Pipelines that share a family's components: perturbed-attention guidance, and latent consistency models."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from diffusers.pipelines.pag.pipeline_pag_kolors import KolorsPAGPipeline  # diffusers exports it with sentencepiece

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.hunyuan_dit import HunyuanDiT
from t2iprobe.architectures.kolors import Kolors
from t2iprobe.architectures.pixart import PixArtSigma
from t2iprobe.architectures.plugin import t2iprobe_register_adapters
from t2iprobe.architectures.sana import Sana
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import HookError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model
from t2iprobe.core.runs import provenance
from t2iprobe.testing.adapters import ADAPTER_LAWS

PERTURBED = {
    "StableDiffusionPAGPipeline": SD, "StableDiffusionXLPAGPipeline": SDXL, "StableDiffusion3PAGPipeline": SD3,
    "PixArtSigmaPAGPipeline": PixArtSigma, "SanaPAGPipeline": Sana, "HunyuanDiTPAGPipeline": HunyuanDiT,
    "KolorsPAGPipeline": Kolors,
}  # fmt: skip
PROMPTS = ("a sign that says DOG", "a red cat on the sign")


def perturbed(name: str) -> Any:
    given = {**PERTURBED[name].tiny().components, "requires_safety_checker": False}
    kind = KolorsPAGPipeline if name == "KolorsPAGPipeline" else getattr(diffusers, name)
    takes = inspect.signature(kind).parameters
    return parts.quiet(kind(**{key: part for key, part in given.items() if key in takes}))


@pytest.mark.parametrize("name", PERTURBED)
def test_without_a_request_a_pipeline_with_perturbed_attention_is_the_plain_one(name: str) -> None:
    adapter = PERTURBED[name]
    assert name in adapter.pipelines
    runs = [Model(one, adapter()).run(PROMPTS, num_steps=2) for one in (adapter.tiny(), perturbed(name))]
    assert runs[0].images == runs[1].images and runs[0].denoiser_rows == runs[1].denoiser_rows


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", PERTURBED)
def test_rows_with_perturbed_attention_are_told_apart(name: str, guidance: float) -> None:
    model = Model(perturbed(name), PERTURBED[name]())
    settings: dict[str, Any] = {"num_steps": 2, "guidance": guidance, "options": {"pag_scale": 3.0}}
    entry = model.adapter.text_entry[0]
    plain = model.run(PROMPTS, num_steps=2, guidance=guidance, cache=entry)
    run = model.run(PROMPTS, cache=entry, **settings)
    assert run.denoiser_rows == 2 * model.rows(settings)
    for branch in (Branch.COND, Branch.UNCOND)[: 1 + (guidance > 1)]:
        assert run.cache[entry, 0, branch].equal(plain.cache[entry, 0, branch])
    assert run.cache[entry, 0, Branch.SKIP].equal(run.cache[entry, 0, Branch.COND])
    assert run.images != plain.images


def test_sites_in_perturbed_layers_are_refused() -> None:
    model = Model(perturbed("StableDiffusionPAGPipeline"), SD())
    with pytest.raises(HookError, match=r"blocks\.2\.self_attn\.v: 2 rows for 1 requested rows in 3 branches"):
        model.run(PROMPTS[0], num_steps=1, guidance=4.0, options={"pag_scale": 3.0}, cache="blocks.2.self_attn.v")


@pytest.mark.parametrize("width", [None, 20])
def test_without_a_picture_kontext_draws_what_flux_draws(width: int | None) -> None:
    plain = Flux.tiny()
    kontext = parts.quiet(diffusers.FluxKontextPipeline(**plain.components))
    kontext.default_sample_size = parts.LATENT
    assert type(kontext).__name__ in Flux.pipelines
    swap = [patch({0: 1}, "blocks.*.joint_attn.[kv]")]
    runs = [
        Model(one, Flux()).run(PROMPTS, num_steps=2, guidance=2.0, width=width, interventions=swap)
        for one in (plain, kontext)
    ]
    assert runs[0].images == runs[1].images and runs[0].images[0] != runs[0].images[1]


def latent_consistency() -> Any:
    plain = SD.tiny()
    with parts.seeded():
        unet = parts.unet(time_cond_proj_dim=16)
    swapped = {"unet": unet, "scheduler": diffusers.LCMScheduler(beta_schedule="scaled_linear")}
    return parts.quiet(
        diffusers.LatentConsistencyModelPipeline(**plain.components | swapped, requires_safety_checker=False)
    )


def test_a_latent_consistency_model_keeps_the_laws() -> None:
    adapter: type[Adapter] = SD
    for law in ADAPTER_LAWS:
        law(adapter(), latent_consistency())


def test_a_latent_consistency_model_is_patched() -> None:
    model = Model(latent_consistency(), SD())
    plain = model.run(PROMPTS, num_steps=2)
    patched = model.run(PROMPTS, num_steps=2, interventions=[patch({0: 1}, "blocks.*.cross_attn.[kv]")])
    assert plain.images[0] != patched.images[0] and plain.images[1] == patched.images[1]


def test_infinite_settings_of_a_scheduler_are_recorded() -> None:
    found = provenance._scheduler(diffusers.DPMSolverMultistepScheduler())
    assert found["lambda_min_clipped"] == "-Infinity" and json.dumps(found, allow_nan=False)


def text_to_image_classes() -> set[str]:
    """Those that diffusers itself lists, and all others that take a prompt and neither pictures nor a length in time.

    The sources are read, because importing every pipeline takes half a minute.
    """
    found = {kind.__name__ for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    for file in (Path(str(diffusers.__file__)).parent / "pipelines").rglob("pipeline_*.py"):
        for name, call in re.findall(
            r"^class (\w+Pipeline)\b.*?^    def __call__\((.*?)\n    \)", file.read_text(), re.M | re.S
        ):
            takes = set(re.findall(r"^        (\w+)(?=[:=,])", call, re.M))
            given = [one for one in takes if re.search("image|video|audio|frame", one) and "ip_adapter" not in one]
            if "prompt" in takes and set(given) <= {"num_images_per_prompt"} and hasattr(diffusers, name):
                found.add(name)
    return found


def test_every_text_to_image_class_is_served_or_listed_as_not() -> None:
    """A new version of diffusers brings new ones, which this names; ``benchmarks/families.py`` lists those without a
    family.
    """
    known = text_to_image_classes()
    assert {"QwenImagePipeline", "LDMTextToImagePipeline"} <= known and "WanPipeline" not in known
    served = {name for family in t2iprobe_register_adapters() for name in family.pipelines}
    page = (Path(__file__).parents[1] / "docs/reference/architectures.md").read_text()
    assert sorted(name for name in known - served if f"`{name}`" not in page) == []
