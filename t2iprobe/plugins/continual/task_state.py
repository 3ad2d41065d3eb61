"""What one task leaves for the next: :class:`TaskState`. The rules of the setting allow nothing else.

There are no pictures and no adapters of earlier tasks, only a model (kept as its difference from the base model, in
float32) or one adapter. A state reports its size in bytes, an upper bound of its rank, and what else it keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.files import write

Tensors = Mapping[str, Tensor]
STATE = "state.safetensors"  # its name in a run
PARTS = ("adapter", "delta", "rows")
DAMAGED = (OSError, SafetensorError, KeyError, TypeError, ValueError)  # errors from reading a damaged file


@dataclass(frozen=True)
class TaskState:
    """The state between two tasks.

    Args:
        base: digest of the base model's weights.
        tasks: number of tasks learnt.
        adapter: ``<path>.lora_A.weight`` and B of one adapter.
        delta: module path to the weight minus the base model's, (out, in), float32.
        rows: module path to the last task's A, if the next one's has to be orthogonal to it.
        memory: what a regulariser keeps of all past tasks, by its name and module path.
        rank: upper bound of the rank of a module's difference; ``None`` if only the module's size bounds it.
    """

    base: str
    tasks: int = 0
    adapter: Tensors = field(default_factory=dict)
    delta: Tensors = field(default_factory=dict)
    rows: Tensors = field(default_factory=dict)
    memory: Mapping[str, Tensors] = field(default_factory=dict)
    rank: int | None = 0

    def next(self, rank: int | None, *, adapter: Tensors | None = None, delta: Tensors | None = None) -> TaskState:
        """The state after one more task, as an adapter or as differences; rows and memory stay."""
        return replace(self, tasks=self.tasks + 1, rank=rank, adapter=adapter or {}, delta=delta or {})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as they are named in a file: ``<part or memory>:<name>``."""
        groups: dict[str, Tensors] = {part: getattr(self, part) for part in PARTS} | dict(self.memory)
        return {f"{kind}:{name}": tensor for kind, group in groups.items() for name, tensor in group.items()}

    @property
    def bytes(self) -> int:
        """Size in bytes of everything that is passed on."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def kinds(self) -> list[str]:
        """What the state holds: ``adapter``, ``delta``, ``rows``, and names of memories."""
        return list(dict.fromkeys(name.partition(":")[0] for name in self.tensors))

    def dense(self, path: str) -> Tensor | None:
        """The weight of a module minus the base model's; ``None`` where nothing was learnt."""
        if path in self.delta:
            return self.delta[path]
        if f"{path}.lora_A.weight" not in self.adapter:
            return None
        return self.adapter[f"{path}.lora_B.weight"] @ self.adapter[f"{path}.lora_A.weight"]

    def last_rows(self, path: str) -> Tensor | None:
        """A of the last task, or of the single adapter."""
        return self.rows.get(path, self.adapter.get(f"{path}.lora_A.weight"))

    def save(self, path: Path) -> None:
        """Write the state whole or not at all, to a folder that exists; it replaces the state of the previous task.

        Raises:
            StoreError: the disk is full or gone.
        """
        facts = {"base": self.base, "tasks": self.tasks, "rank": self.rank}
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        write(path, save(tensors, {"state": json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path, base: str) -> TaskState:
        """The state in a file.

        Raises:
            ConfigError: the file is damaged, or belongs to another base model.
        """
        groups: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(check(path), "pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["state"])
                for name in file.keys():  # noqa: SIM118 - it is not a dict
                    kind, _, rest = name.partition(":")
                    groups.setdefault(kind, {})[rest] = file.get_tensor(name)
        except DAMAGED as error:
            raise ConfigError(f"{path} is damaged ({error}); delete the folder {path.parent} to learn again") from error
        if facts["base"] != base:
            raise ConfigError(f"{path} belongs to another model; choose another --out")
        parts: dict[str, Any] = {part: groups.pop(part, {}) for part in PARTS}
        return cls(**facts, **parts, memory=groups)


def tasks_in(path: Path) -> int:
    """Number of tasks that the state in a file has learnt; 0 if the file is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return int(json.loads(file.metadata()["state"])["tasks"])
    except DAMAGED:
        return 0


@contextmanager
def fused(model: Model, modules: Sequence[str], state: TaskState) -> Iterator[float]:
    """Add the state's difference to the model's weights within a ``with``; afterwards they are restored bit for bit.

    Not ``fuse_lora``: with the adapter still there, ``add_adapter`` undoes that with only a warning, and on
    half-precision weights unmerging does not restore the original values.

    Yields the share of the difference that the weights' precision cannot hold: 0 for float32, near 1 where a small
    difference vanishes in float16.

    Raises:
        ConfigError: a LoRA is on the model, or the state belongs to other modules.
    """
    if getattr(model.denoiser, "peft_config", None):
        raise ConfigError("the model already has a LoRA; unload it before a state is added to its weights")
    if odd := {*state.delta} - {*modules}:
        raise ConfigError(f"the saved state changes {min(odd)}, which this scope does not adapt; choose another --out")
    kept: dict[str, Tensor] = {}
    lost = norm = 0.0
    try:
        with torch.no_grad():
            for path in modules:
                delta = state.dense(path)
                if delta is None:
                    continue
                weight = weight_of(model.denoiser, path)
                kept[path] = weight.detach().clone()
                wanted = delta.to(weight.device, torch.float32)
                weight.copy_(weight.float() + wanted)
                lost += float((weight.float() - kept[path].float() - wanted).square().sum())
                norm += float(wanted.square().sum())
        yield (lost / norm) ** 0.5 if norm else 0.0
    finally:
        with torch.no_grad():
            for path, before in kept.items():
                weight_of(model.denoiser, path).copy_(before)


def weight_of(denoiser: nn.Module, path: str) -> nn.Parameter:
    """The weight of a module, also of one below a LoRA."""
    module = denoiser.get_submodule(path)
    return getattr(module, "base_layer", module).get_parameter("weight")
