"""What one task leaves for the next: :class:`TaskState`. The rules of the setting allow nothing else.

There are no pictures and no adapters of earlier tasks, only a model (kept as its difference from the base model, in
float32) or one adapter. A state reports its size in bytes, an upper bound of its rank, and what else it keeps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.files import explained, write

Tensors = Mapping[str, Tensor]
PARTS = ("adapter", "delta", "rows")


@dataclass(frozen=True)
class TaskState:
    """The state between two tasks.

    Args:
        base: digest of the base model's weights.
        tasks: number of tasks learnt.
        adapter: ``<path>.lora_A.weight`` and B of one adapter.
        scale: scale of the adapter.
        delta: module path to the weight minus the base model's, (out, in), float32.
        rows: module path to the last task's A, if the next one's has to be orthogonal to it.
        memory: what a regulariser keeps of all past tasks, by its name and module path.
        rank: upper bound of the rank of a module's difference; ``None`` if only the module's size bounds it.
    """

    base: str
    tasks: int = 0
    adapter: Tensors = field(default_factory=dict)
    scale: float = 1.0
    delta: Tensors = field(default_factory=dict)
    rows: Tensors = field(default_factory=dict)
    memory: Mapping[str, Tensors] = field(default_factory=dict)
    rank: int | None = 0

    @property
    def bytes(self) -> int:
        """Total size in bytes of everything that is handed over."""
        return sum(one.numel() * one.element_size() for one in self._named().values())

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the state holds: ``adapter``, ``delta``, ``rows``, and names of memories."""
        return (*(part for part in PARTS if getattr(self, part)), *(name for name, kept in self.memory.items() if kept))

    def dense(self, path: str) -> Tensor | None:
        """The weight of a module minus the base model's; ``None`` where nothing was learnt."""
        if path in self.delta:
            return self.delta[path]
        if f"{path}.lora_A.weight" not in self.adapter:
            return None
        return self.scale * self.adapter[f"{path}.lora_B.weight"] @ self.adapter[f"{path}.lora_A.weight"]

    def last_rows(self, path: str) -> Tensor | None:
        """A of the last task, or of the single adapter."""
        return self.rows.get(path, self.adapter.get(f"{path}.lora_A.weight"))

    def save(self, path: Path) -> None:
        """Write the state whole or not at all; it replaces the state of the previous task.

        Raises:
            StoreError: the disk is full or gone.
        """
        facts = {"base": self.base, "tasks": self.tasks, "scale": self.scale, "rank": self.rank}
        tensors = {name: one.contiguous() for name, one in self._named().items()}
        with explained(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
        write(path, save(tensors, {"handover": json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path, base: str) -> TaskState:
        """The state in a file.

        Raises:
            ConfigError: the file is damaged, or belongs to another base model.
        """
        groups: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(check(path), "pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["handover"])
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    kind, _, rest = name.partition(":")
                    groups.setdefault(kind, {})[rest] = file.get_tensor(name)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is damaged ({error}); delete the folder {path.parent} to learn again") from error
        if facts["base"] != base:
            raise ConfigError(f"{path} continues another model than this one; choose another --out")
        memory = {kind: group for kind, group in groups.items() if kind not in PARTS}
        adapter, delta, rows = (groups.get(part, {}) for part in PARTS)
        return cls(**facts, adapter=adapter, delta=delta, rows=rows, memory=memory)

    def _named(self) -> dict[str, Tensor]:
        groups: dict[str, Tensors] = {part: getattr(self, part) for part in PARTS} | dict(self.memory)
        return {f"{kind}:{name}": one for kind, group in groups.items() for name, one in group.items()}
