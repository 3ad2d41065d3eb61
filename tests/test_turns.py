"""``--offload model``: who is on the device when, and what text encoders need not be asked again."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.model import Model
from t2iprobe.core.placement import Demand
from t2iprobe.registry import placing
from t2iprobe.registry.turns import Remembered, take_turns

GPU = torch.device("cuda")


class Part(nn.Module):
    """A component that says where it is, on a machine without a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.device("cpu")

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        yield SimpleNamespace(device=self.place)

    def to(self, device: Any) -> Part:  # type: ignore[override]
        self.place = torch.device(device)
        return self

    def forward(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize("together", [(), ("unet", "vae")])
def test_a_component_leaves_only_for_one_that_needs_the_room(together: tuple[str, ...]) -> None:
    parts = {name: Part() for name in ("tokens", "more tokens", "unet", "vae")}
    take_turns(parts, GPU, together)
    seen = []
    for name in ("tokens", "more tokens", "unet", "unet", "vae", "unet", "tokens"):
        parts[name]()
        seen.append([one for one, part in parts.items() if part.place == GPU])
    pair = ["unet", "vae"] if together else None
    assert seen == [["tokens"], ["more tokens"], ["unet"], ["unet"], pair or ["vae"], pair or ["unet"], ["tokens"]]


def test_what_works_on_pictures_stays_together_where_it_fits() -> None:
    demand = Demand({"text_encoder": 9, "unet": 4, "vae": 1}, {"unet": 1, "vae": 3}, layer=1)
    assert demand.together(10) == ("unet", "vae") and demand.together(8) == () and demand.together(None) == ()
    assert demand.needs("model") == 9


def encoder() -> tuple[Any, Remembered, list[int]]:
    """CLIP, and how many rows each of its calls had."""
    found, rows = SD.tiny().text_encoder, []
    found.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return found, Remembered(found, found.__call__, most=3), rows


def test_a_text_encoder_is_asked_once_for_each_prompt() -> None:
    clip, remembered, rows = encoder()
    ids = torch.tensor([[1, 5, 2], [1, 6, 2], [1, 7, 2], [1, 8, 2]])
    with torch.no_grad():
        for chosen in ([0, 1, 0], [1, 0], [0, 2, 1], [3, 0]):
            found, plain = (one(ids[chosen], output_hidden_states=True) for one in (remembered, clip))
            rows.pop()  # the plain one
            assert type(found) is type(plain)
            assert torch.allclose(found.pooler_output, plain.pooler_output, atol=1e-5)
            assert len(found.hidden_states) == len(plain.hidden_states)
            assert torch.allclose(found.hidden_states[-2], plain.hidden_states[-2], atol=1e-5)
    assert rows == [2, 1, 1]  # three are remembered


def test_nothing_is_remembered_that_may_change() -> None:
    clip, remembered, rows = encoder()
    ids = torch.tensor([[1, 5, 2]])
    assert remembered(ids).pooler_output.requires_grad and len(rows) == 1
    with torch.no_grad():
        remembered(ids)
        before = remembered(ids).pooler_output
        remembered(ids, attention_mask=torch.ones_like(ids))
        assert rows == [1] * 3
        clip.final_layer_norm.weight.mul_(2.0)
        assert not torch.equal(remembered(ids).pooler_output, before) and len(rows) == 4
        clip.peft_config = {"default": None}  # as with a LoRA
        remembered(ids)
    assert len(rows) == 5


@pytest.mark.parametrize("adapter", [SD, SDXL, SD3, DeepFloydIF])
def test_batches_of_the_same_prompts_ask_the_text_encoders_once(adapter: Any) -> None:
    """The CPU plays the device."""
    pipeline, plain = adapter.tiny(), Model(adapter.tiny(), adapter())
    asked: dict[str, list[int]] = {name: [] for name in pipeline.components if name.startswith("text_encoder")}
    for name, rows in asked.items():
        read = getattr(pipeline, name).get_input_embeddings()
        read.register_forward_pre_hook(lambda module, args, rows=rows: rows.append(len(args[0])))
    placing.apply(pipeline, "model", torch.device("cpu"))
    model = Model(pipeline, adapter())
    prompts = ["a cat", "a dog"] * 3
    found = model.run(prompts, num_steps=2, batch_size=4)
    assert [one.tobytes() for one in found.images] == [
        one.tobytes() for one in plain.run(prompts, num_steps=2, batch_size=4).images
    ]
    assert all(sum(rows) <= 3 for rows in asked.values())  # two prompts, and the empty one of guidance
