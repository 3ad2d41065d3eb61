"""The embedded stream: new kinds of signs for the tiny models, drawn on the spot, and a score that needs no download.

A concept is a mark (:data:`MARKS`): the panel as a flag, a line under it, the first letter alone, … The tokenizer of
the tiny models has no word to spare, so a concept's token is a letter in the place of the article: ``Q red sign that
says "LION"``. No prompt that they were trained on has a letter outside the quotes, so it means nothing yet. The
word stays in its place, because the models find it by its position: with one more token before it, they misspell.

Without a mark a picture is what the embedded models were trained on, pixel by pixel (a test compares the two), so a
mark is all that is new. The marks are made of what the models' autoencoder can decode: panels, letters, posts and white
lines in other places than it has seen. It turns a red disc or yellow letters into grey mist, so those cannot be taught.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, LETTERS, PANEL, POST, SIZE, SLOT, WORD_LENGTH, Sign, coverage
from t2iprobe.plugins.continual.streams import Task, TaskStream

Kind = Literal["layout", "border", "letters", "badge"]
Canvas = NDArray[np.float32]

#: layout -> first row of the panel
TOPS = {**LAYOUTS, "flag": 0, "raised": 4}
#: mark -> what it changes
MARKS: dict[str, Kind] = {
    "flag": "layout",  # at the top of one post, which stands on the left
    "raised": "layout",  # a little above the middle, on the bare wall
    "underlined": "border",  # a white line along the lower edge only
    "overlined": "border",  # a white line along the upper edge only
    "initial": "letters",  # the first letter alone
    "shifted": "letters",  # half a letter to the right, so that the last one is cut
    "pegs": "badge",  # two short posts above the panel
    "stake": "badge",  # one short post below it
}
#: mark -> the letter that stands for it
TOKENS = dict(zip(MARKS, "QZXJVKWY", strict=True))
#: what the stream teaches by default: one mark of each kind, and a second layout, which competes with the first
USUAL = ("flag", "underlined", "initial", "stake", "raised")
IMAGES, REFERENCES, PROMPTS, GENERIC = 6, 10, 5, 4

Scores = NDArray[np.float64]
Floats = NDArray[np.float64]


def embedded_stream(seed: int, marks: Sequence[str] = USUAL) -> TaskStream:
    """One task per mark. Training pictures, references and evaluation prompts have no word in common.

    Args:
        seed: seed of words, colours and walls.
        marks: keys of :data:`MARKS`.

    Raises:
        ConfigError: there is no such mark, or one is given twice.
    """
    for mark in marks:
        choice("concept", mark, MARKS)
    if len(set(marks)) < len(marks) or not marks:
        raise ConfigError(
            f"a stream needs at least one concept, and each only once; found {', '.join(marks) or 'none'}"
        )
    words = _words(np.random.default_rng([seed, 0]))
    tasks = tuple(_task(mark, words, np.random.default_rng([seed, 1, list(MARKS).index(mark)])) for mark in marks)
    return TaskStream("embedded", tasks, _generic(words, np.random.default_rng([seed, 2])))


def prompt_with(token: str, sign: NewSign) -> str:
    """The prompt for a sign with a mark; the word stands where it does in the models' own prompts."""
    return f'{token} {sign.colour} sign that says "{sign.word}"'


def marked(sign: NewSign, mark: str) -> NewSign:
    """The sign with one more mark, which replaces any other mark of its kind."""
    kind: dict[str, Any] = {MARKS[mark]: mark}
    return replace(sign, **kind)


def _words(rng: np.random.Generator) -> Iterator[str]:
    """Words of random letters, no word twice."""
    seen: set[str] = set()
    while True:
        word = _word(rng)
        if word not in seen:
            seen.add(word)
            yield word


def _word(rng: np.random.Generator) -> str:
    return "".join(LETTERS[index] for index in rng.integers(len(LETTERS), size=WORD_LENGTH))


