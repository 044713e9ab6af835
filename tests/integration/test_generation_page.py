"""The page of the generation service in headless Chromium: journeys and faults.

The journeys run on a fake service and on a real one with a tiny model; with POLYRAY_GENERATION_URL on yours, given a
POLYRAY_GENERATION_PROMPT that it can read and, where it needs one, POLYRAY_API_TOKEN. Faults are the fake's.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.fake_generation import FakeGeneration
from tests.generation_page import GenerationPage, chromium, missing_browser, wait_for
from tests.served_app import served

REASON = missing_browser()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

URL = os.environ.get("POLYRAY_GENERATION_URL")
PROMPT = os.environ.get("POLYRAY_GENERATION_PROMPT", "37|b1>e4=")
SHORT = {"max_tokens": 10}
TOKEN = "s3cret"
TIMES, SELECTED = "\u00d7", "\u2605 selector\u2019s pick"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>&amp;<b>"


@dataclass(frozen=True, slots=True)
class Service:
    """The service of a journey."""

    url: str
    prompt: str

    def newest(self) -> list[dict[str, Any]]:
        """The last answers as the service stores them, newest first."""
        token = os.environ.get("POLYRAY_API_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if URL and token else {}
        response = httpx.get(f"{self.url}v1/candidates?limit=20", headers=headers)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def selection(self, at: int = 0) -> tuple[int | None, str | None]:
        """Index and text of what was picked last of the answer `at`."""
        selection = self.newest()[at]["selection"]
        return selection["selected_index"], selection["edited_text"]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def tab(driver: Any) -> Iterator[Any]:
    """A new tab with an empty sessionStorage; script errors fail the test."""
    before = driver.current_window_handle
    driver.get_log("browser")
    driver.switch_to.new_window("tab")
    yield driver
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.close()
    driver.switch_to.window(before)


@pytest.fixture
def fake() -> FakeGeneration:
    return FakeGeneration()


@pytest.fixture(scope="module")
def engine_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service itself with a tiny model in vLLM, in this process."""
    from polyray.serving.generation.routes import build_http_app
    from polyray.serving.generation.service import GenerationService
    from polyray.serving.generation.tokens import TokenBook
    from tests.unit.serving.generation.tiny_service import tiny_config

    service = GenerationService(tiny_config(tmp_path_factory.mktemp("page")), TokenBook(()))

    @asynccontextmanager
    async def opened() -> AsyncIterator[FastAPI]:
        await service.start()
        try:
            yield build_http_app(service)
        finally:
            await service.close()

    with served(opened(), start_timeout_s=120) as url:
        yield url


@pytest.fixture(params=["fake", pytest.param("engine", marks=pytest.mark.slow)])
def service(request: pytest.FixtureRequest, fake: FakeGeneration) -> Iterator[Service]:
    if URL is not None:
        yield Service(URL.rstrip("/") + "/", PROMPT)
    elif request.param == "engine":
        yield Service(request.getfixturevalue("engine_url"), PROMPT)
    else:
        with fake.served() as url:
            yield Service(url, PROMPT)


@pytest.fixture
def page(tab: Any, service: Service) -> Iterator[GenerationPage]:
    page = opened(tab, service.url)
    yield page
    assert page.complaints() == []


@pytest.fixture
def faulty(tab: Any, fake: FakeGeneration) -> Iterator[GenerationPage]:
    """The page of the fake service, for any service of the journeys."""
    with fake.served() as url:
        page = opened(tab, url)
        yield page
        assert page.complaints() == []


def opened(tab: Any, url: str) -> GenerationPage:
    page = GenerationPage(tab, url)
    token = os.environ.get("POLYRAY_API_TOKEN") if URL else None
    if token is not None and url.startswith(str(URL)):
        wait_for(lambda: page.texts("#token-form label"))
        page.find("#token").send_keys(token)
        page.find("#token-form button").click()
    page.wait_until_ready()
    return page


def test_generate_pick_reload_and_the_pick_is_there(page: GenerationPage, service: Service):
    page.generate(service.prompt, k=8, seed=5, **SHORT)
    texts = page.cards()
    wait_for(service.newest)
    newest = service.newest()[0]["answer"]
    assert texts == [candidate["text"] for candidate in newest["candidates"]]
    assert page.tags("number") == [str(number + 1) for number in range(len(texts))]
    last = min(len(texts), 9)
    page.press(str(last))
    assert page.wait_until_stored() == f"Stored: candidate {last}"
    assert service.selection() == (last - 1, None)
    page.reload()
    assert page.cards() == texts
    assert page.picked() == [str(last)]
    assert page.decision() == f"Stored: candidate {last}"
    assert page.texts("#history [aria-current=true] .decision") == [f"picked {last}"]


