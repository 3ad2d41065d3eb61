"""What is on the screen, as Python and as a command; both draw the same picture, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2iprobe.cli.commandline import quoted
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.trials import ranges
from t2iprobe.viewer.explorer.edits import Part
from t2iprobe.viewer.explorer.offers import TEXT
from t2iprobe.viewer.explorer.scene import CONCEPTS, Scene


@dataclass(frozen=True)
class Command:
    """A command whose run folder has the picture.

    Args:
        line: the command; empty if there is none.
        picture: the picture's file in the run folder.
        missing: why there is no command.
    """

    line: str = ""
    picture: str = ""
    missing: str = ""


def python(
    scene: Scene, parts: Sequence[Part], model: str, loading: Mapping[str, Any], beside: bool, name: str = "picture.png"
) -> str:
    """A script that draws the picture.

    Args:
        scene: what is on the screen.
        parts: its cells.
        model: name of the model.
        loading: further arguments of :func:`t2iprobe.load`.
        beside: whether the donor is a row of the same run, instead of a cached one.
        name: the file that it writes.
    """
    given = scene.given("seed", "num_steps", "guidance")
    settings = "".join(f", {key}={value!r}" for key, value in {"seed": 0, **given}.items())
    load = "".join(f", {key}={value!r}" for key, value in loading.items())
    patches = scene.mode == "patch" and bool(parts)
    lines = ["import t2iprobe as t2i", "", f"model = t2i.load({model!r}{load})", f"source = {scene.source!r}"]
    if patches:
        lines += [f"target = {scene.target!r}"]
        if not beside:
            cached = [pattern for part in parts for pattern in part.sites]
            lines += [f"donor = model.run(target{settings}, cache={_one_or_list(cached)}).cache"]
    edits = ""
    if parts:
        donor = "{0: 1}" if beside else "donor"
        lines += ["edits = [", *(f"    {_edit(scene, part, donor)}," for part in parts), "]"]
        edits = ", interventions=edits"
    rows, only = ("[source, target]", ", rows=[0]") if patches and beside else ("source", "")
    lines += [f"picture = model.run({rows}{settings}{only}{edits}).images[0]", f"picture.save({name!r})"]
    return "\n".join(lines) + "\n"


def _edit(scene: Scene, part: Part, donor: str) -> str:
    scope = {
        "steps": None if part.steps is None else _steps(part.steps),
        "branches": None if scene.branch == "both" else repr(scene.branch),
        "heads": repr(list(scene.heads)) if scene.heads else None,
    }
    inside = ", ".join(f"{key}={value}" for key, value in scope.items() if value is not None)
    more, sites = inside and f", {inside}", _one_or_list(part.sites)
    if scene.mode == "patch":
        return f"t2i.patch({donor}, {sites}{more})"
    if scene.mode == "scale":
        scoped = inside and f", t2i.Scope({inside})"
        return f"t2i.Intervention(lambda act, hook: act * {scene.factor!r}, {sites}{scoped})"
    return f"t2i.ablate({sites}, kind={scene.mode!r}{more})"


def _one_or_list(patterns: Sequence[str]) -> str:
    listed = list(dict.fromkeys(patterns))
    return repr(listed[0] if len(listed) == 1 else listed)


def _steps(steps: Sequence[int]) -> str:
    whole = range(steps[0], steps[-1] + 1)
    return f"range({whole.start}, {whole.stop})" if len(whole) == len(steps) else repr(list(steps))


def command(scene: Scene, parts: Sequence[Part], model: str, loading: Mapping[str, Any], steps: int) -> Command:
    """The command that draws the picture: ``patch`` patches one layer, ``edit`` several from a step to the last.

    Args:
        scene, parts, model, loading: see :func:`python`.
        steps: denoising steps of a run.
    """
    if scene.mode != "patch" or scene.what != TEXT or not parts:
        return Command(missing="commands patch keys and values of the text")
    if len(parts) > 1:
        return Command(missing="commands patch all layers at the same steps")
    if (concept := _concept(scene)) is None:
        return Command(missing="commands need prompts that differ in a quoted text or a colour")
    layers, chosen = parts[0].layers, parts[0].steps or range(steps)
    first, contiguous = chosen[0], chosen[-1] - chosen[0] + 1 == len(chosen)
    pair = {**scene.given("source", "target", "seed", "num_steps", "guidance"), "layers": listed(layers), **loading}
    words = ["--model", model, "--concept", concept, *_options(pair)]
    if len(layers) == 1 and contiguous:
        said = ["t2iprobe", "patch", *words, *_scope(scene, parts[0].steps)]
        return Command(quoted(said), f"images/pair-000/{layers[0]}.png")
    if concept == "text" and contiguous and chosen[-1] == steps - 1 and scene.branch != "uncond" and not scene.heads:
        start = ["--start-step", str(first)] if first else []
        branches = ["--set", "branches=cond"] if scene.branch == "cond" else []
        name = f"localized from step {first}" if first else "localized"
        return Command(quoted(["t2iprobe", "edit", *words, *start, *branches]), f"images/pair-000/{name}.png")
    return Command(missing="no command patches several layers at these steps and heads")


def listed(numbers: Iterable[int]) -> str:
    """Numbers as options take them: ``3,5-8``."""
    return ranges(numbers).replace("+", ",")


def _concept(scene: Scene) -> str | None:
    for concept in CONCEPTS:
        try:
            Pair.from_prompts(scene.source, str(scene.target), scene.seed, concept)
        except ConfigError:
            continue
        return concept
    return None


def _scope(scene: Scene, steps: Sequence[int] | None) -> list[str]:
    said = {
        "steps": None if steps is None else f"{steps[0]}:{steps[-1] + 1}",
        "heads": ",".join(map(str, scene.heads)) or None,
        "branch": None if scene.branch == "both" else scene.branch,
    }
    return _options({name: value for name, value in said.items() if value is not None})


def _options(values: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in values.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [f"--{name.replace('_', '-')}", *([] if one is True else [str(one)])]
    return words


def described(scene: Scene, parts: Sequence[Part], title: str) -> str:
    """What is done to the picture, as the beginning of a sentence."""
    if not parts:
        return "Nothing is changed"
    done = {"patch": "come from the target", "zero": "are zero", "mean": "are their mean over tokens"}.get(
        scene.mode, f"are multiplied by {scene.factor:g}"
    )
    where = "; ".join(
        f"layer{'s' * (len(part.layers) > 1)} {listed(part.layers)} at "
        + ("all steps" if part.steps is None else f"step{'s' * (len(part.steps) > 1)} {listed(part.steps)}")
        for part in parts
    )
    only = [f"head{'s' * (len(scene.heads) > 1)} {listed(scene.heads)}"] if scene.heads else []
    only += [] if scene.branch == "both" else [f"guidance branch {scene.branch}"]
    inside = f" ({', '.join(only)})" if only else ""
    return f"{title[0].upper()}{title[1:]} {done} in {where}{inside}"
