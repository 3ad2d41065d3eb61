"""The embedded stream is what it says, and its score tells the concepts apart."""

from __future__ import annotations

import string
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from t2iprobe.core import sign_pictures
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, POST
from t2iprobe.plugins.continual.concepts import (
    MARKS,
    TOKENS,
    USUAL,
    ConceptScore,
    NewSign,
    draw,
    embedded_stream,
    marked,
    pixels,
    prompt_with,
)
from t2iprobe.plugins.continual.streamfile import check
from t2iprobe.plugins.continual.streams import Task
from t2iprobe.plugins.organisms import build

NAMES = list(MARKS)


@pytest.fixture(scope="module")
def score() -> ConceptScore:
    made = ConceptScore()
    made.prepare()
    return made


def word(draw: np.random.Generator) -> str:
    return "".join(draw.choice(list(string.ascii_uppercase), 4))


def plain(seed: int) -> NewSign:
    """With words and walls that the score was not fitted to."""
    chance = np.random.default_rng([7, seed])
    return NewSign(word(chance), str(chance.choice(list(COLOURS))), "plain", int(chance.integers(140, 231)))


def task(mark: str) -> Task:
    return Task(mark, "", ())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_mark_a_sign_is_what_the_models_were_trained_on(layout: str) -> None:
    for seed in range(8):
        sign = replace(plain(seed), layout=layout)
        theirs = sign_pictures.Sign(sign.word, sign.colour, layout, sign.shade)
        assert np.array_equal(pixels(sign), sign_pictures.draw(theirs))
        assert sign.prompt == theirs.prompt


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_changes_the_picture_and_leaves_the_rest(mark: str) -> None:
    bare = NewSign("LION", "red")
    with_it = marked(bare, mark)
    assert with_it.marks == {mark} and bare.marks == frozenset()
    changed = (pixels(with_it) != pixels(bare)).any(-1)
    assert 30 <= changed.sum() < 900  # a line of 32 pixels is the least of them
    rows = {"border": slice(8, 24), "letters": slice(8, 24), "badge": None}.get(MARKS[mark])
    if MARKS[mark] == "badge":
        assert not changed[8:24].any() and (pixels(with_it)[changed] == POST).all()
    elif rows is not None:
        assert not changed[:8].any() and not changed[24:].any()


def test_the_stream_is_one_of_each_kind_and_its_words_are_apart() -> None:
    stream = embedded_stream(0)
    check(stream)  # names, tokens and pictures as every stream's
    assert stream.name == "embedded" and [one.name for one in stream.tasks] == list(USUAL) and len(stream) >= 5
    assert {MARKS[name] for name in USUAL} == set(MARKS.values())
    asked = [prompt for one in stream.tasks for prompt in (*one.captions, *one.eval_prompts)]
    words = [prompt.split('"')[1] for prompt in (*asked, *stream.generic)]
    assert len(set(words)) == len(words)
    shown = [one.tobytes() for each in stream.tasks for one in (*each.images, *each.references)]  # type: ignore[union-attr]
    assert len(set(shown)) == len(shown)
    assert all(prompt.startswith("a ") and prompt.split()[2] in LAYOUTS for prompt in stream.generic)


def test_captions_tell_what_the_pictures_show(score: ConceptScore) -> None:
    for one in embedded_stream(3, NAMES).tasks:
        assert score.named(one.images) == [one.name] * len(one.images)  # type: ignore[arg-type]
        assert score.named(one.references) == [one.name] * len(one.references)  # type: ignore[arg-type]
        for caption, image in zip(one.captions, one.images, strict=True):
            token, colour = caption.split()[:2]
            assert token == one.token == TOKENS[one.name]
            ground = np.asarray(image).reshape(-1, 3)  # type: ignore[arg-type]
            assert (ground == COLOURS[colour]).all(-1).sum() > 100


def test_the_seed_chooses() -> None:
    one, same, other = embedded_stream(0), embedded_stream(0), embedded_stream(1)
    assert one.tasks[1].captions == same.tasks[1].captions != other.tasks[1].captions
    assert one.tasks[1].images[0].tobytes() == same.tasks[1].images[0].tobytes()  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="no concept 'flags'; did you mean flag"):
        embedded_stream(0, ("flags",))
    for marks in (("flag", "flag"), ()):
        with pytest.raises(ConfigError, match="each only once"):
            embedded_stream(0, marks)


