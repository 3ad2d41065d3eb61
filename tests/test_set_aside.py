"""Pairs that the ranking score cannot tell apart (TEAM, MEAT) are not asked; the answer says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulation import Simulated, study

from t2iprobe.api import load
from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.study.planning import blind, planned_study, tail
from t2iprobe.core.study.question import Question
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.studies import Study
from t2iprobe.simulation import Additive, Simulation, simulated

PLUGINS = Plugins(installed=False)
WORDS = (("TEAM", "MEAT"), ("STOP", "GOLD"), ("OPEN", "HALT"), ("LISTEN", "SILENT"), ("COFFEE", "BAKERY"))


def pairs(words: Sequence[tuple[str, str]] = WORDS, concept: str = "text") -> list[Pair]:
    says = 'a sign that says "{}"' if concept == "text" else "a {} sign"
    return [
        Pair(says.format(one), says.format(other), seed, one, other, concept) for seed, (one, other) in enumerate(words)
    ]


def scorer(*metrics: str, concept: str = "text") -> Scorer:
    return PLUGINS.scorer(concept, "rapidocr", metrics or None)


def test_a_count_of_characters_is_blind_to_anagrams() -> None:
    assert [scorer("ocr_f1").blind(pair) for pair in pairs()] == [True, False, False, True, False]


@pytest.mark.parametrize("metric", ["ocr_exact", "ocr_distance", "ocr_distance_normalised"])
def test_a_score_that_reads_the_order_is_blind_to_none(metric: str) -> None:
    """A distance is lower for the target; both directions are understood."""
    assert blind(scorer(metric), pairs()) == ()


def test_only_the_score_that_ranks_counts() -> None:
    assert blind(scorer("ocr_distance", "ocr_f1"), pairs()) == ()
    assert blind(scorer("ocr_f1", "ocr_distance"), pairs()) == (0, 3)


def test_a_score_of_pictures_is_not_judged_before_there_are_any() -> None:
    assert blind(scorer(concept="colour"), pairs([("red", "blue"), ("blue", "red")], "colour")) == ()


def test_all_pairs_blind_is_an_error_that_names_the_score_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"ocr_f1 cannot tell .*'TEAM' and 'MEAT'.*all 2 pairs.*ocr_distance"):
        blind(scorer("ocr_f1"), [pairs()[0], pairs()[3]])


def test_the_tail_is_of_pairs_that_are_asked() -> None:
    assert tail(5, 2) == (3, 4)
    assert tail(5, 2, set_aside=(0, 3)) == (2, 4)
    assert tail(5, 0, set_aside=(0, 3)) == ()
    with pytest.raises(ConfigError, match="3 of 3 pairs are to be held out"):
        tail(5, 3, set_aside=(0, 3))


def written(folder: Path, words: Sequence[tuple[str, str]] = WORDS) -> dict[str, Any]:
    """A question about these pairs."""
    file = folder / "pairs.csv"
    rows = [",".join('"' + side.replace('"', '""') + '"' for side in (one.source, one.target)) for one in pairs(words)]
    file.write_text("\n".join(["source,target", *rows, ""]))
    return {"pairs": str(file), "concept": "text", "model": "nowhere/no-model", "method": "exhaustive"}


def test_a_question_is_checked_before_the_model_is_loaded(tmp_path: Path) -> None:
    asked = written(tmp_path)
    assert planned_study(Question(**asked, held_out=2), PLUGINS).set_aside == (0, 3)
    assert planned_study(Question(**asked, rank="ocr_distance"), PLUGINS).set_aside == ()
    with pytest.raises(ConfigError, match="3 of 3 pairs"):
        planned_study(Question(**asked, held_out=3), PLUGINS)
    with pytest.raises(ConfigError, match="ocr_f1 cannot tell source from target"):
        planned_study(Question(**written(tmp_path, WORDS[:1])), PLUGINS)


def test_a_study_does_not_confirm_on_them() -> None:
    """Whether they are counted from the end or named."""
    model = load("tiny-sd3")
    for held_out in (2, [2, 3, 4]):
        made = Study(model, pairs(), held_out=held_out, plugins=PLUGINS)
        assert (made.held_out, made.set_aside) == ((2, 4), (0, 3))


@pytest.mark.parametrize("method", ["exhaustive", "adaptive", "single"])
def test_the_answer_says_which_and_why(method: str) -> None:
    runner = simulated(Simulation(Additive(12, {6: 1.0}), 8), held_out=3)
    runner.pairs = [*pairs()[:1], *runner.pairs[1:]]
    aside = replace(runner, search=runner.search[1:], set_aside=[0])
    said = PLUGINS.localizer(method).find(aside).sentence
    assert said.endswith("1 pair excluded: perfect images of both texts have the same f1 (TEAM → MEAT).")
    assert "excluded" not in PLUGINS.localizer(method).find(runner).sentence


class Asking(Localizer):
    """Keeps the runner that it is given."""

    name = "asking"
    summary = "for tests"

    def find(self, runner: TrialRunner) -> Finding:
        self.runner = runner
        runner.ask([])
        return Finding((), (), "")


def test_a_study_does_not_search_on_them(tmp_path: Path) -> None:
    told: list[int] = []
    asking = Asking()
    replace(
        study(Simulated(lambda ask: told.append(ask.pair)), 6), localizer=asking, held_out=(4, 5), set_aside=(0, 2)
    ).run(tmp_path / "run")
    assert told == asking.runner.search == [1, 3] and asking.runner.set_aside == (0, 2)
