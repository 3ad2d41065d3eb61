"""Six edits that are easy to get wrong, each made in several ways and compared with one that needs no hook.

    python benchmarks/correctness.py       # with nnsight, if it is installed

The expected images come from edited weights, or from a module that the pipeline's own callback tells the step. Printed
is the largest difference of a pixel, of 255, next to what the edit changes at all; 0 is right.

pyvene 0.1.8 and attention-map-diffusers 1.0.0 have no column: see `peers.py`.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import with_nnsight
from gpu_clock import difference
from peft import LoraConfig
from PIL.Image import Image
from torch import Tensor, nn

import t2iprobe
from t2iprobe.architectures.flux import Flux
from t2iprobe.core.model import Model

PROMPT, STEPS, SOME = 'a red framed sign that says "OPEN"', 6, (2, 3)
Way = Callable[[], list[Image]]


@dataclass(frozen=True)
class Check:
    """One edit.

    Args:
        title: what is edited.
        plain: the images without it.
        expected: the images with it, made without a hook.
        ways: how else it is made, by tool.
    """

    title: str
    plain: list[Image]
    expected: list[Image]
    ways: Mapping[str, Way]


def images(model: Model, pipeline: Any = None, **settings: Any) -> list[Image]:
    """What plain diffusers makes of the prompt."""
    generation = model.generation(PROMPT, 0, num_steps=STEPS, **settings)
    with torch.no_grad():
        return list((pipeline or model.pipeline)(**model.arguments(generation, range(1))).images)


@contextmanager
def hooked(module: nn.Module, edit: Callable[[Tensor], Tensor], side: str = "out") -> Iterator[None]:
    """A torch hook that edits what a module returns, or its first argument."""
    if side == "out":
        handle = module.register_forward_hook(lambda module, args, output: edit(output))
    else:
        handle = module.register_forward_pre_hook(lambda module, args: (edit(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def traced(model: Model, path: str, edit: Callable[[Any, int], None], calls: Sequence[int], **settings: Any) -> Way:
    """The same with nnsight, at these calls of the denoiser; ``edit`` gets the module's envoy and the call."""

    def way() -> list[Image]:
        from nnsight import NNsight

        generation = model.generation(PROMPT, 0, num_steps=STEPS, **settings)
        wrapped = NNsight(with_nnsight.Pipeline(model.pipeline))
        envoy = with_nnsight.envoy_at(getattr(wrapped, model.adapter.denoiser), path)
        found = None
        with torch.no_grad(), wrapped.trace(**model.arguments(generation, range(1))) as tracer:
            for call in tracer.iter[calls[0] : calls[-1] + 1]:
                edit(envoy, call)
            found = wrapped.output.save()
        return list(found.images)

    return way


def zeroed(value: Tensor, part: slice = slice(None)) -> Tensor:
    """A copy with some channels at zero."""
    value = value.clone()
    value[..., part] = 0
    return value


def head(model: Model) -> Check:
    """One head of one layer: its channels stand side by side only before the output projection."""
    site = model.sites["blocks.11.cross_attn.z"]
    path, width = site.module, model.denoiser.get_submodule(site.module).in_features // site.heads
    part = slice(width, 2 * width)
    edited = copy.deepcopy(model.pipeline)
    edited.unet.get_submodule(path).weight.data[:, part] = 0

    def before(envoy: Any, call: int) -> None:
        envoy.input[..., part] = 0

    def with_hook(side: str) -> Way:
        def way() -> list[Image]:
            with hooked(model.denoiser.get_submodule(path), lambda value: zeroed(value, part), side):
                return images(model)

        return way

    ways = {
        "t2iprobe": lambda: run(model, t2iprobe.ablate(site.name, heads=1)),
        "hook, before the projection": with_hook("in"),
        "hook, after the projection": with_hook("out"),
        "nnsight": traced(model, path, before, range(STEPS)),
    }
    return Check("one head of SDXL's cross-attention", images(model), images(model, edited), ways)


