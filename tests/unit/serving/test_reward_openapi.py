"""The OpenAPI page against answers: Schemathesis, hostile bodies, tokens."""

from __future__ import annotations

import json

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from polyray.rewards.protocol import MAX_ITEMS
from polyray.serving.auth import HEALTH_ROUTES
from tests.unit.serving.reward_service_fixtures import app_of, ask, item, two_models

APP = app_of(two_models())
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@schema.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_openapi_page_describes_every_answer(case: schemathesis.Case):
    case.call_and_validate(checks=CHECKS)


def test_openapi_page_names_every_status_body_and_the_token():
    document = APP.openapi()
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    operation = document["paths"]["/v1/score"]["post"]
    assert set(operation["responses"]) == {
        "200", "400", "401", "404", "408", "413", "415", "429", "500", "503", "504"
    }  # fmt: skip
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference.rpartition("/")[2] in document["components"]["schemas"]
    assert operation["security"] == [{"bearer": []}, {}]
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert "422" not in json.dumps(document)


async def test_openapi_page_works_behind_a_prefix():
    page = await ask(APP, "GET", "/run/reward/docs", root_path="/run/reward")
    assert page.status_code == 200 and "'/run/reward/openapi.json'" in page.text
    document = await ask(APP, "GET", "/run/reward/openapi.json", root_path="/run/reward")
    assert document.status_code == 200 and "/v1/score" in document.json()["paths"]


async def test_routes_but_health_need_the_token():
    app = app_of(two_models(), token="t0ken")
    routes = [route for route in app.routes if isinstance(route, APIRoute | Route)]
    assert {"/v1/score", "/v1/info", "/openapi.json", "/docs"} <= {route.path for route in routes}
    for route in routes:
        for method in route.methods or ():
            for header in ({}, {"Authorization": "Bearer wrong"}):
                answer = await ask(app, method, route.path, headers=header)
                assert (answer.status_code == 401) == (route.path not in HEALTH_ROUTES), (method, route.path)
            answer = await ask(app, method, route.path, headers={"Authorization": "Bearer t0ken"})
            assert answer.status_code not in (401, 403), (method, route.path)


SCORE = json.dumps({"items": [item("a")]})
META = json.dumps({"items": [item("a", metadata={"x": 0})]})


def with_metadata(value: str) -> bytes:
    return META.replace(" 0}", f" {value}}}").encode()


HOSTILE = [
    b"",
    b"{",
    SCORE.encode() + b"x",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"items":' * 50_000 + b"1" + b"}" * 50_000,
    *(
        with_metadata(value)
        for value in ("[" * 5_000 + "]" * 5_000, "NaN", "-Infinity", "1e999", "9" * 6_000)
    ),
    b'{"items": [{"prompt": "\\ud800", "completion": ""}]}',
    b'{"items": [{"prompt": "", "completion": "", "metadata": {"\\uDFFF": 1}}]}',
    b'{"items": [{"prompt": "\xff", "completion": ""}]}',
    SCORE.encode("utf-16"),
    b"\xef\xbb\xbf" + SCORE.encode(),
    b'{"items": [], ' + SCORE.encode()[1:],
    b'{"items": [{"prompt": "a", "prompt": "b", "completion": ""}]}',
    json.dumps({"items": ["a"]}).encode(),
    json.dumps({"items": [item("a")], "k" * 5_000: 1}).encode(),
    json.dumps({"items": [item("a")] * (MAX_ITEMS + 1)}).encode(),
    json.dumps({"items": [item("a")], "model": "m" * 10_000}).encode(),
]
"""Bodies that are no JSON, no text, too deep, too large a number, ambiguous, of wrong types, or too long."""


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
async def test_body_that_is_hostile_is_refused_in_the_common_shape(body: bytes):
    answer = await ask(APP, "POST", "/v1/score", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["code"] == "invalid_request"
    assert error["message"] and len(answer.content) < 3_000


async def test_body_too_large_or_of_another_type_is_refused():
    large = await ask(
        APP, "POST", "/v1/score", content=b" " * (33 * 2**20), headers={"Content-Type": "application/json"}
    )
    assert large.status_code == 413 and large.json()["error"]["code"] == "request_too_large"
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
        answer = await ask(APP, "POST", "/v1/score", content=SCORE, headers={"Content-Type": content_type})
        assert answer.status_code == 415, content_type
        assert answer.json()["error"]["code"] == "unsupported_media_type"
    for content_type in ("application/json; charset=utf-8", "application/vnd.polyray+json"):
        answer = await ask(APP, "POST", "/v1/score", content=SCORE, headers={"Content-Type": content_type})
        assert answer.status_code == 200, content_type
