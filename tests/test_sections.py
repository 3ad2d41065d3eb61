"""What a localization adds to its report, and which commands it names."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from t2iprobe.core.contracts.localizer import Finding
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.result import finding_as_json, finding_from_json
from t2iprobe.core.trials import Trial, source, target
from t2iprobe.plugins.localization.report import sections
from t2iprobe.registry.manager import Plugins
from t2iprobe.report.page import CARRIED, next_steps
from t2iprobe.report.render import render
from t2iprobe.report.sections import HeatMap, Page, Section
from t2iprobe.simulation import Additive, Part, Simulation, simulated

PLUGINS = Plugins(installed=False)


def shown(
    finding: Finding, trials: list[Trial] | None = None, scores: dict[str, Any] | None = None
) -> dict[str, Section]:
    """Sections by title, of a finding that was stored and read again."""
    kept = finding_from_json(finding_as_json(finding))
    result: Any = SimpleNamespace(finding=kept, trials=trials or [], scores=scores or {}, rank="ocr_f1_target")
    return {one.title: one for one in sections(result)}


def find(method: str, **settings: Any) -> Finding:
    made = Simulation(Additive(12, {6: 1.0}), 12, part=Part(heads=frozenset({2})))
    return PLUGINS.localizer(method, **settings).find(simulated(made, held_out=4))


def drawn(section: Section) -> str:
    return render(Page("", "", sections=[section]))


def test_heads_are_a_map_and_bars() -> None:
    found = shown(find("heads", layers="6+7"))
    (heat,) = found["Within the layers"].maps
    assert heat.rows == ["layer 6", "layer 7"] and heat.values[0][2] == pytest.approx(1, abs=0.05)
    assert [bar.marked for bar in found["Heads of 6"].bars] == [False, False, True, False]
    page = drawn(found["Within the layers"])
    assert page.count("<td style") == 8


def test_a_cell_without_a_value_is_empty() -> None:
    page = drawn(Section("", maps=[HeatMap("<b>", ["r"], ["a", "b"], [[0.5, float("nan")]])]))
    assert page.count("<td style") == 1 and "&lt;b&gt;" in page
    assert 'style="--share:50.0%"' in page and "<td></td></tr>" in page


def test_statistics_say_null_and_confirmation() -> None:
    section = shown(find("exhaustive"))["Statistics"]
    assert section.table is not None
    row = section.table.rows[6]
    assert row[1] == pytest.approx(1, abs=0.05) and row[4] < 0.05 < section.table.rows[5][4]  # type: ignore[operator]
    assert "The 11 others" in section.text and "on the 4 pairs" in section.text


def test_a_search_without_a_sweep_says_how_sure_it_is() -> None:
    assert "on the 4 pairs" in shown(find("adaptive"))["Statistics"].text


def test_one_noise_for_all_is_said() -> None:
    made = find("adaptive")
    shared = Finding(made.layers, made.ranking, "", made.response, {**made.details, "noises": 1})
    assert "the same noise" in shown(shared)["Statistics"].text
    assert "4 different noises" in shown(made)["Statistics"].text


def test_one_of_a_kind_is_no_plural() -> None:
    made = find("exhaustive")
    one = {**made.details, "confirmed_on": 1, "null": {**made.details["null"], "count": 1}}
    text = shown(Finding(made.layers, made.ranking, "", made.response, one))["Statistics"].text
    assert "The 1 other," in text and "on the 1 pair that" in text


def test_a_search_that_found_nothing_has_sections_too() -> None:
    assert shown(Finding((), (float("nan"),), "Nothing stands out.")) == {}


def specialised(layers: tuple[int, ...] = (6,)) -> dict[str, Section]:
    """Two pairs, one of them not done; the patched picture keeps the source's template and shows the target's text."""
    trials = [source(), target(), Trial("6", ("k",), (6,)), Trial("7", ("k",), (7,))]
    columns = {
        "clip_t_template_source": [0.7, 0.4, 0.7, 0.6],
        "clip_t_template_target": [0.4, 0.7, 0.4, 0.5],
        "ocr_f1_source": [1.0, 0.0, 0.1, 0.9],
        "ocr_f1_target": [0.0, 1.0, 0.9, 0.1],
    }
    scores = {name: np.array([[value, np.nan] for value in column]) for name, column in columns.items()}
    return shown(Finding(layers, (0.0,) * 8, ""), trials, scores)


def test_specialisation_is_the_papers_table() -> None:
    table = specialised()["Specialisation"].table
    assert table is not None
    assert [row[0] for row in table.rows] == ["source, unpatched", "source, patched", "target, unpatched"]
    assert table.rows[1][1:] == pytest.approx([0.7, 0.4, 0.1, 0.9])
    assert "over 1 pair:" in specialised()["Specialisation"].text


def test_without_its_trial_there_is_no_specialisation() -> None:
    assert "Specialisation" not in specialised((6, 7))


def steps(
    commands: Collection[str],
    layers: tuple[int, ...] = (3, 5, 6, 7),
    concept: str = "text",
    ref: str = "tiny-sd3",
    method: str = "adaptive",
    arguments: dict[str, Any] | None = None,
) -> list[str]:
    pair = ["a", "b", 0, "A", "B", concept]
    manifest: dict[str, Any] = {"model": ref, "settings": {"pairs": [pair], "localizer": {"name": method}}}
    manifest["arguments"] = arguments or {}
    interval = Interval(1, 1, 1)
    result: Any = SimpleNamespace(path=Path("my run"), manifest=manifest, finding=Finding(layers, (), "", interval))
    there = {name: group for name, group in PLUGINS.commands().items() if name in commands}
    plugins: Any = SimpleNamespace(commands=lambda: there)
    return [command for command, _ in next_steps(result, plugins)]


ALL = ("edit", "guard", "finetune")


def test_next_steps_name_only_what_is_there() -> None:
    assert [one.split()[1] for one in steps([])] == ["study", "localize", "localize"]
    named = steps(ALL)
    assert [one.split()[1] for one in named][3:] == ["edit", "guard", "finetune"]
    assert "--from 'my run'" in named[3] and "--set layers=3+5-7" in named[1]
    assert not [one for one in steps(["edit", "guard"], concept="colour") if "edit" in one or "guard" in one]
    assert len(steps(["edit"], layers=())) == len(steps(["edit"], ref="")) == 1
    assert not any("--method heads" in one for one in steps([], method="heads"))  # that is where one is


def ran(*options: str, **parts: Any) -> dict[str, Any]:
    """The arguments of a run of ``localize``, whose own choices are 12 pairs, 4 of them held out."""
    own = {"limit": 12, "held_out": 4, "seed": 0, "concept": "text", "reader": "rapidocr", "model": "tiny-sd3"}
    return {"question": own | parts, "command": ["t2iprobe", "localize", "--arch", "sd3", *options]}


def test_next_steps_carry_the_settings_that_were_given_to_commands_that_have_them() -> None:
    given = ran(
        "--limit", "6", "--num-steps", "10", "--seed", "3", "--compile", "--negative-prompt", "a b",
        limit=6, held_out=2, num_steps=10, seed=3, compile=True, negative_prompt="a b",
    )  # fmt: skip
    _, heads, _, edit, guard, finetune = steps(ALL, arguments=given)
    for one in (heads, edit, guard, finetune):
        assert "--compile --" in f"{one} --" and "--seed 3" in one and "--num-steps 10" in one
    assert "--limit 6" in heads and "--limit 6" in edit and "--held-out" not in heads
    assert "--negative-prompt 'a b'" in heads and "--negative-prompt 'a b'" in guard
    for one in (guard, finetune):  # their pictures are no pairs
        assert "--limit" not in one
    assert steps(ALL, arguments=ran()) == steps(ALL)


def test_a_preset_and_a_study_file_give_all_that_they_say() -> None:
    paper = {"prompt_set": "creative", "num_steps": 28, "resolution": 1024, "reader": "easyocr"}
    preset = ran("--preset", "iclr2025", **paper)
    written = preset | {"command": ["t2iprobe", "study", "run", "words.toml"]}
    for asked in (preset, written, {"question": preset["question"]}):
        _, heads, _, edit, guard, _ = steps(ALL, arguments=asked)
        for one in ("prompt-set creative", "limit 12", "held-out 4", "num-steps 28", "resolution 1024"):
            assert f"--{one}" in heads
        assert "--reader easyocr" in edit and "--held-out" not in edit
        assert "--num-steps 28" in guard and "--resolution 1024" in guard and "--reader" not in guard


def test_localize_has_the_options_that_are_carried_to_it() -> None:
    from t2iprobe.plugins.localization.commands import localize

    assert set(inspect.signature(localize).parameters) >= set(CARRIED)
