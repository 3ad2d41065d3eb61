"""The viewer as people use it: in Chromium, with a mouse, a keyboard and a phone's width."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import simulation

from t2iprobe.core.runs.runfolder import write_manifest
from t2iprobe.core.sweep import TrialBatch
from t2iprobe.registry.manager import Plugins
from t2iprobe.viewer.app import app
from t2iprobe.viewer.server import Viewer, listening

OPEN = "#large[open]"
AT = ".cell.at"


class Slow:
    """Lets a study go on only as far as a test says."""

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)

    def __call__(self, ask: TrialBatch) -> None:
        """Wait before an ask."""
        self.steps.acquire(timeout=30)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies with some pairs in common, an edit, and a damaged run."""
    place = tmp_path_factory.mktemp("runs")
    simulation.study(count=30).run(place / "many")
    simulation.study(count=8).run(place / "deep/few")
    for name in ("edit", "broken"):
        (place / name).mkdir()
    write_manifest(place / "edit", {"kind": "edit", "settings": {}, "sentence": "<b>Edited.</b>", "model": "tiny"})
    (place / "edit/report.html").write_text("<p id='own'>own page</p><script>document.title = 'ran'</script>")
    (place / "broken/manifest.json").write_text("{")
    return place


@pytest.fixture(scope="module")
def served(runs: Path) -> Iterator[str]:
    """The address of a viewer, with its token."""
    with listening("127.0.0.1", 0) as taken:
        viewer = Viewer(app(runs, Plugins(installed=False), "secret"))
        thread = threading.Thread(target=viewer.run, args=([taken],))
        thread.start()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        viewer.should_exit = True
        thread.join()


@pytest.fixture
def page(browser: Any, served: str) -> Iterator[Any]:
    """A page whose addresses are those of the viewer; scripts must not fail, and nothing else is asked for."""
    errors: list[str] = []
    found = browser.new_page(viewport={"width": 1100, "height": 800}, base_url=served)
    found.set_default_timeout(10_000)
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda said: errors.append(said.text) if "Content Security" in said.text else None)
    found.on(
        "request", lambda request: None if request.url.startswith((served, "data:")) else errors.append(request.url)
    )
    found.goto("/?token=secret")
    yield found
    found.close()
    assert not errors


def names(page: Any) -> list[str]:
    return list(page.locator("#runs th a").all_inner_texts())


def test_runs_are_filtered_sorted_and_compared(page: Any) -> None:
    page.wait_for_selector("#runs tr")
    assert "token" not in page.url
    assert sorted(names(page)) == ["broken", "deep/few", "edit", "many"]
    assert (
        "<b>Edited.</b>" in page.locator("#runs").inner_text()
        and "manifest.json" in page.locator("#runs .reason").inner_text()
    )
    page.click("th[data-sort=name] button")
    assert names(page) == ["many", "edit", "deep/few", "broken"]
    page.select_option("#kind", "climbing")
    page.fill("#text", "few")
    assert names(page) == ["deep/few"] and page.locator("#count").inner_text() == "1 of 4"
    page.reload()
    page.wait_for_selector("#runs tr")
    assert names(page) == ["deep/few"]
    page.fill("#text", "")
    for box in page.locator("#runs input").all():
        box.check()
    page.click("#compare")
    page.wait_for_selector(".cell .picture[style*=url]")
    assert "7 patches and 8 pairs" in page.locator("#common").inner_text()
    page.click("#cell-2-1")
    page.wait_for_selector(OPEN)
    assert page.locator("#stage img").count() == 2 and "1 patched" in page.locator("#large-title").inner_text()


def test_a_cell_is_opened_by_keyboard_and_by_its_address(page: Any) -> None:
    page.goto("/run?run=many")
    page.wait_for_selector(".cell .picture[style*=url]")
    page.focus(".grid")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(OPEN)
    assert page.locator("#large-title").inner_text() == "2 patched · A1 → B1"
    page.keyboard.press("b")
    assert page.locator("[data-mode=blink]").get_attribute("aria-pressed") == "true"
    page.keyboard.press("d")
    page.wait_for_selector("#stage canvas")
    assert "of 255 apart" in page.locator("#stage figcaption").inner_text()
    page.keyboard.press("ArrowRight")
    page.locator("#large-title", has_text="3 patched").wait_for()
    address = page.url
    page.keyboard.press("Escape")
    assert page.locator(OPEN).count() == 0
    page.keyboard.press("ArrowLeft")
    assert "2 patched, pair 1" in page.locator(AT).get_attribute("aria-label")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("#stage canvas")
    assert page.locator("#large-title").inner_text() == "3 patched · A1 → B1"


