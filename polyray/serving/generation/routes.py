"""The HTTP routes of one replica: OpenAI's here, the rest in candidate_routes.py, adapter_routes.py, page_routes.py.

Every answer that is no success has the common shape {"error": {"message", "type", "param", "code"}}. Answers of
Serve's proxy before a replica is reached (408, 429, 503) are plain text.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from polyray.data.selections.errors import (
    InvalidSelection,
    SelectionConflict,
    StoreFull,
    StoreUnavailable,
    UnknownCandidates,
)
from polyray.errors import ConfigError, RewardError, RolloutError, WeightSyncError
from polyray.serving.auth import HEALTH_ROUTES
from polyray.serving.generation.adapter_routes import add_adapters, needs_admin
from polyray.serving.generation.candidate_routes import add_candidates
from polyray.serving.generation.errors import (
    AdapterConflict,
    DeadlineExceeded,
    EngineBusy,
    InvalidRequest,
    UnknownPolicy,
)
from polyray.serving.generation.middleware import add_middleware
from polyray.serving.generation.openai_wire import (
    ChatRequest,
    CompletionRequest,
    Model,
    ModelList,
    PolicyDetails,
    SamplingRequest,
)
from polyray.serving.generation.page_routes import PAGE_ROUTES, add_page
from polyray.serving.generation.policies import LivePolicy
from polyray.serving.generation.rate_limit import RateLimiter
from polyray.serving.generation.request_parser import ParsedRequest
from polyray.serving.generation.streaming import ClientGone, closed, event_stream, while_connected
from polyray.serving.http_errors import error_response, install_error_handlers
from polyray.serving.json_body import read_body

if TYPE_CHECKING:
    from polyray.serving.generation.service import GenerationService


RETRY_AFTER_S = 1
"""Pause that a 429 or 503 tells its caller."""


def build_http_app(service: GenerationService) -> FastAPI:
    """The routes of one replica."""
    app = FastAPI(title="polyray generation service", version="1", redirect_slashes=False)
    config = service.config
    install_error_handlers(app)
    _install_service_errors(app)
    _add_completions(app, service)
    _add_information(app, service)
    add_candidates(app, service)
    add_adapters(app, service)
    add_page(app)
    limiter = RateLimiter(config.limits.requests_per_minute, config.limits.burst, config.num_replicas)
    add_middleware(
        app,
        service.book,
        limiter,
        needs_admin,
        HEALTH_ROUTES | PAGE_ROUTES,
        config.limits.max_body_bytes,
        service.metrics,
        config.log_prompts,
    )
    return app


def _add_completions(app: FastAPI, service: GenerationService) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        """OpenAI's completions: text in, n continuations out."""
        return await _answer(request, service, await read_body(request, CompletionRequest))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        """OpenAI's chat completions: messages in, n answers out."""
        return await _answer(request, service, await read_body(request, ChatRequest))


async def _answer(request: Request, service: GenerationService, body: SamplingRequest) -> Response:
    await service.adapters.catch_up(body.model)
    asked = service.completing.asked(body)
    note_asked(request, asked)
    if isinstance(body, CompletionRequest):
        request.state.access.prompt = str(body.prompt)
    elif isinstance(body, ChatRequest):
        request.state.access.prompt = body.messages[-1].content
    if body.stream:
        return await event_stream(request, _data_blocks(request, service, body, asked))
    answer = await while_connected(request, service.completing.answer(body, asked))
    request.state.access.completion_tokens = answer["usage"]["completion_tokens"]
    return Response(json.dumps(answer), media_type="application/json")


async def _data_blocks(
    request: Request, service: GenerationService, body: SamplingRequest, asked: ParsedRequest
) -> AsyncGenerator[str, None]:
    chunks = service.completing.chunks(body, asked)
    try:
        async for data, tokens in chunks:
            request.state.access.completion_tokens = tokens
            yield f"data: {data}"
    finally:
        await chunks.aclose()


def _add_information(app: FastAPI, service: GenerationService) -> None:
    @app.get("/v1/models")
    async def models() -> ModelList:
        """The base, every adapter version that is served, and the aliases."""
        policies = service.policies
        served = [_model(live.model, live, None) for live in policies.models()]
        aliases = [_model(alias, live, live.model) for alias, live in policies.aliases().items()]
        return ModelList(data=served + aliases)

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Model:
        """One of them."""
        await service.adapters.catch_up(name)
        live = service.policies.resolve(name)
        return _model(name, live, None if name == live.model else live.model)

    @app.get("/v1/info")
    async def info() -> dict[str, Any]:
        """Limits, what is served, what it has generated in this replica."""
        return service.info()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers. Needs no token."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=dict[str, str])
    async def readyz() -> Response:
        """The engine generates. Needs no token."""
        try:
            await service.check_health()
        except RolloutError as error:
            return error_response(503, str(error))
        return JSONResponse({"status": "ready"})


def note_asked(request: Request, asked: ParsedRequest) -> None:
    """Note model and tokens of a request for the access log."""
    request.state.access.model = asked.policy.model
    request.state.access.prompt_tokens = asked.prompt_tokens


def _model(name: str, live: LivePolicy, alias_of: str | None) -> Model:
    details = PolicyDetails(
        alias_of=alias_of,
        version=live.version,
        sha256=live.policy.sha256,
        source=live.source,
        delivery_difference=live.difference,
    )
    return Model(id=name, created=live.created, polyray=details)


def _install_service_errors(app: FastAPI) -> None:
    """Status of each refusal in HTTP; anything else of ours is 500, as everywhere."""

    def answer(
        status: int, code: str, *, param: str | None = None, retry: bool = False, rejected: str | None = None
    ) -> Any:
        async def handle(request: Request, error: Exception) -> Response:
            if rejected is not None:
                request.state.access.rejected = rejected
            headers = {"Retry-After": str(RETRY_AFTER_S)} if retry else None
            named = getattr(error, "param", None) or param
            return error_response(status, str(error), code=code, param=named, headers=headers)

        return handle

    async def gone(request: Request, error: Exception) -> Response:
        request.state.access.disconnected = True
        return closed()

    handlers: dict[type[Exception], Any] = {
        InvalidRequest: answer(400, "invalid_request"),
        ConfigError: answer(400, "invalid_adapter"),
        UnknownPolicy: answer(404, "model_not_found", param="model"),
        UnknownCandidates: answer(404, "candidates_not_found", param="candidates_id"),
        InvalidSelection: answer(400, "invalid_selection", param="selected_index"),
        SelectionConflict: answer(409, "selection_conflict", param="client_key"),
        AdapterConflict: answer(409, "adapter_conflict"),
        EngineBusy: answer(429, "engine_busy", retry=True, rejected="queue_full"),
        DeadlineExceeded: answer(504, "timeout", rejected="deadline"),
        StoreUnavailable: answer(503, "store_unavailable", retry=True),
        StoreFull: answer(507, "store_full"),
        RewardError: answer(503, "not_scored", retry=True),
        WeightSyncError: answer(500, "not_delivered"),
        RolloutError: answer(503, "engine_failed", retry=True),
        ClientGone: gone,
    }
    for error_class, handler in handlers.items():
        app.add_exception_handler(error_class, handler)
