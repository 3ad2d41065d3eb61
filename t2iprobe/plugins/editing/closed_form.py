"""Closed-form edits: new text key and value weights of the found layers, by ridge regression.

LocoEdit (Basu et al., arXiv 2405.01008) and UCE (Gandikota et al., arXiv 2308.14761): the layer is made to answer
the source's text as it answered the target's. With x the text that a projection W0 reads (one token at one step),

    min_W  sum |W x_source - W0 x_target|^2  +  preserve * sum |W x_kept - W0 x_kept|^2  +  ridge |W - W0|^2

    W = W0 (C_target,source + preserve C_kept + ridge) (C_source + preserve C_kept + ridge)^-1

with C the sums of outer products.

In a U-Net x is the encoded prompt. In joint attention it depends on the step and on earlier layers, so it is taken from
a run of the pair in which the found layers are patched, which is what the edited layers will see. The half of guidance
with the empty prompt is kept, and so are the prompts of a file. Biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import Key, by_branch
from t2iprobe.core.contracts.editor import Edited, Editor, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model, Run
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.files import explained, write
from t2iprobe.core.sites import Site
from t2iprobe.core.textfile import read_entries

Rows = Sequence[int]


@dataclass(frozen=True)
class KVEdit:
    """New weights of some projections.

    Args:
        weights: weights (output, input) by path below the denoiser.
        facts: what the edit was made for; written to the file.
    """

    weights: Mapping[str, Tensor]
    facts: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Save the weights in safetensors format, one tensor ``PATH.weight`` per projection."""
        with explained(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{name}.weight": weight.contiguous() for name, weight in self.weights.items()}
        write(path, save(tensors, metadata={"format": "pt", **self.facts}))

    @classmethod
    def load(cls, path: Path) -> KVEdit:
        """Load what :meth:`save` wrote.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            with safe_open(check(path), framework="pt") as file:
                weights = {name.removesuffix(".weight"): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(weights, dict(file.metadata() or {}))
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path} is not a saved edit ({error})") from None


@contextmanager
def applied(model: Model, edit: KVEdit) -> Iterator[None]:
    """Put the edited weights in place within a ``with``; afterwards the model has its own parameters again.

    Raises:
        ConfigError: the edit is for another model, or the weights cannot be replaced in place.
    """
    modules = {name: _projection(model, name) for name in edit.weights}
    for name, module in modules.items():
        if module.weight.shape != edit.weights[name].shape:
            wanted, found = tuple(module.weight.shape), tuple(edit.weights[name].shape)
            raise ConfigError(f"the edit is for another model: {name} is {wanted} here, {found} in the edit")
    before = {name: module.weight for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.weight = nn.Parameter(edit.weights[name].to(before[name]), requires_grad=False)
        yield
    finally:
        for name, module in modules.items():
            module.weight = before[name]


def _projection(model: Model, path: str) -> nn.Linear:
    """The linear layer at ``path``, or the one under a LoRA if there is one."""
    try:
        module = model.denoiser.get_submodule(path)
    except AttributeError:
        raise ConfigError(f"the edit is for another model: this one has no module {path}") from None
    base = getattr(module, "base_layer", module)
    if not isinstance(base, nn.Linear) or not base.weight.is_floating_point() or base.weight.is_meta:
        raise ConfigError(
            f"closed-form edits replace weights, but those of {path} are quantised or offloaded; load the model without"
        )
    return base


def solved(weight: Tensor, moments: Tensor, ridge: float, preserve: float) -> Tensor:
    """The edited weight (output, input) by the module's formula, computed in float64.

    Args:
        weight: the old weight.
        moments: (3, input, input) sums of outer products: of the source's text with itself, of the target's with the
            source's, and of the kept text with itself.
        ridge: weight of staying near the old weight, in units of the mean squared text feature.
        preserve: weight of the kept text.
    """
    source, crossed, kept = moments
    held = preserve * kept + ridge * source.trace() / len(source) * torch.eye(len(source)).to(source)
    # W A = B is A^T W^T = B^T, and A is symmetric
    answer = torch.linalg.solve(source + held, (crossed + held).T).T
    return (weight.to(answer) @ answer).to(weight)


@dataclass
class Gatherer:
    """Takes from a run the text that layers read, and keeps sums over it instead of the text itself.

    Args:
        pairs: row of a source -> row of its target.
        kept: rows whose text is to be answered as before.
        once: sites that are the same at every step, so that one step is enough.
    """

    pairs: Mapping[int, int]
    kept: frozenset[int] = frozenset()
    once: frozenset[str] = frozenset()
    static: frozenset[str] = frozenset()
    _batches: dict[tuple[int, ...], dict[tuple[int, str], Tensor]] = field(default_factory=dict)

    def add(self, keys: Sequence[Key], rows: Rows, value: Tensor) -> None:
        """See :class:`~t2iprobe.core.cache.Sink`."""
        for key, own in zip(keys, by_branch(value, keys), strict=True):
            self._add(key, rows, own)

    def _add(self, key: Key, rows: Rows, value: Tensor) -> None:
        if key.site in self.once and key.step + key.evaluation > 0:
            return
        wide = value.cpu().double() if value.device.type == "mps" else value.double()
        text = dict(zip(rows, wide, strict=True))
        batch = self._batches.setdefault(tuple(rows), {})
        for row, own in text.items():
            if row not in self.pairs and row not in self.kept:
                continue
            size = wide.shape[-1]
            source, crossed, kept = batch.setdefault((row, key.site), wide.new_zeros(3, size, size))
            other = text.get(self.pairs.get(row, -1))
            if key.branch is Branch.COND and other is not None:
                source += own.T @ own
                crossed += other.T @ own
            else:
                kept += own.T @ own

    def discard(self, rows: Rows) -> None:
        """See :class:`~t2iprobe.core.cache.ActivationStream`."""
        self._batches.pop(tuple(rows), None)

    def moments(self, row: int, site: str) -> Tensor:
        """The moments of a source's row, as in :func:`solved`."""
        return next(batch[row, site] for batch in self._batches.values() if (row, site) in batch)


@dataclass(frozen=True)
class ClosedForm(Editor):
    """The closed-form edit that the module describes.

    Args:
        ridge, preserve: see :func:`solved`.
        prompts: file of prompts that are to be answered as before, one per line; ``# comment`` lines are skipped.
        keep: whether the edits are saved, as ``edits/pair-000.safetensors`` in the run folder.
    """

    name: ClassVar[str] = "closed-form"
    summary: ClassVar[str] = "new key and value weights of the found layers by ridge regression (LocoEdit, UCE)"
    pictures: ClassVar[int] = 3
    ridge: float = 0.01
    preserve: float = 1.0
    prompts: str = ""
    keep: bool = True

    def __post_init__(self) -> None:
        if self.ridge <= 0:
            raise ConfigError(f"ridge must be above 0, found {self.ridge}")
        if self.preserve < 0:
            raise ConfigError(f"preserve must be at least 0, found {self.preserve}")

    def check(self, model: Model, layers: Sequence[int]) -> None:
        """Refuse layers whose projections read more than the text, weights that cannot be replaced, a missing file."""
        self._listed()
        for site in (site for layer in layers for site in model.text_sites(layer)):
            if site.stream != "all":
                raise ConfigError(
                    f"{site.name}: image tokens use the same weights as the text, so a closed-form edit would change "
                    "their keys and values, too; choose other layers or another method"
                )
            _projection(model, site.module)
            model.sites.named(text_of(site))

    def edit(self, task: EditTask) -> Edited:
        """See :class:`Editor`."""
        edits, gathering = self.edits(task)
        runs: list[Run] = []
        for number, (pair, one) in enumerate(zip(task.pairs, edits, strict=True)):
            if self.keep and task.keep is not None:
                one.save(task.keep(number))
            with applied(task.model, one):
                runs.append(task.run([(number, pair.source)]))
        return Edited.of(gathering, *runs, images=[run.images[0] for run in runs])

    def edits(self, task: EditTask) -> tuple[list[KVEdit], Run]:
        """An edit for each pair, and the run from which the edits' text was read."""
        model = task.model
        sites = [site for layer in task.layers for site in model.text_sites(layer)]
        texts = tuple(dict.fromkeys(text_of(site) for site in sites))
        rows = task.rows("source", "target")
        kept = range(len(rows), len(rows) + len(self._listed()))
        rows += [(0, text) for text in self._listed()]
        donors = {2 * number: 2 * number + 1 for number in range(len(task.pairs))}
        once = frozenset(text for text in texts if model.sites.named(text).static)
        gatherer = Gatherer(donors, frozenset(kept), once)
        # the gatherer reads a source and its target in the same batch
        both = replace(patch(donors, [site.name for site in sites]), lock_step=True)
        run = task.run(rows, [both], cache=texts, into=gatherer)
        also = {
            text: sum((gatherer.moments(row, text) for row in kept), torch.zeros_like(gatherer.moments(0, text)))
            for text in texts
        }
        edits = []
        for number, pair in enumerate(task.pairs):
            moments = {text: gatherer.moments(2 * number, text) + also[text] for text in texts}
            weights = {site.module: _projection(model, site.module).weight.detach() for site in sites}
            edited = {
                site.module: solved(weights[site.module], moments[text_of(site)], self.ridge, self.preserve)
                for site in sites
            }
            facts = {"source": pair.source, "target": pair.target, "seed": str(pair.seed), "model": model.ref}
            edits.append(KVEdit(edited, facts | {"ridge": str(self.ridge)}))
        return edits, run

    def _listed(self) -> list[str]:
        return read_entries(self.prompts, "prompts") if self.prompts else []


def text_of(site: Site) -> str:
    """Name of the site of the text that a key or value is computed from: ``blocks.6.joint_attn.text``."""
    return site.name.rpartition(".")[0] + ".text"