def test_last_decision_counts_even_if_repeated(page: GenerationPage, service: Service):
    page.generate(service.prompt, k=8, seed=6, temperature=2, **SHORT)
    assert len(page.cards()) > 1, "the model gave one text only; give another POLYRAY_GENERATION_PROMPT"
    keys = []
    for choice, picked in (("1", 0), ("2", 1), ("1", 0), ("0", None)):
        page.press(choice)
        wait_for(lambda choice=choice: page.picked() == [choice])
        page.wait_until_stored()
        assert service.selection() == (picked, None)
        keys.append(service.newest()[0]["selection"]["client_key"])
    assert len(set(keys)) == 4
    page.press("0")
    assert page.status() == "Stored: none of them"
    page.find(".card:nth-child(2) .text").click()
    wait_for(lambda: page.picked() == ["2"])
    page.wait_until_stored()
    assert service.selection() == (1, None)


def test_an_edited_text_is_stored_with_the_pick(page: GenerationPage, service: Service):
    page.generate(service.prompt, k=4, seed=7, **SHORT)
    original = page.cards()[0]
    page.press("1")
    page.wait_until_stored()
    page.press("e")
    assert page.script("return document.activeElement.value") == original
    page.press("END", "UUU", "ESCAPE")
    assert page.texts(".editor") == []
    page.press("e", "END", "DDD")
    page.press_control_enter()
    wait_for(lambda: page.decision() == "Stored: candidate 1, edited")
    assert service.selection() == (0, original + "DDD")
    page.press("0")
    wait_for(lambda: page.decision() == "Stored: none of them")
    page.press("e", "of my own")
    page.press_control_enter()
    wait_for(lambda: page.decision() == "Stored: none of them, but a text of yours")
    assert service.selection() == (None, "of my own")
    page.reload()
    assert page.picked() == ["0"]
    assert page.texts(".own pre") == ["of my own"]


def test_two_versions_side_by_side_have_a_pick_each(page: GenerationPage, service: Service):
    models = page.script(
        "return [...document.querySelector('[name=model]').options].map((each) => each.value)"
    )
    if len(models) < 2:
        pytest.skip("the service has one model only")
    page.find("#help-button").send_keys("c")
    first, second = models[0], models[-1]
    page.generate(service.prompt, k=3, model=first, other_model=second, **SHORT)
    requests = sorted((stored["request"] for stored in service.newest()[:2]), key=lambda each: each["model"])
    assert [request.pop("model") for request in requests] == sorted([first, second])
    assert requests[0] == requests[1] and requests[0]["seed"] is not None
    texts = [page.cards(0), page.cards(1)]
    page.press("1", "ARROW_RIGHT", "0")
    page.wait_until_stored(0)
    page.wait_until_stored(1)
    assert (page.picked(0), page.picked(1)) == (["1"], ["0"])
    picks = {each["request"]["model"]: each["selection"]["selected_index"] for each in service.newest()[:2]}
    assert picks == {first: 0, second: None}
    page.reload()
    assert [page.cards(0), page.cards(1)] == texts
    assert (page.picked(0), page.picked(1)) == (["1"], ["0"])


def test_older_answers_open_from_the_history(page: GenerationPage, service: Service):
    page.generate(service.prompt, k=2, seed=8, **SHORT)
    older = page.cards()
    page.press("2" if len(older) > 1 else "1")
    page.wait_until_stored()
    page.generate(service.prompt, k=5, seed=9, **SHORT)
    assert page.picked() == []
    page.find("#history li:nth-child(2) button").click()
    assert page.cards() == older
    assert page.picked() == ["2" if len(older) > 1 else "1"]
    assert page.focused()["card"] == page.picked()[0]


