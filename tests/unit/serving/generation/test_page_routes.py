"""Routes of the page and rules of its files, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import get_args

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from polyray.config.generation import MAX_CANDIDATES, MAX_OVERSAMPLE, SelectorName
from polyray.serving.auth import HEALTH_ROUTES, BearerTokenMiddleware
from polyray.serving.generation.candidates_wire import MAX_TEXT_CHARS, CandidatesRequest
from polyray.serving.generation.page_routes import PAGE_DIRECTORY, PAGE_ROUTES, add_page
from polyray.serving.http_errors import install_error_handlers

INDEX = (PAGE_DIRECTORY / "index.html").read_text()
SCRIPTS = {path.name: path.read_text() for path in sorted(PAGE_DIRECTORY.glob("*.js"))}


def guarded() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install_error_handlers(app)
    add_page(app)
    app.add_middleware(
        BearerTokenMiddleware, token=SecretStr("s3cret"), exempt_routes=HEALTH_ROUTES | PAGE_ROUTES
    )
    return app


async def ask(path: str, root_path: str = "", method: str = "GET", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=guarded(), root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, root_path + path, headers=named)


@pytest.mark.parametrize("prefix", ["", "/some/prefix"])
@pytest.mark.parametrize(
    ("path", "file", "media_type"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page/page.css", "page.css", "text/css; charset=utf-8"),
        ("/page/main.js", "main.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "icon.svg", "image/svg+xml"),
    ],
)
async def test_page_files_need_no_token_below_any_prefix(
    prefix: str, path: str, file: str, media_type: str
) -> None:
    response = await ask(path, prefix)
    assert response.status_code == 200
    assert response.content == (PAGE_DIRECTORY / file).read_bytes()
    assert response.headers["content-type"] == media_type
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"


async def test_page_serves_each_of_its_files_with_etag_and_head() -> None:
    names = {path.name for path in PAGE_DIRECTORY.iterdir()}
    assert {"", "/", *(f"/page/{name}" for name in names - {"index.html"})} == PAGE_ROUTES
    first = await ask("/page/main.js")
    again = await ask("/page/main.js", if_none_match=f'"other", W/{first.headers["etag"]}')
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (await ask("/page/main.js", if_none_match='"other"')).status_code == 200
    assert (await ask("/page/page.css")).headers["etag"] != first.headers["etag"]
    head = await ask("/", method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(INDEX.encode())
    assert (await ask("/", method="POST", authorization="Bearer s3cret")).status_code == 405
    redirect = await ask("", "/some/prefix")
    assert (redirect.status_code, redirect.headers["location"]) == (307, "./prefix/")


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/index.html",
        "/page/unknown.js",
        "/page/%2e%2e/page_routes.py",
        "/page/..%2fpage_routes.py",
        "/page//etc/passwd",
        "/page/main.js%00",
    ],
)
async def test_page_other_paths_are_not_found(path: str) -> None:
    assert (await ask(path)).status_code == 401
    response = await ask(path, authorization="Bearer s3cret")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


class _Inspected(HTMLParser):
    """References of index.html, and its parts that a Content-Security-Policy would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.inline: list[str] = []
        self.options: list[str | None] = []
        self.fields: dict[str, dict[str, str | None]] = {}
        self.ids: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.urls += [str(values[name]) for name in ("src", "href", "action") if name in values]
        self.inline += [f"{tag}.{name}" for name in values if name == "style" or name.startswith("on")]
        self.inline += ["style"] if tag == "style" else []
        self.options += [values.get("value")] if tag == "option" else []
        self.ids += [str(values["id"])] if "id" in values else []
        if tag in ("input", "textarea", "select") and values.get("name"):
            self.fields[str(values["name"])] = values
        self._script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append("script")


def inspected() -> _Inspected:
    parser = _Inspected()
    parser.feed(INDEX)
    return parser


def test_page_refers_to_own_files_and_keeps_to_the_limits_of_the_service() -> None:
    page = inspected()
    assert page.inline == []
    assert sorted(page.urls) == ["page/icon.svg", "page/main.js", "page/page.css"]
    assert len(set(page.ids)) == len(page.ids)
    assert tuple(page.options) == ("", *get_args(SelectorName))
    assert page.fields["k"]["max"] == str(MAX_CANDIDATES)
    assert page.fields["oversample"]["max"] == str(MAX_OVERSAMPLE)
    assert page.fields["prompt"]["maxlength"] == str(MAX_TEXT_CHARS)
    defaults = {name: CandidatesRequest.model_fields[name].default for name in ("k", "temperature")}
    assert {name: float(page.fields[name]["value"] or "nan") for name in defaults} == defaults
    of_the_page = {"other_model", "compare", "chat"}
    assert set(page.fields) - of_the_page <= set(CandidatesRequest.model_fields)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_page_script_makes_no_markup_of_text_and_fetches_no_foreign_url(name: str) -> None:
    text = SCRIPTS[name]
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage"
    assert re.findall(sinks, text) == []
    assert re.findall(r"https?://|\bfetch\([\"'`]/|[\"'`]/v1/", text) == []
    for imported in re.findall(r"""from ["']([^"']+)["']""", text):
        assert imported.startswith("./") and imported.removeprefix("./") in SCRIPTS


def test_page_scripts_name_elements_of_index() -> None:
    ids = set(inspected().ids)
    named = {
        match
        for text in SCRIPTS.values()
        for match in re.findall(r"(?:getElementById|fromTemplate)\(\"([\w-]+)\"\)", text)
    }
    assert named and named <= ids