def test_only_what_is_on_the_screen_is_asked_for(page: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/run?run=many")
    page.wait_for_selector(".cell .picture[style*=url]")
    page.wait_for_timeout(200)
    strips = [url for url in asked if "/strip" in url]
    assert 0 < len(strips) < 30  # 3 for each of the rows on the screen, of 30
    assert not any("pair=29&" in url for url in strips)
    page.focus(".grid")
    with page.expect_request(lambda request: "pair=26&" in request.url):
        page.keyboard.press("Control+End")
    assert page.locator(".row").count() < 15


def test_a_report_is_shown_without_power(page: Any) -> None:
    page.goto("/run?run=edit")
    frame = page.frame_locator("iframe[sandbox=allow-scripts]")
    assert frame.locator("#own").inner_text() == "own page"
    assert page.frames[1].evaluate("self.origin") == "null" and page.frames[1].title() == "ran"
    assert page.locator("#headline").inner_text() == "<b>Edited.</b>"


def test_a_running_study_grows(page: Any, runs: Path) -> None:
    slow = Slow()
    study = threading.Thread(target=simulation.study(simulation.Simulated(slow), 6).run, args=(runs / "live",))
    study.start()
    slow.steps.release(2)
    page.reload()
    page.locator("#runs th", has_text="live").wait_for()
    page.goto("/run?run=live")
    page.locator("#cell-1-5 .picture[style*=url]").wait_for()
    page.locator("#cell-2-0 .picture.none").wait_for()
    assert page.locator(".state.running").count() == 1
    slow.steps.release(100)
    page.locator("#cell-2-0 .picture[style*=url]").wait_for()
    page.locator(".state.finished").wait_for()
    study.join()
    assert page.locator("#headline").inner_text() not in ("", "No answer yet.")


def test_a_phone_scrolls_down_only(page: Any) -> None:
    page.set_viewport_size({"width": 380, "height": 700})
    for path in ("/", "/run?run=many", "/compare?a=many&b=edit"):
        page.goto(path)
        page.wait_for_selector(".state")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def test_the_picture_follows_the_cells(page: Any, runs: Path) -> None:
    def done(words: str) -> str:
        page.locator("#sentence").filter(has_text=words).wait_for()
        return str(page.locator("#picture-result").get_attribute("src"))

    page.set_default_timeout(60_000)  # the first drawing imports torch and loads the model
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/explore#" + urlencode({"source": 'a red sign "OPEN"', "target": 'a red sign "SHUT"', "num_steps": 3}))
    plain = done("Nothing is changed")
    assert page.locator("#undo").is_disabled()
    page.locator('[aria-label="layer 6, step 0"]').drag_to(page.locator('[aria-label="layer 6, step 2"]'))
    dragged = done("in layer 6 at all steps")
    assert plain != dragged and page.locator("#board [aria-selected=true]").count() == 3
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert done("layer 7 at step 0") != dragged
    page.click("#undo")
    assert done("in layer 6 at all steps.") == dragged
    page.reload()
    assert done("in layer 6 at all steps.") == dragged
    page.click("#copy-python")
    page.locator("#said").filter(has_text="copied").wait_for()
    assert "t2i.patch(donor, 'blocks.6.joint_attn.[kv]')" in page.evaluate("navigator.clipboard.readText()")
    page.fill("#word", "shut")
    page.press("#word", "Enter")
    page.wait_for_selector("#map-target:not([hidden])")
    page.fill("#word", "bird")
    page.press("#word", "Enter")
    page.locator("#error").filter(has_text="neither prompt has the word 'bird'").wait_for()
    page.click("#undo")
    page.click("#undo")
    page.click("#save")
    page.fill("#name", "tried")
    page.click("#saving button[value=save]")
    page.wait_for_selector("#said a")
    assert (runs / "tried/result.json").is_file()
    shutil.rmtree(runs / "tried")
