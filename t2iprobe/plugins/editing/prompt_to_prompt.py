"""Prompt-to-Prompt (Hertz et al., arXiv 2208.01626): the target's prompt with the source's attention maps.

The maps are not overwritten. A map is softmax(q k), so the target's run gets the source's *queries and keys* and
computes the source's map from them, to the bit, whatever norm or rotation the attention applies in between. The values
remain the target's. No attention processor is replaced, and flash attention stays on.

* U-Nets: cross-attention maps (``cross``) and, where the map is small, self-attention maps (``self_share``), as
  published. DeepFloyd IF has both in one softmax, which is replaced as a whole.
* Joint attention (SD3, FLUX): image tokens attend to text and image tokens in one softmax. The image tokens' queries
  and all keys come from the source, so the image tokens' maps are the source's; what the text tokens attend to
  stays the target's. The authors of arXiv 2502.09935 compare with such a variant, but do not say what theirs replaces.

Token i of the target gets the map of token i of the source: the published replacement for prompts of equal length.
Prompts with different numbers of tokens are edited all the same, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.editor import Edited, Editor, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import HookContext, Intervention, patch
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scope import Scope
from t2iprobe.core.sites import Site


@dataclass(frozen=True)
class PromptToPrompt(Editor):
    """The Prompt-to-Prompt edit that the module describes.

    Args:
        cross: share of the steps, from the noise on, in which the text's maps are the source's (published: 0.8).
        self_share: the same share for self-attention (published: 0.4).
        largest: largest number of image tokens for which self-attention is replaced; published are 256 (16 x 16) for
            pictures of 512 pixels, and 1024 is the smallest number that SDXL has at 1024 pixels.
    """

    name: ClassVar[str] = "prompt-to-prompt"
    summary: ClassVar[str] = "the target's prompt with the source's attention maps in all layers (Prompt-to-Prompt)"
    pictures: ClassVar[int] = 2
    cross: float = 0.8
    self_share: float = 0.4
    largest: int = 1024

    def __post_init__(self) -> None:
        if not (0 <= self.cross <= 1 and 0 <= self.self_share <= 1 and self.largest >= 0):
            raise ConfigError(
                f"cross and self_share must be in 0..1 and largest not negative, found {self.cross}, {self.self_share} "
                f"and {self.largest}"
            )

    def sites(self, model: Model, layers: Sequence[int]) -> tuple[str, ...]:
        """Queries and keys of every layer, found or not."""
        texts, own = map_sites(model)
        return (*texts, *own)

    def edit(self, task: EditTask) -> Edited:
        """See :class:`Editor`."""
        for pair in task.pairs:
            _check_lengths(task.model, pair)
        rows = task.rows("target", "source")
        return Edited.of(task.run(rows, list(self._edits(task)), wanted=range(0, len(rows), 2)))

    def _edits(self, task: EditTask) -> Iterator[Intervention]:
        texts, own = map_sites(task.model)
        donors = {2 * number: 2 * number + 1 for number in range(len(task.pairs))}
        for sites, share in ((texts, self.cross), (own, self.self_share)):
            steps = range(round(share * task.steps))
            if sites and steps:
                replaced = patch(donors, sites, scope=Scope(steps=steps, branches=(Branch.COND,)))
                yield replaced if sites is texts else self._small(replaced)

    def _small(self, inner: Intervention) -> Intervention:
        """Leave large maps alone."""

        def edit(value: Tensor, hook: HookContext) -> Tensor:
            return inner.edit(value, hook) if value.shape[1] <= self.largest else value

        return Intervention(edit, inner.sites, inner.scope, inner.donors, "prompt-to-prompt")


def map_sites(model: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sites that maps are made of: queries and keys of attention to the text, and of attention among image tokens only.

    Image keys that share a softmax with the text's keys belong to the first group.
    """
    texts: list[str] = []
    own: list[str] = []
    for layer in range(model.n_layers):
        kinds = {site.kind: site for site in model.sites if site.layer == layer}
        texts += [kinds[kind].name for kind in _text_kinds(model, kinds) if kind in kinds]
        own += [kinds[kind].name for kind in _own_kinds(kinds)]
    return tuple(texts), tuple(own)


def _text_kinds(model: Model, kinds: dict[str, Site]) -> list[str]:
    keys = [kind for kind in model.adapter.text_kv if kind.endswith(".k")]
    shared = [] if "self_attn.q" in kinds else ["self_attn.k"]
    return [*keys, *(kind[:-1] + "q" for kind in keys), *shared]


def _own_kinds(kinds: dict[str, Site]) -> list[str]:
    parts = [part for part in ("self_attn", "dual_attn") if f"{part}.q" in kinds]
    return [f"{part}.{port}" for part in parts for port in "qk"]


def _check_lengths(model: Model, pair: Pair) -> None:
    """Warn if token i of one prompt does not correspond to token i of the other."""
    for name in model.adapter.text_limits(model.pipeline):
        tokenizer: Any = getattr(model.pipeline, name)
        one, other = (
            len(tokenizer(text, truncation=False, verbose=False).input_ids) for text in (pair.source, pair.target)
        )
        if one != other:
            warnings.warn(
                f"prompt-to-prompt maps token to token, but {pair.source!r} has {one} tokens and {pair.target!r} "
                f"{other} ({name}): the maps of the tokens after the changed word are shifted",
                stacklevel=3,
            )
            return