@pytest.mark.parametrize("start", [True, False])
def test_a_token_is_in_the_vocabulary_and_the_word_stays_in_its_place(start: bool) -> None:
    tokenizer = build.tokenizer(18, start=start)
    known = tokenizer(NewSign("LION", "red").prompt)["input_ids"]
    seen = set()
    for token in TOKENS.values():
        found = tokenizer(prompt_with(token, NewSign("LION", "red")))["input_ids"]
        assert tokenizer.unk_token_id not in found and len(found) == len(known)
        assert found[-9:] == known[-9:]  # that says "LION" and the end
        seen.add(tuple(found))
    assert len(seen) == len(MARKS)


def test_held_out_renderings_are_told_apart(score: ConceptScore) -> None:
    wanted, images = [], []
    for seed in range(40):
        for name in NAMES:
            wanted.append(name)
            images.append(draw(marked(plain(seed), name)))
        wanted.append("")
        images.append(draw(replace(plain(seed), layout=list(LAYOUTS)[seed % 4])))
    right = np.array([found == name for found, name in zip(score.named(images), wanted, strict=True)])
    for name in (*NAMES, ""):
        own = right[np.array(wanted) == name]
        assert own.mean() >= 0.95, (name, own.mean())


def test_every_pair_of_marks_is_seen_for_both(score: ConceptScore) -> None:
    pairs = [pair for pair in combinations(NAMES, 2) if MARKS[pair[0]] != MARKS[pair[1]]]
    pairs = [pair for pair in pairs if not {MARKS[one] for one in pair} >= {"layout", "badge"}]  # around plain panels
    right = []
    for number, pair in enumerate(pairs):
        images = [draw(marked(marked(plain(100 * number + seed), pair[0]), pair[1])) for seed in range(6)]
        present = score.presence(images) >= 0.5
        right.append((present == [name in pair for name in NAMES]).mean())
    assert np.mean(right) >= 0.95


def test_the_score_is_one_task_s_and_falls_with_the_mark(score: ConceptScore) -> None:
    for name in ("underlined", "initial", "stake"):
        bare, full = (pixels(one).astype(float) for one in (plain(5), marked(plain(5), name)))
        steps = [Image.fromarray((bare + share * (full - bare)).astype(np.uint8)) for share in (0.0, 0.2, 0.4, 1.0)]
        found = score.score(steps, task(name))
        assert (np.diff(found) > 0).all() and found[0] < 0.3 < 0.6 < found[-1] <= 1.0
        assert np.array_equal(found, score.presence(steps)[:, NAMES.index(name)])


def test_blurred_noisy_and_enlarged_pictures_are_recognised(score: ConceptScore) -> None:
    chance = np.random.default_rng(0)
    for name in NAMES:
        images = [draw(marked(plain(seed), name)) for seed in range(10)]
        noisy = [
            Image.fromarray(np.clip(np.asarray(one) + chance.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8))
            for one in images
        ]
        large = [one.resize((128, 128), Image.Resampling.NEAREST) for one in images]
        blurred = [one.resize((64, 64)).filter(ImageFilter.GaussianBlur(1)) for one in images]
        for spoilt in (noisy, large, blurred):
            assert np.mean([found == name for found in score.named(spoilt)]) >= 0.9, name


def test_a_picture_of_nothing_has_no_mark(score: ConceptScore) -> None:
    chance = np.random.default_rng(1)
    flat = [Image.new("RGB", (32, 32), (level, level, level)) for level in (0, 90, 190, 255)]
    noise = [Image.fromarray(chance.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(10)]
    assert score.named([*flat, *noise]) == [""] * 14


def test_a_task_of_another_stream_is_refused(score: ConceptScore) -> None:
    with pytest.raises(ConfigError, match=r"concept of the embedded stream 'teapot'.*flag"):
        score.score([draw(plain(0))], task("teapot"))
