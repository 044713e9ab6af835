"""A generation service in memory for tests of its page: the real JSON, the real page and tokens, invented texts.

Its bodies are the models of candidates_wire.py, so it cannot say what the service would not. Texts depend on the
prompt, the model, the seed and the sample only. A prompt with '<' in it is echoed: for hostile completions.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, SecretStr
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from polyray.serving.auth import HEALTH_ROUTES, BearerTokenMiddleware
from polyray.serving.generation.candidates_wire import (
    Candidate,
    CandidatesAnswer,
    CandidatesPage,
    CandidatesRequest,
    Collapsed,
    Selection,
    SelectionRequest,
    ServedPolicy,
    SetDiversity,
    StoredCandidates,
    Timings,
    TokenUsage,
)
from polyray.serving.generation.page_routes import PAGE_ROUTES, add_page
from polyray.serving.http_errors import error_response, install_error_handlers
from polyray.serving.json_body import read_body
from tests.served_app import served

MODELS = {"base": None, "policy-v16": 16, "policy-v17": 17}
ALIASES = {"latest": "policy-v17"}
TEXTS = (
    "RRUU", "UURR", "RURU", "DDLLRRRRUUUU", "RRRUULUR", "LLRRRRUU", "UUUDRRR", "URURRRLL", "DRRRUUU", "RRUULRLR",
)  # fmt: skip
DELTA_CHARS = 2


class FakeGeneration:
    """The state of one fake service, and its application.

    Example:
        with FakeGeneration(token="s3cret").served() as url: ...
    """

    def __init__(
        self, token: str | None = None, delta_s: float = 0.01, texts: tuple[str, ...] = TEXTS
    ) -> None:
        self.delta_s = delta_s
        self.texts = texts
        self.num_cancelled = 0
        """Generations whose client went away."""
        self.selection_bodies: list[SelectionRequest] = []
        """Every POST /v1/selections that arrived, failed ones too."""
        self.selections: dict[str, Selection] = {}
        """Those that were stored, by client key."""
        self.stored: list[StoredCandidates] = []
        """Oldest first."""
        self._faults: dict[str, list[Response]] = {}
        self.app = self._build(token)

    def fail(self, path: str, status: int, message: str, times: int = 1, **headers: str) -> None:
        """The next `times` requests to `path` answer this error."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.setdefault(path, []).extend([error_response(status, message, headers=sent)] * times)

    @contextmanager
    def served(self) -> Iterator[str]:
        """The URL below which it answers, with its last slash."""

        with served(nullcontext(self.app), start_timeout_s=20) as url:
            yield url

    def _build(self, token: str | None) -> FastAPI:
        app = FastAPI(redirect_slashes=False)
        install_error_handlers(app)
        self._add_information(app)
        self._add_candidates(app)
        self._add_selections(app)
        add_page(app)
        app.add_middleware(_Faults, faults=self._faults)
        secret = None if token is None else SecretStr(token)
        app.add_middleware(BearerTokenMiddleware, token=secret, exempt_routes=HEALTH_ROUTES | PAGE_ROUTES)
        return app

    def _add_information(self, app: FastAPI) -> None:
        @app.get("/v1/info")
        async def info() -> dict[str, Any]:
            return {
                "name": "generation",
                "model": "embedded",
                "selector": "logprob",
                "has_reward": True,
                "max_candidates": 64,
                "max_n": 256,
                "max_prompt_tokens": 64,
                "max_completion_tokens": 64,
            }

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            names = {**{name: name for name in MODELS}, **ALIASES}
            return {"object": "list", "data": [_model(name, real) for name, real in names.items()]}

    def _add_candidates(self, app: FastAPI) -> None:
        @app.post("/v1/candidates")
        async def candidates(request: Request) -> Response:
            body = await read_body(request, CandidatesRequest)
            model = ALIASES.get(body.model or "base", body.model or "base")
            if model not in MODELS:
                known = ", ".join([*MODELS, *ALIASES])
                message = f"no model {body.model!r}; there are {known}"
                return error_response(404, message, code="model_not_found", param="model")
            stored = self._answer(body, model)
            if body.stream:
                return StreamingResponse(self._events(stored), media_type="text/event-stream")
            self.stored.append(stored)
            return _json(stored.answer)

        @app.get("/v1/candidates")
        async def page(limit: int = 20, before: str | None = None) -> CandidatesPage:
            newest = self.stored[::-1]
            ids = [stored.answer.id for stored in newest]
            start = 0 if before is None else ids.index(before) + 1
            return CandidatesPage(data=newest[start : start + limit], has_more=len(newest) > start + limit)

        @app.get("/v1/candidates/{candidates_id}")
        async def one(candidates_id: str) -> Response:
            return self._found(candidates_id)

        @app.post("/v1/candidates/{candidates_id}/scores")
        async def scores(candidates_id: str) -> Response:
            for stored in self.stored:
                if stored.answer.id == candidates_id:
                    for candidate in stored.answer.candidates:
                        candidate.score = len(set(candidate.text)) / max(1, len(candidate.text))
                        candidate.components = {"variety": candidate.score}
            return self._found(candidates_id)

    def _add_selections(self, app: FastAPI) -> None:
        @app.post("/v1/selections")
        async def select(request: Request) -> Response:
            body = await read_body(request, SelectionRequest)
            self.selection_bodies.append(body)
            stored = next((each for each in self.stored if each.answer.id == body.candidates_id), None)
            if stored is None:
                return error_response(404, f"no candidates {body.candidates_id!r}")
            key = body.client_key or f"key-{len(self.selections)}"
            if key in self.selections:
                return _json(self.selections[key])
            selection = Selection(
                id=f"sel-{len(self.selections)}", created=int(time.time()), **body.model_dump()
            )
            self.selections[key] = stored.selection = selection
            return _json(selection, 201)

    def _found(self, candidates_id: str) -> Response:
        for stored in self.stored:
            if stored.answer.id == candidates_id:
                return _json(stored)
        return error_response(404, f"no candidates {candidates_id!r}")

    def _sampled(self, body: CandidatesRequest, model: str) -> list[str]:
        prompt = body.messages[-1].content if body.messages else str(body.prompt)
        if "<" in prompt:
            return [f"{prompt} {sample}" for sample in range(body.num_samples)]
        draw = random.Random(f"{prompt} {MODELS[model]} {body.seed}")
        return [draw.choice(self.texts) for _ in range(body.num_samples)]

    def _answer(self, body: CandidatesRequest, model: str) -> StoredCandidates:
        samples = self._sampled(body, model)
        shown = list(dict.fromkeys(samples))[: body.k]
        clusters = {length: at for at, length in enumerate(sorted({len(text) for text in shown}))}
        candidates = [
            Candidate(
                index=index,
                sample=samples.index(text),
                text=text,
                logprob=-0.75 * len(text) - 0.1 * (ord(text[0]) % 7),
                num_tokens=len(text),
                finish_reason="stop",
                cluster=None if text.startswith("D") else clusters[len(text)],
                count=samples.count(text),
                seed=(body.seed or 0) + samples.index(text),
            )
            for index, text in enumerate(shown)
        ]
        collapsed = [
            Collapsed(sample=sample, text=text, candidate=shown.index(text) if text in shown else None)
            for sample, text in enumerate(samples)
            if samples.index(text) != sample
        ]
        best = max(candidates, key=lambda candidate: candidate.logprob)
        tokens = sum(len(text) for text in samples)
        answer = CandidatesAnswer(
            id=f"cand-{random.randrange(2**40):x}",
            created=int(time.time()),
            model=body.model or "base",
            policy=ServedPolicy(model=model, version=MODELS[model], sha256=_sha256(model)),
            selector=body.selector or "logprob",
            selected_index=0 if body.selector == "first" else best.index,
            candidates=candidates,
            collapsed=collapsed,
            diversity=SetDiversity(source="ngram", mean_distance=0.53, clusters=len(clusters)),
            usage=TokenUsage(prompt_tokens=4, completion_tokens=tokens, total_tokens=tokens + 4),
            timings=Timings(generate_s=0.2, first_token_s=0.02, score_s=0.0, choose_s=0.001, total_s=0.201),
        )
        return StoredCandidates(
            request=body.model_copy(update={"stream": False}), answer=answer, selection=None
        )

    async def _events(self, stored: StoredCandidates) -> AsyncIterator[str]:
        answer = stored.answer
        texts = {candidate.sample: candidate.text for candidate in answer.candidates}
        texts |= {collapsed.sample: collapsed.text for collapsed in answer.collapsed}
        try:
            for step in range(max(math.ceil(len(text) / DELTA_CHARS) for text in texts.values())):
                for sample, text in sorted(texts.items()):
                    if piece := text[step * DELTA_CHARS : (step + 1) * DELTA_CHARS]:
                        yield _event("delta", {"sample": sample, "text": piece})
                await asyncio.sleep(self.delta_s)
        except (asyncio.CancelledError, GeneratorExit):
            self.num_cancelled += 1
            raise
        for sample in sorted(texts):
            yield _event("finish", {"sample": sample, "finish_reason": "stop"})
        self.stored.append(stored)
        yield _event("candidates", answer.model_dump(mode="json"))
        yield "data: [DONE]\n\n"


class _Faults:
    """Answers what `FakeGeneration.fail` has prepared for a path."""

    def __init__(self, app: ASGIApp, faults: dict[str, list[Response]]) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prepared = self._faults.get(scope.get("path", ""))
        await (prepared.pop(0) if prepared else self._app)(scope, receive, send)


def _model(name: str, real: str) -> dict[str, Any]:
    about = {
        "alias_of": None if name == real else real,
        "version": MODELS[real],
        "sha256": _sha256(real),
    }
    return {"id": name, "object": "model", "created": 0, "owned_by": "polyray", "polyray": about}


def _sha256(model: str) -> str:
    return f"{list(MODELS).index(model):064x}"


def _event(name: str, value: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n"


def _json(model: BaseModel, status: int = 200) -> JSONResponse:
    return JSONResponse(model.model_dump(mode="json"), status_code=status)
