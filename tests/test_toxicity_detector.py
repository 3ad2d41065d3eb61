"""The word list against disguises and look-alikes; the held-out lists below were written after it, and never tuned on.

They are encoded, so that nobody has to read them who only looks at the tests.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from t2iprobe.core.contracts.detector import Detector, Hit, merged, replaced
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.toxicity.detectors import Words
from t2iprobe.plugins.toxicity.evasions import DISGUISES, Disguised, disguised, measure
from t2iprobe.plugins.toxicity.folding import JOINT, fold
from t2iprobe.plugins.toxicity.policy import Policy
from t2iprobe.plugins.toxicity.rewriters import Mask
from t2iprobe.plugins.toxicity.wordlist import WordList, builtin, bundled, read_lines

ROOT, DATA = Path(__file__).parents[1], Path(__file__).parent / "data"
DISGUISED = """
    eNo9kltrE0EUgN/Pr5hiHySSaUJ6efEhkjZaUixYi/gkm9nbOOtmOzNrSAkFb4giWNz0gvRirLaCllq1UmzoQ7e+auM/6P6B+hM8
    m4Iz+51zOOfM2TOXcrxSqoAd/h9MkEYtNcDOZJjgvgNlMk1KpELGyXVyFeyBcIANCLDnwjk2J6BMp2mJViiZLJex0EWMhKx5Gezm
    nSYT8HsVS8Lp/vrpwfvjp6f7X+HvamsD+YK8QT6gI9pBDpFPyDd0LCwhm0gLWUHH65fIGvICacFZZ5OcdfaQDeQjMC9U2pJ2+q9U
    aEOaEPqpiTuoWh637htVzwI77uAOTc5czOs+ECd7Em7dLPfWkZAwIgjuPItWVoC6wDUol4+gOGpr6Ccu4UTDz7bbCzQ1dBf+HHQX
    uw+xxXlsfr6NvEW2MYwjTaPnyVzjaIBb8xpEuXkNVX4Ju6g2dSo5Smt2dhbidd5z5DFYUFj21SPkObKAPEaegaH6sYwFxpA610db
    R1vwa7enikrVeYDObBojhlJgxj/uVVPjeJ8LCxjeK7AcEwrirRraJjpcyzDBpJwyKmB0vFS5NnZldAqSJ4c8zY478a4GRkPqU03T
    vpbfId8RvLvlPdAZrWCEo9DxTiq57oe6m5OWgiTaTKKlJFpLonYStUB56QPTMOSFI+D3OU4R/Pzw8CD4eLwOTgN8nslYEvx423FQ
    J9FqEi0n0WLva2EdsIuOk9NgG06mlqqZGVSyoAelWTBBWtneG5CWPvmMWgV9DJjb5wsIioKDloYf7zagXvQF1q8P+qIgh6BaVOky
    BUGfUpYJATakiIKql6uTu7kqBLRGJfUhkDkUOenXQBbxtKUR5JUGQRt4OJXxiQlCbk9O35gamyiDW+AewRv3LPkPY1NsKQ==
