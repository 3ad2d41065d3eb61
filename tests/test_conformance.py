"""The adapters' laws: every bundled adapter keeps them, and adapters that are wrong on purpose are each caught."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.joint import joint_block_sites, projection_sites
from t2iprobe.architectures.kolors import Kolors
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.architectures.unet import attention_sites
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter, Conditioning
from t2iprobe.core.sites import In, Out, Site
from t2iprobe.testing import adapter_conformance
from t2iprobe.testing.adapters import ADAPTER_LAWS

TestSD = adapter_conformance(SD)
TestSDXL = adapter_conformance(SDXL)
TestSD3 = adapter_conformance(SD3)
TestDeepFloydIF = adapter_conformance(DeepFloydIF)
TestFlux = adapter_conformance(Flux)
TestKolors = adapter_conformance(Kolors)


def change(sites: Iterator[Site], name: str, /, **fields: Any) -> Iterator[Site]:
    """The sites with one of them changed."""
    return (replace(site, **fields) if site.name == name else site for site in sites)


class RegistrationOrder(SD):
    """Numbers the layers as ``named_modules`` lists them: the middle block last."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        unet = self.module(pipeline)
        paths = [path for path, _ in unet.named_modules() if re.search(r"\.attn2$", path)]
        yield Site("text", "", In("encoder_hidden_states"))
        for index, path in enumerate(paths):
            yield from attention_sites(f"blocks.{index}.cross_attn", path, unet)


class NumberedFromOne(SD):
    """Leaves block 0 out of the numbering."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        for site in super().sites(pipeline):
            yield (
                site
                if site.layer is None
                else replace(site, name=site.name.replace(f".{site.layer}.", f".{site.layer + 1}."))
            )


class SwappedHalves(SD):
    """Takes the first half of a doubled batch for the prompt's."""

    def branches(self, pipeline: Any, call: int, ratio: int) -> tuple[Branch, ...]:
        return tuple(reversed(super().branches(pipeline, call, ratio)))


class SwappedCalls(Flux):
    """Takes the second call of a step for the prompt's, where there is one."""

    def branches(self, pipeline: Any, call: int, ratio: int) -> tuple[Branch, ...]:
        guided = getattr(pipeline, "guided", False)
        return (Branch.UNCOND,) if bool(call) != guided else (Branch.COND,)

    def inputs(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Any]:
        pipeline.guided = True
        return {**super().inputs(pipeline, prompts), "true_cfg_scale": 2.0, "negative_prompt": [""] * len(prompts)}


class OneBranchTwice(SD):
    """Calls both halves cond."""

    def branches(self, pipeline: Any, call: int, ratio: int) -> tuple[Branch, ...]:
        return (Branch.COND,) * ratio


class WrongAxes(SD):
    """Takes tokens for a feature map."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.2.cross_attn.z", axes=("channel", "y", "x"))


class TransposedAxes(SD):
    """Has the right number of axes in the wrong order."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.2.cross_attn.k", axes=("channel", "token"), heads=None)


class WrongHeads(SDXL):
    """Takes the size of a head for the number of heads, or any other number."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.0.cross_attn.k", heads=3)


class WrongArgument(SD):
    """Names an argument that the module does not get."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.1.cross_attn.text", port=In("context"))


class WholeTuple(SD3):
    """Forgets that the attention returns two tensors."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.0.joint_attn.out", port=Out())


class RowAsElement(SD):
    """Takes the first row of a tensor for the first element of a tuple."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.0.mlp.out", port=Out(0))


class MissingModule(SD):
    """Names a module of another family."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.0.cross_attn.k", module="transformer_blocks.0.attn.add_k_proj")


class BadName(SD):
    """Makes names up."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.0.cross_attn.k", name="layer0.keys")


class RepeatedName(SD):
    """Gives two sites one name."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.0.cross_attn.k", name="blocks.0.cross_attn.v")


class UnknownTextKinds(SD3):
    """Names keys and values that no site is."""

    text_kv = ("cross_attn.k", "cross_attn.v")


class IncompleteEntry(SD):
    """Takes the first layer's text for all the text there is."""

    text_entry = ("blocks.0.cross_attn.text",)


