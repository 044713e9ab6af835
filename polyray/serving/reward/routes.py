"""The HTTP routes of one replica, and the OpenAPI page that describes them; needs no Ray's processes.

Every answer that is no success has the common shape {"error": {"message", "type", "param", "code"}}. Answers of
Serve's proxy before a replica is reached (408, 429, 500, 503) are plain text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel, SecretStr
from pydantic.json_schema import models_json_schema
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyray.errors import PolyrayError, RewardError
from polyray.rewards.protocol import (
    ModelList,
    ScoreRequest,
    ScoreResponse,
    ServiceInfo,
)
from polyray.serving.auth import HEALTH_ROUTES, BearerTokenMiddleware, route_path
from polyray.serving.body_limit import MAX_BODY_BYTES, BodyLimitMiddleware
from polyray.serving.http_errors import ErrorResponse, error_response, install_error_handlers
from polyray.serving.json_body import body_schema, read_body
from polyray.serving.reward.batching import RETRY_AFTER_S, ServiceOverloaded
from polyray.serving.reward.models import RewardTimeout, UnknownModel

if TYPE_CHECKING:
    from polyray.serving.reward.metrics import RewardMetrics
    from polyray.serving.reward.service import RewardService

_REQUESTS: tuple[type[BaseModel], ...] = (ScoreRequest,)
_WHY = {
    400: "The body is not strict JSON, or not of this schema",
    401: "The bearer token is missing or wrong",
    404: "No such model",
    408: "Serve's own limit of time (plain text)",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes",
    415: "The body is not application/json",
    429: "The queue is full; Retry-After says when to come back",
    500: "A reward's own failure, or a defect; the log has the traceback",
    503: "The replica is not well, or none is there",
    504: "No answer in time",
}
_READ = (401, 500, 503)
_SCORE = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)


def build_http_app(service: RewardService, token: SecretStr | None) -> FastAPI:
    """The routes of one replica."""
    app = FastAPI(title="polyray reward service", version="1", redirect_slashes=False)
    install_error_handlers(app)
    _install_service_errors(app, service)
    _add_work(app, service)
    _add_information(app, service)
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(BearerTokenMiddleware, token=token)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(_Measured, metrics=service.metrics, paths=paths)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add_work(app: FastAPI, service: RewardService) -> None:
    @app.post("/v1/score", response_model=ScoreResponse, **_documented(_SCORE, ScoreRequest))
    async def score(request: Request) -> Response:
        """Scores items; items that name one group get classes, and by option distances, of that group."""
        body = await read_body(request, ScoreRequest)
        _note_model(request, service, body.model)
        response = await service.score_request(body)
        without = {"distances"} if response.distances is None else None
        return _json(response.model_dump_json(by_alias=True, exclude=without))


def _add_information(app: FastAPI, service: RewardService) -> None:
    @app.get("/v1/models", **_documented(_READ))
    async def models() -> ModelList:
        """The reward models, the default first."""
        return ModelList(data=service.model_infos())

    @app.get("/v1/info", **_documented(_READ))
    async def info() -> ServiceInfo:
        """The default model and its version, the configuration's revision, and every model."""
        return await service.info()

    @app.get("/healthz", **_documented((500,)))
    async def healthz() -> dict[str, str]:
        """The process answers. Needs no token."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=dict[str, str], **_documented((500, 503)))
    async def readyz() -> Response:
        """Every model gives its canary the score that it gave when it was loaded. Needs no token."""
        try:
            await service.check_health()
        except RewardError as error:
            return error_response(503, str(error))
        return JSONResponse({"status": "ready"})


def _install_service_errors(app: FastAPI, service: RewardService) -> None:
    async def unknown_model(request: Request, error: Exception) -> JSONResponse:
        return error_response(404, str(error), code="model_not_found", param="model")

    async def overloaded(request: Request, error: Exception) -> JSONResponse:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        return error_response(429, str(error), code="rate_limit_exceeded", headers=headers)

    async def timed_out(request: Request, error: Exception) -> JSONResponse:
        return error_response(504, str(error), code="timeout")

    handlers: dict[type[PolyrayError], Any] = {
        UnknownModel: unknown_model,
        ServiceOverloaded: overloaded,
        RewardTimeout: timed_out,
    }
    for error_class, handler in handlers.items():
        app.add_exception_handler(error_class, handler)


def _note_model(request: Request, service: RewardService, model: str | None) -> None:
    """Note the model of a request for the metrics; raises UnknownModel for an unknown one."""
    request.state.model = service.find(model).id


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


def _documented(statuses: Sequence[int], body: type[BaseModel] | None = None) -> dict[str, Any]:
    responses = {status: {"model": ErrorResponse, "description": _WHY[status]} for status in statuses}
    return {"responses": responses, "openapi_extra": None if body is None else body_schema(body)}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description with the bodies that the routes read themselves, and the bearer scheme."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=__doc__, routes=app.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in _REQUESTS], ref_template="#/components/schemas/{model}"
        )
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(definitions["$defs"])
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path not in HEALTH_ROUTES:
                    operation["security"] = [
                        {"bearer": []},
                        {},
                    ]  # {}: a service that was started without a token
        app.openapi_schema = document
    return app.openapi_schema


class _Measured:
    """Counts every answer by route, model and status."""

    def __init__(self, app: ASGIApp, metrics: RewardMetrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on and notes its status; 500 where no answer was begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        state = scope.setdefault("state", {})

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted_send)
        finally:
            path = route_path(scope)
            route = path if path in self._paths else "other"
            self._metrics.request(route, state.get("model", ""), status, time.perf_counter() - started)
