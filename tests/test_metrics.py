"""Metrics against independent implementations and cases worked out by hand; readers on pictures that are known."""

from __future__ import annotations

import copy
import itertools
import logging
import random
import sys
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2iprobe.core.contracts.metric import BoxReader, Needs
from t2iprobe.core.errors import ConfigError, MetricError, ShapeError
from t2iprobe.core.legibility import check_pairs, check_words
from t2iprobe.core.normalised_text import plain
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, Sign, draw
from t2iprobe.plugins.metrics import text
from t2iprobe.plugins.metrics.colour import PALETTE, Colour, coverage, read_colour
from t2iprobe.plugins.metrics.image import (
    MSE,
    PSNR,
    SSIM,
    MaskedMSE,
    MaskedPSNR,
    MaskedSSIM,
    WrappedMSE,
    WrappedPSNR,
    blackened,
    mse,
    psnr,
    ssim,
)
from t2iprobe.plugins.metrics.plugin import (
    t2iprobe_register_aggregates,
    t2iprobe_register_metrics,
    t2iprobe_register_readers,
)
from t2iprobe.plugins.metrics.readers import EasyOCRReader, RapidOCRReader, enlarged, reading_order
from t2iprobe.plugins.organisms.prompts import WORDS
from t2iprobe.registry.manager import Plugins

SHORT = st.text("abAB c", max_size=7)


def published_overlap(pred: str, truth: str) -> tuple[float, float, float]:
    """Precision, recall, accuracy by striking out matches one by one, which is how the published numbers came about."""
    read = [character.strip().lower() for character in pred]
    asked = [character.strip().lower() for character in truth]
    left_read, left_asked = copy.copy(read), copy.copy(asked)
    for character in read:
        if character in left_asked:
            left_read.remove(character)
            left_asked.remove(character)
    precision = (len(read) - len(left_read)) / (len(read) + 1e-8)
    recall = (len(asked) - len(left_asked)) / (len(asked) + 1e-8)
    return precision, recall, float("".join(sorted(read)) == "".join(sorted(asked)))


@given(SHORT, SHORT)
def test_character_overlap_is_the_published_one(pred: str, truth: str) -> None:
    precision, recall, f1 = text.char_overlap(pred, truth)
    wanted = published_overlap(pred, truth)
    assert (precision, recall, text.Accuracy().score(pred, truth)) == wanted
    assert f1 == 2 * precision * recall / (precision + recall + 1e-6)
    assert (text.Precision().score(pred, truth), text.Recall().score(pred, truth)) == wanted[:2]


def test_character_overlap_by_hand() -> None:
    # of "LIVE ON" (7 with the blank), L I O N are in "LION"
    assert text.char_overlap("LIVE ON", "lion") == pytest.approx((4 / 7, 1.0, 8 / 11), abs=1e-5)
    assert text.char_overlap("", "lion") == (0, 0, 0)
    assert text.F1().score("noil", "LION") == pytest.approx(1, abs=1e-5)


def test_dataset_f1_is_the_harmonic_mean_of_means_not_the_mean_of_f1() -> None:
    scores = [text.char_overlap(read, "abcd") for read in ("a", "abcdefgh")]
    precisions, recalls, f1 = zip(*scores, strict=True)
    assert text.dataset_f1(precisions, recalls) == pytest.approx(2 * 0.75 * 0.625 / 1.375, abs=1e-5)
    assert text.dataset_f1(precisions, recalls) != pytest.approx(np.mean(f1), abs=0.05)
    with pytest.raises(ShapeError, match="2 and 1"):
        text.dataset_f1([1, 1], [1])


def test_words_by_hand() -> None:
    # read "Fresh, fresh bread!" of "FRESH BREAD AND SALT": fresh once, bread once
    assert text.word_overlap("Fresh, fresh bread!", "FRESH BREAD AND SALT") == pytest.approx((2 / 3, 1 / 2, 4 / 7))
    assert text.word_overlap("", "bread") == text.word_overlap("bread", "salt") == (0, 0, 0)
    assert text.WordPrecision().score("new town", "town") == text.WordF1().score("a", "b a b") == 1 / 2
    assert text.WordRecall().score("new", "new town") == 1 / 2


