"""The page at /: the files of page/, held in memory, served below any prefix and without a token.

The page itself holds nothing secret; every route that it calls asks for the token. Its URLs are relative, so the
prefix without its slash is sent on to the one with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

PAGE_DIRECTORY = Path(__file__).parent / "page"
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Nothing from elsewhere, nothing inline, and no text that becomes markup: models' output is not trusted."""

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, but asked for again: a new service brings a new page
}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent.

    Example:
        PageFile(content=b"export const x = 1;", media_type="text/javascript; charset=utf-8", etag='"5c1d…"')
    """

    content: bytes
    media_type: str
    etag: str


def _read_page() -> MappingProxyType[str, PageFile]:
    """Files of the page by route. A file of an unknown suffix is not part of the page."""
    files = {}
    for path in sorted(PAGE_DIRECTORY.iterdir()):
        if path.suffix in _MEDIA_TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            route = "/" if path.name == "index.html" else f"/page/{path.name}"
            files[route] = PageFile(content, _MEDIA_TYPES[path.suffix], etag)
    return MappingProxyType(files)


PAGE_FILES = _read_page()
PAGE_ROUTES = frozenset({"", *PAGE_FILES})
"""Paths below the service's prefix that need no token; the empty one is the prefix without its slash."""


def add_page(app: FastAPI) -> None:
    """Adds the page's routes to `app`: GET and HEAD, not in the OpenAPI document."""
    for route, file in PAGE_FILES.items():
        app.router.routes.append(Route(route, _sends(file), methods=["GET"], include_in_schema=False))
    app.router.routes.append(_BarePrefix())


def _sends(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    headers = {**_HEADERS, "ETag": file.etag}

    async def send_file(request: Request) -> Response:
        known = request.headers.get("if-none-match", "").split(",")
        if file.etag in (etag.strip().removeprefix("W/") for etag in known):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    return send_file


class _BarePrefix(BaseRoute):
    """/PREFIX, from which page/main.js would mean another service's; a Route cannot be the empty path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        prefix = scope.get("root_path", "")
        bare = scope["type"] == "http" and prefix and scope["path"] == prefix
        return (Match.FULL if bare and scope["method"] in ("GET", "HEAD") else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].rpartition("/")[2]
        await RedirectResponse(f"./{name}/", headers=_HEADERS)(scope, receive, send)
