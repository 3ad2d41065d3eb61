"""The report page, as a reader meets it: in Chromium, with a mouse, a keyboard and a phone's width."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2iprobe.core.html import data_uri
from t2iprobe.core.scope import Scope
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trials import Trial, source
from t2iprobe.report.page import charted, overlap, patched
from t2iprobe.report.render import render
from t2iprobe.report.sections import OVERLAPS, Bar, HeatMap, Overlap, Page, PairView, ReportTable, Section, TrialView

LABELS = ("source", "target", "0", "1", "2")


def interval(value: float) -> Interval:
    return Interval(value, max(0.0, value - 0.1), min(1.0, value + 0.1))


def flat(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (32, 32), colour)


@pytest.fixture(scope="module")
def view() -> Page:
    trials = [
        TrialView(
            str(i), f"blocks.{i}", interval(score), interval(score), 0.5, 0.9, "found" if i == 1 else "none", i == 1
        )
        for i, score in enumerate((0.1, 0.95, 0.3))
    ]
    images = {label: data_uri(flat((40 * i, 10, 200))) for i, label in enumerate(LABELS) if label != "0"}
    pairs = [PairView("CAT", "</script><b>DOG", 'a sign that says "CAT"', "b & c", images)]
    heat = HeatMap("Share by step.", ["layer 1", "layer 2"], ["0-4", "5-9"], [[1.0, 0.0], [0.5, float("nan")]])
    table = ReportTable(["set", "x"], [["a", 2.0], ["b", 10.0]])
    section = Section("Steps", "Which matter.", table, [Bar("0-4", interval(0.4))], maps=[heat])
    return Page(
        "tiny <model>", "Layer 1 writes the text.", [section], "t2iprobe localize", {"rows": "10"}, {"torch": "2"},
        "ocr_f1", (interval(0.2), interval(1.0)), trials, pairs, 9, [("t2iprobe edit", "edit it")],
    )  # fmt: skip


def test_text_cannot_become_markup(view: Page) -> None:
    page = render(view)
    assert "<b>DOG" not in page and "tiny &lt;model&gt;" in page
    assert page.count("</script>") == 2  # the gallery's and the page's own


def test_the_page_needs_no_network(view: Page) -> None:
    page = render(view)
    assert "http://" not in page and "https://" not in page and "@import" not in page


@pytest.mark.parametrize(
    ("sites", "short"),
    [
        (["blocks.6.joint_attn.k", "blocks.6.joint_attn.v"], "blocks.6.joint_attn.{k,v}"),
        ([f"blocks.{i}.cross_attn.{port}" for i in (0, 1, 2, 9) for port in "kv"], "blocks.0-2+9.cross_attn.{k,v}"),
        (["blocks.3.cross_attn.text"], "blocks.3.cross_attn.text"),
        (["pooled", "blocks.3.cross_attn.k"], "pooled, blocks.3.cross_attn.k"),
        ([], ""),
    ],
)
def test_sites_in_short(sites: list[str], short: str) -> None:
    assert patched(sites) == short


@pytest.mark.parametrize(
    ("layers", "found", "holds"),
    [
        ((3,), (3, 5), "found"),
        ((3, 5), (3, 5), "found"),
        (range(7), (3, 5), "all"),
        (range(7), (6,), "all"),
        ((3, 4), (3, 5), "some"),
        ((3, 5), (3, 5, 6), "some"),
        ((0, 1), (3, 5), "none"),
        ((0, 1), (), "none"),
        ((), (3,), "none"),
    ],
)
def test_what_a_patch_holds_of_the_answer(layers: Sequence[int], found: Sequence[int], holds: Overlap) -> None:
    assert overlap(layers, found) == holds


def test_sets_that_hold_the_answer_are_told_apart_without_colour() -> None:
    kinds: dict[str, Overlap] = {"6": "found", "0-6": "all", "6+7": "some", "0-5": "none"}
    trials = [TrialView(name, "", interval(0.5), interval(0.5), 0.5, 0.9, one) for name, one in kinds.items()]
    page = render(Page("", "", trials=trials))
    legend = page.split('class="legend">')[1].split("</p>")[0]
    for name, kind in kinds.items():
        mark, words = OVERLAPS[kind]
        assert f'class="pick {kind}" data-trial="{name}"' in page and f"{words} " in legend
        assert re.search(rf'aria-label="(layer )?{re.escape(name)}: [^"]*, {words}"', page)
        assert f'<td class="line">{words}</td>' in page
        assert mark in legend
    single = render(Page("", "", trials=[trials[0], trials[3]]))
    assert OVERLAPS["all"][1] not in single and OVERLAPS["some"][1] not in single


@pytest.mark.parametrize(
    ("sentence", "headline", "explanation"),
    [
        ("Layer 6 writes the text: 98 % [90, 99].", "Layer 6 writes the text: 98 % [90, 99].", ""),
        ("Layer 6 writes it. Others, e.g. 7, do not.", "Layer 6 writes it.", "Others, e.g. 7, do not."),
        ("Nothing stands out: " + "no " * 60 + "layer does. Ask more.", "Nothing stands out", "No no"),
    ],
)
def test_a_long_answer_has_a_short_headline(sentence: str, headline: str, explanation: str) -> None:
    view = Page("", sentence)
    assert view.headline == headline and view.explanation.startswith(explanation)
    words = (view.headline + view.explanation).lower()
    assert [one for one in words if one.isalnum()] == [one for one in sentence.lower() if one.isalnum()]


def test_a_scope_that_all_patches_share_is_the_whole() -> None:
    def trials(*scopes: Scope) -> list[Trial]:
        return [
            Trial(str(layer), (f"blocks.{layer}.cross_attn.k",), layers=(layer,), scope=scope)
            for layer, scope in enumerate(scopes)
        ]

    cond, head = Scope(branches="cond"), Scope(heads=0)
    for scopes, shown in (([cond, cond], ["0", "1"]), ([cond, head], []), ([Scope(), head], ["0"])):
        assert [one.label for one in charted([source(), *trials(*scopes)], layers=2)] == shown


def test_large_pictures_are_made_small() -> None:
    assert data_uri(flat((1, 2, 3))).startswith("data:image/png")
    large = data_uri(Image.effect_noise((1024, 512), 60).convert("RGB"))
    assert large.startswith("data:image/webp") and len(large) < 100_000


@pytest.fixture
def page(browser: Any, view: Page, tmp_path: Path) -> Iterator[Any]:
    file = tmp_path / "report.html"
    file.write_text(render(view), encoding="utf-8")
    errors: list[str] = []
    found = browser.new_page(viewport={"width": 1100, "height": 900})
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("request", lambda request: None if request.url[:5] in ("file:", "data:") else errors.append(request.url))
    found.goto(file.as_uri())
    yield found
    assert not errors
    found.close()


def shown(page: Any) -> list[str]:
    return [str(one.get_attribute("src")) for one in page.locator(".patched img").all()]


def test_the_found_layer_is_chosen_first(page: Any, view: Page) -> None:
    assert shown(page) == [view.pairs[0].images["1"]]
    assert page.locator("h1").inner_text() == view.headline == view.sentence


@pytest.mark.parametrize("how", ["click", "keyboard"])
def test_several_layers_show_their_pictures_side_by_side(page: Any, view: Page, how: str) -> None:
    column = page.locator('[data-trial="2"]')
    if how == "keyboard":
        page.locator('[data-trial="1"]').focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    else:
        column.click()
    images = view.pairs[0].images
    assert shown(page) == [images["1"], images["2"]]
    assert column.get_attribute("aria-pressed") == "true"
    assert "30" in page.locator("#chosen").inner_text()
    page.locator('[data-trial="1"]').click()
    assert shown(page) == [images["2"]]
    page.locator('[data-pick="every"]').click()  # the pair was not run with layer 0
    assert shown(page) == [images["1"], images["2"]]


def test_pairs_have_their_whole_prompts_and_are_counted(page: Any, view: Page) -> None:
    words = page.locator(".prompts").first.inner_text()
    assert view.pairs[0].source_prompt in words and view.pairs[0].target_prompt in words
    assert "1 of 9 pairs" in page.locator(".panel").inner_text()


def test_a_table_sorts_by_number(page: Any) -> None:
    table = page.locator("table.sortable").nth(1)
    table.locator("th button").nth(1).click()
    assert table.locator("tbody tr").first.inner_text().split()[0] == "b"  # 10 above 2
    table.locator("th button").nth(1).click()
    assert table.locator("tbody tr").first.inner_text().split()[0] == "a"


def test_a_bar_and_its_interval_are_as_high_as_their_values(page: Any) -> None:
    place = page.locator('[data-trial="0"] .column').bounding_box()
    for trial, value, low, high in ((0, 0.1, 0.0, 0.2), (1, 0.95, 0.85, 1.0), (2, 0.3, 0.2, 0.4)):
        inside = page.locator(f'[data-trial="{trial}"]')
        bar, error = (inside.locator(one).bounding_box() for one in (".bar", ".error"))
        heights = [bar["height"], place["y"] + place["height"] - error["y"] - error["height"], error["height"]]
        shares = [one / place["height"] for one in heights]
        assert shares == pytest.approx([value, low, high - low], abs=0.02)
    wide = page.locator(".chart.big").bounding_box()["width"]
    assert wide > 0.9 * page.locator("#layers").bounding_box()["width"], "the chart does not use the page"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_heat_map_is_darker_where_there_is_more_and_legible_everywhere(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    cells = page.locator(".heat td[style]")
    seen = cells.evaluate_all(
        "all => all.map(cell => [getComputedStyle(cell).backgroundColor, getComputedStyle(cell).color])"
    )
    full, nothing, half = ([_luminance(colour) for colour in pair] for pair in seen)
    card = _luminance(page.evaluate("getComputedStyle(document.querySelector('.panel')).backgroundColor"))
    assert nothing[0] == pytest.approx(card, abs=0.01)
    assert abs(full[0] - card) > abs(half[0] - card) > 0.03
    for back, front in (full, nothing, half):
        assert (max(back, front) + 0.05) / (min(back, front) + 0.05) >= 4.5  # WCAG 2.1, contrast of text


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of ``rgb(…)`` or ``color(srgb …)``."""
    numbers = [float(one) for one in re.findall(r"[\d.]+(?:e-?\d+)?", colour)][:3]
    shares = numbers if "srgb" in colour else [one / 255 for one in numbers]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_reads_it_in_light_and_dark(page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red + green + blue > 600) == (scheme == "light")