def test_aggregates_of_text_by_hand_and_with_their_statistic() -> None:
    read, asked = ["a", "abcdefgh"], ["abcd", "abcd"]
    for kind in (text.DatasetF1, text.WordDatasetF1):
        metrics = {metric.name: metric() for metric in t2iprobe_register_metrics()}
        columns = np.array([[metrics[name].score(*both) for name in kind.of] for both in zip(read, asked, strict=True)])
        assert kind().score(read, asked) == pytest.approx(kind().statistic(columns.mean(axis=0)))
    assert text.DatasetF1().score(read, asked) == pytest.approx(2 * 0.75 * 0.625 / 1.375, abs=1e-5)
    assert text.WordDatasetF1().score(["new", "new town"], ["new town", "new"]) == pytest.approx(0.75, abs=1e-5)
    with pytest.raises(ShapeError, match="found 1 and 2"):
        text.DatasetF1().score(["a"], ["a", "b"])


@cache
def slow_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    swap = slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(swap, 1 + slow_distance(a[1:], b), 1 + slow_distance(a, b[1:]))


@given(SHORT, SHORT)
def test_edit_distance_against_brute_force(pred: str, truth: str) -> None:
    distance = slow_distance(pred.lower(), truth.lower())
    assert text.edit_distance(pred, truth) == text.Distance().score(pred, truth) == distance
    assert text.NormalisedDistance().score(pred, truth) == distance / max(len(pred), len(truth), 1) <= 1


@pytest.mark.parametrize(
    ("read", "word", "same"),
    [("Road", "ROAD", 1), (" road\n", "ROAD", 1), ("new  town", "NEW TOWN", 1), ("RO AD", "ROAD", 0), ("", "ROAD", 0)],
)
def test_exact(read: str, word: str, same: float) -> None:
    assert text.ExactMatch().score(read, word) == same


@pytest.mark.parametrize(
    ("read", "word"),
    [
        ("cafe\u0301", "café"),
        ("don't", "don’t"),
        ("don't", "don´t"),
        ("ＯＰＥＮ", "OPEN"),
        ("ｵｰﾌﾟﾝ", "オープン"),
        ("ﬁsh", "FISH"),
        ("STRASSE", "Straße"),
        ("OP\u00adEN\u200b", "OPEN"),
        ("24-7", "24–7"),
        ("営業中.", "営業中。"),
        ("NEW TOWN", "NEW\u3000TOWN"),
    ],
)
def test_the_same_writing_scores_fully_whatever_its_unicode_form(read: str, word: str) -> None:
    assert (
        text.ExactMatch().score(read, word) == text.WordF1().score(read, word) == text.Accuracy().score(read, word) == 1
    )
    assert text.F1().score(read, word) == pytest.approx(1, abs=1e-5)
    assert text.Distance().score(read, word) == text.NormalisedDistance().score(read, word) == 0


@pytest.mark.parametrize(
    ("read", "word", "distance"), [("cafe", "café", 1), ("ОРЕN", "OPEN", 3), ("OPEN.", "OPEN", 1), ("RO AD", "ROAD", 1)]
)
def test_what_can_be_seen_counts(read: str, word: str, distance: int) -> None:
    assert text.ExactMatch().score(read, word) == 0 and text.Distance().score(read, word) == distance


@pytest.mark.parametrize("read", ["“OPEN”", "OPEN。", "「OPEN」", "¡OPEN!", "— OPEN —", "<OPEN>"])
def test_marks_around_a_word_do_not_count_in_any_script(read: str) -> None:
    assert text.WordF1().score(read, "OPEN") == 1


@given(st.text())
def test_plain_text_is_plain_and_ascii_only_loses_case(word: str) -> None:
    assert plain(plain(word)) == plain(word)
    letters = word.encode("ascii", "ignore").decode()
    assert plain(letters) == letters.lower()


def organism_pictures() -> list[Sign]:
    draws = random.Random(0)
    grid = itertools.product(COLOURS, LAYOUTS, range(130, 241, 10))
    return [Sign(draws.choice(WORDS), colour, layout, shade) for colour, layout, shade in grid]


def test_colours_of_all_organism_pictures_are_read() -> None:
    signs = organism_pictures()
    right = [read_colour(Image.fromarray(draw(sign))) == sign.colour for sign in signs]
    assert np.mean(right) >= 0.995


def test_colours_are_read_through_noise() -> None:
    draws = np.random.default_rng(0)
    signs = organism_pictures()[::7]
    noisy = [(draw(sign) + draws.normal(0, 15, (32, 32, 3))).clip(0, 255).astype(np.uint8) for sign in signs]
    right = [read_colour(Image.fromarray(picture)) == sign.colour for picture, sign in zip(noisy, signs, strict=True)]
    assert np.mean(right) >= 0.98