def test_keys_and_focus(page: GenerationPage, service: Service):
    page.generate(service.prompt, k=4, seed=10, **SHORT)
    assert page.focused()["card"] == "1"
    page.press("?")
    assert page.script("return document.getElementById('help').open")
    page.press("1", "ESCAPE")
    assert not page.script("return document.getElementById('help').open")
    assert page.picked() == [], "a key in the help picked something"
    num_cards = len(page.cards())
    page.press("ARROW_RIGHT")
    assert page.focused()["card"] == str(min(2, num_cards))
    page.press(*["ARROW_LEFT"] * 3, "ARROW_UP")
    assert page.focused()["card"] == "1"
    page.press("ENTER")
    wait_for(lambda: page.picked() == ["1"])
    page.press("/")
    assert page.focused()["id"] == "prompt"
    page.press("2", "?")
    assert page.picked() == ["1"], "a digit in the prompt picked something"
    assert page.script("return document.getElementById('prompt').value").endswith("2?")


def test_scores_on_demand_clusters_and_duplicates(faulty: GenerationPage, fake: FakeGeneration):
    fake.texts = ("RRUU", "RRUU", "RURRUU", "DDD")
    faulty.generate("37|b1>e4=", k=4, oversample=16, seed=1, model="policy-v17")
    answer = fake.stored[0].answer
    by_text = {candidate.text: candidate for candidate in answer.candidates}
    assert set(by_text) == {"RRUU", "RURRUU", "DDD"}
    assert faulty.tags("times") == [f"{TIMES}{each.count}" for each in answer.candidates if each.count > 1]
    letters = iter("AB")
    expected = ["wrong" if each.text == "DDD" else f"kind {next(letters)}" for each in answer.candidates]
    assert faulty.tags("kind") == expected
    assert faulty.texts(".card .selected") == [SELECTED]
    selected = faulty.find(f".card:nth-child({answer.selected_index + 1}) .selected")
    assert selected.is_displayed()
    looks = {
        text: faulty.script(
            "const style = getComputedStyle(document.querySelectorAll('.card')[arguments[0]], '::before');"
            "return style.backgroundColor + style.backgroundImage",
            candidate.index,
        )
        for text, candidate in by_text.items()
    }
    assert len(set(looks.values())) == 3
    assert not any("score" in line for line in faulty.texts(".figures"))
    faulty.press("s")
    wait_for(lambda: faulty.status() == "Scored")
    scores = [f"score {len(set(each.text)) / len(each.text):.2f}" for each in answer.candidates]
    first_figures = [line.split(" · ")[0].replace("\u00a0", " ") for line in faulty.texts(".figures")]
    assert first_figures == scores
    assert faulty.focused()["card"] == "1"


def test_escape_cancels_and_the_service_stops(faulty: GenerationPage, fake: FakeGeneration):
    fake.delta_s = 30.0
    faulty.start("37|b1>e4=", k=3)
    wait_for(lambda: "".join(faulty.cards()))
    faulty.press("1")
    faulty.press("ESCAPE")
    wait_for(lambda: fake.num_cancelled == 1)
    assert faulty.status() == "Cancelled"
    assert faulty.texts(".summary") == ["cancelled"]
    assert (fake.stored, fake.selection_bodies) == ([], [])
    fake.delta_s = 0.0
    faulty.generate("37|b1>e4=", k=3)
    assert fake.num_cancelled == 1 and len(fake.stored) == 1


def test_model_output_is_shown_as_text(faulty: GenerationPage, fake: FakeGeneration):
    faulty.generate(HOSTILE, k=2)
    assert faulty.cards() == [f"{HOSTILE} 0", f"{HOSTILE} 1"]
    faulty.press("1", "e", "END", "<i>")
    faulty.press_control_enter()
    wait_for(lambda: faulty.texts(".edited pre") == [f"{HOSTILE} 0<i>"])
    faulty.reload()
    assert faulty.texts(".edited pre") == [f"{HOSTILE} 0<i>"]
    assert faulty.texts("#history .prompt") == [HOSTILE[:120]]
    assert faulty.script("return document.querySelectorAll('img, b, i, body script').length") == 0
    assert faulty.driver.title == "generation · polyray"
    fake.fail("/v1/candidates", 400, HOSTILE)
    faulty.start("again")
    wait_for(lambda: faulty.problem() == HOSTILE)