def run(model: Model, *edits: t2iprobe.Intervention, **settings: Any) -> list[Image]:
    """What `Model.run` makes."""
    return list(model.run(PROMPT, seed=0, num_steps=STEPS, interventions=edits, **settings).images)


class ZeroAt(nn.Module):
    """A linear layer that returns zero at the steps that the pipeline's callback announces.

    Args:
        layer: the layer.
        steps: where it returns zero.
    """

    def __init__(self, layer: nn.Module, steps: Sequence[int]) -> None:
        super().__init__()
        self.layer, self.steps, self.step = layer, steps, 0

    def forward(self, value: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.layer(value)
        return torch.zeros_like(found) if self.step in self.steps else found

    def at_step_end(self, pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's callback at the end of a step."""
        self.step = step + 1
        return values


def replaced(root: nn.Module, path: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Put another module in a module's place."""
    owner, _, name = path.rpartition(".")
    made = make(root.get_submodule(path))
    setattr(root.get_submodule(owner), name, made)
    return made


def by_call(model: Model, path: str, calls: Sequence[int], **settings: Any) -> Way:
    """Zero at these calls of a module, counted by a torch hook."""

    def way() -> list[Image]:
        count = itertools.count()
        with hooked(model.denoiser.get_submodule(path), lambda value: value * 0 if next(count) in calls else value):
            return images(model, **settings)

    return way


def zero(envoy: Any, call: int) -> None:
    """An edit for :func:`traced`."""
    envoy.output[:] = 0


def skip_layer_guidance(model: Model) -> Check:
    """Some steps, where the denoiser is called once more in a step."""
    skip = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.6}
    name = "blocks.6.joint_attn.v"
    path = model.sites[name].module
    edited = copy.deepcopy(model.pipeline)
    module = replaced(edited.transformer, path, lambda layer: ZeroAt(layer, SOME))
    expected = images(model, edited, options={**skip, "callback_on_step_end": module.at_step_end})
    ways = {
        "t2iprobe": lambda: run(model, t2iprobe.ablate(name, steps=SOME), options=skip),
        "hook that counts calls": by_call(model, path, SOME, options=skip),
        "nnsight": traced(model, path, zero, SOME, options=skip),
    }
    return Check("two steps of SD3, with skip-layer guidance", images(model, options=skip), expected, ways)


class ZeroEverySecondCall(nn.Module):
    """A linear layer that returns zero at its first, third, … call.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, value: Tensor) -> Tensor:
        """See the class."""
        self.calls += 1
        found: Tensor = self.layer(value)
        return torch.zeros_like(found) if self.calls % 2 else found


def separate_branches(model: Model) -> Check:
    """The branch of the prompt alone, where each branch of guidance is a call of its own."""
    cfg = {"true_cfg_scale": 2.0, "negative_prompt": "a cat"}
    name = "blocks.0.joint_attn.v"
    path = model.sites[name].module
    edited = copy.deepcopy(model.pipeline)
    replaced(edited.transformer, path, ZeroEverySecondCall)
    expected = images(model, edited, options=cfg)
    ways = {
        "t2iprobe": lambda: run(model, t2iprobe.ablate(name, branches="cond"), options=cfg),
        "hook, every second call": by_call(model, path, range(0, 2 * STEPS, 2), options=cfg),
        "hook, half of the batch": half_of_the_batch(model, path, cfg),
        "nnsight, every second call": traced(model, path, even, range(2 * STEPS), options=cfg),
    }
    return Check("the conditional branch of FLUX", images(model, options=cfg), expected, ways)


def half_of_the_batch(model: Model, path: str, options: dict[str, Any]) -> Way:
    """What a script for models with both branches in a batch does: the last half of the rows."""

    def last_half(value: Tensor) -> Tensor:
        value = value.clone()
        value[value.shape[0] // 2 :] = 0
        return value

    def way() -> list[Image]:
        with hooked(model.denoiser.get_submodule(path), last_half):
            return images(model, options=options)

    return way


def even(envoy: Any, call: int) -> None:
    """An edit for :func:`traced`, at every second call."""
    if call % 2 == 0:
        envoy.output[:] = 0


def residual(model: Model) -> Check:
    """What an attention adds, in a model whose attention also adds the residual to its output."""
    name = "blocks.4.cross_attn.z"
    path = model.sites[name].module
    edited = copy.deepcopy(model.pipeline)
    edited.unet.get_submodule(path).weight.data.zero_()
    attention = path.rpartition(".to_out")[0]

    def whole() -> list[Image]:
        with hooked(model.denoiser.get_submodule(attention), torch.zeros_like):
            return images(model)

    def before(envoy: Any, call: int) -> None:
        envoy.input[:] = 0

    ways = {
        "t2iprobe": lambda: run(model, t2iprobe.ablate(name)),
        "hook, output of the attention": whole,
        "nnsight": traced(model, path, before, range(STEPS)),
    }
    return Check("one attention of DeepFloyd IF", images(model), images(model, edited), ways)


def compiled(model: Model) -> Check:
    """A model that torch compiled and that has run before; eager is a compiler that changes nothing."""
    name = "blocks.6.joint_attn.v"
    path = model.sites[name].module
    edited = copy.deepcopy(model.pipeline)
    edited.transformer.get_submodule(path).weight.data.zero_()
    edited.transformer.get_submodule(path).bias.data.zero_()
    expected, plain = images(model, edited), images(model)
    model.denoiser.compile(backend="eager")
    images(model)
    ways = {
        "t2iprobe": lambda: run(model, t2iprobe.ablate(name)),
        "t2iprobe, load(compile=True)": lambda: run(t2iprobe.load("tiny-sd3", compile=True), t2iprobe.ablate(name)),
        "hook": by_call(model, path, range(STEPS)),
        "nnsight": traced(model, path, zero, range(STEPS)),
    }
    return Check("SD3, compiled", plain, expected, ways)


def lora(model: Model) -> Check:
    """A layer with a LoRA that is not merged: the edit is of what the layer and its LoRA give together."""
    name = "blocks.6.joint_attn.v"
    path = model.sites[name].module
    model.denoiser.add_adapter(LoraConfig(r=4, target_modules=["add_v_proj"], init_lora_weights=False))
    edited = copy.deepcopy(model.pipeline)
    replaced(edited.transformer, path, lambda layer: ZeroAt(layer, range(STEPS)))
    ways = {
        "t2iprobe": lambda: run(model, t2iprobe.ablate(name)),
        "hook": by_call(model, path, range(STEPS)),
        "hook, layer below the LoRA": by_call(model, f"{path}.base_layer", range(STEPS)),
        "nnsight": traced(model, path, zero, range(STEPS)),
    }
    return Check("SD3 with a LoRA", images(model), images(model, edited), ways)


CHECKS: tuple[tuple[Callable[[Model], Check], Callable[[], Model]], ...] = (
    (head, lambda: t2iprobe.load("tiny-sdxl")),
    (skip_layer_guidance, lambda: t2iprobe.load("tiny-sd3")),
    (separate_branches, lambda: t2iprobe.load(Flux.tiny())),
    (residual, lambda: t2iprobe.load("tiny-if")),
    (compiled, lambda: t2iprobe.load("tiny-sd3")),
    (lora, lambda: t2iprobe.load("tiny-sd3")),
)


def outcome(way: Way, expected: list[Image]) -> str:
    """How far a way is from the expected images, or why it makes none."""
    try:
        return str(difference(way(), expected))
    except Exception as error:
        return f"refused: {error}"


def main() -> None:
    """Print a block for each edit."""
    for build, load in CHECKS:
        model = load()
        model.pipeline.set_progress_bar_config(disable=True)
        check = build(model)
        print(f"{check.title}; the edit changes {difference(check.plain, check.expected)}")
        for name, way in check.ways.items():
            if not name.startswith("nnsight") or importlib.util.find_spec("nnsight"):
                print(f"  {name:32} {outcome(way, check.expected)}")


if __name__ == "__main__":
    main()
