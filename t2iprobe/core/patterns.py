"""Attention patterns: the softmax weights of an attention, read and edited where a site asks for them.

Attention is computed as ever, by torch's fused ``scaled_dot_product_attention``; the weights are computed beside it,
one head at a time, and only while :func:`watched` is entered. So a run that only reads them gives the same pictures bit
for bit, and an edit adds what its *change* of the weights makes of the values: no change, no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2iprobe.core.errors import HookError
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Site
from t2iprobe.core.windows import Spans, Window


@dataclass(frozen=True, slots=True)
class Attention:
    """One call of scaled dot-product attention.

    Args:
        query, key, value: (row, head, token, channel), with as many heads each.
        mask: what the logits are added to or, if it is boolean, where they count; broadcasts to (row, head, query,
            key).
        scale: factor of the products of queries and keys.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Attention:
        """The call with these arguments of torch's function.

        Raises:
            HookError: it is causal, which no attention of image tokens is.
        """
        if is_causal:
            raise HookError("the pattern of a causal attention cannot be read")
        if enable_gqa:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        return cls(query, key, value, attn_mask, query.shape[-1] ** -0.5 if scale is None else scale)

    def weights(self, queries: Spans, keys: Spans) -> Tensor:
        """(row, head, query, key) of some queries and keys; each query's weights add up to 1 over all keys."""
        return torch.stack([self._of_head(head, queries, keys) for head in range(self.query.shape[1])], 1)

    def _of_head(self, head: int, queries: Spans, keys: Spans) -> Tensor:
        """(row, query, key), computed in float32."""
        asked = Window(1, queries)
        logits = asked.take(self.query[:, head]).float() @ self.key[:, head].float().mT * self.scale
        if self.mask is not None:
            mask = asked.take(self.mask.expand(*self.query.shape[:3], self.key.shape[2])[:, head])
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        weights = logits.softmax(-1).nan_to_num(0.0)  # a token that may read nothing reads nothing
        return Window(2, keys).take(weights.to(self.query.dtype))

    def moved(self, result: Tensor, change: Tensor, queries: Spans, keys: Spans) -> Tensor:
        """``result``, (row, head, query, channel), as it is with ``change`` added to the weights."""
        own = Window(2, queries)
        return own.put(result, own.take(result) + change @ Window(2, keys).take(self.value))


Visit = Callable[[Site, Attention, Tensor], Tensor | None]


@dataclass
class _Running:
    """A module that is running: the patterns that are asked of it, and how many attentions it has computed."""

    sites: Sequence[Site]
    attentions: int = 0

    def next(self) -> list[Site]:
        """The patterns of the next attention."""
        self.attentions += 1
        return [site for site in self.sites if site.port.attention == self.attentions - 1]


@contextmanager
def watched(denoiser: nn.Module, sites: Sequence[Site], visit: Visit) -> Iterator[None]:
    """Call ``visit`` for each of ``sites`` inside a ``with`` block, when its attention is computed.

    Args:
        denoiser: the network.
        sites: patterns.
        visit: takes a site, its attention and the result, (row, head, query, channel); returns a new result, or
            ``None`` to leave it.
    """
    attend, running = functional.scaled_dot_product_attention, list[_Running]()
    modules: dict[str, list[Site]] = {}
    for site in sites:
        modules.setdefault(site.module, []).append(site)

    def attending(*args: Any, **kwargs: Any) -> Tensor:
        result = attend(*args, **kwargs)
        for site in running[-1].next() if running else ():
            new = visit(site, Attention.of(*args, **kwargs), result)
            result = result if new is None else new
        return result

    with ExitStack() as stack:
        for path, own in modules.items():
            for remove in _around(denoiser.get_submodule(path), own, running):
                stack.callback(remove)
        stack.enter_context(shadowed(functional, "scaled_dot_product_attention", attending))
        yield


def _around(module: nn.Module, own: Sequence[Site], running: list[_Running]) -> Iterator[Callable[[], None]]:
    """Keep ``own`` at the end of ``running`` while the module runs; yields what undoes it."""

    def enter(*_: Any) -> None:
        running.append(_Running(own))

    def leave(*_: Any) -> None:
        running.pop()

    yield module.register_forward_pre_hook(enter).remove
    yield module.register_forward_hook(leave).remove
