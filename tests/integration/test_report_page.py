"""Every page in headless Chromium: drawn, dark and light, on paper, on a phone, by key.

Needs Debian's `chromium` and `chromium-driver`, and the package `selenium`; left out with a reason without them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyray.report.run_report import write_report
from polyray.report.sweep.report import write_sweep_report
from polyray.report.sweep.results import sweep_results
from polyray.shelf.research.evaluated.files import write_results
from polyray.shelf.research.evaluated.inputs import read_inputs
from polyray.shelf.research.evaluated.results import analyse
from polyray.shelf.research.lora.page import write_lora_page
from polyray.shelf.research.mechanistic.page import write_mechanistic_page
from tests.generation_page import chromium, missing_browser, wait_for
from tests.unit.report import report_fixtures, sweep_fixtures

REASON = missing_browser()
pytestmark = [
    pytest.mark.slow,  # Chromium draws some forty figures again and again
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

PAGES = {"report": 15, "sweep": 6, "lora": 12, "mechanistic": 11, "evaluation": 6}
"""Name -> figures on it, at least."""
MODELS = {
    "SFT": [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]],
    "GRPO": [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]],
    "Poly": [[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]],
}
DARK, LIGHT = "rgb(15, 19, 24)", "rgb(247, 248, 250)"


def write_runs(root: Path) -> Path:
    """Write runs of a quickstart, one killed and one without a metric."""
    report_fixtures.write_training_run(root / "sft-seed0", None)
    for name, kind in (("grpo-seed0", "grpo"), ("poly-seed0", "polychromic")):
        run = report_fixtures.write_training_run(root / name, {"type": kind}, steps=40)
        rounds = [
            {"step": step, "pass_at_1": 0.3 + step / 100, "diversity": 0.5 - step / 200}
            for step in range(0, 40, 8)
        ]
        (run / "dynamics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rounds))
    (root / "grpo-seed0" / "DONE").write_text('{"steps": 40}')
    cost = {"job": "train", "wall_s": 94.0, "core_s": 376.0}
    (root / "grpo-seed0" / "cost.json").write_text(json.dumps(cost))
    report_fixtures.write_evaluation(root / "evaluation-seed0", MODELS, baseline="GRPO")
    return root


def write_sweep(root: Path) -> dict[str, Any]:
    counts = {"p0": [1] * 4, "p1": [1] * 4, "d0": [3] * 4, "d1": [2] * 4}
    evaluation = sweep_fixtures.write_evaluation(root / "evaluation", counts)
    trials = [sweep_fixtures.trial(name, 0.5 * (name[0] == "d"), int(name[1])) for name in counts]
    return sweep_results(
        trials, evaluation, {}, axis=sweep_fixtures.AXIS, objective="the pairwise set objective", baseline=0.0,
        quality="pass_at_1", diversity="distinct_correct_at_2", ks=(1, 2), margin=0.1, seed=0,
    )  # fmt: skip


def lora_results() -> dict[str, Any]:
    names = ["/runs/a/adapter", "/runs/b/adapter", "/runs/c/adapter"]
    pairs = [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]

    def modules(**numbers: Any) -> list[dict[str, Any]]:
        places = [(layer, name) for layer in range(4) for name in ("self_attn.q_proj", "mlp.up_proj")]
        return [{"layer": layer, "module": name, **numbers} for layer, name in places]

    return {
        "base_sha256": "9f86",
        "since": None,
        "adapters": [
            {"name": name, "rank": 2, "modules": modules(norm=1.0, effective_rank=1.5)} for name in names
        ],
        "overlaps": [
            {"first": first, "second": second, "modules": modules(cosine=0.5)} for first, second in pairs
        ],
        "arms": [{"first": "x", "second": "y", "modules": modules(excess=0.2, p_adjusted=0.01, smallest_p=0.001)}],
        "drift": {"checkpoints": ["v0", "v20"], "modules": modules(from_first=[0.0, 1.0])},
    }  # fmt: skip


def mechanistic_results() -> dict[str, Any]:
    """Three models, four layers, two heads."""
    models = ["SFT", "GRPO", "Poly"]

    def by_layer(**values: float) -> list[dict[str, Any]]:
        bounds = {f"{name}_{end}": value for name, value in values.items() for end in ("low", "high")}
        return [
            {"model": model, "layer": layer, **values, **bounds} for model in models for layer in range(1, 5)
        ]

    heads = [
        {"model": model, "layer": layer, "head": head, "entropy": 0.5, "distance": 0.1}
        for model in models
        for layer in range(1, 5)
        for head in range(2)
    ]
    return {
        "evaluation": "evaluation-seed0", "reference": "SFT", "models": models, "prompts": 3, "samples": 4,
        "confidence": 0.95, "layers": [1, 2, 3, 4], "attention": heads,
        "attention_by_layer": by_layer(entropy=0.5, distance=0.1),
        "clusters": by_layer(count=2.5, silhouette=0.4, stability=0.9, agreement=0.7),
    }  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> address of a file, as a reader opens it."""
    root = tmp_path_factory.mktemp("pages")
    write_report([write_runs(root / "quickstart")], root / "report.html")
    write_sweep_report(write_sweep(root / "sweep-run"), root / "sweep.html")
    write_lora_page(lora_results(), root / "lora.html")
    write_mechanistic_page(mechanistic_results(), root / "mechanistic.html")
    write_results(analyse(read_inputs([root / "quickstart" / "evaluation-seed0"])), root / "analysis")
    (root / "analysis" / "evaluation.html").rename(root / "evaluation.html")
    return {name: (root / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def driver(browser: Any) -> Iterator[Any]:
    """Fails the test for anything that a page wrote to the console."""
    browser.get_log("browser")
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert complaints(browser) == []


def complaints(driver: Any) -> list[str]:
    """Console messages of pages, without the ones about software WebGL."""
    messages = [entry["message"] for entry in driver.get_log("browser")]
    return [text for text in messages if "software WebGL" not in text and "GL Driver Message" not in text]


def opened(driver: Any, url: str, *, dark: bool = False) -> Any:
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [feature]})
    driver.get(url)
    return driver


