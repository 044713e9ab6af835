"""The generation service's page in headless Chromium, as its tests see it.

    with chromium() as driver:
        page = GenerationPage(driver, url)

Needs Debian's `chromium` and `chromium-driver`, and the package `selenium`; where one of them is missing,
`missing_browser()` says which.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
WAIT_S = 20.0


def missing_browser() -> str | None:
    """Part that this machine lacks to drive a browser, or None."""
    if importlib.util.find_spec("selenium") is None:
        return "the package selenium is not installed"
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install chromium chromium-driver)"
    return None


@contextmanager
def chromium(width: int = 1200, height: int = 900) -> Iterator[Any]:
    """A headless Chromium with nothing remembered from before."""
    webdriver = importlib.import_module("selenium.webdriver")
    service = importlib.import_module("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=service.Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(WAIT_S)
        yield driver
    finally:
        driver.quit()


def wait_for(what: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """First true value of `what`. Raises AssertionError with its last value."""
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"still {value!r} after {timeout_s:.0f} s"
        time.sleep(0.02)
    return value


class GenerationPage:
    """The page in one tab; columns are 0 and, while two versions are compared, 1."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url
        driver.get(url)

    def wait_until_ready(self) -> None:
        """The models are listed, and what was asked before is shown."""
        wait_for(lambda: self.status() == "Ready")

    def reload(self) -> None:
        self.driver.refresh()
        self.wait_until_ready()

    def script(self, script: str, *arguments: Any) -> Any:
        """Value that JavaScript returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """The first element."""
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """The text of each visible element, with the spaces that it was given."""
        return self.script(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter((each) => each.checkVisibility()).map((each) => each.textContent)",
            selector,
        )

    def status(self) -> str:
        return self.texts("#status")[0]

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        for key in keys:
            actions = importlib.import_module("selenium.webdriver").ActionChains(self.driver)
            actions.send_keys(_key(key)).perform()

    def press_control_enter(self) -> None:
        actions = importlib.import_module("selenium.webdriver").ActionChains(self.driver)
        actions.key_down(_key("CONTROL")).send_keys(_key("ENTER")).key_up(_key("CONTROL")).perform()

    def set(self, field: str, value: Any) -> None:
        """Gives a field of the form a value, as if it had been typed."""
        self.script(
            "const field = document.getElementById('ask').elements[arguments[0]];"
            "if (field.type === 'checkbox') field.checked = arguments[1]; else field.value = arguments[1];"
            "for (const type of ['input', 'change']) field.dispatchEvent(new Event(type, {bubbles: true}));",
            field,
            value,
        )

    def start(self, prompt: str, **fields: Any) -> None:
        """Types a prompt and Enter."""
        for field, value in fields.items():
            self.set(field, value)
        area = self.find("#prompt")
        area.clear()
        area.send_keys(prompt, _key("ENTER"))

    def generate(self, prompt: str, **fields: Any) -> None:
        """As `start`, and waits for the answer of every column."""
        self.start(prompt, **fields)
        wait_for(lambda: "pick one with its number" in self.status())

    def cards(self, column: int = 0) -> list[str]:
        """The candidates' texts."""
        return self.texts(f"{_column(column)} .card .text")

    def tags(self, tag: str, column: int = 0) -> list[str]:
        """`kind`, `times` or `number` of the cards that have it."""
        return self.texts(f"{_column(column)} .card .{tag}")

    def picked(self, column: int = 0) -> list[str]:
        """The numbers of the picked cards; "0" for none of them."""
        none = f"{_column(column)} .none[aria-pressed=true] kbd"
        return self.texts(f"{_column(column)} .card.picked .number") + self.texts(none)

    def decision(self, column: int = 0) -> str:
        """The line below the cards."""
        return self.texts(f"{_column(column)} .pick-state .decided")[0]

    def wait_until_stored(self, column: int = 0) -> str:
        """The line below the cards, once the pick is stored."""
        wait_for(lambda: self.decision(column).startswith("Stored:"))
        return self.decision(column)

    def problem(self) -> str:
        """The errors that are shown, "" where there are none."""
        return "\n".join(self.texts(".problem-box p"))

    def focused(self) -> dict[str, Any]:
        """Focused element: its id, its classes, and the number of its card."""
        return self.script(
            "const focused = document.activeElement; const card = focused.closest('.card');"
            "return {id: focused.id, classes: focused.className,"
            " card: card && card.querySelector('.number').textContent}"
        )

    def complaints(self) -> list[str]:
        """Console output of the browser; it logs error answers by itself."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if "Failed to load resource" not in message]


def _key(name: str) -> str:
    keys = importlib.import_module("selenium.webdriver.common.keys").Keys
    return getattr(keys, name, name)


def _column(index: int) -> str:
    return f".column:nth-child({index + 1})"
