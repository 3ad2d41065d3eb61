"""How the rewrite gets to the localized layers and nothing else: there are three ways, see :data:`DONORS`.

``inject``: the layers read the rewrite's encoded text instead of the prompt's. Where text keys and values depend on the
text alone (U-Nets), this is exactly activation patching, and costs only the encoding of the rewrite.

``row``: a row with the rewrite runs in the same batch, in lock-step, and its text keys and values are patched in. This
is activation patching on any family. It adds no denoiser call, but one row for every rewritten prompt; no row in a
U-Net, where they follow from the rewrite alone.

``stream``: for joint attention, where the text changes from block to block. The rewrite's text runs beside the
prompt's through the blocks up to the last localized layer, and attends to the prompt's picture there. It adds no call
and no row, but those blocks do the work of one more row in the conditional half. It is close to patching, but not
equal to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from t2iprobe.core.arguments import options_of
from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError, HookError
from t2iprobe.core.interventions import HookContext, Intervention, patch
from t2iprobe.core.model import Generation, Model
from t2iprobe.core.scope import Scope
from t2iprobe.core.sites import Site

Donor = Literal["auto", "inject", "row", "stream"]
#: what each donor costs on top of normal sampling, in words
DONORS: Mapping[str, str] = {
    "inject": "the layers read the encoded rewrite: no additional denoiser call or row",
    "row": "one additional row for each rewritten prompt, none in a U-Net, in the same denoiser calls",
    "stream": "no additional denoiser call or row; the rewrite's text runs through the blocks up to the last layer",
}


def chosen_donor(model: Model, donor: Donor = "auto") -> str:
    """The donor for a model: ``inject`` if its layers read the encoded text itself, otherwise ``row``.

    Raises:
        ConfigError: there is no such donor, or the family lacks what it needs.
    """
    injectable = all(read_by(model, layer) for layer in range(model.n_layers))
    if donor == "auto":
        return "inject" if injectable else "row"
    if donor not in DONORS:
        raise ConfigError(f"no donor {donor!r}; there are auto, {', '.join(DONORS)}")
    if donor == "inject" and not injectable:
        raise ConfigError(
            f"{model.adapter.name} changes the text in every block, so its layers do not read the encoded prompt; "
            "use the donor row or stream"
        )
    if donor == "stream" and injectable:
        raise ConfigError(f"the layers of {model.adapter.name} read the encoded prompt; use the donor inject")
    return donor


def read_by(model: Model, layer: int) -> list[str]:
    """The site of the encoded prompt that a layer reads; empty where the text changes from block to block."""
    return [site.name for site in model.sites if site.layer == layer and site.kind == "cross_attn.text"]


@dataclass(frozen=True)
class Donation:
    """Brings the rewrites of some rows to the layers.

    Args:
        model: the model.
        layers: the localized layers.
        donor: one of :data:`DONORS`.
        start: denoising step from which the layers get the rewrite; 0 is at pure noise.
    """

    model: Model
    layers: Sequence[int]
    donor: str
    start: int = 0

    def rows(self, rewritten: int) -> int:
        """Number of additional rows for so many rewritten prompts."""
        free = self.donor != "row" or self.model.text_edits([patch({0: 1}, self._text_sites())])
        return 0 if free else rewritten

    def _text_sites(self) -> list[str]:
        return [name for layer in self.layers for name in self.model.text_sites(layer).names]

    @contextmanager
    def edits(
        self, generation: Generation, rewrites: Mapping[int, str]
    ) -> Iterator[tuple[Generation, list[Intervention]]]:
        """What to run in place of ``generation``, and the edits that bring the rewrites in.

        Args:
            generation: the generation of the prompts.
            rewrites: maps a row to its rewrite.
        """
        scope = Scope(
            steps=range(self.start, self.model.steps(generation.num_steps, generation.options)) if self.start else None,
            rows=tuple(rewrites),
        )
        if self.donor == "row":
            longer, donors = beside(self.model, generation, rewrites)
            yield longer, [patch(donors, self._text_sites(), scope=scope)]
        elif self.donor == "inject":
            texts = tuple(name for layer in self.layers for name in read_by(self.model, layer))
            scope = replace(scope, branches=(Branch.COND,))
            yield generation, [Intervention(_encoded(self.model, rewrites).edit, texts, scope, label="guard (inject)")]
        else:
            stream = TextStream(self.model, self.layers, _encoded(self.model, rewrites), self.start)
            with stream.installed():
                yield generation, [stream.layout]
            stream.check()


def beside(model: Model, generation: Generation, prompts: Mapping[int, str]) -> tuple[Generation, dict[int, int]]:
    """The generation with an extra row for every prompt, and a map from each row to its extra one.

    Args:
        model: the model.
        generation: the generation.
        prompts: maps a row to the prompt of its extra row, which has the same noise.
    """
    count = len(generation.prompts)
    taken = [*range(count), *prompts]
    longer = replace(
        generation,
        prompts=(*generation.prompts, *prompts.values()),
        seeds=tuple(generation.seeds[row] for row in taken),
        options=options_of(model.pipeline, generation.options, taken),
        latents=None if generation.latents is None else generation.latents[taken],
    )
    return longer, {row: count + place for place, row in enumerate(prompts)}


@dataclass
class Encoded:
    """Rewrites in the form that the denoiser's blocks get, one row each.

    Args:
        tokens: output of the text encoders, (row, token, channel).
        entry: how the denoiser takes it in; used only while the denoiser runs, when its weights are where they belong.
        place: maps a row of the generation to a row of ``tokens``.
    """

    tokens: Tensor
    entry: nn.Module | None
    place: Mapping[int, int]

    @cached_property
    def entered(self) -> Tensor:
        """The tokens after the denoiser's own projection of them, if it has one."""
        # call forward, not the module: hooks that read this site are meant for the prompt's text
        return self.tokens if self.entry is None else self.entry.forward(self.tokens)

    def edit(self, value: Tensor, hook: HookContext) -> Tensor:
        """An edit that puts the tokens in place."""
        return self.entered[[self.place[row] for row in hook.rows]].to(value)