class KeysWithoutValues(SD3):
    """Thinks that joint attention reads the prompt through the text keys."""

    text_entry = ("blocks.*.joint_attn.k",)


class NoPooled(SDXL):
    """Forgets the pooled text."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return (site for site in super().sites(pipeline) if site.name != "pooled")


class MovingText(SD3):
    """Takes joint attention's text keys, which follow the picture, for those of a U-Net."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.1.joint_attn.k", static=True)


class ForgetsTheNorm(DeepFloydIF):
    """Computes text keys from the encoded prompt, without what the U-Net does to it first."""

    def from_text(self, pipeline: Any, site: Site) -> Any:
        return lambda call: pipeline.unet.get_submodule(site.module)(call["encoder_hidden_states"])


class TextFirst(SD3):
    """Takes the first tokens of an attention for the text, which are the image's."""

    def text_spans(self, pipeline: Any, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        return Adapter.text_spans(self, pipeline, call, length)


class DeadSite(SD3):
    """Offers the text queries of the last block, whose text is dropped."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        *blocks, last = self.module(pipeline).get_submodule("transformer_blocks").children()
        yield Site("text", "context_embedder", Out())
        for index, block in enumerate(blocks):
            yield from joint_block_sites(index, block, text_z_first=True)
        yield from projection_sites(f"blocks.{len(blocks)}", f"transformer_blocks.{len(blocks)}.attn", last.attn.heads)


class ImageForText(Flux):
    """Takes the image tokens of a single-stream block for the text's."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.2.joint_attn.k", stream="image")


class WholeSequence(Flux):
    """Does not say that a single-stream block's keys are shared with the image."""

    def sites(self, pipeline: Any) -> Iterator[Site]:
        return change(super().sites(pipeline), "blocks.3.joint_attn.v", stream="all")


class OtherEncoding(SDXL):
    """Encodes prompts in another way than the pipeline."""

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Conditioning:
        return super().encode_prompts(pipeline, [prompt.upper() for prompt in prompts])


class FirstPromptOnly(SD):
    """Gives every row the first prompt."""

    def inputs(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Any]:
        return {"prompt": [prompts[0]] * len(prompts)}


class GlobalNoise(SD):
    """Starts from noise that no seed decides."""

    def inputs(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Any]:
        return {"prompt": list(prompts), "latents": torch.randn(len(prompts), 4, 8, 8)}


class LongerInCompany(SD):
    """Adds to the prompts where there are many."""

    def inputs(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Any]:
        return {"prompt": [f"{prompt} and more" if len(prompts) > 2 else prompt for prompt in prompts]}


class Counting(SD):
    """Asks for something else every time."""

    asked = 0

    def inputs(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Any]:
        self.asked += 1
        return {"prompt": [f"{self.asked} {prompt}" for prompt in prompts]}


class Meddler(SD):
    """Puts a hook of its own on the model whenever it is asked for it."""

    def module(self, pipeline: Any) -> Any:
        module = super().module(pipeline)
        module.register_forward_hook(lambda module, call, output: None)
        return module


class UpscalesTheFirstPrompt(DeepFloydIF):
    """Gives every row of the upscaler the first row's prompt."""

    def upscale(self, pipeline: Any, upscaler: Any, images: Any, texts: Any, generators: Any, settings: Any) -> Any:
        first = {name: [listed[0]] * len(listed) for name, listed in texts.items()}
        return super().upscale(pipeline, upscaler, images, first, generators, settings)


class UpscalesFromOneGenerator(DeepFloydIF):
    """Draws all rows' noise from the first row's generator, so it depends on who is in the batch."""

    def upscale(self, pipeline: Any, upscaler: Any, images: Any, texts: Any, generators: Any, settings: Any) -> Any:
        shared = [generators[0]] * len(generators)
        return super().upscale(pipeline, upscaler, images, texts, shared, settings)


class HalfTheSize(Flux):
    """Takes the cells of a picture for its pixels."""

    def pixels_per_latent(self, pipeline: Any) -> int:
        return 1


class FinerGrain(Flux):
    """Does not know that four cells are one token."""

    def size_multiple(self, pipeline: Any) -> int:
        return self.pixels_per_latent(pipeline)


class AlwaysGuided(SD3):
    """Doubles the rows whatever the scale."""

    def guidance_branches(self, pipeline: Any, arguments: Mapping[str, Any]) -> int:
        return 2


class GuidesTogether(Flux):
    """Takes the two calls of true guidance for one."""

    guides_apart = False


WRONG: tuple[tuple[type[Adapter], str], ...] = (
    (BadName, "names_follow_the_grammar"),
    (RepeatedName, "names_follow_the_grammar"),
    (UnknownTextKinds, "names_follow_the_grammar"),
    (Counting, "reading_changes_nothing"),
    (WrongAxes, "sites_fire_with_their_axes"),
    (WrongHeads, "sites_fire_with_their_axes"),
    (WrongArgument, "sites_fire_with_their_axes"),
    (WholeTuple, "sites_fire_with_their_axes"),
    (RowAsElement, "sites_fire_with_their_axes"),
    (MissingModule, "sites_fire_with_their_axes"),
    (TransposedAxes, "text_sites_hold_the_text"),
    (ImageForText, "text_sites_hold_the_text"),
    (WholeSequence, "text_sites_hold_the_text"),
    (MovingText, "static_sites_do_not_change"),
    (ForgetsTheNorm, "donors_from_the_text_are_what_runs"),
    (RegistrationOrder, "sites_come_in_forward_order"),
    (NumberedFromOne, "sites_come_in_forward_order"),
    (OneBranchTwice, "writing_back_changes_nothing"),
    (DeadSite, "every_site_can_be_written"),
    (TextFirst, "patterns_are_the_weights_that_run"),
    (IncompleteEntry, "text_entry_carries_the_whole_prompt"),
    (KeysWithoutValues, "text_entry_carries_the_whole_prompt"),
    (NoPooled, "text_entry_carries_the_whole_prompt"),
    (Counting, "scope_leaves_earlier_steps_alone"),
    (SwappedHalves, "branches_are_not_swapped"),
    (SwappedCalls, "branches_are_not_swapped"),
    (OtherEncoding, "predicting_is_what_runs"),
    (FirstPromptOnly, "a_batch_of_two_is_two_runs"),
    (GlobalNoise, "equal_seeds_get_equal_noise"),
    (LongerInCompany, "no_edit_depends_on_the_batch"),
    (UpscalesTheFirstPrompt, "an_upscaler_takes_each_row_by_itself"),
    (UpscalesFromOneGenerator, "an_upscaler_takes_each_row_by_itself"),
    (HalfTheSize, "pictures_are_as_large_as_said"),
    (FinerGrain, "pictures_are_as_large_as_said"),
    (AlwaysGuided, "calls_and_rows_are_as_many_as_said"),
    (GuidesTogether, "calls_and_rows_are_as_many_as_said"),
    (Meddler, "no_hook_survives_an_error"),
)
BY_NAME = {law.__name__: law for law in ADAPTER_LAWS}


@pytest.mark.parametrize(("adapter", "law"), WRONG, ids=[f"{adapter.__name__}-{law}" for adapter, law in WRONG])
def test_a_wrong_adapter_is_caught(adapter: type[Adapter], law: str) -> None:
    with pytest.raises(AssertionError):
        BY_NAME[law](adapter(), adapter.tiny())


def test_every_law_catches_something() -> None:
    assert {law for _, law in WRONG} == set(BY_NAME)


def test_a_broken_law_says_what_it_found() -> None:
    with pytest.raises(AssertionError, match=r"blocks\.2\.cross_attn\.z declares"):
        BY_NAME["sites_fire_with_their_axes"](WrongAxes(), SD.tiny())
    with pytest.raises(AssertionError, match=r"no module 'transformer_blocks'"):
        BY_NAME["sites_fire_with_their_axes"](MissingModule(), SD.tiny())


def test_the_class_has_one_method_a_law() -> None:
    methods = {name for name in vars(TestSD) if name.startswith("test_")}
    assert methods == {f"test_{name}" for name in BY_NAME}
    assert all(getattr(TestSD, name).__doc__ for name in methods)
