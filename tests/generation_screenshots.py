"""The README's pictures of the generation service's page: python -m tests.generation_screenshots [URL] --prompt ...

Without a URL they show the fake service. Writes docs/images/generation-{candidates,compare}.png, 1200 px wide.
"""

from __future__ import annotations

import argparse
import base64
from contextlib import nullcontext
from pathlib import Path

from tests.fake_generation import FakeGeneration
from tests.generation_page import GenerationPage, chromium, wait_for

DIRECTORY = Path("docs/images")
WIDTH = 1200


def main() -> None:
    """Takes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", help="of a running service, with its last slash")
    parser.add_argument("--prompt", default="37|b1>e4=")
    parser.add_argument(
        "--models", nargs=2, default=("policy-v17", "policy-v16"), help="as /v1/models lists them"
    )
    parser.add_argument("--pick", default="4", help="the number that is picked")
    arguments = parser.parse_args()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    model, other = arguments.models
    served = FakeGeneration().served() if arguments.url is None else nullcontext(arguments.url)
    with served as url, chromium(WIDTH) as driver:
        page = GenerationPage(driver, url)
        page.wait_until_ready()
        page.generate(arguments.prompt, k=8, oversample=16, seed=4, model=model)
        page.press("s", arguments.pick)
        page.wait_until_stored()
        wait_for(lambda: any("score" in line for line in page.texts(".figures")))
        shoot(page, "generation-candidates")
        page.press("c")
        page.generate(arguments.prompt, k=4, oversample="", model=model, other_model=other)
        page.press("s", "1", "ARROW_RIGHT", "s", "0")
        page.wait_until_stored(0)
        page.wait_until_stored(1)
        shoot(page, "generation-compare")


def shoot(page: GenerationPage, name: str) -> None:
    """The whole page, however long it is."""
    page.script("window.scrollTo(0, 0)")
    height = page.script("return document.querySelector('main').getBoundingClientRect().bottom + 16")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    picture = page.driver.execute_cdp_cmd("Page.captureScreenshot", options)
    file = DIRECTORY / f"{name}.png"
    file.write_bytes(base64.b64decode(picture["data"]))
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
