"""Prompt sets: what a reference means, own templates, GlyphControl's files, and what is said when something is off."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from t2iprobe.api import prompt_set
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair
from t2iprobe.plugins.prompts.glyphcontrol import GlyphControl
from t2iprobe.plugins.prompts.sets import Creative, Simple
from t2iprobe.plugins.prompts.words import OBJECTS, STYLES, TEMPLATES
from t2iprobe.registry.loading import parse_prompt_set
from t2iprobe.registry.manager import Plugins

BUCKETS = {
    "top_1000": ["river", "house", "music", "paper"],
    "1000_10000": ["harbour", "violin", "mustard"],
    "10000_100000": ["barrel-vaulted", "quaver", "lintel"],
    "100000_plus": ["zumbrel", "tikaw"],
}
SENTENCES = ['A mug with "{}" on it.', '"{}" on a wall.', 'A boat named "{}", at sea.']


def words_of(names: list[str]) -> set[str]:
    return {word for name in names for word in BUCKETS[name]}


VAL, TEST = {"top_1000"}, {"1000_10000", "10000_100000", "100000_plus"}


def release(root: Path, seed: int = 0) -> Path:
    """Files as GlyphControl names and writes them; ``seed`` is the order of their lines."""
    draws = random.Random(seed)

    def write(name: str, lines: list[str]) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(draws.sample(lines, len(lines))) + "\n")

    for bucket, words in BUCKETS.items():
        stem = f"all_unigram_{bucket}_100"
        write(f"raw/SimpleBench/{stem}.txt", words)
        write(f"paper/SimpleBench/{stem}_1_gram.txt", [f'A sign that says "{word}".' for word in words])
        prompts = [SENTENCES[place % 3].format(word) for place, word in enumerate(words)]
        write(f"paper/CreativeBench/{stem}_prompt_file_GlyphDraw_origin_remove_render_words.txt", prompts)
    write("raw/CreativeBench/GlyphDraw_origin_remove_render_words.txt", [one.replace("{}", "") for one in SENTENCES])
    return root


def template(prompt: str, word: str) -> str:
    return prompt.replace(f'"{word}"', '"{}"')


@pytest.mark.parametrize(
    ("ref", "parsed"),
    [
        ("simple", ("simple", [], {})),
        ("simple:words=3", ("simple", [], {"words": 3})),
        ("glyphcontrol:a/b", ("glyphcontrol", ["a/b"], {})),
        ("glyphcontrol:a, b=c,split=val", ("glyphcontrol", ["a, b=c"], {"split": "val"})),
        ("glyphcontrol:C:/a,bench=simple,split=val", ("glyphcontrol", ["C:/a"], {"bench": "simple", "split": "val"})),
    ],
)
def test_references(ref: str, parsed: object) -> None:
    assert parse_prompt_set(ref) == parsed


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("simpel", "no prompt set 'simpel'; did you mean simple?"),
        ("simple:word=3", "simple has no option 'word'; did you mean words?"),
        ("simple:three", "takes no argument, found 'three'; write simple:words=…"),
        ("simple:words=x", "words must be a whole number, found 'x'"),
        ("simple:words=65", "phrases of 65 words cannot be made of 128 words, each used once; choose 1 to 64"),
        ("creative:templates=other", "no templates 'other'; there are different, same"),
        ("signs:words=3", "signs has no option 'words'; there are source"),
        ("glyphcontrol", "needs a path: write glyphcontrol:PATH"),
        ("glyphcontrol:none", "no file or folder none: give GlyphControl's text_prompts/paper"),
        ("glyphcontrol:.", "has no .txt files"),
        ("glyphcontrol:.,split=tests", "no split 'tests'; did you mean test?"),
        ("csv:none.csv", "cannot read the pairs in none.csv"),
    ],
)
def test_references_that_are_off(ref: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        prompt_set(ref)
    assert said in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(("ref", "concept"), [("creative", "colour"), ("signs", "object"), ("simple", "mood")])
def test_a_set_says_which_concepts_it_has(ref: str, concept: str) -> None:
    with pytest.raises(ConfigError, match=r"has pairs for text|use one of text"):
        prompt_set(ref, concept=concept)


@pytest.mark.parametrize("concept", ["style", "object"])
def test_styles_and_objects(concept: str) -> None:
    pairs = Simple().pairs(concept=concept, seed=5)
    assert pairs[:9] == Simple().pairs(9, concept=concept, seed=5) and len(pairs) == len(OBJECTS)
    for index, pair in enumerate(pairs):
        assert (pair.seed, pair.concept) == (5 + index, concept)
        assert pair.source_word != pair.target_word
        assert {pair.source_word, pair.target_word} <= set(OBJECTS if concept == "object" else STYLES)
        assert pair.source_word in pair.source and pair.target_word in pair.target
        assert Pair.from_prompts(pair.source, pair.target, 0, concept).target_word in pair.target_word


@pytest.mark.parametrize("kind", [Simple, Creative])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_texts_of_several_words_share_none(kind: type[Simple | Creative], count: int) -> None:
    pairs = kind(words=count).pairs(seed=2)
    assert len({pair.source_word for pair in pairs}) == len(pairs) >= 100
    for pair in pairs:
        one, other = pair.source_word.split(), pair.target_word.split()
        assert len({*one, *other}) == 2 * count
        assert pair == Pair.from_prompts(pair.source, pair.target, pair.seed)


@pytest.mark.parametrize("ref", ["simple:seeds=4", "creative:seeds=4"])
def test_several_noises_of_a_pair_stand_together(ref: str) -> None:
    pairs = prompt_set(ref, limit=10, seed=3)
    assert [pair.seed for pair in pairs] == list(range(3, 13))
    once = prompt_set(ref.removesuffix(":seeds=4"), limit=3, seed=3)
    assert [pair.source for pair in pairs] == [once[place // 4].source for place in range(10)]


def test_published_noises_are_the_same_for_every_pair(tmp_path: Path) -> None:
    pairs = GlyphControl(str(release(tmp_path) / "paper"), noise="shared", seeds=4).pairs(8, seed=42)
    assert [pair.seed for pair in pairs] == [42, 43, 44, 45] * 2 and len({pair.source for pair in pairs}) == 2
    with pytest.raises(ConfigError, match="seeds must be a whole number from 1"):
        Simple(seeds=0)


def test_own_templates() -> None:
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 40
    assert all(one.count('"{}"') == 1 and one.count('"') == 2 and one.endswith(".") for one in TEMPLATES)


def test_creative_deals_its_templates_evenly_and_can_differ() -> None:
    same, different = Creative().pairs(seed=1), Creative(templates="different").pairs(seed=1)
    used = Counter(template(pair.source, pair.source_word) for pair in same)
    assert len(used) == 40 and max(used.values()) - min(used.values()) <= 1
    assert all(template(p.source, p.source_word) == template(p.target, p.target_word) for p in same)
    assert all(template(p.source, p.source_word) != template(p.target, p.target_word) for p in different)
    assert [pair.source for pair in same] == [pair.source for pair in different]
    assert same != Creative().pairs(seed=2) and same[:7] == Creative().pairs(7, seed=1)


@pytest.mark.parametrize("folder", ["paper", "raw", "."])
@pytest.mark.parametrize("options", ["", ",split=val", ",split=test", ",bench=simple", ",templates=different"])
def test_glyphcontrol_does_not_hang_on_the_order_of_lines(folder: str, options: str, tmp_path: Path) -> None:
    one, other = release(tmp_path / "one", 1), release(tmp_path / "two", 2)
    name = "bench=creative" if "different" in options else ""
    refs = [f"glyphcontrol:{root / folder}{options}{name and ',' + name}" for root in (one, other)]
    first, second = (prompt_set(ref, seed=42) for ref in refs)
    assert first == second
    assert first[:3] == prompt_set(refs[0], seed=42, limit=3)
    assert first != prompt_set(refs[0], seed=43)


@pytest.mark.parametrize("folder", ["paper", "raw"])
@pytest.mark.parametrize(("split", "buckets"), [("val", VAL), ("test", TEST), ("all", VAL | TEST)])
def test_glyphcontrol_splits_and_pairs_within_a_bucket(
    folder: str, split: str, buckets: set[str], tmp_path: Path
) -> None:
    root = release(tmp_path / "text_prompts")
    pairs = GlyphControl(str(root / folder), split=split).pairs(seed=7)
    if folder == "paper":  # what the release is found by
        assert all(GlyphControl(str(one), split=split).pairs(seed=7) == pairs for one in (root, tmp_path))
    of = {word: bucket for bucket, words in BUCKETS.items() for word in words}
    assert Counter(pair.source_word for pair in pairs) == dict.fromkeys(words_of(sorted(buckets)), 2)
    assert Counter(pair.target_word for pair in pairs) == Counter(pair.source_word for pair in pairs)
    assert all(of[pair.source_word] == of[pair.target_word] for pair in pairs)
    assert all(pair.source_word != pair.target_word for pair in pairs)
    assert [pair.seed for pair in pairs] == list(range(7, 7 + len(pairs)))
    assert all(pair == Pair.from_prompts(pair.source, pair.target, pair.seed) for pair in pairs)
    simple = [pair for pair in pairs if pair.source.startswith("A sign that says")]
    assert len(simple) == len(pairs) / 2
    assert all(template(pair.source, pair.source_word) in SENTENCES for pair in pairs if pair not in simple)


def test_glyphcontrol_keeps_the_sentence_of_a_word_and_the_noise_when_asked(tmp_path: Path) -> None:
    folder = str(release(tmp_path) / "paper")
    shared = GlyphControl(folder, bench="creative", split="val", noise="shared").pairs(seed=42)
    assert {pair.seed for pair in shared} == {42}
    written = {SENTENCES[place % 3].format(word) for place, word in enumerate(BUCKETS["top_1000"])}
    assert {pair.source for pair in shared} == written
    different = GlyphControl(folder, bench="creative", templates="different").pairs()
    assert all(template(p.source, p.source_word) != template(p.target, p.target_word) for p in different)
    with pytest.raises(ConfigError, match="needs two or more templates"):
        GlyphControl(folder, bench="simple", templates="different").pairs()


def test_glyphcontrol_reads_one_file(tmp_path: Path) -> None:
    root = release(tmp_path)
    words = root / "raw/SimpleBench/all_unigram_top_1000_100.txt"
    assert {pair.source_word for pair in GlyphControl(str(words)).pairs()} == words_of(["top_1000"])
    own = tmp_path / "mine.txt"
    own.write_bytes('\ufeffA cake with "one two".\r\n\r\nA cap with "three".\r\n'.encode())
    assert {pair.source for pair in GlyphControl(str(own)).pairs()} == {'A cake with "one two".', 'A cap with "three".'}
    with pytest.raises(ConfigError, match=r"no prompts of the split val and the bench both; it has mine.txt"):
        GlyphControl(str(own), split="val").pairs()
    templates = root / "raw/CreativeBench/GlyphDraw_origin_remove_render_words.txt"
    with pytest.raises(ConfigError, match="has no prompts"):
        GlyphControl(str(templates)).pairs()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"two words\n", "one word, or a prompt with one text in quotes, found: two words"),
        (b'a "b" and "c"\n', "one text in quotes"),
        (b"caf\xe9\n", "not UTF-8"),
        (b"one\n", "at least two different items"),
    ],
)
def test_glyphcontrol_says_what_a_file_is_not(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        GlyphControl(str(tmp_path / "odd.txt")).pairs()


def test_csv_as_a_set(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text('source,target,concept\n"a ""A""","a ""B""",text\na red cap,a blue cap,colour\n')
    assert prompt_set(f"csv:{file}", seed=4) == [Pair('a "A"', 'a "B"', 4, "A", "B")]
    assert [pair.target_word for pair in prompt_set(f"csv:{file}", concept="colour")] == ["blue"]
    with pytest.raises(ConfigError, match="no pairs for the concept object"):
        prompt_set(f"csv:{file}", concept="object")
    with pytest.raises(ConfigError, match="has 1 pair, but 2 were requested"):
        prompt_set(f"csv:{file}", limit=2)


def test_every_set_is_built_as_the_hook_says() -> None:
    sets = Plugins(installed=False).prompt_sets()
    assert set(sets) == {"simple", "creative", "glyphcontrol", "csv", "signs", "digits"}