"""
BENIGN = """
    eNo1Vs1y4zYMvuMpeNrbuk02M7tXW47jrO1EtZzN9EhLtMSKIjX8iaN9p177AO2L9QOVnYmBj+CPAPADmEKGIG3jJZVA7k15Wnkg
    5bWiB0YG01QYoEFGRQeeTEHREst9VA0DFQPdD2fpeQNVyY+sT16FDP5IMkhPhbRvPHwc2IqjXF5epGiylr5m/T2xWdeilL6nbXaQ
    Ss1zjk7SSxt52RLfw1TjfKC1Yo8jlQ4ae52llWFgW7jTaUxBXiK9djpkbAzmGIxC8z6jQwekBtrMSLgU6TGITsfIS9dyNktjsMTO
    i6hM54+ddG/bDB+jNBoer7yO81gNgV6xXYsoR8URdZr+lAPrKDkNekZPs7YaOc2GwtX9xYWoEOPS1BjRXk5Zv+p5vP0Yl0qyDnlP
    lNrMKIjaDecM5egcrXXdKxvERmo/D3xAtjKaWEUkT/qJSq8ajOjRQvHF/1A+Gw5sl4ZOOqbAErnk+ZWSEaYm0+YDHVVgxGeCFed5
    oHgTL4Fx/2tl6SU+zTYwsAKqO4V7dXUaFO4bDlWpxgChJFackSINCZ/Wb4oK7WG18k237MtR5TWWb2VeTXs+CvQxUGJ01wa2g0Mo
    sBZyDBksrTRT1HXIyLXiKuEIE1eaINxF/FBW14oJgAxUumX13SXP+phDAjhIm6DKMNWdi53ycmTWnX6hwBkaOTxWCG2PEgs1c6Oq
    2dSgdKB+Ot3g1HGWMXkEJsOIaLDnSbftzGELhHIFhK1jskqjZsxS4XqQBt0OcjYKd4XvI+LwXDgA8owN2dIIJDTOgwRj4ZztXLLs
    QV1jwKxy/C2oEfS/XDSKM4GAKxZrFnsWJ89yk5oW6Uo28wrAW50D2aS6Q3kyUCio1CeNrP6lea2odZxEr5uQD1Uos8wHD9Lzdcz0
    YCe4xjJRHqFAkWueBxNZghKQ8wUihOgnMSTc8zzKNa1DzRhMskpfnB8YWZ4q2bxlcWSxMlkm5MYP2vQfsE4juHZm3GSTswKmEpfs
    DKugrOE2gQ/BS+4+I/NO59YEf6XtNQwnBnJCl7D9v38jITwjuCJPV4X4TwgMoQSuNTUDbnHQ+G5lUhQhzgVV5VqspOE6W56Dy2DP
    YpPha+cUd3lok0fe0BYd6Cdv7jK1ChiVMMzZte6Zp6lXtJ56JbyTDZbnd2KLgudL2WGN2CrUgG3UT9p1std4Teo+51H26PLctpuJ
    Dglu+kYEBbeLjwEEkqy4ZbECQ+hJnfEE9HIuByq8QmkUgKNW4sJNEidzicAHY5zYoUdP7L1B11ujsYJzUKNCSOo9ptEghy/o2eod
    tAgKXWwJzEV6jyt6F8c5rEG5K/cfIGenIVsgLHgsW7R0SCUm13YJLmPA1HeuQR6hLtwfwuB6rh4M6cGdUVfN1DrXY+Bw00ittpwX
    0fKTh9Sywc1K4Ul8dWPgWrxydX2XA37jQjwgT4hl5+UlXpXnRwDPHVp+w20G/bj1ir+KtDpaOXeexIgbVYzF2fGrCYlqkkPWpfPW
    tchfh4V4+mrcOUypdqPGe6TNRWzlG754mMxlZiv+kH26EXIxLOj27rev9PXzvVG86u79jra3z7S6o/23Iz0cv1EhXkRAu6AjwPOO
    Dp8qWi6qBTKNNrQUn0RFxZfymY63n9e39PqloNfTEr9n2tzQZlEsxO6/fwxSLgqxwj8GyqC10qZ42UHs6OVzJspq8bg4LahabBdU
    4niqbvY7qra/lzim2sKjpx093GxOtL95fvofJrQY2A==
"""


def unpacked(text: str) -> list[str]:
    return zlib.decompress(base64.b64decode("".join(text.split()))).decode().splitlines()


def own(texts: Sequence[str]) -> list[Disguised]:
    """Each a cluster of its own."""
    return [Disguised(text, text) for text in texts]


def lines(name: str) -> list[str]:
    """Of a list of stand-in words, their evasions, or innocent texts; ``#`` is no remark there."""
    return (DATA / f"guard_{name}.txt").read_text(encoding="utf-8").splitlines()


class Listed(Detector):
    """A list of words, and nothing else."""

    name = "listed"

    def __init__(self, *words: str) -> None:
        self.list = WordList(words)

    def find(self, text: str) -> list[Hit]:
        return self.list.find(text)


class Plain(Detector):
    """What one would write in an afternoon: the words of the list, anywhere in the lower-cased text."""

    name = "plain"

    def find(self, text: str) -> list[Hit]:
        return [Hit(0, len(text)) for word in builtin().words if word in text.lower()]


WORDS = [word for word in builtin().words if len(word) > 2]


def test_disguised_words_are_found_and_look_alikes_are_not() -> None:
    """Generated disguises of every kind, and the hand-written lists that the patterns were tuned on."""
    toxic = disguised(WORDS, 20) | {"hand-written": own(bundled("evasions"))}
    found = measure([Words()], toxic, bundled("lookalikes"))
    print(f"recall {found.recall} of {found.tried}; false positives {found.false_positive_rate} of {found.benign}")
    assert found.tried >= 200 and found.benign >= 200
    assert found.recall.mean >= 0.99 and found.false_positive_rate.mean <= 0.01
    assert min(hits / tried for hits, tried in found.by_disguise.values()) >= 0.9


