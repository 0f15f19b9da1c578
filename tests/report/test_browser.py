"""The page in headless Chromium, at two widths, light and dark."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import Run

api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright (requirements-dev.txt)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the browser tests need Chromium (Debian: apt install chromium)"
)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}

# Everything that the keyboard must reach: links, buttons, summaries, and boxes whose content is larger than they are.
WANTED = """() => {
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const larger = (way, size, room) => /auto|scroll/.test(style[way]) && element[size] > element[room];
    const wide = larger("overflowX", "scrollWidth", "clientWidth");
    const box = wide || larger("overflowY", "scrollHeight", "clientHeight");
    if (box || element.matches("a, button, summary, input, select")) {
      element.dataset.wanted = String(found.length);
      found.push(element.outerHTML.slice(0, 120));
    }
  }
  return found;
}"""
BROKEN = """() => [...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length"""
OVERFLOW = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


def opened(browser: Any, path: Path, width: int, scheme: str) -> Iterator[Any]:
    """A page, open; on leaving, nothing has gone wrong in it and nothing has been asked for."""
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or troubles.append(request.url[:80]))
    page.goto(path.as_uri())
    yield page
    assert troubles == []
    page.close()


@pytest.fixture(params=[(1400, "light"), (400, "dark")], ids=["wide-light", "narrow-dark"])
def shown(request: pytest.FixtureRequest, browser: Any, run: Run) -> Iterator[Any]:
    """The page, open; on leaving, nothing has gone wrong in it and nothing has been asked for."""
    yield from opened(browser, run.folder / "report.html", *request.param)


def test_everything_loads_and_the_page_never_scrolls_sideways(shown: Any) -> None:
    for opened in (False, True):
        shown.evaluate("opened => document.querySelectorAll('details').forEach(d => d.open = opened)", opened)
        assert shown.evaluate(BROKEN) == 0
        assert shown.evaluate(OVERFLOW) <= 0
    assert shown.locator("img").count() > 40


def test_the_tab_key_reaches_everything(shown: Any) -> None:
    shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    wanted = shown.evaluate(WANTED)
    assert len(wanted) > 10
    reached = []
    for _ in range(3 * len(wanted)):
        shown.keyboard.press("Tab")
        place = shown.evaluate("document.activeElement.dataset.wanted ?? null")
        if place is not None:
            reached.append(int(place))
        focused = shown.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert focused != "none"
        if len(set(reached)) == len(wanted):
            break
    missed = [wanted[place] for place in range(len(wanted)) if place not in reached]
    assert not missed


def test_the_table_of_images_is_sorted_from_the_keyboard(shown: Any, run: Run) -> None:
    heading = shown.locator("table.each thead th", has_text="mIoU")
    button = heading.locator("button")
    button.focus()
    values = []
    for order in ("ascending", "descending"):
        shown.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == order
        values.append([float(text) for text in shown.locator("table.each tbody td:nth-child(2)").all_inner_texts()])
    assert all(a <= b for a, b in pairwise(values[0]))
    assert all(a >= b for a, b in pairwise(values[1]))
    assert len(values[0]) == len(run.names)


def test_axe_finds_nothing_contrast_included(shown: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe.Axe().run(shown, options=RULES).response
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found["violations"]] == []
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
