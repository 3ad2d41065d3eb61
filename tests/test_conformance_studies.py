"""The laws of what studies get, and of what follows and runs them: bundled ones keep them, what is wrong is caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2iprobe.core.contracts.executor import Executor
from t2iprobe.core.contracts.metric import Box
from t2iprobe.core.contracts.prompt_set import PromptSet
from t2iprobe.core.contracts.tracker import Tracker
from t2iprobe.core.pairs import Pair
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.sweep import TrialResult
from t2iprobe.plugins.metrics.readers import RapidOCRReader
from t2iprobe.plugins.prompts.sets import Creative, PromptTable, Simple
from t2iprobe.plugins.tracking.tensorboard import TensorBoard
from t2iprobe.testing import (
    executor_conformance,
    prompt_set_conformance,
    reader_conformance,
    tracker_conformance,
)
from t2iprobe.testing.conformance import Law
from t2iprobe.testing.prompt_sets import PROMPT_SET_LAWS, PromptSetCase
from t2iprobe.testing.readers import READER_LAWS, SIZE, ReaderCase
from t2iprobe.testing.studies import EXECUTOR_LAWS, TRACKER_LAWS, ExecutorCase, TrackerCase


class Here(Executor):
    """In this process."""

    name = "here"

    @contextmanager
    def context(self, build: Callable[[], StudyContext], stop: Stop) -> Iterator[StudyContext]:
        yield build()


TestSimple = prompt_set_conformance(Simple)
TestCreative = prompt_set_conformance(Creative, templates="different", seeds=2)
TestRapidOCRReader = reader_conformance(RapidOCRReader)
TestTensorBoard = tracker_conformance(TensorBoard)
TestHere = executor_conformance(Here)


@pytest.mark.parametrize("law", PROMPT_SET_LAWS, ids=lambda law: law.__name__)
def test_a_set_that_reads_a_file_keeps_its_laws(law: Law, tmp_path: Path) -> None:
    lines = [f'a sign that says "{one}",a sign that says "{two}"' for one, two in ("AB", "CD", "EF")]
    quoted = ['"{}","{}"'.format(*(cell.replace('"', '""') for cell in line.split(","))) for line in lines]
    (tmp_path / "pairs.csv").write_text("\n".join(["source,target", *quoted]))
    law(PromptSetCase(PromptTable, [str(tmp_path / "pairs.csv")]))


def wrong(base: type, **parts: Any) -> Any:
    return type("Wrong", (base,), parts)


class Changing(PromptSet):
    """Words that are dealt again each time."""

    name = "changing"
    words: list[str] = []

    def all_pairs(self, seed: int, concept: str) -> Sequence[Pair]:
        self.words.append("word")
        return [Pair("a", f"b{len(self.words)}", seed, "a", "b", concept)]


def needs_a_setting(self: Any, *, words: int) -> None: ...


def other_order(self: Any, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
    every = Simple().pairs(None, seed, concept)
    return every if limit is None else every[-limit:]


def unlimited(self: Any, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
    return Simple().pairs(None, seed, concept)[:limit]


def one_word(self: Any, seed: int, concept: str) -> list[Pair]:
    return [Pair("a sign", "the sign", seed, "DOG", "dog", concept)]


PROMPT_SETS = {
    "says_what_it_is": wrong(Simple, __init__=needs_a_setting),
    "pairs_differ_in_the_concept": wrong(Simple, all_pairs=one_word),
    "the_same_seed_gives_the_same_pairs": Changing,
    "a_smaller_limit_gives_the_first_pairs": wrong(Simple, pairs=other_order),
    "what_it_has_not_is_refused": wrong(Simple, pairs=unlimited),
}


class Told(RapidOCRReader):
    """Reads what it is told, quickly."""

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        return [self.word(image, number) for number, image in enumerate(images)]

    def word(self, image: Image.Image, number: int) -> str:
        dark = sum(image.convert("L").histogram()[:128])
        return "" if not dark else "HOUSE" if dark == DARK["HOUSE"] else "WATER"

    def boxes(self, images: Sequence[Image.Image]) -> list[list[Box]]:
        return [[(0, 0, *SIZE)] if self.word(image, 0) else [] for image in images]


DARK = {word: sum(one.convert("L").histogram()[:128]) for word, one in zip(
    ("HOUSE", "", "WATER"), ReaderCase(Told).pictures(), strict=True
)}  # fmt: skip
READERS = {
    "has_a_name": wrong(Told, name=None),
    "plain_words_are_read": wrong(Told, word=lambda self, image, number: "HOUSE"),
    "a_picture_is_read_by_itself": wrong(Told, read=lambda self, images: Told().read(images)[::-1]),
    "boxes_are_where_the_text_is": wrong(Told, boxes=lambda self, images: [[(0, 0, 9, 9)], [], []]),
    "what_it_reads_does_not_lack": wrong(Told, lacking=lambda self, characters: {"H"}),
}


class Quiet(Tracker):
    """Does nothing."""

    name, summary = "quiet", "nothing"


class Needing(Quiet):
    """Takes it for granted that there is a picture."""

    def trial_finished(self, trial: str, pair: int, scores: Mapping[str, float], picture: Any) -> None:
        assert picture.size


class Littering(Quiet):
    """Leaves a file in the study's folder."""

    def study_finished(self, study: StudyResult) -> None:
        (study.path / "mine.txt").touch()


TRACKERS = {
    "says_what_it_is": wrong(Quiet, summary=""),
    "a_study_is_followed_over_its_sessions": Littering,
    "a_study_without_pictures_is_followed": Needing,
}


class Rounding(Here):
    """Rounds what it sends."""

    @contextmanager
    def context(self, build: Callable[[], StudyContext], stop: Stop) -> Iterator[StudyContext]:
        context = build()
        evaluator: Any = context.evaluator
        measure = evaluator.measure

        def rounded(asks: Any, **more: Any) -> Iterator[TrialResult]:
            for one in measure(asks, **more):
                scores = {
                    name: {key: round(value, 1) for key, value in own.items()} for name, own in one.scores.items()
                }
                yield replace(one, scores=scores)

        evaluator.measure = rounded
        yield context


EXECUTORS = {"has_a_name": wrong(Here, name="Here and there"), "a_study_comes_out_the_same": Rounding}
CAUGHT = [
    pytest.param(law, case(things[law.__name__]), id=f"{case.__name__}-{law.__name__}")
    for laws, things, case in (
        (PROMPT_SET_LAWS, PROMPT_SETS, PromptSetCase),
        (READER_LAWS, READERS, ReaderCase),
        (TRACKER_LAWS, TRACKERS, TrackerCase),
        (EXECUTOR_LAWS, EXECUTORS, ExecutorCase),
    )
    for law in laws
]


@pytest.mark.parametrize(("law", "case"), CAUGHT)
def test_what_is_wrong_is_caught(law: Law, case: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        law(case)
    assert not str(caught.value).startswith(f"{law.__name__}: ")


@pytest.mark.parametrize("law", READER_LAWS, ids=lambda law: law.__name__)
def test_the_reader_that_others_are_changed_from_is_right(law: Law) -> None:
    law(ReaderCase(Told))