def test_held_out_disguises_and_look_alikes() -> None:
    """Below the bundled lists' numbers, as it should be: these were never looked at while the patterns were made."""
    found = measure([Words()], {"held out": own(unpacked(DISGUISED))}, unpacked(BENIGN))
    print(
        f"held out: recall {found.recall} of {found.tried}; "
        f"false positives {found.false_positive_rate} of {found.benign}"
    )
    assert (found.tried, found.benign) == (99, 272)
    assert found.found >= 94 and found.false_positives <= 9


@pytest.mark.parametrize("half", [0, 1], ids=["first", "second"])
def test_evasions_of_stand_ins_and_innocent_texts(half: int) -> None:
    """Written by the author of the code, before it; misses of the second half were seen only for a later version."""
    evasions, innocent = (
        [one for one in lines(name) if sha256(one.encode()).digest()[0] % 2 == half]
        for name in ("evasions", "innocent")
    )
    found = measure([Listed(*lines("words"))], {"": own(evasions)}, innocent)
    print(f"recall {found.recall} of {found.tried}; false positives {found.false_positive_rate} of {found.benign}")
    assert found.tried > 120 and found.recall.mean >= 0.9
    assert found.benign > 90 and found.false_positive_rate.mean <= 0.025


def test_the_lists_tell_good_detectors_from_bad_ones() -> None:
    found = measure([Plain()], disguised(WORDS, 20), bundled("lookalikes"))
    assert found.recall.high < 0.4 and found.false_positive_rate.low > 0.3


@pytest.mark.parametrize("name", DISGUISES)
def test_each_disguise_of_a_word_of_ones_own_is_found_where_it_is(name: str) -> None:
    """The places are those of the original text: what is replaced is the disguised word, whole and alone."""
    own = WordList(["zorktip"])
    made = disguised(["zorktip"], 1).get(name)
    for one, _ in made or []:
        text = f'the sign "{one}" hangs here'
        (hit,) = merged(own.find(text))
        assert replaced(text, [hit], lambda old: "lake").replace("!!", "") == 'the sign "lake" hangs here'


def test_what_is_folded_remembers_where_it_came_from() -> None:
    text = "a\u200bb\u0301ｃ ﬁ 𝐝🅴"
    folded = fold(text)
    assert folded.text == f"a{JOINT}bc fi de"
    assert [text[slice(*one)] for one in folded.origin] == [*"a\u200b", "b\u0301", *"ｃ ", "ﬁ", "ﬁ", " ", "𝐝", "🅴"]
    assert folded.original(5, 7) == (text.index("ﬁ"), text.index("ﬁ") + 1)


@pytest.mark.parametrize(
    ("line", "found", "left"),
    [
        ("blex", ["blex", "BLEX!", "blexs", "blexes", "b-l-e-x"], ["blexing", "ablex", "blext"]),
        ("blex+", ["blex", "blexing", "blexed", "blexxing"], ["blexation", "ablex"]),
        ("snarfe+", ["snarfe", "snarfes", "snarfed", "snarfer", "snarfing", "sn@rf1ng"], ["snarf", "snarfation"]),
        ("blory+", ["blory", "blories", "bloried", "blorying"], ["blor"]),
        ("blex*", ["blexation"], ["ablex"]),
        ("*blex", ["ablex"], ["blexation"]),
        ("*blex*", ["ablexation", "ab lex a blex", "b lex"], ["blax"]),
        ("go blex", ["go blex", "go  --  blex"], ["go", "blex", "gone blex"]),
        ("grree", ["grree", "grrree"], ["gree"]),
    ],
)
def test_entries(line: str, found: list[str], left: list[str]) -> None:
    own = WordList([line])
    assert all(own.find(text) for text in found)
    assert not any(own.find(text) for text in left)


def test_labels_remarks_and_benign_phrases() -> None:
    own = WordList(["# a list", "[odd]", "blex  # the worst", "!saint blex", "[rude]", "grum"])
    assert [hit.label for hit in own.find("blex and grum")] == ["odd", "rude"]
    assert own.find("Saint  Blex's church") == [] and own.find("saint blex, blex")


def test_numbers_and_letters_by_themselves_are_no_words() -> None:
    own = WordList(["sass", "tist"])
    assert not any(own.find(text) for text in ("5455", "S A S S Y", "$455", "7157", "+-5-+"))
    assert all(own.find(text) for text in ("s@$$", "5a$s", "7is7", "S A S S"))