@torch.no_grad()
def _encoded(model: Model, rewrites: Mapping[int, str]) -> Encoded:
    tokens = model.adapter.encode_prompts(model.pipeline, list(rewrites.values())).tokens
    site = model.sites.named("text")
    entry = None if site.port.side == "in" else model.denoiser.get_submodule(site.module)
    return Encoded(tokens, entry, {row: place for place, row in enumerate(rewrites)})


class TextStream:
    """Runs the rewrites' text beside the prompts' text, block by block, and hands its keys and values to the layers.

    Before each block, that block runs an extra time on the rewritten conditional rows, with their picture tokens as
    they are and the rewrite's text. Only the text of the result is carried on.

    Args:
        model: a model with joint attention.
        layers: the layers that get the rewrites' text keys and values.
        encoded: the rewrites.
        start: the first denoising step at which they do.
    """

    def __init__(self, model: Model, layers: Sequence[int], encoded: Encoded, start: int) -> None:
        self.model, self.encoded, self.start = model, encoded, start
        self.last = max(layers)
        self.sites = [site for layer in layers for site in model.text_sites(layer)]
        self.held: dict[str, Tensor] = {}
        self.places: list[int] = []  # rewritten rows of the current call
        self.text: Tensor | None = None
        self.running = False
        self.seen = 0
        self.put = 0  # how many keys or values have replaced the prompts'
        self.layout = Intervention(self._look, ("text",), Scope(), label="guard (stream)")

    def _look(self, value: Tensor, hook: HookContext) -> Tensor:
        """Note at the start of a denoiser call where the rewritten rows are; changes nothing."""
        if hook.branch is not Branch.COND:
            self.seen += hook.batch.shape[0]
            return value
        rows = [row for row in hook.rows if row in self.encoded.place] if hook.step >= self.start else []
        self.places = [self.seen + hook.position[row] for row in rows]
        if rows:
            self.text = self.encoded.entered[[self.encoded.place[row] for row in rows]].to(value)
        return value

    def _begin(self, denoiser: nn.Module, args: Any) -> None:
        """Reset the state as a denoiser call begins."""
        self.places, self.text, self.seen = [], None, 0
        self.held.clear()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Keep the hooks installed within a ``with`` block."""
        denoiser = self.model.denoiser
        with ExitStack() as stack:
            stack.callback(denoiser.register_forward_pre_hook(self._begin).remove)
            for layer in range(self.last + 1):
                site = self.model.sites.named(f"blocks.{layer}.text.in")
                block = denoiser.get_submodule(site.module)
                stack.callback(block.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            for site in self.sites:
                module = denoiser.get_submodule(site.module)
                stack.callback(module.register_forward_hook(partial(self._take, site)).remove)
            yield

    def _before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.text is None:
            return
        bound = _named(block, args, kwargs)
        count = bound["hidden_states"].shape[0]
        chosen = {name: _rows(value, self.places, count) for name, value in bound.items()}
        self.running = True
        try:
            result = block.forward(**chosen | {"encoder_hidden_states": self.text})
        finally:
            self.running = False
        self.text = result[0]

    def _take(self, site: Site, module: nn.Module, args: Any, value: Tensor) -> Tensor | None:
        """Keep the keys or values of the rewrite's run, or put them in place of the prompt's."""
        window = slice(None) if site.stream == "all" else slice(0, self.encoded.tokens.shape[1])
        if self.running:
            self.held[site.name] = value[:, window]
            return None
        if site.name not in self.held:
            return None
        edited = value.clone()
        edited[self.places, window] = self.held.pop(site.name)
        self.put += 1
        return edited

    def check(self) -> None:
        """Make sure that the rewrites did reach the layers.

        Raises:
            HookError: they did not.
        """
        if not self.put or self.put % len(self.sites):
            raise HookError(
                f"the rewrites' text was put in place {self.put} times, which is not a multiple of the "
                f"{len(self.sites)} keys and values of the layers"
            )


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return dict(zip(names, args, strict=False)) | kwargs


def _rows(value: Any, places: Sequence[int], count: int) -> Any:
    """The chosen rows of a tensor that has the batch's rows; anything else unchanged."""
    return value[places] if isinstance(value, Tensor) and value.shape[:1] == (count,) else value
