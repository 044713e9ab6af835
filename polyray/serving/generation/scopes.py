"""401 and 403 before a route is reached, and the caller where handlers find it: `request.state.caller`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polyray.serving.auth import HEALTH_ROUTES, answer_instead, route_path, unauthorized
from polyray.serving.generation.access_log import note_rejected
from polyray.serving.generation.tokens import Caller, TokenBook
from polyray.serving.http_errors import error_response


class ScopeMiddleware:
    """Lets a request through if its token's scope suffices, or its route is exempt; pure ASGI.

    `needs_admin(method, path)` names the admin routes; paths come without the service's prefix. On exempt routes
    a wrong token is as good as none: `request.state.caller` is then missing.
    """

    def __init__(
        self,
        app: ASGIApp,
        book: TokenBook,
        needs_admin: Callable[[str, str], bool],
        exempt_routes: Collection[str] = HEALTH_ROUTES,
    ) -> None:
        self._app = app
        self._book = book
        self._needs_admin = needs_admin
        self._exempt_routes = exempt_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """401 or 403 in the common error shape, or the application's own answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist("authorization")
        # A proxy before us may have looked at another one of several headers than we would: none of them counts.
        caller = self._book.find(given[0] if len(given) == 1 else "")
        if caller is not None:
            scope.setdefault("state", {})["caller"] = caller
        refusal = self._refusal(scope, caller, len(given))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await answer_instead(refusal, scope, receive, send)

    def _refusal(self, scope: Scope, caller: Caller | None, num_headers: int) -> Response | None:
        path = route_path(scope)
        if path in self._exempt_routes:
            return None
        if caller is None:
            note_rejected(scope, "token")
            if num_headers > 1:
                return unauthorized(f"{num_headers} Authorization headers; send one")
            return unauthorized("this service needs 'Authorization: Bearer TOKEN' with a token that it knows")
        if caller.scope == "admin" or not self._needs_admin(scope.get("method", "GET"), path):
            return None
        note_rejected(scope, "scope")
        missing = (
            f"that of {caller.name!r} has scope {caller.scope}"
            if self._book.has_admin
            else "this service knows none: set POLYRAY_ADMIN_TOKEN where it runs, or add one to its tokens_file"
        )
        return error_response(
            403, f"this route needs a token of scope admin; {missing}", code="insufficient_permissions"
        )