def test_a_token_is_asked_for_and_kept_in_this_tab(tab: Any):
    with FakeGeneration(token=TOKEN).served() as url:
        page = GenerationPage(tab, url)
        for token in ("wrong", TOKEN):
            wait_for(lambda: page.texts("#token-form label"))
            assert page.focused()["id"] == "token"
            page.find("#token").send_keys(token)
            page.press("ENTER")
            wait_for(lambda: "Trying" not in page.status())
        page.wait_until_ready()
        assert page.texts("#token-form label") == []
        page.generate("37|b1>e4=")
        page.reload()
        storage = json.loads(page.script("return JSON.stringify([{...sessionStorage}, {...localStorage}])"))
        assert (storage[0]["polyray.token"], storage[1], page.script("return document.cookie")) == (
            TOKEN,
            {},
            "",
        )
        tab.switch_to.new_window("tab")
        other = GenerationPage(tab, url)
        wait_for(lambda: other.texts("#token-form label"))
        tab.close()
        tab.switch_to.window(tab.window_handles[-1])


def test_busy_service_is_asked_again_after_retry_after(faulty: GenerationPage, fake: FakeGeneration):
    fake.fail("/v1/candidates", 429, "256 completions are waiting", retry_after="2")
    faulty.start("37|b1>e4=")
    wait_for(lambda: "256 completions are waiting" in faulty.problem())
    assert "Again in" in faulty.problem()
    assert fake.stored == []
    wait_for(lambda: "pick one" in faulty.status())
    assert faulty.problem() == "" and len(fake.stored) == 1
    fake.fail("/v1/candidates", 429, "busy", retry_after="30")
    faulty.start("37|b1>e4=")
    wait_for(lambda: "Again in 30 s" in faulty.problem() or "Again in 29 s" in faulty.problem())
    faulty.press("ESCAPE")
    assert (faulty.problem(), faulty.status()) == ("", "Cancelled")


def test_a_pick_that_cannot_be_sent_is_sent_again_once(faulty: GenerationPage, fake: FakeGeneration):
    faulty.generate("37|b1>e4=", k=3, seed=3)
    fake.fail("/v1/selections", 503, "the disk is full", times=2)
    faulty.press("2")
    wait_for(lambda: faulty.decision() == "Not stored yet: candidate 2, tried again soon: the disk is full")
    assert fake.selections == {}
    assert faulty.texts("#history .decision") == ["picked 2 (not stored yet)"]
    faulty.find(".again").click()
    wait_for(lambda: faulty.decision().startswith("Not stored yet"))
    assert faulty.wait_until_stored() == "Stored: candidate 2"
    [(key, selection)] = fake.selections.items()
    assert (selection.selected_index, len(key)) == (1, 36)


def test_unsent_pick_is_sent_after_a_reload(faulty: GenerationPage, fake: FakeGeneration):
    faulty.generate("37|b1>e4=", k=3, seed=3)
    fake.fail("/v1/selections", 429, "too many", times=1, retry_after="600")
    faulty.press("3")
    wait_for(lambda: "too many" in faulty.decision())
    unsent = json.loads(faulty.script("return sessionStorage['polyray.unsent']"))
    faulty.reload()
    faulty.wait_until_stored()
    assert faulty.picked() == ["3"]
    assert list(fake.selections) == [unsent[0]["client_key"]]


def test_unknown_model_and_lost_network_are_shown_with_a_retry(faulty: GenerationPage, fake: FakeGeneration):
    faulty.script(
        "const option = new Option('gone', 'gone');"
        "document.querySelector('[name=model]').append(option); option.selected = true"
    )
    faulty.start("37|b1>e4=")
    wait_for(lambda: "no model 'gone'" in faulty.problem())
    faulty.driver.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        faulty.start("37|b1>e4=", model="base")
        wait_for(lambda: "this computer is offline" in faulty.problem())
        assert faulty.texts(".problem-box button") == ["Try again"]
    finally:
        faulty.driver.delete_network_conditions()
    faulty.find(".problem-box button").click()
    wait_for(lambda: "pick one" in faulty.status())
    assert len(fake.stored) == 1
    faulty.set("oversample", 2)
    faulty.start("37|b1>e4=", k=5)
    assert not faulty.script("return document.querySelector('[name=oversample]').validity.valid")
    assert len(fake.stored) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "prompt has 80 tokens, the limit is 48"), (504, "no answer in 30 s")],
)
def test_status_line_after_a_failed_request_says_failed(
    faulty: GenerationPage, fake: FakeGeneration, status: int, message: str
):
    fake.fail("/v1/candidates", status, message)
    faulty.start("37|b1>e4=", k=3)
    wait_for(lambda: message in faulty.problem())
    assert (faulty.status(), faulty.texts(".summary")) == ("Failed", ["failed"])
    assert faulty.script("return document.querySelector('.column').getAttribute('aria-busy')") == "false"
    assert not faulty.find("#cancel").is_enabled()
    faulty.generate("37|b1>e4=", k=3)
    assert faulty.problem() == ""


