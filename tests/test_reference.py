"""What is registered is in the reference, with its direction and its options."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from t2iprobe.registry.manager import Plugins

DOCS = Path(__file__).parents[1] / "docs/reference"
METRICS, SETS = ((DOCS / name).read_text() for name in ("metrics.md", "prompt-sets.md"))
PLUGINS = Plugins(installed=False)
NUMBERS = {**PLUGINS.metrics(), **PLUGINS.aggregates()}


def cells(page: str, name: str, count: int) -> list[str]:
    """The row that begins with this name, of the table with ``count`` more columns."""
    rows = re.findall(rf"^\| `{re.escape(name)}(?::\w+)?` \|(.*)\|$", page, re.MULTILINE)
    (found,) = [row for row in rows if row.count("|") == count - 1]
    return [cell.strip() for cell in found.split("|")]


@pytest.mark.parametrize("name", NUMBERS)
def test_metrics_are_in_the_reference(name: str) -> None:
    definition, span, direction, source = cells(METRICS, name, 4)
    assert definition and span and source
    assert direction == {"higher": "→", "lower": "←"}[NUMBERS[name].direction]


def test_the_reference_names_nothing_else() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", METRICS, re.MULTILINE)
    assert set(rows) == {*NUMBERS, *PLUGINS.concepts()}
    assert all(f"`{reader}`" in METRICS for reader in PLUGINS.readers())


@pytest.mark.parametrize("name", PLUGINS.concepts())
def test_concepts_name_metrics_that_are_there(name: str) -> None:
    metrics = PLUGINS.concepts()[name].metrics
    assert cells(METRICS, name, 2)[0] == ", ".join(f"`{metric}`" for metric in metrics)
    assert set(metrics) <= set(PLUGINS.metrics())


@pytest.mark.parametrize("name", PLUGINS.prompt_sets())
def test_prompt_sets_are_in_the_reference(name: str) -> None:
    options = cells(SETS, name, 3)[2]
    for parameter in inspect.signature(PLUGINS.prompt_sets()[name]).parameters.values():
        assert parameter.kind is not parameter.KEYWORD_ONLY or f"`{parameter.name}=" in options
