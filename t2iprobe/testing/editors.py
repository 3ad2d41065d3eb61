"""The laws of an editor, :func:`editor_conformance`, on a tiny random pipeline: what it leaves, and what it costs.

Whether an edit looks right is not checked: a random model draws noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.contracts.editor import Editor, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.testing.conformance import Case, Laws, require, says_what_it_is
from t2iprobe.testing.watching import first_output, marks

LEVELS = 2  # of 255: how much rounding may change a pixel between batch sizes
STEPS = 4
#: prompts with as many tokens in both, and few in common
PAIRS = (
    Pair.from_prompts('a sign that says "DOG"', 'on the of with "CAT"', 3),
    Pair.from_prompts('the sign in red that says "OX"', 'an of the red with on "HE"', 4),
)


@dataclass(frozen=True)
class EditorCase(Case[Editor]):
    """An editor, and what it edits.

    Args:
        adapter: the architecture, by default SD.
        layers: the layers that are edited.
    """

    adapter: type[Adapter] | None = None
    layers: tuple[int, ...] = (1, 2)

    def model(self) -> Model:
        """A tiny model of the architecture."""
        from t2iprobe.architectures.sd import SD

        adapter = self.adapter or SD
        return Model(adapter.tiny(), adapter())

    def task(self, model: Model, *pairs: Pair, **more: Any) -> EditTask:
        """The pairs, or all of them, in a few steps."""
        return EditTask(model, pairs or PAIRS, self.layers, settings={"num_steps": STEPS}, batch_size=8, **more)


#: the laws of an editor; each is called with an :class:`EditorCase`
EDITOR_LAWS = Laws(says_what_it_is)


def editor_conformance(
    kind: type[Editor], *, adapter: type[Adapter] | None = None, layers: tuple[int, ...] = (1, 2), **settings: Any
) -> type:
    """A pytest class with one method per law of an editor.

    Args:
        kind: the editor's class.
        adapter, layers: see :class:`EditorCase`.
        settings: arguments of the class.
    """
    return EDITOR_LAWS.tests_of(EditorCase(kind, settings, adapter, layers))


@EDITOR_LAWS
def its_sites_exist(case: EditorCase) -> None:
    """The model has the sites that it edits."""
    model = case.model()
    unknown = [name for name in case.make().sites(model, case.layers) if name not in model.sites.names]
    require(not unknown, f"it edits sites that the model does not have: {', '.join(unknown[:3])}")


@EDITOR_LAWS
def each_pair_gets_a_picture(case: EditorCase) -> None:
    """There is one picture for each pair, other than the source's own, the same each time and beside other pairs."""
    model = case.model()
    edited = case.make().edit(case.task(model))
    require(len(edited.images) == len(PAIRS), f"{len(PAIRS)} pairs got {len(edited.images)} pictures")
    own = edited.sources
    require((own is not None) == case.kind.own_sources, f"own_sources is {case.kind.own_sources}, sources are {own}")
    plain = model.run(model.generation([pair.source for pair in PAIRS], [3, 4], num_steps=STEPS)).images
    for number, pair in enumerate(PAIRS):
        off = _apart(edited.images[number], plain[number])
        require(off > 0, "an edited picture is the source's")
        alone = case.make().edit(case.task(model, pair)).images[0]
        off = _apart(alone, edited.images[number])
        require(off <= LEVELS, f"a picture differs by {off} levels of 255 when other pairs share the batch")


@EDITOR_LAWS
def the_model_is_left_as_it_was(case: EditorCase) -> None:
    """Afterwards every parameter is the same object with the same values, and no hook is left; after an error, too."""
    model = case.model()
    _edit(case, case.task(model))  # transformers leaves hooks of its own at an encoder's first call
    before, state = _state(model), {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    for end in (_nothing, _fail):
        _edit(case, case.task(model, on_step=end))
        after = "an error" if end is _fail else "an edit"
        require(_state(model) == before, f"after {after} there are other modules, parameters or hooks")
        now = model.denoiser.state_dict()
        changed = [name for name, value in state.items() if name not in now or not torch.equal(value, now[name])]
        require(not changed, f"after {after} weights have changed: {', '.join(changed[:3])}")


@EDITOR_LAWS
def cost_is_what_was_run(case: EditorCase) -> None:
    """The result has the denoiser calls and rows that were made; a plan would say as many rows."""
    model = case.model()
    with first_output(model) as seen:
        edited = case.make().edit(case.task(model))
    made = len(seen), sum(map(len, seen))
    said = edited.calls, edited.rows
    require(said == made, f"{made} denoiser calls and rows were made, {said} are in the result")
    each = case.make().rows_a_picture(model, case.layers) * model.rows({"num_steps": STEPS})
    require(
        edited.rows == each * len(PAIRS), f"a plan says {each:,} rows a picture, {edited.rows:,} ran for {len(PAIRS)}"
    )


@EDITOR_LAWS
def a_later_start_is_another_edit(case: EditorCase) -> None:
    """Of editors with ``starts``: the start step is heeded."""
    if case.kind.starts:
        model = case.model()
        early, late = (case.make().edit(case.task(model, start=start)).images[0] for start in (0, STEPS - 1))
        require(_apart(early, late) > 0, "an edit from the last step on is the same as one from the first")


@EDITOR_LAWS
def check_takes_what_edit_takes(case: EditorCase) -> None:
    """``check`` lets pass what ``edit`` can do."""
    try:
        case.make().check(case.model(), case.layers)
    except ConfigError as error:
        raise AssertionError(f"check() refuses what edit() can do: {error}") from error


def _nothing(rows: int, step: Any) -> None:
    pass


def _fail(rows: int, step: Any) -> None:
    raise ZeroDivisionError("on purpose")


def _edit(case: EditorCase, task: EditTask) -> None:
    try:
        case.make().edit(task)
    except ZeroDivisionError:
        return
    require(task.on_step is not _fail, "an error while it draws must not be hidden")


def _state(model: Model) -> tuple[Any, ...]:
    modules = [(name, type(module)) for name, module in model.denoiser.named_modules()]
    return modules, [id(value) for value in model.denoiser.parameters()], marks(model)


def _apart(one: Image, other: Image) -> int:
    """The largest difference, in levels of 255."""
    a: NDArray[np.int16] = np.asarray(one, np.int16)
    return int(np.abs(a - np.asarray(other, np.int16)).max())