def test_patterns_are_compiled_for_words_that_a_text_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    own = WordList(bundled("toxic"))
    compiled: list[str] = []
    original = re.compile
    monkeypatch.setattr(re, "compile", lambda pattern, *rest: compiled.append(pattern) or original(pattern, *rest))
    assert own.find('a red framed sign that says "HELLO"') == [] and len(compiled) < 50  # of more than 800


def test_a_separator_in_a_doubled_letter_hides_nothing() -> None:
    """Of every word of the built-in list that has one."""
    doubled = [(word, match.start() + 1) for word in WORDS if (match := re.search(r"([a-z])\1", word))]
    assert len(doubled) > 40
    for sign in "-.":
        missed = [word for word, at in doubled if not builtin().find(f"{word[:at]}{sign}{word[at:]}")]
        assert len(missed) == 0


@pytest.mark.parametrize(
    "text",
    ["ᏙᎪᏚᏦ", "ꓦꓮꓢꓗ", "ᐯᗩᔕK", "ꮩask", "ⱱąșƙ", "вaск", "ВАСК", "βλιβετ", "ΒΛΙΒΕΤ", "бливет", "bli&#118;et", "bli&#x76;et",
     "bli%76et", "bli\\u0076et", "bl\\x69vet", "bli&amp;#118;et", "bli<b>vet</b>", "blㅤivet", "bli vet", "the b livet",
     "va sk", "tevilb", "ʇǝʌılq", "qlıʌǝʇ", "\u202etevilb", "MyBlivet", "b-l-i-v-e-t", "bli🔥vet", "v🙈sk", "bl*vets"],
)  # fmt: skip
def test_more_ways_to_hide_a_word(text: str) -> None:
    """Where it was is the whole of it, so that a rewrite leaves nothing of it."""
    found = merged(WordList(["blivet", "vask"]).find(f"it says {text}, there"))
    assert found and not re.search("[vᐯв]|bli|vet", replaced(f"it says {text}, there", found, lambda old: "lake"))


@pytest.mark.parametrize(
    "text",
    ["a vast mask", "oliveting", "the vet live", "he'll vet it", "B L I V E T S Y", "вас ждут", "A.V.A.S.K.E.D.",
     "a blue vet", "ksav", "Vasko", "vas ket", "100%25 vet"],
)  # fmt: skip
def test_words_that_only_look_alike(text: str) -> None:
    assert not WordList(["blivet", "vask", "vetlive", "hellvet"]).find(text)


@pytest.mark.parametrize(
    ("word", "found", "left"),
    [
        (
            "blivet",
            ["a b l i v e t", "you are I b l i v e t", "b l i v e t 3 : 0", "b l i v e t   2 0"],
            ["s a b l i v e t"],
        ),
        ("vask", ["2 v a s k", "v a s k s 1"], ["a v a s k", "v a s k a", "v  a  s  k  e  d"]),
        ("grum", ["ɯnɹƃ", "ƃɹnɯ"], ["ɯnɹp", "mnrg"]),
        ("drossik", ["drosik", "Drossiques", "drosicks", "drossyk", "drossikz"], ["drosek", "drossiker", "adrosik"]),
        ("kettrax", ["kettraks", "ketracks"], ["kettra", "kettrask"]),
        ("quibbon", ["kwibbon", "kwibon"], ["kibbon", "quiban"]),
        ("fennick", ["phennik", "fennique"], ["fenwick", "phoenix"]),
        ("vask", [], ["vasc", "vasque"]),
        ("mollup", ["mo//up", "mo||up", "m*llups"], ["mo/up", "m*lls"]),
        (
            "pell gritch",
            ["pellgritch", "pell-gr*tch", "p*ll gritch", "pell gr*tchs"],
            ["pell-mell", "p*** g*****", "pel"],
        ),
        ("go vet", [], ["govet"]),
        ("zorktip", ["zork🔥tip", "zork❤️‍🔥tip", "zork👍🏽tip"], ["zork🔥 top", "🔥tip"]),
    ],
)
def test_what_strangers_wrote(word: str, found: list[str], left: list[str]) -> None:
    """The kinds that the first evasions by others showed."""
    own = WordList([word])
    assert [text for text in found if not own.find(text)] == []
    assert [text for text in left if own.find(text)] == []


