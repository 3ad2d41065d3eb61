"""What one call of a denoiser shows: which arguments carry the prompt, and which projections make text keys and values.

Nothing here goes by names of modules. The call runs with four rows, two prompts times two noises, and while it runs,
scaled dot-product attention returns its queries. So tokens never mix: a token that differs between two noises is an
image token in every block, all others belong to the text. The gradients of queries, keys and values with respect to
the outputs of linear layers say which channels of which layer they come from, also where one layer makes all three.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Part = Literal["q", "k", "v"]
Tokens = Literal["text", "image", "text first", "image first", "mixed"]


class Reached(Exception):
    """Raised to leave a pipeline once its denoiser has been called."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer whose output becomes queries, keys or values.

    Args:
        module: its path below the denoiser.
        part: what it becomes.
        tokens: whose tokens it projects.
        first, last: the channels of its output, the last one excluded.
        width: channels of its whole output.
        inputs: channels of its input.
        order: when it runs among the denoiser's linear layers.
        static: whether it gives the same at the next step.
    """

    module: str
    part: Part
    tokens: Tokens
    first: int
    last: int
    width: int
    inputs: int
    order: int
    static: bool = False


@dataclass(frozen=True, slots=True)
class Attention:
    """One call of scaled dot-product attention.

    Args:
        module: path of the innermost module that called it.
        heads: heads of the queries.
        sources: where queries, keys and values come from.
        queries, keys: whose tokens they are.
        text: how many of the keys are the text's.
        masks: arguments of ``module`` that depend on the prompt, by name, with their number of axes.
        result: path of the linear layer that reads the result, and whose tokens it reads.
        number: how many attentions the module had computed before in its call.
    """

    module: str
    heads: int
    sources: tuple[Projection, ...]
    queries: Tokens
    keys: Tokens
    text: int = 0
    masks: tuple[tuple[str, int], ...] = ()
    result: tuple[tuple[str, Tokens], ...] = ()
    number: int = 0

    @property
    def reads_text(self) -> bool:
        """Whether image tokens attend to text tokens."""
        return self.queries not in ("text", "mixed") and self.keys not in ("image", "mixed")


@dataclass(frozen=True, slots=True)
class Block:
    """A module, one of a list of modules, in which attention is computed.

    Args:
        module: its path below the denoiser.
        inputs: its arguments that are (row, token, channel), and whose tokens these are.
        outputs: the same for its results, ``None`` standing for a single one.
        narrowing: linear layers in it that make many channels few but read no attention's result, as the last layer of
            an MLP does, with when they run and whose tokens they read.
    """

    module: str
    inputs: tuple[tuple[str, Tokens], ...]
    outputs: tuple[tuple[int | None, Tokens], ...]
    narrowing: tuple[tuple[str, int, Tokens], ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """One call of a denoiser.

    Args:
        arguments: its arguments by name; four rows, two prompts times two noises.
        text: names of the arguments that depend on the prompt.
        latents: name of the argument that depends on the noise.
        attentions: calls of attention, in order.
        blocks: the blocks around them.
        time: path of the module that embeds the timestep; empty if there is none.
    """

    arguments: Mapping[str, Any]
    text: tuple[str, ...]
    latents: str
    attentions: tuple[Attention, ...]
    blocks: tuple[Block, ...] = ()
    time: str = ""

    def without_masks(self) -> Recording:
        """The same, as if no attention got a mask."""
        return replace(self, attentions=tuple(replace(one, masks=()) for one in self.attentions))


def record(denoiser: nn.Module, run: Callable[[], object]) -> Recording:
    """What the first call of ``denoiser`` within ``run`` shows, and the second, in which only the step is another.

    Args:
        denoiser: the network.
        run: starts the pipeline without guidance, for prompts A, A, B, B and noises 0, 1, 0, 1.
    """
    probe = _Probe(denoiser)
    with probe.installed(), suppress(Reached):
        run()
    first, *later = probe.calls
    attentions = first.attentions
    if later:
        attentions = [_with_static(*pair) for pair in zip(attentions, first.values, later[0].values, strict=False)]
    text = [name for name, value in first.arguments.items() if _differ(value, 0, 2)]
    latents = [name for name, value in first.arguments.items() if _differ(value, 0, 1)]
    moving = [path for path, value in first.vectors.items() if later and _moves(value, later[0].vectors.get(path))]
    return Recording(
        first.arguments,
        tuple(text),
        latents[0] if latents else "",
        tuple(attentions),
        tuple(first.blocks),
        moving[0] if moving else "",
    )


def _moves(value: Tensor, later: Tensor | None) -> bool:
    return later is not None and not torch.equal(value, later)


def _with_static(attention: Attention, before: Sequence[Tensor], after: Sequence[Tensor]) -> Attention:
    same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
    sources = (replace(source, static=kept) for source, kept in zip(attention.sources, same, strict=True))
    return replace(attention, sources=tuple(sources))


def _differ(value: Any, row: int, other: int) -> bool:
    if isinstance(value, list) and len(value) == 4:  # one entry a row
        one, another = value[row], value[other]
        if not isinstance(one, Tensor):
            return False
        return one.shape != another.shape or not torch.equal(one, another)
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 4:
        return not torch.equal(value[row], value[other])
    return False


@dataclass
class _Call:
    """One call of the denoiser: its arguments, its attentions, and what their projections gave."""

    arguments: Mapping[str, Any]
    attentions: list[Attention] = field(default_factory=list)
    values: list[list[Tensor]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    narrowing: list[tuple[str, int, Tokens]] = field(default_factory=list)
    vectors: dict[str, Tensor] = field(default_factory=dict)  # what modules give that is the same for every row


@dataclass
class _Probe:
    """Hooks on every module of a denoiser.

    Args:
        denoiser: the network.
        calls: its calls so far.
        inside: the modules that are running, innermost last, with their arguments.
        leaves: outputs of linear layers since the last attention, cut off from what they were computed from.
        used: whether an attention has run since.
    """

    denoiser: nn.Module
    calls: list[_Call] = field(default_factory=list)
    inside: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    leaves: list[tuple[str, int, int, Tensor]] = field(default_factory=list)
    used: bool = False
    ran: int = 0
    own: tuple[Any, bool] = (None, False)
    result: Tensor | None = None  # of the last attention

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hooks within a ``with`` block."""
        attention, enabled = functional.scaled_dot_product_attention, torch.is_grad_enabled()
        with ExitStack() as undo:
            for path, module in self.denoiser.named_modules():
                if path:
                    self._watch(undo, path, module)
            undo.callback(self.denoiser.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            undo.callback(self.denoiser.register_forward_hook(self._end).remove)
            undo.callback(setattr, functional, "scaled_dot_product_attention", attention)
            undo.callback(torch.set_grad_enabled, enabled)
            self.own = (attention, enabled)
            yield

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        self.calls.append(_Call(dict(bound.arguments)))
        self.inside.clear()
        torch.set_grad_enabled(True)
        functional.scaled_dot_product_attention = self._attend

    def _end(self, module: nn.Module, args: Any, output: Any) -> Any:
        if len(self.calls) > 1:
            raise Reached
        functional.scaled_dot_product_attention, enabled = self.own
        torch.set_grad_enabled(enabled)
        return output

    def _watch(self, undo: ExitStack, path: str, module: nn.Module) -> None:
        names = list(inspect.signature(module.forward).parameters)
        listed = path.rpartition(".")[2].isdecimal()
        before: list[int] = []
        linear = hasattr(module, "in_features") and hasattr(module, "out_features")

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.inside.append((path, {**dict(zip(names, args, strict=False)), **kwargs}))
            before.append(self._attentions())
            if linear:
                self._reads(path, module, args[0] if args else next(iter(kwargs.values())))

        def leave(module: Any, args: Any, output: Any) -> Any:
            _, given = self.inside.pop()
            if before.pop() < self._attentions() and listed:
                self._leave(path, given, output)
            if not linear:
                self._embeds(path, module, output)
                return None
            leaf = output.detach().requires_grad_()
            self.ran += 1
            if self.used:  # several attentions in a row may share projections
                self.leaves.clear()
                self.used = False
            self.leaves.append((path, module.in_features, self.ran, leaf))
            return leaf

        undo.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        undo.callback(module.register_forward_hook(leave).remove)

    def _attentions(self) -> int:
        return len(self.calls[-1].attentions) if self.calls else 0

    def _leave(self, path: str, given: Mapping[str, Any], output: Any) -> None:
        """A block has run."""
        call = self.calls[-1]
        results = enumerate(output) if isinstance(output, tuple | list) else [(None, output)]
        inputs = tuple((name, tokens_of(value)) for name, value in given.items() if _is_stream(value))
        outputs = tuple((index, tokens_of(value)) for index, value in results if _is_stream(value))
        narrowing = tuple(one for one in call.narrowing if one[0].startswith(path + "."))
        call.blocks.append(Block(path, inputs, outputs, narrowing))

    def _embeds(self, path: str, module: Any, output: Any) -> None:
        """Keep a vector that has linear layers behind it and is the same for every prompt and noise.

        One that is computed only after an attention is a block's or the last layer's own, not the embedded timestep.
        """
        if self.calls[-1].attentions:
            return
        vector = isinstance(output, Tensor) and output.ndim == 2 and len(output) == 4 and output.is_floating_point()
        if vector and (output == output[:1]).all() and any(hasattr(one, "in_features") for one in module.modules()):
            self.calls[-1].vectors.setdefault(path, output.detach())

    def _reads(self, path: str, module: Any, value: Tensor) -> None:
        """A linear layer inside the last attention that is none of its sources reads its result."""
        attentions = self.calls[-1].attentions if self.calls else []
        if value.ndim == 3 and module.in_features > module.out_features and not self._follows(value):
            self.calls[-1].narrowing.append((path, self.ran, tokens_of(value)))
        if not attentions or value.ndim < 3:
            return
        last = attentions[-1]
        if path.startswith(last.module + ".") and path not in {source.module for source in last.sources}:
            attentions[-1] = replace(last, result=(*last.result, (path, tokens_of(value))))

    def _follows(self, value: Tensor) -> bool:
        """Whether some channels are the last attention's result, as in FLUX's single-stream blocks."""
        if self.result is None or self.result.shape[:2] != value.shape[:2]:
            return False
        width = self.result.shape[-1]
        return any(torch.equal(self.result, part) for part in (value[..., :width], value[..., -width:]))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **more: Any) -> Tensor:
        found = [
            one for part, tensor in zip("qkv", (query, key, value), strict=True) for one in self._sources(part, tensor)
        ]
        self.used = True
        path, given = self.inside[-1]
        masks = [(name, mask.ndim) for name, mask in given.items() if _is_mask(name) and _differ(mask, 0, 2)]
        queries, keys = (tokens_of(tensor.transpose(1, 2)) for tensor in (query, key))
        sources = tuple(source for source, _ in found)
        call = self.calls[-1]
        text = _text_tokens(key.transpose(1, 2))
        earlier = sum(one.module == path for one in call.attentions)
        call.attentions.append(
            Attention(path, query.shape[1], sources, queries, keys, text, tuple(masks), number=earlier)
        )
        call.values.append([value for _, value in found])
        self.result = query.detach().transpose(1, 2).flatten(2)
        return query.detach()

    def _sources(self, part: Any, tensor: Tensor) -> Iterator[tuple[Projection, Tensor]]:
        """The layers whose outputs ``tensor`` is computed from."""
        if not self.leaves or not tensor.requires_grad:
            return
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
        leaves = [leaf for *_, leaf in self.leaves]
        grads = torch.autograd.grad((tensor * noise).sum(), leaves, retain_graph=True, allow_unused=True)
        for (path, inputs, order, leaf), grad in zip(self.leaves, grads, strict=True):
            if grad is None or leaf.ndim < 3:
                continue
            used = grad.flatten(0, -2).abs().sum(0).nonzero().flatten()
            if len(used):
                first, last = int(used.min()), int(used.max()) + 1
                yield Projection(path, part, tokens_of(leaf), first, last, leaf.shape[-1], inputs, order), leaf.detach()