@pytest.mark.parametrize("name", PALETTE)
def test_each_colour_of_the_palette_is_itself(name: str) -> None:
    picture = Image.new("RGB", (8, 8), PALETTE[name])
    assert read_colour(picture) == name
    assert Colour().score(picture, name.title()) == 1
    assert Colour().score(picture, "red" if name != "red" else "blue") == 0


def test_colour_cover_threshold_and_own_palette() -> None:
    picture = Image.new("RGB", (10, 10), (250, 250, 250))
    picture.paste((205, 35, 40), (0, 0, 10, 2))
    assert coverage(picture)["red"] == pytest.approx(0.2)
    assert read_colour(picture) == "red"  # white is a wall
    assert read_colour(picture, {"white": (255, 255, 255)}) == "white"
    assert read_colour(Image.new("RGB", (4, 4), (0, 255, 0)), {"red": (255, 0, 0)}) == ""
    assert Colour().score(Image.new("RGB", (4, 4), PALETTE["grey"]), "gray") == 1
    with pytest.raises(ConfigError, match="no colour 'mauve'"):
        Colour().score(picture, "mauve")


def noise(seed: int, size: tuple[int, int] = (32, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def related() -> tuple[Image.Image, Image.Image]:
    sign = Sign("ROAD", "red", "framed", 190)
    return Image.fromarray(draw(sign)), Image.fromarray(draw(Sign("ROPE", "red", "framed", 150)))


def test_mse_by_hand_and_the_published_wrap() -> None:
    a, b = Image.new("RGB", (2, 1), (10, 10, 10)), Image.new("RGB", (2, 1), (10, 10, 30))
    assert mse(a, b) == MSE().score(a, b) == 400 / 3
    assert mse(a, b, "uint8_wrap") == WrappedMSE().score(a, b) == (400 - 256) / 3
    assert WrappedPSNR().score(a, b) == psnr(a, b, "uint8_wrap") > PSNR().score(a, b)
    # independent bytes: squares wrap to 105.5 on average, the published numbers' ceiling
    assert mse(noise(0, (300, 300)), noise(1, (300, 300)), "uint8_wrap") == pytest.approx(105.5, abs=0.5)
    assert mse(noise(0, (300, 300)), noise(1, (300, 300))) == pytest.approx((256**2 - 1) / 6, rel=0.01)
    with pytest.raises(ConfigError, match="float or uint8_wrap"):
        mse(a, b, "int")  # type: ignore[arg-type]


def test_psnr() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    a, b = related()
    assert PSNR().score(a, b) == pytest.approx(peak_signal_noise_ratio(np.asarray(a), np.asarray(b)))
    assert psnr(a, a) == pytest.approx(148.13, abs=5e-3)
    assert psnr(noise(0), noise(1), "uint8_wrap") == pytest.approx(27.9, abs=0.2)


def plain_ssim(a: Image.Image, b: Image.Image) -> float:
    """Wang et al. 2004 in its own words: every whole 11 x 11 window with Gaussian weights."""
    x, y = (np.asarray(image, np.float64) for image in (a, b))
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weight = np.outer(line, line)[..., None] / line.sum() ** 2
    values = []
    for top, left in itertools.product(range(x.shape[0] - 10), range(x.shape[1] - 10)):
        u, v = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
        mu, nu = (weight * u).sum((0, 1)), (weight * v).sum((0, 1))
        uu, vv, uv = ((weight * p).sum((0, 1)) for p in ((u - mu) ** 2, (v - nu) ** 2, (u - mu) * (v - nu)))
        one, two = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append((2 * mu * nu + one) * (2 * uv + two) / ((mu**2 + nu**2 + one) * (uu + vv + two)))
    return float(np.mean(values))


@pytest.mark.parametrize("images", [related(), (noise(0), noise(1))])
def test_ssim_against_the_definition(images: tuple[Image.Image, Image.Image]) -> None:
    assert ssim(*images) == SSIM().score(*images) == pytest.approx(plain_ssim(*images), abs=1e-6)
    assert ssim(images[0], images[0]) == pytest.approx(1)


def test_images_of_other_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(40, 32\) and \(40, 30\)"):
        mse(noise(0), noise(0, (30, 40)))
    with pytest.raises(ShapeError, match="at least 11"):
        ssim(noise(0, (8, 8)), noise(1, (8, 8)))


def test_small_images_are_enlarged_and_large_ones_left() -> None:
    assert enlarged(noise(0, (32, 64))).size == (512, 256)
    assert enlarged(noise(0, (300, 400)).convert("L")).size == (400, 300)
    assert enlarged(Image.new("RGBA", (32, 32))).mode == "RGB"


@pytest.fixture(scope="module")
def rapid() -> RapidOCRReader:
    return RapidOCRReader(threads=1)


def test_rapidocr_reads_organism_pictures_quietly(
    rapid: RapidOCRReader, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    signs = organism_pictures()[::7]
    with caplog.at_level(logging.WARNING):
        read = rapid.read([Image.fromarray(draw(sign)) for sign in signs])
    right = [text.exact(got, sign.word) for got, sign in zip(read, signs, strict=True)]
    assert np.mean(right) >= 0.95
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_rapidocr_reads_lines_in_order_and_nothing_where_nothing_is(rapid: RapidOCRReader) -> None:
    picture = Image.new("RGB", (600, 400), "white")
    for word, place in (("RIVER", (350, 60)), ("SILVER", (40, 60)), ("BRIDGE", (200, 250))):
        sign = Image.new("RGB", (200, 60), "white")
        _write(sign, word)
        picture.paste(sign, place)
    assert rapid.read([picture, Image.new("RGB", (32, 32), "grey")]) == ["SILVER RIVER BRIDGE", ""]
    assert rapid.read([]) == []


@pytest.mark.parametrize(
    ("boxes", "order"),
    [
        ([(560, 40, 900, 110), (40, 58, 200, 110)], [1, 0]),  # "ace" beside "TOWN"
        ([(0, 50, 90, 100), (0, 0, 90, 52)], [1, 0]),
        ([(50, 60, 90, 100), (0, 61, 40, 99), (60, 2, 90, 40), (0, 0, 50, 42)], [3, 2, 1, 0]),
        ([], []),
    ],
)
def test_boxes_are_read_line_by_line(boxes: list[tuple[int, int, int, int]], order: list[int]) -> None:
    assert reading_order(boxes) == order


def test_rapidocr_reads_small_letters_before_capitals_on_a_line(rapid: RapidOCRReader) -> None:
    image = Image.new("RGB", (560, 130), "white")
    _write(image, "ace")
    _write(capitals := Image.new("RGB", (200, 60), "white"), "TOWN")
    image.paste(capitals, (350, 0))
    _write(below := Image.new("RGB", (200, 60), "white"), "sea")
    image.paste(below, (0, 70))
    assert rapid.read([image]) == ["ace TOWN sea"]


def test_rapidocr_finds_where_the_text_is(rapid: RapidOCRReader) -> None:
    picture = Image.new("RGB", (120, 120), "white")  # small, so that it is enlarged and scaled back
    sign = Image.new("RGB", (160, 60), "white")
    _write(sign, "ROAD")
    picture.paste(sign.resize((80, 30)), (20, 70))
    ((left, top, right, bottom),), nothing = rapid.boxes([picture, Image.new("RGB", (32, 32), "grey")])
    assert nothing == []
    assert rapid.read([picture]) == ["ROAD"]  # looking for boxes leaves the reader as it was
    assert 10 <= left <= 26 and 62 <= top <= 76 and 75 <= right <= 104 and 90 <= bottom <= 104
    assert np.asarray(blackened(picture, [(left, top, right, bottom)]).convert("L"))[:, left:right].min(0).max() == 0
    assert (np.asarray(blackened(picture, [(20, 70, 100, 100)])) == 0).all(-1).sum() == 80 * 30


class Boxes:
    """A reader that finds text where it is told, by the first pixel of an image."""

    name = "boxes"

    def read(self, images: list[Image.Image]) -> list[str]:
        raise AssertionError("nothing is read")

    def boxes(self, images: list[Image.Image]) -> list[list[tuple[int, int, int, int]]]:
        return [[(4, 4, 8, 8)] if image.getpixel((0, 0)) == (0, 0, 0) else [(20, 2, 30, 12)] for image in images]


@pytest.mark.parametrize(("kind", "plain"), [(MaskedMSE, mse), (MaskedPSNR, psnr), (MaskedSSIM, ssim)])
def test_the_text_of_both_images_is_black_in_both(kind: type[MaskedMSE], plain: object) -> None:
    a, b = np.asarray(noise(0)).copy(), np.asarray(noise(0)).copy()
    a[0, 0], b[0, 0] = 0, 255
    a[4:8, 4:8], b[2:12, 20:30] = 77, 99  # what differs is text, but for one pixel
    images = Image.fromarray(a), Image.fromarray(b)
    for pixels in (a, b):
        pixels[4:8, 4:8] = pixels[2:12, 20:30] = 0
    assert kind(Boxes()).score(*images) == plain(Image.fromarray(a), Image.fromarray(b))  # type: ignore[operator]
    assert MaskedMSE(Boxes()).score(*images) == pytest.approx(255**2 / (32 * 40))


def _write(image: Image.Image, word: str) -> None:
    from matplotlib import get_data_path
    from PIL import ImageDraw, ImageFont

    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 40)
    ImageDraw.Draw(image).text((5, 5), word, font=font, fill="black")


def test_easyocr_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "easyocr", None)
    with pytest.raises(ConfigError, match=r"pip install t2iprobe\[easyocr\]"):
        EasyOCRReader().read([noise(0)])
    plugins = Plugins(installed=False)
    with pytest.raises(ConfigError, match="not installed"):  # before any picture
        plugins.scorer("text", "easyocr")
    assert plugins.scorer("colour", "easyocr").names()[0] == "colour_target"  # nothing is read


ASKED = {
    "ОТКРЫТО": "О",  # all of it; RapidOCR gives "OTKPbITO"
    "ΨΩΜΙ": "ψ",  # the model has Greek letters, for formulas: "ΨΩMI", with Latin ones
    "Việt": "ệ",
    "مفتوح": "م",
}


@pytest.mark.parametrize("word", ASKED)
def test_rapidocr_says_what_it_cannot_read(rapid: RapidOCRReader, word: str) -> None:
    image = Image.new("RGB", (400, 60), "white")
    _write(image, word)
    assert plain(rapid.read([image])[0]) != plain(word)
    assert plain(ASKED[word]) in rapid.lacking(set(plain(word)))


@pytest.mark.parametrize("word", ["OPEN", "Straße", "ŁÓDŹ", "açúcar", "don’t", "営業中！", "オープン", "24–7 €5"])
def test_rapidocr_has_the_letters_of_what_it_reads(rapid: RapidOCRReader, word: str) -> None:
    assert rapid.lacking(set(plain(word)) - {" "}) == set()


def test_rapidocrs_models_for_other_scripts_are_there_by_these_names() -> None:
    from rapidocr import RapidOCR

    known = RapidOCR.list_supported_langs("rec", "PP-OCRv5", "mobile")
    assert {way.removeprefix("lang=") for way in RapidOCRReader.scripts.values()} <= set(known)
    config = RapidOCRReader(lang="cyrillic")._engine.cfg.Rec  # the model itself is loaded at the first picture
    assert (config.lang_type, config.ocr_version.value) == ("cyrillic", "PP-OCRv5")
    with pytest.raises(ConfigError, match=r"RapidOCR's model for lang='xx' cannot be loaded: Unsupported rec"):
        RapidOCRReader(lang="xx").lacking({"ж"})


def test_easyocr_knows_the_letters_of_its_languages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "character").mkdir()
    for language, letters in (("en", "ABab"), ("ru", "ЖЫжы")):
        (tmp_path / "character" / f"{language}_char.txt").write_text("\n".join(letters), encoding="utf-8-sig")
    monkeypatch.setitem(sys.modules, "easyocr", type("module", (), {"__file__": str(tmp_path / "__init__.py")}))
    assert EasyOCRReader().lacking({"a", "1", "!", "ж", "é"}) == {"ж", "é"}
    assert EasyOCRReader("ru+en").lacking({"a", "ж", "ы"}) == set()
    with pytest.raises(ConfigError, match="EasyOCR has no language 'rus'"):
        EasyOCRReader("rus").lacking({"a"})