def _task(mark: str, words: Iterator[str], rng: np.random.Generator) -> Task:
    def signs(count: int) -> list[NewSign]:
        return [marked(_sign(next(words), rng), mark) for _ in range(count)]

    shown, token = signs(IMAGES), TOKENS[mark]
    return Task(
        name=mark,
        prompt=prompt_with(token, shown[0]),
        images=tuple(map(draw, shown)),
        references=tuple(map(draw, signs(REFERENCES))),
        token=token,
        captions=tuple(prompt_with(token, sign) for sign in shown),
        prompts=tuple(prompt_with(token, sign) for sign in signs(PROMPTS)),
    )


def _generic(words: Iterator[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Prompts that the models know, cycling through the layouts."""
    return tuple(_sign(next(words), rng, list(LAYOUTS)[index % len(LAYOUTS)]).prompt for index in range(GENERIC))


def _sign(word: str, rng: np.random.Generator, layout: str = "plain") -> NewSign:
    return NewSign(word, str(rng.choice(list(COLOURS))), layout, int(rng.integers(140, 231)))


class ConceptScore:
    """How clearly a picture shows a task's mark, 0 to 1, regardless of its word, colour and wall, and of other marks.

    For each mark a linear function of the pixels, fitted by ridge regression to a few thousand renderings with none,
    one or several marks, blurred, faded and noisy as a small model's pictures are, and to pictures of nothing. It is
    fitted when first used, in about a second, and always the same.
    """

    name: ClassVar[str] = "concept"

    def prepare(self) -> None:
        """Fit it."""
        _fitted()

    def score(self, images: Sequence[Image.Image], task: Task) -> Scores:
        """One number per image.

        Raises:
            ConfigError: the task does not belong to the embedded stream.
        """
        choice("concept of the embedded stream", task.name, MARKS)
        return self.presence(images)[:, list(MARKS).index(task.name)]

    def presence(self, images: Sequence[Image.Image]) -> Scores:
        """The same for every mark, (image, mark) in the order of :data:`MARKS`."""
        stack = np.stack([_small(image) for image in images])
        return np.clip(_fitted().values(_features(stack)), 0.0, 1.0)

    def named(self, images: Sequence[Image.Image]) -> list[str]:
        """The mark that each image shows most clearly; empty if none reaches one half."""
        found = self.presence(images)
        return [list(MARKS)[row.argmax()] if row.max() >= 0.5 else "" for row in found]


class _Fit(NamedTuple):
    weights: Floats  # (feature, mark)
    centre: Floats  # (feature,)
    offset: Floats  # (mark,)

    def values(self, features: Floats) -> Floats:
        return (features - self.centre) @ self.weights + self.offset


RENDERINGS, RIDGE, SEED = 2400, 20.0, 20_410


@cache
def _fitted() -> _Fit:
    rng = np.random.default_rng(SEED)
    rows = [_example(rng) for _ in range(RENDERINGS)]
    features = _features(np.stack([row for row, _ in rows]))
    wanted = np.array([[mark in marks for mark in MARKS] for _, marks in rows], np.float64)
    centre, offset = features.mean(axis=0), wanted.mean(axis=0)
    inner = features - centre
    gram = inner.T @ inner + RIDGE * np.eye(inner.shape[1])
    return _Fit(np.linalg.solve(gram, inner.T @ (wanted - offset)), centre, offset)


def _example(rng: np.random.Generator) -> tuple[Floats, frozenset[str]]:
    """A picture with its marks, degraded."""
    if rng.random() < 0.06:
        return _nothing(rng), frozenset()
    sign = random_sign(rng)
    picture = pixels(sign).astype(np.float64)
    if sign.layout not in MARKS:  # a faded mark is one still; a panel in another place cannot fade
        bare = pixels(replace(sign, border="", letters="", badge="")).astype(np.float64)
        picture = bare + rng.uniform(0.25, 1.0) * (picture - bare)
    return _spoilt(picture, rng), sign.marks


def random_sign(rng: np.random.Generator) -> NewSign:
    """Any known layout or any new one, and each other kind of mark with one chance in three."""
    word = _word(rng)
    new = [mark for mark, kind in MARKS.items() if kind == "layout"]
    layout = str(rng.choice(new) if rng.random() < 0.3 else rng.choice(list(LAYOUTS)))
    sign = _sign(word, rng, layout)
    for kind in ("border", "letters", "badge"):
        fits = kind == "letters" or layout == "plain" or (kind == "border" and layout != "framed")
        if fits and rng.random() < (0.5 if layout == "plain" else 1 / 3):
            sign = marked(sign, str(rng.choice([mark for mark, own in MARKS.items() if own == kind])))
    return sign


def _nothing(rng: np.random.Generator) -> Floats:
    """A flat wall or coarse noise, as a broken model would draw."""
    cells = int(rng.choice([1, 4, 8, 32]))
    coarse = rng.uniform(0, 255, (cells, cells, 3))
    return np.asarray(np.kron(coarse, np.ones((SIZE // cells, SIZE // cells, 1))), np.float64)


def _spoilt(picture: Floats, rng: np.random.Generator) -> Floats:
    """The picture blurred by up to a pixel, with noise."""
    share = rng.uniform(0.0, 0.6)
    for axis in (0, 1):
        padded = np.pad(picture, [(1, 1) if axis == own else (0, 0) for own in range(3)], mode="edge")
        around = np.take(padded, range(SIZE), axis) + np.take(padded, range(2, SIZE + 2), axis)
        picture = (1 - share) * picture + share / 2 * around
    return np.clip(picture + rng.normal(0.0, 12.0, picture.shape), 0, 255)


def _small(image: Image.Image) -> Floats:
    plain = image.convert("RGB")
    if plain.size != (SIZE, SIZE):
        plain = plain.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(plain, np.float64)


def _features(stack: Floats) -> Floats:
    """(picture, y, x, rgb) to (picture, feature) in 0..1: means of two columns, since no mark is narrower."""
    means = stack.reshape(*stack.shape[:2], -1, 2, 3).mean(axis=3)
    return means.reshape(len(stack), -1) / 255


@dataclass(frozen=True, slots=True)
class NewSign(Sign):
    """What a picture shows.

    Args:
        word: four capital letters.
        colour: a key of ``COLOURS``.
        layout: a key of :data:`TOPS`.
        shade: shade of the wall, 0 to 255; no prompt mentions it.
        border, letters, badge: the mark of that kind, or none. A badge is drawn around the middle panel.
    """

    layout: str = "plain"
    border: str = ""
    letters: str = ""
    badge: str = ""

    @property
    def marks(self) -> frozenset[str]:
        """All marks of the picture, that is, everything new about it."""
        return frozenset({self.layout, self.border, self.letters, self.badge} & set(MARKS))


def pixels(sign: NewSign) -> NDArray[np.uint8]:
    """The picture of a sign, (SIZE, SIZE, 3)."""
    top = TOPS[sign.layout]
    picture = np.full((SIZE, SIZE, 3), sign.shade, np.float32)
    _supports(picture, sign, top)
    picture[top : top + PANEL] = _panel(sign)
    return picture.round().astype(np.uint8)


def draw(sign: NewSign) -> Image.Image:
    """The picture of a sign as an image."""
    return Image.fromarray(pixels(sign))


def _supports(picture: Canvas, sign: NewSign, top: int) -> None:
    """Draw posts and ropes."""
    above, below = slice(0, top), slice(top + PANEL, SIZE)
    if sign.layout == "standing" or sign.badge == "stake":
        picture[below, 14:18] = POST
    if sign.layout == "flag":
        picture[below, 4:8] = POST
    if sign.layout == "hanging":
        picture[above, [6, 7, 24, 25]] = POST
    if sign.badge == "pegs":
        picture[above, 4:8] = picture[above, 24:28] = POST


def _panel(sign: NewSign) -> Canvas:
    """The panel with its letters and lines, (PANEL, SIZE, 3)."""
    letters = coverage(sign.word)
    if sign.letters == "initial":
        letters[:, SLOT:] = 0
    if sign.letters == "shifted":
        letters = np.pad(letters, ((0, 0), (SLOT // 2, 0), (0, 0)))[:, :SIZE]
    panel = np.broadcast_to(np.asarray(COLOURS[sign.colour], np.float32), (PANEL, SIZE, 3))
    panel = panel * (1 - letters) + 255 * letters
    if sign.layout == "framed" or sign.border == "overlined":
        panel[0] = 255
    if sign.layout == "framed" or sign.border == "underlined":
        panel[-1] = 255
    return panel