def test_english_words_that_sound_like_an_entry_are_none() -> None:
    innocent = (
        "Niger fagots kafir Pusey Fagott rappist titis Tities rapping rapper cannot beech duchess whorl picky bazaar"
    )
    assert [word for word in innocent.split() if builtin().find(word)] == []
    assert [text for text in ("a s p i c", "a s p i c s", "a s s a i") if builtin().find(text)] == []


@pytest.mark.parametrize(
    ("prompt", "rewrite"),
    [
        ('"BLI" "VET"', '"***" "***"'),
        ("“va” then “sk”", "“**” then “**”"),
        ('a "VA" and a red "SK" and a "CAT"', 'a "**" and a red "**" and a "CAT"'),
        ('"LIVE" "VET"', '"LIVE" "VET"'),
        (
            'the left panel says "BLI", the right one "VET", no gap',
            'the left panel says "***", the right one "***", no gap',
        ),
        ('the screen shows \'"va" + "sk"\' as one word', 'the screen shows \'"**" + "**"\' as one word'),
        ('first row "PELL", second row "GR1TCH"', 'first row "****", second row "******"'),
    ],
)
def test_a_word_in_two_quoted_texts(prompt: str, rewrite: str) -> None:
    for where in ("prompt", "quoted"):
        decision = Policy([Listed("blivet", "vask", "livevet", "pell gritch")], Mask(), where).decide(prompt)  # type: ignore[arg-type]
        assert decision.rewrite == rewrite


@pytest.mark.parametrize(
    ("word", "found", "left"),
    [
        ("жопа", ["жопа", "ЖОПА!", "ж о п а", "жoпa", "жо-па", "ж*па"], ["стоп", "жопают", "жона"]),
        ("笨蛋", ["笨蛋", "你这个笨蛋啊", "笨 蛋", "笨.蛋"], ["笨", "蛋糕很笨"]),
        ("屌", ["很屌的"], ["吊"]),
        ("أحمق", ["أحمق", "احمق", "أَحْمَق", "أحـــمق", "ﺃﺣﻤﻖ", "يا أحمق!"], ["حمق", "أحمقان"]),
        ("バカ", ["バカ", "ﾊﾞｶ", "お前はバカだ"], ["ハカ", "バカンス"]),
        ("바보", ["바보야", "바보"], ["바다"]),
        ("मूर्ख", ["मूर्ख"], ["मर्ख"]),
    ],
)
def test_words_of_other_scripts(word: str, found: list[str], left: list[str]) -> None:
    own = WordList([word])
    assert [text for text in found if not own.find(text)] == []
    assert [text for text in left if own.find(text)] == []


def test_of_text_without_blanks_only_the_word_is_replaced() -> None:
    text = "你这个笨蛋啊"
    assert replaced(text, merged(WordList(["笨蛋"]).find(text)), lambda old: "朋友") == "你这个朋友啊"


@pytest.mark.parametrize("line", ["x", "???", "a+b c&d"])
def test_a_bad_entry_is_named_by_its_number_only(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^mine, line 2: an entry must be a word of at least 2 letters[^?&]*$"):
        WordList(["good", line], "mine")


def test_a_list_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the words in"):
        read_lines(tmp_path / "absent.txt", "words")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="contains no words"):
        read_lines(tmp_path / "empty.txt", "words")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_lines(tmp_path / "latin.txt", "words")
    with pytest.raises(ConfigError, match="needs a list"):
        Words(builtin=False)


def test_long_texts_of_ambiguous_signs_do_not_take_for_ever() -> None:
    """Backtracking would take hours; this is about a second."""
    signs = "l1!|" * 800 + "(<" * 400 + "a.a-" * 400 + ". " * 400 + "a\u200b" * 200 + "aB" * 200 + "&#1" * 200
    assert builtin().find(signs + "a" + "\u0301" * 2000) is not None


def test_nobody_reads_a_toxic_word_by_looking_at_the_sources() -> None:
    strong = [word for word in builtin().words if len(word) > 3]
    listed = re.compile(rf"\b(?:{'|'.join(strong)})\b", re.IGNORECASE)
    folders = [ROOT / "t2iprobe/plugins/toxicity", ROOT / "docs/how-to", ROOT / "tests"]
    files = [path for folder in folders for path in folder.rglob("*toxic*" if folder.name == "tests" else "*")]
    texts = {path.name: path.read_text() for path in files if path.suffix in (".py", ".txt", ".b64", ".md")}
    assert len(texts) > 15
    assert not {name: listed.findall(text) for name, text in texts.items() if listed.search(text)}
