"""The report works in a real browser: it renders, tabs and samples work, also on a phone."""

import io
import shutil
import time
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.image import imread

from didact.core.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip(
        "no chromium and chromedriver installed (Debian: apt-get install chromium chromium-driver)",
        allow_module_level=True,
    )
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

TABS = [
    "Results",
    "Curves",
    "Difficulty",
    "pass@k",
    "Costs",
    "Overlap",
    "Answers",
    "Recipes",
    "Runs",
]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Page:
    """A page in the browser, with what tests ask of it."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def load(self, width=1200, height=900, *, dark=False, phone=False):
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get(self.address)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def open(self, title):
        tab = next(tab for tab in self.all("[role=tab]") if tab.text == title)
        tab.click()

    def wait(self, script, seconds=10):
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return found

    def run(self, script, *given):
        return self.driver.execute_script(f"return {script}", *given)

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def picture(self):
        """The screen as [height, width, 3] in 0..1."""
        return imread(io.BytesIO(self.driver.get_screenshot_as_png()))[:, :, :3]


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    report = build_report(comparison, tmp_path_factory.mktemp("report"))
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Page(driver, report.as_uri())
    driver.quit()


def test_every_tab_opens_and_shows_only_its_own_panel(page):
    page.load()
    assert [tab.text for tab in page.all("[role=tab]")] == TABS
    for title in TABS:
        page.open(title)
        shown = [panel for panel in page.all("[role=tabpanel]") if panel.is_displayed()]
        assert [panel.find_element("css selector", "h2").text for panel in shown] == [title]
        assert page.run("document.querySelectorAll('[aria-selected=true]').length") == 1
    assert page.complaints() == []


def test_tabs_work_from_the_keyboard_and_the_address(page):
    page.load()
    page.one("[role=tab]").send_keys("\ue014")  # right arrow
    assert page.one("#curves").is_displayed()
    page.driver.get("about:blank")
    page.driver.get(page.address + "#answers")
    assert page.one("#answers").is_displayed()


def test_charts_are_drawn_with_a_trace_for_every_method(page):
    page.load()
    page.wait("document.querySelectorAll('#results .plot .trace').length === 2")
    page.open("Curves")
    page.wait("document.querySelectorAll('#curves figure[data-metric] .main-svg').length >= 9")
    first = "document.querySelector('#curves figure[data-metric] .plot')"
    assert page.run(f"{first}.data.length") == 2
    assert page.run(f"{first}.layout.xaxis.title.text") == "steps"
    assert page.run(f"{first}.data.every((line) => line.y.length === 3)")
    assert "relift ends at" in page.run(f"{first}.getAttribute('aria-label')")
    rows = page.run("document.querySelectorAll('#curves figure[data-metric] table')[0].rows.length")
    assert rows == 2
    assert page.complaints() == []


def test_curves_can_be_shown_over_any_budget_and_with_single_seeds(page):
    page.load()
    page.open("Curves")
    first = "document.querySelector('#curves figure[data-metric] .plot')"
    for axis in ("generated tokens", "trained tokens", "seconds", "demonstrations"):
        page.one(f"#axis option:nth-child({1 + options(page).index(axis)})").click()
        page.wait(f"{first}.layout.xaxis.title.text === '{axis}'")
    used = page.run(f"{first}.data.map((line) => line.x[line.x.length - 1])")
    assert used == [0, 160]
    page.one("#singles").click()
    page.wait(f"{first}.data.length === 8")  # two means and two times three seeds


def options(page):
    return page.run("[...document.querySelectorAll('#axis option')].map((o) => o.text)")


def test_methods_are_hidden_and_shown_in_all_charts_by_the_legend(page):
    page.load()
    labels = "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data.map(t => t.name))"
    page.wait("document.querySelectorAll('#results .js-plotly-plot').length > 0")
    (first,) = page.run(labels)
    assert first == ["grpo", "relift"]
    key = page.one("#results .legend button")
    key.click()
    assert page.run(labels) == [["relift"]] and key.get_attribute("aria-pressed") == "false"
    page.open("pass@k")
    page.wait("document.querySelectorAll('#pass .js-plotly-plot').length > 0")
    assert all(names == ["relift"] for names in page.run(labels))
    page.open("Results")
    webdriver.ActionChains(page.driver).double_click(key).perform()
    assert all(names == ["grpo"] for names in page.run(labels))
    webdriver.ActionChains(page.driver).double_click(key).perform()
    assert all(names == ["grpo", "relift"] for names in page.run(labels))
    assert page.complaints() == []


def test_the_browser_of_answers_pages_filters_and_searches(page):
    page.load()
    page.open("Answers")
    browser = "[data-browser=answers]"
    assert len(page.all(f"{browser} .card")) == 2
    before = page.one(f"{browser} .question").text
    page.one(f"{browser} .after").click()
    assert page.one(f"{browser} .question").text != before
    page.one(f"{browser} .before").click()
    assert page.one(f"{browser} .question").text == before
    assert "<b>Answer</b>" in before  # shown as text, not as markup
    page.one(f"{browser} .filter option[value=disagree]").click()
    marks = [card.find_element("css selector", ".tag span:not(.tag)") for card in
             page.all(f"{browser} .card > .answer")]  # fmt: skip
    assert {mark.text for mark in marks} == {"✓ right", "✗ wrong"}
    page.one(f"{browser} input").send_keys("no such text")
    assert "Nothing matches." in page.one(f"{browser} .place").text
    training = page.one("[data-browser=training]").text
    assert "critic: Check <i>step</i> two." in training
    assert "truncated" in training
    assert page.complaints() == []


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_sticks_out_on_a_phone(page, width):
    page.load(width, 800, phone=True)
    for title in TABS:
        page.run("[...document.querySelectorAll('[role=tab]')]"
                 f".find((tab) => tab.textContent === '{title}').click()")  # fmt: skip
        page.wait("document.querySelector('.open') !== null")
        assert page.run("document.documentElement.scrollWidth") <= width, title
        wide = page.run(
            "[...document.querySelectorAll('.open .plot, .open figure, .open .card, .open select')]"
            ".filter((node) => node.getBoundingClientRect().right > innerWidth + 1)"
            ".map((node) => node.outerHTML.slice(0, 80))"
        )
        assert wide == [], title
    assert page.complaints() == []


def test_the_page_is_light_or_dark_as_the_reader_wants(page):
    pictures = {}
    for dark in (False, True):
        page.load(dark=dark)
        page.wait("document.querySelectorAll('#results .plot .trace').length === 2")
        pictures[dark] = page.picture()
    assert np.median(pictures[False]) > 0.95
    assert np.median(pictures[True]) < 0.15
    for picture in pictures.values():  # text and chart stand out from the background
        unlike = np.abs(picture - np.median(picture)).max(axis=2) > 0.4
        assert 0.01 < unlike.mean() < 0.3


def test_charts_follow_a_change_of_scheme(page):
    page.load()
    text = "document.querySelector('#results .plot').layout.font.color"
    light = page.wait(text)
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    page.wait(f"{text} !== '{light}'")


def test_the_layout_keeps_its_order(page):
    """What matters first comes first, and parts do not lie over each other."""
    page.load()
    page.wait("document.querySelectorAll('#results .plot .trace').length === 2")
    order = ["h1", "[role=tablist]", "#results .words", "#results .warn", "#results .legend"]
    boxes = [page.one(selector).rect for selector in [*order, "#results .plot", "#results table"]]
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"] + 1
    plot = boxes[-2]
    assert plot["height"] > 200
    assert plot["width"] > 800
    x, y = int(plot["x"]), int(plot["y"])
    colors = page.picture()[y : y + int(plot["height"]), x : x + int(plot["width"])].reshape(-1, 3)
    for wanted in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):  # both methods are in the picture
        assert (np.abs(colors - np.array(wanted) / 255).max(axis=1) < 0.03).sum() > 30


def test_without_scripts_all_tables_can_still_be_read(page, comparison):
    driver = page.driver
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.load()
    shown = [panel.is_displayed() for panel in page.all("[role=tabpanel]:not(#answers)")]
    noscript = page.one("noscript p").is_displayed()
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert all(shown)
    assert noscript
