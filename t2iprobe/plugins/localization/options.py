"""The options of ``t2iprobe localize`` and ``t2iprobe patch``, and the study that these describe."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from t2iprobe.cli.options import RunOptions, TrackOptions
from t2iprobe.cli.papers import PAPERS, PaperSettings
from t2iprobe.core.command_options import Numbers, Steps, option
from t2iprobe.core.concepts import concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, counted
from t2iprobe.core.study.question import Question, StudyOptions

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

SCOPE = ("layers", "sites", "steps", "heads", "branch")  # settings that many localizers have
OTHERWISE = {*SCOPE, "preset", "glyphcontrol", "arch", "metric"}  # options that reach a question in another form
HELD_OUT = 4
PAPER_PAIRS = 200  # the paper's validation pairs: 100 of SimpleBench and 100 of CreativeBench
INJECTED = ("sdxl", "if")  # where the paper gave a layer the target's text embedding instead of its keys and values


class SearchOptions(StudyOptions):
    """A question about layers; whatever is given of the scope is passed to the localizer as a setting."""

    panel: ClassVar[str] = "Search"
    pairs_by_default: ClassVar[int] = 12
    pairs_of_a_file: ClassVar[int | None] = 12  #: default number; ``None`` takes all

    layers: Numbers | None = option(None, help="Text-attention layers, such as 0-23 or 3,5; default: all.")
    sites: str | None = option(
        None, help="Patch single sites instead of layers: each that matches this pattern, such as 'blocks.*.*_attn.v'."
    )
    steps: Steps | None = option(
        None, help="Patch only these denoising steps, START:STOP; 0 is pure noise. Default: all."
    )
    heads: Numbers | None = option(None, help="Patch only these attention heads, such as 0-3.")
    branch: str | None = option(
        None,
        help="Guidance branch to patch: cond, uncond, or both (all that there are); default: both, as in the paper.",
    )
    preset: str | None = option(None, help="Settings of a paper: iclr2025, which needs --arch and --glyphcontrol.")
    glyphcontrol: Path | None = option(None, help="Folder of GlyphControl's prompt files.")

    @property
    def localizer(self) -> str:
        """The name of the localization method."""
        return "single"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the method.

        Raises:
            ConfigError: a setting is given in two ways.
        """
        scope = self.given(*SCOPE)
        if twice := next((name for name in scope if name in self.set), None):
            raise ConfigError(f"give {self.called(twice)} or {self.called('set')} {twice}=…, not both")
        return {**self.set, **scope}

    @property
    def paper(self) -> PaperSettings | None:
        """The paper's settings for the architecture, if both preset and architecture are given.

        Raises:
            ConfigError: there is no such preset, or it has no settings for this architecture.
        """
        if self.preset is None or self.arch is None:
            return None
        known = choice("preset", self.preset, PAPERS)
        return choice(f"model of the preset {self.preset} for the architecture", self.arch, known)


class PatchOptions(RunOptions, TrackOptions, SearchOptions):
    """The options of ``t2iprobe patch``, which are those of a search by ``single``."""

    pairs_by_default: ClassVar[int] = 8
    pairs_of_a_file: ClassVar[int | None] = None

    limit: int | None = option(
        None,
        help=f"Number of pairs, with the held-out ones; default: {pairs_by_default} of a prompt set, all of a file.",
        ge=1,
    )
    held_out: int = option(0, help="How many of the last pairs to hold out, to test the found layers on.", ge=0)


class LocalizeOptions(RunOptions, TrackOptions, SearchOptions):
    """The options of ``t2iprobe localize``."""

    panel: ClassVar[str] = "Search"
    method: str = option("adaptive", help="Localization method; `t2iprobe localize --method list` shows all.")
    limit: int | None = option(
        None, help=f"Number of pairs, with the held-out ones; default: {SearchOptions.pairs_by_default}.", ge=1
    )
    held_out: int | None = option(
        None,
        help=f"How many of the last pairs to hold out for the confirmation; default: a third, at most {HELD_OUT}.",
        ge=0,
    )

    @property
    def localizer(self) -> str:
        """See :class:`SearchOptions`."""
        return self.method


