"""Middleware between the network and the routes of the generation service, in its order.

    AccessLogMiddleware    times, counts and logs every request, refusals too      request.state.access
    ScopeMiddleware        401, 403                                                request.state.caller
    RateLimitMiddleware    429; after the scopes, because it counts by caller
    BodyLimitMiddleware    413; a body is read only for callers that may send one
    routes

Health routes and the page are exempt from tokens and rates, not from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastapi import FastAPI

from polyray.serving.body_limit import BodyLimitMiddleware
from polyray.serving.generation.access_log import AccessLogMiddleware, RequestMetrics
from polyray.serving.generation.rate_limit import RateLimiter, RateLimitMiddleware
from polyray.serving.generation.scopes import ScopeMiddleware
from polyray.serving.generation.tokens import TokenBook


def add_middleware(
    app: FastAPI,
    book: TokenBook,
    limiter: RateLimiter,
    needs_admin: Callable[[str, str], bool],
    exempt_routes: Collection[str],
    max_body_bytes: int,
    metrics: RequestMetrics | None = None,
    log_prompts: bool = False,
) -> None:
    """Puts all of them before the routes of `app`, which may be added before or after.

    `needs_admin(method, path)` names the admin routes, `exempt_routes` the paths that need no token and have no
    rate; both see paths without the service's prefix.
    """
    # Starlette calls the last added one first.
    app.add_middleware(BodyLimitMiddleware, max_bytes=max_body_bytes)
    app.add_middleware(RateLimitMiddleware, limiter=limiter, exempt_routes=exempt_routes)
    app.add_middleware(ScopeMiddleware, book=book, needs_admin=needs_admin, exempt_routes=exempt_routes)
    app.add_middleware(AccessLogMiddleware, routes=app.routes, metrics=metrics, log_prompts=log_prompts)
