"""/v1/candidates and /v1/selections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from polyray.data.selections.errors import UnknownCandidates
from polyray.data.selections.records import SelectionRecord, StoredRecord
from polyray.serving.generation.candidates_wire import (
    CandidatesAnswer,
    CandidatesPage,
    CandidatesRequest,
    Selection,
    SelectionRequest,
    StoredCandidates,
)
from polyray.serving.generation.completions import END_OF_STREAM
from polyray.serving.generation.request_parser import ParsedRequest
from polyray.serving.generation.streaming import event_stream, while_connected
from polyray.serving.generation.tokens import Caller
from polyray.serving.json_body import read_body

if TYPE_CHECKING:
    from polyray.serving.generation.service import GenerationService

MAX_PAGE = 100


def add_candidates(app: FastAPI, service: GenerationService) -> None:
    """Adds the routes."""

    @app.post("/v1/candidates")
    async def candidates(request: Request) -> Response:
        """k candidates for one prompt, and the one that the selector would pick."""
        body = await read_body(request, CandidatesRequest)
        await service.adapters.catch_up(body.model)
        asked = service.candidates.asked(body)
        access = request.state.access
        access.model, access.prompt_tokens = asked.policy.model, asked.prompt_tokens
        access.prompt = body.prompt or (body.messages[-1].content if body.messages else None)
        owner = _caller(request).name
        if body.stream:
            return await event_stream(request, _event_blocks(request, service, body, asked, owner))
        answer = await while_connected(request, service.candidates.answer(body, asked, owner))
        _note_answer(request, answer)
        return _json(answer.model_dump_json())

    @app.get("/v1/candidates")
    async def recent(
        request: Request, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20, before: str | None = None
    ) -> Response:
        """The caller's own sets, newest first, each with what was picked."""
        owner = _caller(request).name
        records, has_more = await asyncio.to_thread(service.store.page, owner, limit, before)
        page = CandidatesPage(data=[_stored(record) for record in records], has_more=has_more)
        return _json(page.model_dump_json())

    @app.get("/v1/candidates/{candidates_id}")
    async def one(request: Request, candidates_id: str) -> Response:
        """One set with what was picked."""
        return _json(_stored(await _find(request, service, candidates_id)).model_dump_json())

    @app.post("/v1/candidates/{candidates_id}/scores")
    async def scores(request: Request, candidates_id: str) -> Response:
        """The set with scores, which are computed now where they were not."""
        record = await _find(request, service, candidates_id)
        answer = await while_connected(request, service.candidates.score(record))
        stored = _stored(record).model_copy(update={"answer": CandidatesAnswer.model_validate(answer)})
        return _json(stored.model_dump_json())

    @app.post("/v1/selections", status_code=201)
    async def selections(request: Request) -> Response:
        """Store a person's selection; answered once it is on disk."""
        body = await read_body(request, SelectionRequest)
        caller = _caller(request)
        request.state.access.candidates_id = body.candidates_id
        # Not cancelled if the client goes: it may believe that the selection was sent.
        record, is_new = await asyncio.to_thread(
            service.store.add_selection,
            body.candidates_id,
            owner=caller.name,
            selected_index=body.selected_index,
            edited_text=body.edited_text,
            client_key=body.client_key,
            sees_all=caller.scope == "admin",
        )
        picked = "none" if record.selected_index is None else "edited" if record.edited_text else "picked"
        service.metrics.selection(picked if is_new else "repeated")
        return _json(_selection(record).model_dump_json(), 201 if is_new else 200)


async def _event_blocks(
    request: Request, service: GenerationService, body: CandidatesRequest, asked: ParsedRequest, owner: str
) -> AsyncGenerator[str, None]:
    events = service.candidates.events(body, asked, owner)
    try:
        async for event, data, tokens in events:
            request.state.access.completion_tokens = tokens
            if isinstance(data, CandidatesAnswer):
                _note_answer(request, data)
            yield f"event: {event}\ndata: {data.model_dump_json()}"
        yield f"data: {END_OF_STREAM}"
    finally:
        await events.aclose()


def _note_answer(request: Request, answer: CandidatesAnswer) -> None:
    access = request.state.access
    access.candidates_id, access.completion_tokens = answer.id, answer.usage.completion_tokens


async def _find(request: Request, service: GenerationService, candidates_id: str) -> StoredRecord:
    caller = _caller(request)
    request.state.access.candidates_id = candidates_id
    owner = None if caller.scope == "admin" else caller.name
    record = await asyncio.to_thread(service.store.candidates, candidates_id, owner)
    if record is None:
        raise UnknownCandidates(f"you have no candidates {candidates_id!r} of yours")
    return record


def _stored(record: StoredRecord) -> StoredCandidates:
    request: dict[str, Any] = dict(record.candidates.request)
    return StoredCandidates(
        request=CandidatesRequest.model_validate(json.loads(json.dumps(request))),
        answer=CandidatesAnswer.model_validate(record.candidates.answer),
        selection=None if record.selection is None else _selection(record.selection),
    )


def _selection(record: SelectionRecord) -> Selection:
    return Selection(
        id=record.id,
        created=int(record.created),
        candidates_id=record.candidates_id,
        selected_index=record.selected_index,
        edited_text=record.edited_text,
        client_key=record.client_key,
    )


def _caller(request: Request) -> Caller:
    return request.state.caller


def _json(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")
