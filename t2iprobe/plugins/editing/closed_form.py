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
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from t2iprobe.core.cache import Key
from t2iprobe.core.contracts.adapter import Branch
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
        """Save the weights as safetensors, with one tensor ``PATH.weight`` per projection."""
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
            raise ConfigError(f"{path} is no saved edit ({error})") from None


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
            raise ConfigError(f"the edit is for another model: {name} is {wanted} here, {found} there")
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
        found = model.denoiser.get_submodule(path)
    except AttributeError:
        raise ConfigError(f"the edit is for another model: this one has no module {path}") from None
    base = getattr(found, "base_layer", found)
    if not isinstance(base, nn.Linear) or not base.weight.is_floating_point() or base.weight.is_meta:
        raise ConfigError(
            f"closed-form edits replace weights, and those of {path} are quantised or offloaded; load the model whole"
        )
    return base


@dataclass(frozen=True)
class Ridge:
    """How an edit is solved.

    Args:
        ridge: weight of staying near the old weights, in units of the mean squared text feature.
        preserve: weight of the kept text.
    """

    ridge: float = 0.01
    preserve: float = 1.0

    def solve(self, weight: Tensor, moments: KeyMoments) -> Tensor:
        """The edited weight by the module's formula, computed in float64."""
        kept = self.preserve * moments.kept
        size = len(moments.source)
        held = kept + self.ridge * moments.source.trace() / size * torch.eye(size).to(moments.source)
        # W A = B is A^T W^T = B^T, and A is symmetric
        answer = torch.linalg.solve(moments.source + held, (moments.crossed + held).T).T
        return (weight.to(answer) @ answer).to(weight)


@dataclass
class KeyMoments:
    """Sums of outer products of text features, (input, input) each, in float64.

    Args:
        source: products of the source's text with itself.
        crossed: products of the target's text with the source's.
        kept: products of the text that is to be answered as before.
    """

    source: Tensor
    crossed: Tensor
    kept: Tensor

    @classmethod
    def zeros(cls, size: int, device: torch.device | str = "cpu") -> KeyMoments:
        """Sums to which nothing has been added yet."""
        return cls(*(torch.zeros(size, size, dtype=torch.float64, device=device) for _ in range(3)))

    def __add__(self, other: KeyMoments) -> KeyMoments:
        return KeyMoments(self.source + other.source, self.crossed + other.crossed, self.kept + other.kept)


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
    _batches: dict[tuple[int, ...], dict[tuple[int, str], KeyMoments]] = field(default_factory=dict)

    def add(self, key: Key, rows: Rows, value: Tensor) -> None:
        """See :class:`~t2iprobe.core.cache.Sink`."""
        if key.site in self.once and key.step + key.evaluation > 0:
            return
        wide = value.cpu().double() if value.device.type == "mps" else value.double()
        text = {row: wide[index] for index, row in enumerate(rows)}
        batch = self._batches.setdefault(tuple(rows), {})
        for row in rows:
            if row in self.pairs or row in self.kept:
                one = batch.setdefault((row, key.site), KeyMoments.zeros(wide.shape[-1], wide.device))
                self._take(one, key.branch, text[row], text.get(self.pairs.get(row, -1)))

    def _take(self, one: KeyMoments, branch: Branch, own: Tensor, other: Tensor | None) -> None:
        if branch is Branch.COND and other is not None:
            one.source += own.T @ own
            one.crossed += other.T @ own
        else:
            one.kept += own.T @ own

    def discard(self, rows: Rows) -> None:
        """See :class:`~t2iprobe.core.cache.ActivationStream`."""
        self._batches.pop(tuple(rows), None)

    def moments(self, row: int, site: str) -> KeyMoments:
        """The moments of a source's row."""
        return next(batch[row, site] for batch in self._batches.values() if (row, site) in batch)


@dataclass(frozen=True)
class ClosedForm(Editor):
    """The closed-form edit that the module describes.

    Args:
        ridge, preserve: see :class:`Ridge`.
        prompts: file of prompts that are to be answered as before, one per line; ``# remark`` lines are skipped.
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
        if self.ridge <= 0 or self.preserve < 0:
            raise ConfigError(f"ridge is above 0 and preserve not below, found {self.ridge} and {self.preserve}")

    def check(self, model: Model, layers: Sequence[int]) -> None:
        """Refuse layers whose projections read more than the text, weights that cannot be replaced, a missing file."""
        self._listed()
        for site in (site for layer in layers for site in model.text_sites(layer)):
            if site.stream != "all":
                raise ConfigError(
                    f"{site.name}: image tokens use the same weights as the text here, so a closed-form edit would "
                    "change them too; choose other layers or another method"
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
        rows = [row for number, pair in enumerate(task.pairs) for row in ((number, pair.source), (number, pair.target))]
        kept = range(len(rows), len(rows) + len(self._listed()))
        rows += [(0, text) for text in self._listed()]
        donors = {2 * number: 2 * number + 1 for number in range(len(task.pairs))}
        once = frozenset(text for text in texts if model.sites.named(text).static)
        gatherer = Gatherer(donors, frozenset(kept), once)
        run = task.run(rows, [patch(donors, [site.name for site in sites])], cache=texts, into=gatherer)
        also = {text: sum((gatherer.moments(row, text) for row in kept), _none(gatherer, text)) for text in texts}
        found = []
        for number, pair in enumerate(task.pairs):
            moments = {text: gatherer.moments(2 * number, text) + also[text] for text in texts}
            facts = {"source": pair.source, "target": pair.target, "seed": str(pair.seed), "model": model.ref}
            found.append(KVEdit(self._solved(model, sites, moments), facts | {"ridge": str(self.ridge)}))
        return found, run

    def _solved(self, model: Model, sites: Sequence[Site], moments: Mapping[str, KeyMoments]) -> dict[str, Tensor]:
        solver = Ridge(self.ridge, self.preserve)
        return {
            site.module: solver.solve(_projection(model, site.module).weight.detach(), moments[text_of(site)])
            for site in sites
        }

    def _listed(self) -> list[str]:
        return read_entries(self.prompts, "prompts") if self.prompts else []


def _none(gatherer: Gatherer, text: str) -> KeyMoments:
    like = gatherer.moments(0, text).source
    return KeyMoments.zeros(len(like), like.device)


def text_of(site: Site) -> str:
    """Name of the site of the text that a key or value is computed from: ``blocks.6.joint_attn.text``."""
    return site.name.rpartition(".")[0] + ".text"
