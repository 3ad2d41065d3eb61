"""Pairs of prompts: what is quoted, what differs, what a CSV file may hold; and the bundled sets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2iprobe.core.concepts import Concept, colour, colours_in, differing, quoted
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair, derange, pairs_from_csv
from t2iprobe.core.quotes import FAMILY, read_quotes
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, LETTERS, WORD_LENGTH
from t2iprobe.plugins.organisms.prompts import WORDS as SIGN_WORDS
from t2iprobe.plugins.organisms.prompts import Signs
from t2iprobe.plugins.prompts.sets import Simple
from t2iprobe.plugins.prompts.words import WORDS as SIMPLE_WORDS

SETS = [Simple, Signs]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ('a sign that says "CAT"', "CAT"),
        ("a sign that says “CAT”", "CAT"),
        ("ein Schild: „CAT“", "CAT"),
        ("un panneau: « CAT »", "CAT"),
        ("a sign that says 'CAT'.", "CAT"),
        ("a sign that says ‘DON’T’", "DON’T"),
        ("don't miss the dogs' sign 'IT'S OK'", "IT'S OK"),
        ('a "red" sign that says "CAT"', "CAT"),
        ('a sign that says "IT\'S"', "IT'S"),
        ('a 12" vinyl record with a label that says "OPEN"', "OPEN"),
        ('a 6\'2" man under a sign "OPEN 24"', "OPEN 24"),
        ('a sign “a 12" record”', 'a 12" record'),
        ('a sign that says “OPEN"', "OPEN"),
        ("a sign that says ＂OPEN＂", "OPEN"),
        ("看板上写着「営業中」", "営業中"),
        ("看板上写着'营业'的", "营业"),
        ("a scroll 『「OPEN」』", "OPEN"),
        ("ein Schild »OPEN«", "OPEN"),
        ("ett skylt ”OPEN”", "OPEN"),
        ("ein Schild ‚OPEN‘", "OPEN"),
        ("a sign ``OPEN''", "OPEN"),
        (r"a sign \"OPEN\"", "OPEN"),
        (r'a sign "say \"HI\""', 'say "HI"'),
        ("the '90s sign \"OPEN\" of the dogs' home", "OPEN"),
        ("'a sign that says \"OPEN\"'", "OPEN"),
        ("a rock 'n' roll sign 'OPEN'", "OPEN"),
        ('a sign "OPEN" by a cup "TEA"', "TEA"),
    ],
)
def test_last_quotes_are_read(prompt: str, word: str) -> None:
    assert quoted(prompt) == word


@pytest.mark.parametrize(
    "prompt",
    ["a sign", "", 'a sign that says ""', 'a sign that says "CAT', "don't", 'a 12" by 8" card', 'a "12" record" sign',
     "a sign 「OPEN\"", "a sign OPEN”", 'a sign "OPEN" and "'],
)  # fmt: skip
def test_a_prompt_without_quoted_text_is_named(prompt: str) -> None:
    with pytest.raises(ConfigError, match="quotes") as caught:
        quoted(prompt)
    assert prompt in str(caught.value)
    assert 'write it as "WORD"' in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "sure"),
    [
        ('a sign "OPEN" and “SHUT”, don\'t', True),
        ("the dogs' home 「OPEN」", True),
        ('a 12" record that says "GRUM"', False),
        ('“GRUM"', False),
        ('a sign "GRUM', False),
        ("a sign «GRUM” says", False),
        ("'the dogs' GRUM'", False),
        ("a sign OPEN", True),
    ],
)
def test_quotes_that_may_be_read_otherwise_are_not_sure(prompt: str, sure: bool) -> None:
    assert read_quotes(prompt).sure is sure


@given(st.text(st.characters(exclude_characters=[*"".join(FAMILY), "\\"], exclude_categories=["Cs"]), min_size=1))
def test_whatever_stands_in_double_quotes_is_read(word: str) -> None:
    if word.strip():
        assert quoted(f'a sign that says "{word}"') == word.strip()


def test_words_of_a_text_pair() -> None:
    pair = Pair.from_prompts('a sign "CAT"', 'a sign "DOG"', 7)
    assert pair == Pair('a sign "CAT"', 'a sign "DOG"', 7, "CAT", "DOG", "text")


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ('a sign "OPEN" by a cup "TEA"', 'a sign "SHUT" by a cup "TEA"', ("OPEN", "SHUT")),
        ("a sign \"OPEN\" on a rock 'n' roll stage", "a sign \"SHUT\" on a rock 'n' roll stage", ("OPEN", "SHUT")),
        ('a "TEA" cup "OPEN"', 'a sign "SHUT"', "found TEA, OPEN in"),
        ('a sign "OPEN" by a cup "TEA"', 'a sign "SHUT" by a cup "MILK"', "found OPEN, TEA in"),
    ],
)
def test_the_text_of_a_pair_is_the_one_that_differs(source: str, target: str, words: tuple[str, str] | str) -> None:
    if isinstance(words, str):
        with pytest.raises(ConfigError, match=f"differ in one quoted text, {words}"):
            Pair.from_prompts(source, target, 0)
    else:
        pair = Pair.from_prompts(source, target, 0)
        assert (pair.source_word, pair.target_word) == words


def test_equal_words_are_refused_whatever_their_case() -> None:
    with pytest.raises(ConfigError, match="both prompts ask for 'CAT'"):
        Pair.from_prompts('a red sign "CAT"', 'a blue sign "cat"', 0)
    with pytest.raises(ConfigError, match="both prompts ask for 'café'"):
        Pair.from_prompts('a sign "café"', 'a sign "CAFE\u0301"', 0)


def test_colour_is_read_outside_the_quotes_and_as_a_whole_word() -> None:
    assert colours_in('a tired Red sign that says "BLUE"') == ["red"]
    pair = Pair.from_prompts('a red sign "BLUE"', 'a Green sign "BLUE"', 0, "colour")
    assert (pair.source_word, pair.target_word) == ("red", "green")


def test_of_several_colours_the_one_that_differs_counts() -> None:
    pair = Pair.from_prompts("a red sign on a white wall", "a blue sign on a white wall", 0, "colour")
    assert (pair.source_word, pair.target_word) == ("red", "blue")
    with pytest.raises(ConfigError, match="must differ in one colour"):
        Pair.from_prompts("a red sign on a white wall", "a blue sign on a grey wall", 0, "colour")


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [("a sign", "a red sign", "found none in: a sign"), ("a red sign", "one red sign", "both prompts ask for 'red'")],
)
def test_broken_colour_pairs(source: str, target: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Pair.from_prompts(source, target, 0, "colour")


def test_own_colours() -> None:
    pair = Pair.from_prompts("a mauve sign", "a red sign", 0, colour(["mauve", "red"]))
    assert pair.source_word == "mauve"


def test_unknown_concept_and_negative_seed() -> None:
    with pytest.raises(ConfigError, match="text, colour"):
        Pair.from_prompts('"A"', '"B"', 0, "font")
    with pytest.raises(ConfigError, match="from 0 to 4294967295, found -1"):
        Pair.from_prompts('"A"', '"B"', -1)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("A photo of a cat.", "A photo of a dog.", ("cat", "dog")),
        ("an owl on a wall", "a fire truck on a wall", ("owl", "fire truck")),
        ("A fox, as a pencil sketch", "A fox, as a mosaic", ("pencil sketch", "mosaic")),
        ("a cat", "a cat", ("", "")),
    ],
)
def test_words_that_differ(source: str, target: str, words: tuple[str, str]) -> None:
    assert differing(source, target) == words


def test_an_object_must_stand_for_another() -> None:
    with pytest.raises(ConfigError, match="found '' for 'big'"):
        Pair.from_prompts("a cat", "a big cat", 0, "object")
    with pytest.raises(ConfigError, match="two different objects"):
        Pair.from_prompts("a cat", "a cat", 0, "object")


def test_a_concept_of_a_stranger(tmp_path: Path) -> None:
    mood = Concept("mood", ("smiles",), differing)
    pair = Pair.from_prompts("a happy dog", "a sad dog", 0, mood)
    assert (pair.concept, pair.source_word, pair.target_word) == ("mood", "happy", "sad")
    file = written(tmp_path, "source,target,concept\na happy dog,a sad dog,mood\n")
    assert pairs_from_csv(file, known={"mood": mood}) == [pair]
    with pytest.raises(ConfigError, match="line 2: unknown concept 'mood': use one of text"):
        pairs_from_csv(file)


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    file = path / "pairs.csv"
    file.write_text(text, encoding=encoding)
    return file


def test_csv_with_all_columns_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    text = 'source,target,seed,concept\r\n"a ""CAT"", old","a ""DOG"", old",3,\r\n\r\na red sign,a blue one,,colour\r\n'
    one, two = pairs_from_csv(written(tmp_path, text, "utf-8-sig"), seed=9)
    assert one == Pair('a "CAT", old', 'a "DOG", old', 3, "CAT", "DOG", "text")
    assert (two.seed, two.concept, two.source_word) == (9, "colour", "red")


def test_csv_as_typed_by_hand_in_another_order(tmp_path: Path) -> None:
    (pair,) = pairs_from_csv(written(tmp_path, 'Target, Source\na sign "DOG",a sign "CAT"\n'))
    assert (pair.source_word, pair.target_word, pair.seed) == ("CAT", "DOG", 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('source,target\n"""A""","""B"""\na sign,"""B"""\n', "line 3: .*no quotes in: a sign"),
        ('source,target\n\n"""A"""\n', r"line 3: expected 2 cells .*found 1"),
        ('source,target\n"""A""","""B""",5\n', r"line 2: expected 2 cells .*found 3"),
        ('source,target,seed\n"""A""","""B""",1.5\n', "line 2: a seed .*'1.5'"),
        ('source,target\n"A,B\n', "line 2: "),
        ("a,b\n1,2\n", "line 1: the first line must name columns"),
        ("source,target,source\n", "line 1: the first line"),
        ("source,target\n", "holds no pairs"),
        ("", "holds no pairs"),
    ],
)
def test_broken_csv_names_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pairs_from_csv(written(tmp_path, text))


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        pairs_from_csv(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="not UTF-8"):
        pairs_from_csv(written(tmp_path, "source,target\né,è\n", "latin-1"))


@given(st.lists(st.text(max_size=3), max_size=12), st.integers(0, 99), st.randoms(use_true_random=False))
def test_no_item_is_its_own_partner(items: list[str], seed: int, random: object) -> None:
    if len(set(items)) < 2:
        with pytest.raises(ConfigError, match="at least two"):
            derange(items, seed)
        return
    partners = derange(items, seed)
    assert set(partners) == set(partners.values()) == set(items)
    assert all(one != other for one, other in partners.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert derange(items, seed) == partners


def test_another_seed_pairs_otherwise() -> None:
    assert derange(SIGN_WORDS, 0) != derange(SIGN_WORDS, 1)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("concept", ["text", "colour"])
def test_sets_are_deterministic_and_grow(kind: type[Simple | Signs], concept: str) -> None:
    pairs = kind().pairs(20, seed=3, concept=concept)
    assert pairs == kind().pairs(None, seed=3, concept=concept)[:20]
    assert pairs != kind().pairs(20, seed=4, concept=concept)
    assert len({pair.source for pair in pairs}) == 20


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("concept", ["text", "colour"])
def test_pairs_of_sets_say_what_their_prompts_say(kind: type[Simple | Signs], concept: str) -> None:
    for pair in kind().pairs(seed=1, concept=concept):
        assert pair == Pair.from_prompts(pair.source, pair.target, pair.seed, concept)
        swapped = re.sub(rf"\b{pair.source_word}\b", pair.target_word, pair.source)
        assert re.sub("^an? ", "", swapped) == re.sub("^an? ", "", pair.target)  # a red sign, an orange sign


@pytest.mark.parametrize("kind", SETS)
def test_sets_refuse_what_they_do_not_hold(kind: type[Simple | Signs]) -> None:
    with pytest.raises(ConfigError, match="but 5,000 were requested"):
        kind().pairs(5000)
    with pytest.raises(ConfigError, match="but 0 were requested"):
        kind().pairs(0)
    with pytest.raises(ConfigError, match="unknown concept"):
        kind().pairs(1, concept="font")


def test_words_fit_what_they_are_for() -> None:
    assert len(set(SIGN_WORDS)) == len(SIGN_WORDS) >= 120
    assert all(len(word) == WORD_LENGTH and set(word) <= set(LETTERS) for word in SIGN_WORDS)
    assert not set(SIGN_WORDS) & {word.upper() for word in ("sign", "that", "says", *COLOURS, *LAYOUTS)}
    assert len(set(SIMPLE_WORDS)) == len(SIMPLE_WORDS) >= 100
    assert all(3 <= len(word) <= 6 for word in SIMPLE_WORDS)