def background(driver: Any) -> str:
    return driver.execute_script("return getComputedStyle(document.body).backgroundColor")


def undrawn(driver: Any) -> list[str]:
    """Figures without anything in them."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.plot')]"
        ".filter((plot) => !plot.querySelector('svg.main-svg .trace, svg.main-svg .hm image, svg.main-svg .points, "
        "svg.main-svg .parcoords, svg.main-svg path.js-line') && !plot.querySelector('.parcoords'))"
        ".map((plot) => plot.id)"
    )


def figure_ink(driver: Any) -> set[str]:
    """The colours of the labels on axes."""
    return set(
        driver.execute_script(
            "return [...document.querySelectorAll('.plot .xtick text')].map((text) => getComputedStyle(text).fill)"
        )
    )


def press(driver: Any, key: str) -> None:
    keys = importlib.import_module("selenium.webdriver.common.keys").Keys
    actions = importlib.import_module("selenium.webdriver").ActionChains(driver)
    actions.send_keys(getattr(keys, key)).perform()


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_drawn_without_console_messages(
    driver: Any, pages: dict[str, str], name: str
) -> None:
    opened(driver, pages[name])
    driver.execute_script(
        "for (const each of document.querySelectorAll('main details:not(.data)')) each.open = true"
    )
    count = driver.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done(document.querySelectorAll('.plot').length), 100)"
    )
    assert count >= PAGES[name] and undrawn(driver) == []
    labels = driver.execute_script(
        "return [...document.querySelectorAll('.plot')].map((plot) => plot.role + plot.getAttribute('aria-label'))"
    )
    assert all(label.startswith("img") and len(label) > len("img") for label in labels)


@pytest.mark.parametrize("name", PAGES)
def test_dark_and_light_by_the_system_and_by_the_button(
    driver: Any, pages: dict[str, str], name: str
) -> None:
    opened(driver, pages[name], dark=True)
    assert background(driver) == DARK and figure_ink(driver) == {"rgb(176, 184, 194)"}
    driver.find_element("id", "theme").click()
    assert background(driver) == LIGHT and figure_ink(driver) == {"rgb(79, 87, 98)"}
    driver.execute_script("localStorage.clear()")


def test_the_choice_of_a_page_is_kept(driver: Any, pages: dict[str, str]) -> None:
    opened(driver, pages["lora"], dark=True)
    driver.find_element("id", "theme").click()
    driver.refresh()
    assert background(driver) == LIGHT
    assert driver.find_element("id", "theme").text == "Dark colours"
    driver.execute_script("localStorage.clear()")
    driver.refresh()
    assert background(driver) == DARK


def test_print_is_light_with_all_details_open(driver: Any, pages: dict[str, str]) -> None:
    opened(driver, pages["report"], dark=True)
    closed = "return document.querySelectorAll('main details:not([open]):not(.data)').length"
    before = driver.execute_script(closed)
    assert before > 0
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert background(driver) == "rgb(255, 255, 255)"
    assert driver.execute_script(closed) == 0 and undrawn(driver) == []
    widths = "return [...document.querySelectorAll('.plot svg.main-svg')].map((svg) => svg.clientWidth)"
    assert set(driver.execute_script(widths)) == {640} and figure_ink(driver) == {"rgb(79, 87, 98)"}
    shown = "return getComputedStyle(document.querySelector('.bar nav')).display"
    assert driver.execute_script(shown) == "none"
    opened_again = {"media": "", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", opened_again)
    wait = importlib.import_module("selenium.webdriver.support.ui").WebDriverWait
    wait(driver, 20).until(lambda page: page.execute_script(closed) == before)
    assert background(driver) == DARK
    assert figure_ink(driver) == {"rgb(176, 184, 194)"}
    pdf = driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert len(pdf["data"]) > 50_000


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_the_width_of_a_phone_and_of_a_desk(
    driver: Any, pages: dict[str, str], name: str, tmp_path: Path
) -> None:
    opened(driver, pages[name])
    for width in (390, 1280):
        check_width(driver, width, tmp_path / f"{name}-{width}.png")


def check_width(driver: Any, width: int, picture: Path) -> None:
    """Check that the page fits this width, and keep a picture."""
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    outside = driver.execute_script(
        "return [...document.querySelectorAll('h1, h2, .panel, .card, .bar button, details')]"
        ".filter((each) => each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML)"
    )
    assert outside == []
    assert driver.save_screenshot(str(picture)) and picture.stat().st_size > 10_000


def test_tab_key_reaches_links_details_and_figures(driver: Any, pages: dict[str, str]) -> None:
    opened(driver, pages["report"])
    driver.execute_script("document.activeElement.blur()")
    found = []
    for _ in range(45):
        press(driver, "TAB")
        found.append(
            driver.execute_script(
                "const now = document.activeElement; return [now.tagName, now.id || now.className || now.hash || '', "
                "now.textContent.slice(0, 20), getComputedStyle(now).outlineStyle]"
            )
        )
    assert found[0][:3] == ["A", "skip", "Skip to the content"]
    assert [each[1] for each in found[1:7]] == [
        "#runs", "#results", "#dynamics", "#candidates", "#cost", "#configuration",
    ]  # fmt: skip
    assert found[7][1] == "theme"
    assert {"SUMMARY", "DIV", "PRE"} <= {each[0] for each in found}
    unseen = [each for each in found if each[3] != "solid" and each[0] != "BODY"]
    assert unseen == [], "the focus is always seen"


def test_keys_open_the_numbers_of_a_figure(driver: Any, pages: dict[str, str]) -> None:
    opened(driver, pages["report"])
    figure = "document.getElementById('figure-curve-pass_at_k').parentElement"
    driver.execute_script(f"{figure}.querySelector('summary').focus()")
    press(driver, "ENTER")
    rows = driver.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done("
        f"[...{figure}.querySelectorAll('tr')].map((row) => [...row.cells].map((cell) => cell.textContent))), 100)"
    )
    assert rows[0] == ["series", "k, candidates shown", "value", "interval"]
    # Of SFT one, two and one of 4 samples are right: 1/3; two candidates: (1/2 + 5/6 + 1/2) / 3.
    assert [row[:3] for row in rows if row[0] == "SFT" and row[2]] == [
        ["SFT", "1", "0.33333"],
        ["SFT", "2", "0.61111"],
    ]
    bands = [row for row in rows if row[0] == "SFT" and row[3]]
    assert [row[1] for row in bands] == ["1", "2"] and all(" to " in row[3] for row in bands)


def test_the_skip_link_goes_to_the_content(driver: Any, pages: dict[str, str]) -> None:
    opened(driver, pages["lora"])
    for _ in range(3):  # a key that comes before the page is ready is lost
        press(driver, "TAB")
        if driver.execute_script("return document.activeElement.className") == "skip":
            break
    press(driver, "ENTER")
    wait_for(lambda: driver.execute_script("return document.activeElement.id") == "main")