def _text_tokens(value: Tensor) -> int:
    """How many tokens of (row, token, ...) are the same for two noises."""
    rows = value.detach().flatten(2)
    return int((rows[0] == rows[1]).all(-1).sum()) if len(rows) == 4 else 0


def _is_stream(value: Any) -> bool:
    """Whether it is (row, token, channel) of all rows."""
    return isinstance(value, Tensor) and value.ndim == 3 and len(value) == 4 and value.is_floating_point()


def _is_mask(name: str) -> bool:
    return "mask" in name or "valid" in name


def tokens_of(value: Tensor) -> Tokens:
    """Whose tokens stand on the second axis of (row, token, ...)."""
    rows = value.detach().flatten(2).double()
    if rows.shape[0] != 4:
        return "mixed"
    places = [(rows[row] != rows[row + 1]).any(-1) for row in (0, 2)]
    if not torch.equal(*places):  # each row's picture may stand right behind its own prompt
        one_run = all(_one_run(place) for place in places) and _count(places[0]) == _count(places[1])
        return "text first" if one_run else "mixed"
    image = places[0]
    if not image.any():
        return "text"
    if not (rows[0] != rows[2])[~image].any():  # beside the image at most padding, the same for every prompt
        return "image"
    changes = int((image[1:] != image[:-1]).sum())
    if changes > 1:
        return "mixed"
    return "image first" if image[0] else "text first"


def _one_run(place: Tensor) -> bool:
    """Whether the marked tokens are neighbours."""
    return int((place[1:] != place[:-1]).sum()) <= 2 and not (place[0] and place[-1])


def _count(place: Tensor) -> int:
    return int(place.sum())
