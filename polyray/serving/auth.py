"""Bearer tokens for services: with POLYRAY_API_TOKEN set, all routes but health need `Authorization: Bearer`.

A pure ASGI middleware, so it guards streams and unknown routes alike. The token travels to replicas as a
SecretStr (its repr is stars) and is written to no log. Ray Serve itself has no authentication. Several tokens
with scopes: polyray/serving/generation/scopes.py, with the same parts.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polyray.errors import ConfigError
from polyray.serving.http_errors import error_response

TOKEN_VARIABLE = "POLYRAY_API_TOKEN"
HEALTH_ROUTES = frozenset({"/healthz", "/readyz"})


def is_local(host: str | None) -> bool:
    """Whether only this machine reaches an address that listens on `host`."""
    return host in ("127.0.0.1", "localhost", "::1")


def token_from_environment(variable: str = TOKEN_VARIABLE) -> SecretStr | None:
    """The token that services require, None where the variable is not set.

    Raises ConfigError for a blank one, or one no HTTP header can carry: it would open or lock the service.
    """
    token = os.environ.get(variable)
    if token is None:
        return None
    if not token or any(not 33 <= ord(char) <= 126 for char in token):
        raise ConfigError(
            f"{variable} is set but blank, or not printable ASCII without spaces; use e.g. "
            '`python -c "import secrets; print(secrets.token_urlsafe(32))"`, or unset it'
        )
    return SecretStr(token)


def given_token(authorization: str) -> str:
    """The token of an `Authorization: Bearer TOKEN` header; "" for another scheme, or none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def route_path(scope: Scope) -> str:
    """The path that was asked for, without the prefix under which the service is mounted."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def unauthorized(message: str) -> Response:
    """401 in the common error shape."""
    return error_response(401, message, headers={"WWW-Authenticate": "Bearer"})


async def answer_instead(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends `response` in place of the application's own answer; a websocket is closed."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await response(scope, receive, send)


class BearerTokenMiddleware:
    """Lets a request through if it carries the token, asks for a health route, or no token is set."""

    def __init__(
        self, app: ASGIApp, token: SecretStr | None, exempt_routes: Collection[str] = HEALTH_ROUTES
    ) -> None:
        self._app = app
        self._expected = None if token is None else token.get_secret_value().encode()
        self._exempt_routes = exempt_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """401 in the common error shape, or the application's own answer."""
        if scope["type"] == "lifespan" or self._expected is None or self._is_allowed(scope, self._expected):
            await self._app(scope, receive, send)
        else:
            response = unauthorized(
                f"this service needs 'Authorization: Bearer TOKEN' with the value of its {TOKEN_VARIABLE}"
            )
            await answer_instead(response, scope, receive, send)

    def _is_allowed(self, scope: Scope, expected: bytes) -> bool:
        if route_path(scope) in self._exempt_routes:
            return True
        given = given_token(Headers(scope=scope).get("authorization", ""))
        return hmac.compare_digest(given.encode(), expected)