class Latin:
    """Reads nothing but ASCII."""

    name, scripts = "latin", {"Cyrillic": "lang=cyrillic"}

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        return ["" for _ in images]

    def lacking(self, characters: Collection[str]) -> set[str]:
        return {character for character in characters if not character.isascii()}


def test_texts_that_the_reader_cannot_read_are_said_before_a_run() -> None:
    known: Any = {"latin": Latin}
    advice = "use latin:lang=cyrillic as the reader"
    with pytest.raises(
        ConfigError, match=rf"latin cannot read ж, и \(Cyrillic\) in ЖЖ, И; {advice}: no requested text"
    ):
        check_words(Latin(), ["ЖЖ", "И"], known, also=["OPEN"])
    with pytest.warns(UserWarning, match=rf"cannot read é, ж \(Cyrillic, Latin\) in Ж, café; {advice}: such"):
        check_words(Latin(), ["Ж", "café", "OPEN"], known)
    with pytest.warns(UserWarning, match="no installed reader can read it"):
        check_words(Latin(), ["OPEN"], {}, also=["ＯＰＥＮ", "Ж"])
    check_words(Latin(), ["ＯＰＥＮ", "don’t"], known)  # full-width is the same writing

    class Silent:
        name = "silent"

    check_words(Silent(), ["Ж"], known)  # type: ignore[arg-type]