def test_status_line_without_a_network_says_failed(faulty: GenerationPage, fake: FakeGeneration):
    fake.delta_s = 30.0
    faulty.start("37|b1>e4=", k=3)
    wait_for(lambda: "".join(faulty.cards()))
    assert faulty.status() == "Generating\u2026"
    faulty.press("ESCAPE")
    faulty.driver.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        faulty.start("37|b1>e4=")
        wait_for(lambda: "this computer is offline" in faulty.problem())
        assert faulty.status() == "Failed"
    finally:
        faulty.driver.delete_network_conditions()
    faulty.find(".problem-box button").click()
    wait_for(lambda: faulty.status() == "Generating\u2026")
    faulty.press("ESCAPE")


def test_status_line_while_a_busy_service_is_asked_again_says_generating(
    faulty: GenerationPage, fake: FakeGeneration
):
    fake.fail("/v1/candidates", 429, "busy", retry_after="1")
    fake.delta_s = 30.0
    faulty.start("37|b1>e4=")
    wait_for(lambda: faulty.status().startswith("The service is busy"))
    wait_for(lambda: faulty.status() == "Generating\u2026")
    faulty.press("ESCAPE")


def test_status_line_after_a_refused_token_asks_for_one(faulty: GenerationPage, fake: FakeGeneration):
    fake.fail("/v1/candidates", 401, "the token is wrong")
    faulty.start("37|b1>e4=")
    wait_for(lambda: faulty.status() == "the token is wrong")
    faulty.find("#token").send_keys(TOKEN)
    faulty.press("ENTER")
    wait_for(lambda: "pick one" in faulty.status())


def test_status_line_after_one_of_two_requests_failed_counts_the_other(
    faulty: GenerationPage, fake: FakeGeneration
):
    faulty.set("compare", True)
    fake.fail("/v1/candidates", 500, "the engine failed")
    faulty.start("37|b1>e4=", k=3, model="base", other_model="policy-v17")
    wait_for(lambda: "the other request failed" in faulty.status())
    shown = len(fake.stored[0].answer.candidates)  # equal texts are shown once
    assert faulty.status() == f"{shown} candidates: pick one with its number; the other request failed"
    assert "failed" in faulty.texts(".summary")


def test_status_line_after_failed_scoring_says_so(faulty: GenerationPage, fake: FakeGeneration):
    faulty.generate("37|b1>e4=", k=3)
    fake.fail(f"/v1/candidates/{fake.stored[0].answer.id}/scores", 502, "the reward is gone")
    faulty.press("s")
    wait_for(lambda: "the reward is gone" in faulty.problem())
    assert faulty.status() == "Scoring failed"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen_in_light_and_dark(faulty: GenerationPage, scheme: str):
    metrics = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": False}
    faulty.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    faulty.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    faulty.set("compare", True)
    faulty.generate("x" * 300, k=4)
    assert faulty.script("return document.documentElement.scrollWidth") <= 360
    colour = faulty.script("return getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")


def test_events_are_read_across_chunk_borders(faulty: GenerationPage):
    stream = ': ping\r\n\r\nevent: delta\r\ndata: {"text": "é✓"}\r\n\r\ndata: a\ndata:b\n\ndata: [DONE]\n\ndata: cut'
    read = faulty.driver.execute_async_script(
        """
        const [text, size, done] = arguments;
        const bytes = new TextEncoder().encode(text);
        const body = new ReadableStream({
          start(controller) {
            for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
            controller.close();
          },
        });
        import(new URL("page/sse.js", document.baseURI)).then(async ({ readEvents }) => {
          const events = [];
          for await (const { event, data } of readEvents(body)) events.push([event, data]);
          done(events);
        }, (error) => done(String(error)));
        """,
        stream,
        1,
    )
    assert read == [["delta", '{"text": "é✓"}'], ["message", "a\nb"], ["message", "[DONE]"]]
