"""Ranks layers by what attention adds from the differing words: :class:`Contribution`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import ActivationCache
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.sites import Site
from t2iprobe.core.sweep import Cost
from t2iprobe.core.trials import Space
from t2iprobe.plugins.localization.conditioning import differing_tokens
from t2iprobe.plugins.localization.ranking import RankingLocalizer


@dataclass
class Contribution(RankingLocalizer):
    """Ranks layers by what the image tokens receive from the differing words ("Localizing Knowledge in Diffusion
    Transformers", arXiv 2505.18832): one forward pass per prompt with ``steps=1``; only the finalists are patched.

    *Our reading*, because the paper's exact norm was not available: in the attention's result before its output
    projection, all heads side by side, the part that comes from those tokens' values, their sum of softmax(q k / sqrt
    d) v; its Euclidean norm, averaged over image tokens, steps and both prompts; divided by the norm of the whole
    result if ``relative``. In joint attention the softmax is over text and image keys. It is computed from the
    projections' results, so normalisation of queries and keys (SD3.5, FLUX) and rotary positions (FLUX) are ignored. It
    shows what is *read*, not what is *used*: a layer can add much that no later layer needs.

    Args:
        pairs: number of search pairs to examine.
        finalists: number of layers to patch exactly.
        steps: denoising steps of the examined runs.
        relative: see above.
        alike: see :class:`~t2iprobe.plugins.localization.heads_steps_tokens.Tokens`.
    """

    name: ClassVar[str] = "contribution"
    summary: ClassVar[str] = "attention contribution of the differing words, finalists patched exactly"
    unit: ClassVar[str] = "norm of what attention adds from the differing words"
    least: ClassVar[dict[str, int]] = {**RankingLocalizer.least, "steps": 1}
    steps: int = 1
    relative: bool = False
    alike: float = 0.5

    @property
    def key(self) -> str:
        """See :class:`~t2iprobe.plugins.localization.ranking.RankingLocalizer`."""
        return f"contribution {self.steps} steps relative={self.relative} alike={self.alike}"

    def cost(self, model: Model, settings: Mapping[str, Any]) -> Cost:
        """A short run with both prompts."""
        short = {**settings, "num_steps": self.steps}
        return Cost(2, 2 * model.rows(short), model.calls(short))

    def measured(self, model: Model, space: Space, pair: Pair, settings: Mapping[str, Any]) -> NDArray[np.float64]:
        """Contributions of the layers, (layer,)."""
        short = {**settings, "num_steps": self.steps}
        layers = [reads(model, names) for names in space.kv]
        generation = model.generation([pair.source, pair.target], pair.seed, **short)
        run = model.run(generation, cache=[site.name for one in layers for site in one])
        tokens = differing_tokens(model, pair, self.alike)
        return np.array([self._layer(run.cache, sites, tokens) for sites in layers])

    def _layer(self, cache: ActivationCache, sites: list[Site], tokens: list[int]) -> float:
        found = []
        for step in cache.steps(sites[0].name):
            values = [cache.fetch(site.name, step, Branch.COND, [0, 1]).float() for site in sites]
            part, whole = contributions(*values, heads=sites[0].heads or 1, tokens=tokens)
            found.append(float((part / whole if self.relative else part).mean()))
        return float(np.mean(found))


def reads(model: Model, names: tuple[str, ...]) -> list[Site]:
    """Sites of one attention: query, text keys and values, and the image's own ones if attention is joint."""
    key, value = (model.sites.named(name) for name in names)
    query = model.sites.named(key.name.removesuffix("k") + "q")
    block = key.name.rsplit(".", 2)[0]
    own = [f"{block}.self_attn.{port}" for port in "kv"]
    parent = key.module.rsplit(".", 1)[0]
    known = model.sites.names
    joint = all(name in known and model.sites.named(name).module.startswith(parent + ".") for name in own)
    return [query, key, value, *(model.sites.named(name) for name in own if joint)]


def contributions(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own_key: Tensor | None = None,
    own_value: Tensor | None = None,
    *,
    heads: int,
    tokens: list[int],
) -> tuple[Tensor, Tensor]:
    """Norms of the part of an attention's result that comes from some text tokens, and of the whole, (row, query).

    Args:
        query: (row, query, channel) of the image tokens.
        key, value: (row, token, channel) of the text.
        own_key, own_value: (row, query, channel) of the image tokens, if attention is joint.
        heads: number of heads in the channel axis.
        tokens: positions among the text tokens.
    """
    keys = key if own_key is None else torch.cat([key, own_key], 1)
    values = value if own_value is None else torch.cat([value, own_value], 1)
    q, k, v = (rearrange(one, "b t (h d) -> b h t d", h=heads) for one in (query, keys, values))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    part, whole = weights[..., tokens] @ v[:, :, tokens], weights @ v
    joined = [rearrange(one, "b h t d -> b t (h d)").norm(dim=-1) for one in (part, whole)]
    return joined[0], joined[1]