def question(options: SearchOptions, plugins: Plugins, *, dry: bool = False) -> Question:
    """The question that the options ask, with names looked up, the preset filled in and defaults turned into numbers.

    Wrong names are reported before the models' libraries are imported, which takes seconds.

    Args:
        options: the options as they were given.
        plugins: where names are looked up.
        dry: whether it is only for a plan, which needs no prompt files.

    Raises:
        ConfigError: a name is not known, or options do not go together.
    """
    from t2iprobe.cli.models import reference

    options.check_pairs()
    concept_named(options.concept, plugins.concepts())
    plugins.reader(options.reader)
    plugins.localizer(options.localizer, **options.settings)
    full = options.filled(_preset(options, dry))
    limit = _limit(options, full, plugins)
    found = {
        **full.given(*(SearchOptions.model_fields.keys() - OTHERWISE)),  # a question refuses what it does not know
        "model": reference(full.arch, full.model, plugins),
        "method": full.localizer,
        "set": {**_paper_settings(full, plugins), **full.settings},
        "limit": limit,
        "held_out": _held_out(full, limit),
        "metric": full.metric,
    }
    return Question(**found)


def _limit(options: SearchOptions, full: SearchOptions, plugins: Plugins) -> int:
    """How many pairs to take; a file of pairs may have fewer than the default or the preset.

    Raises:
        ConfigError: the file has fewer than were asked for, or cannot be read.
    """
    from t2iprobe.core.pairs import pairs_from_csv

    if options.source is not None:
        return 1
    if options.pairs is None:
        return full.limit or full.pairs_by_default
    there = len(pairs_from_csv(options.pairs, concept=options.concept, known=plugins.concepts()))
    if options.limit is not None and there < options.limit:
        raise ConfigError(f"{options.pairs} holds {counted(there, 'pair')}, fewer than the {options.limit} requested")
    return min(full.limit or full.pairs_of_a_file or there, there)


def _held_out(options: SearchOptions, limit: int) -> int:
    """How many pairs are held out: a third by default, because one or two would confirm nothing."""
    if options.held_out is not None:
        return options.held_out
    third = min(HELD_OUT, limit // 3)
    return third if third > 2 else 0


def _paper_settings(options: SearchOptions, plugins: Plugins) -> dict[str, str]:
    """The paper's settings of the method: injection, if the paper uses it and the method has such a setting."""
    if options.preset is None or options.arch not in INJECTED:
        return {}
    known = inspect.signature(choice("localizer", options.localizer, plugins.localizers())).parameters
    return {"part": "text"} if "part" in known else {}


def _preset(options: SearchOptions, dry: bool) -> dict[str, Any]:
    """The settings of the preset, if there is one; other options that are given take precedence.

    Raises:
        ConfigError: there is no such preset, or something that it needs is not given.
    """
    arch, folder, mine = (options.called(one) for one in ("arch", "glyphcontrol", "preset"))
    if options.preset is None:
        if options.glyphcontrol is not None:
            raise ConfigError(
                f"{folder} goes with {mine}; alone write {options.called('prompt_set')} glyphcontrol:FOLDER"
            )
        return {}
    known, paper = choice("preset", options.preset, PAPERS), options.paper
    if paper is None or (options.glyphcontrol is None and not dry):
        raise ConfigError(
            f"{mine} {options.preset} needs {arch} ({', '.join(known)}) and {folder} FOLDER, "
            "where GlyphControl's prompt files are"
        )
    found = asdict(paper) | {"layers": None, "limit": PAPER_PAIRS, "held_out": 0}
    if options.glyphcontrol is not None and not (options.has("source") or options.has("pairs")):
        found["prompt_set"] = f"glyphcontrol:{options.glyphcontrol},split=val,noise=shared"
    return found