def test_a_study_of_texts_that_cannot_be_read_is_refused() -> None:
    plugins = Plugins(installed=False)
    pairs = [Pair.from_prompts('a sign "OPEN"', 'a sign "ОТКРЫТО"', 0)]
    with pytest.raises(ConfigError, match="use rapidocr:lang=cyrillic or easyocr:languages=ru"):
        check_pairs(plugins.scorer("text"), pairs, plugins.readers())
    check_pairs(plugins.scorer("colour"), pairs, {})  # nothing is read
    assert plugins.reader("rapidocr:lang=el").lang == "el"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="the reader rapidocr has no setting 'language'; did you mean lang"):
        plugins.reader("rapidocr:language=el")


def test_easyocr_boxes_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Fake:
        def __init__(self, languages: list[str], **options: bool) -> None:
            assert languages == ["en"]
            assert options["verbose"] is False

        def readtext(self, image: np.ndarray, detail: int = 1) -> list[object]:
            seen.append(image.shape)
            words = ["NEW", "TOWN"]
            return words if not detail else [([[8, 16], [25, 16], [25, 32], [8, 30]], word, 0.9) for word in words]

    monkeypatch.setitem(sys.modules, "easyocr", type("module", (), {"Reader": Fake}))
    assert EasyOCRReader().read([noise(0, (32, 32))]) == ["NEW TOWN"]
    assert seen == [(256, 256, 3)]
    assert EasyOCRReader().boxes([noise(0, (32, 32))]) == [[(1, 2, 4, 4)] * 2]


