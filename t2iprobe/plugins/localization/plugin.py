"""Registers the bundled localization methods, ``t2iprobe localize`` and ``t2iprobe patch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl, view_at

if TYPE_CHECKING:
    import typer

    from t2iprobe.core.contracts.localizer import Localizer
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.report.folder import View
    from t2iprobe.report.sections import Section


@hookimpl
def t2iprobe_register_localizers() -> list[type[Localizer]]:
    """The localization methods; the paper's comes first."""
    from t2iprobe.plugins.localization import adaptive, attribution, contribution, exhaustive, sets, single
    from t2iprobe.plugins.localization.heads_steps_tokens import Heads, Steps, Tokens

    layers: list[type[Localizer]] = [
        exhaustive.Exhaustive,
        sets.SlidingWindow,
        sets.Nested,
        sets.Greedy,
        adaptive.Adaptive,
    ]
    inner: list[type[Localizer]] = [attribution.Attribution, contribution.Contribution]
    return [*layers, *inner, Heads, Steps, Tokens, exhaustive.RandomSets, single.Single]


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """``t2iprobe patch`` and ``t2iprobe localize``."""
    from t2iprobe.plugins.localization.commands import localize_app, patch_app

    return {"patch": patch_app, "localize": localize_app}


@hookimpl
def t2iprobe_register_runs() -> dict[str, View]:
    """Runs of ``t2iprobe patch``; those of all other localizers show what every study does."""
    return {"single": view_at("t2iprobe.plugins.localization.output:patch_view")}


@hookimpl
def t2iprobe_report_sections(result: StudyResult) -> list[Section]:
    """Heat maps and bars of parts of layers, statistics, specialisation."""
    from t2iprobe.plugins.localization.report import sections

    return list(sections(result))