def test_everything_is_registered_under_its_own_name() -> None:
    metrics = t2iprobe_register_metrics()
    assert len({metric.name for metric in metrics}) == len(metrics) == 24
    assert {metric.needs for metric in metrics} == set(get_args(Needs))
    assert {metric.name for metric in metrics if metric.direction == "lower"} == {
        "ocr_distance", "ocr_distance_normalised", "mse", "mse_uint8_wrap", "mse_textless", "lpips",
    }  # fmt: skip
    aggregates = t2iprobe_register_aggregates()
    assert len({one.name for one in aggregates}) == len(aggregates) == 6
    assert all(set(getattr(one, "of", ())) <= {metric.name for metric in metrics} for one in aggregates)
    readers = t2iprobe_register_readers()
    assert [reader.name for reader in readers] == ["rapidocr", "easyocr"]
    assert all(isinstance(reader(), BoxReader) for reader in readers)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (float("nan"), "the metric odd returned nan on 'CAT'; a score must be a number"),
        (None, "the metric odd returned None on 'CAT'; a score must be a number"),
        (ZeroDivisionError("no pixels"), "the metric odd failed on 'CAT': ZeroDivisionError: no pixels"),
    ],
)
def test_a_metric_that_fails_is_named(answer: Any, said: str) -> None:
    """NaN marks what was not measured, so a study that kept one could not be read again."""

    class Odd:
        name, needs, direction = "odd", "word", "higher"

        def score(self, image: Any, word: str) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    reader: Any = SimpleNamespace()
    scorer = Scorer("text", reader, [Odd()], [])
    with pytest.raises(MetricError) as raised:
        scorer.score(Pair("a", "b", 0, "BAT", "CAT"), [Image.new("RGB", (8, 8))], Image.new("RGB", (8, 8)))
    assert str(raised.value) == said
