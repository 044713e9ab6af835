"""OpenAI's completions: one answer, or chunks as they come."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from polyray.serving.generation.openai_answers import (
    AnswerHead,
    ChatShape,
    CompletionShape,
    Sampled,
    TokenTexts,
    usage_of,
)
from polyray.serving.generation.openai_wire import ChatRequest, CompletionRequest, SamplingRequest
from polyray.serving.generation.request_parser import ParsedRequest, RequestParser
from polyray.serving.generation.sampling import Sampler

Shape = CompletionShape | ChatShape
END_OF_STREAM = "[DONE]"


class Completing:
    """Answers /v1/completions and /v1/chat/completions."""

    def __init__(self, asking: RequestParser, sampler: Sampler, tokenizer: Any) -> None:
        self._asking = asking
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._texts = TokenTexts(tokenizer)

    def asked(self, request: SamplingRequest) -> ParsedRequest:
        """Engine requests of the HTTP request. Raises InvalidRequest and UnknownPolicy."""
        if isinstance(request, ChatRequest):
            return self._asking.chat(request)
        assert isinstance(request, CompletionRequest)
        return self._asking.completion(request)

    async def answer(self, request: SamplingRequest, asked: ParsedRequest) -> dict[str, Any]:
        """The whole answer. Raises EngineBusy, DeadlineExceeded and RolloutError."""
        head, shape = _head(request, asked), self._shape(request)
        with self._sampler.reserved(len(asked.requests)):
            completions = await self._sampler.complete(asked.requests)
        if isinstance(request, CompletionRequest) and request.echo:
            if request.max_tokens == 0:
                completions = [each.without_tokens() for each in completions]
            choices = self._echoed(request, asked, completions)
        else:
            choices = [shape.choice(at, each) for at, each in enumerate(completions)]
        body = head.body(shape.kind, choices)
        return {**body, "usage": usage_of(asked.prompt_tokens, completions).model_dump()}

    async def chunks(
        self, request: SamplingRequest, asked: ParsedRequest
    ) -> AsyncGenerator[tuple[str, int], None]:
        """(data of a server-sent event, tokens sampled so far), END_OF_STREAM last. Raises like `answer`."""
        head, shape = _head(request, asked), self._shape(request)
        with_usage = request.stream_options is not None and request.stream_options.include_usage
        completions = [Sampled() for _ in asked.requests]
        begun = [False] * len(completions)
        tokens = 0
        with self._sampler.reserved(len(asked.requests)):
            async for index, delta in self._sampler.stream(asked.requests):
                tokens += len(delta.token_ids)
                first = None if begun[index] else shape.first(index)
                begun[index] = True
                if first is not None:
                    yield json.dumps(head.body(shape.chunk_kind, [first])), tokens
                if delta.text or delta.finish_reason is not None or delta.logprobs:
                    choice = shape.delta(index, delta)
                    yield json.dumps(head.body(shape.chunk_kind, [choice])), tokens
                completions[index].add(delta)
        if with_usage:
            usage = usage_of(asked.prompt_tokens, completions).model_dump()
            yield json.dumps({**head.body(shape.chunk_kind, []), "usage": usage}), tokens
        yield END_OF_STREAM, tokens

    def _echoed(
        self, request: CompletionRequest, asked: ParsedRequest, completions: Sequence[Sampled]
    ) -> list[dict[str, Any]]:
        shape = CompletionShape(self._texts, request.logprobs)
        special = frozenset(self._tokenizer.all_special_ids)
        choices = []
        for index, (one, sampled) in enumerate(zip(asked.requests, completions, strict=True)):
            prompt = request.prompts[index // request.n]
            is_text = isinstance(prompt, str)
            text = prompt if is_text else self._tokenizer.decode(prompt)
            choices.append(shape.echo(index, sampled, text, one.prompt_token_ids, special if is_text else ()))
        return choices

    def _shape(self, request: SamplingRequest) -> Shape:
        if isinstance(request, ChatRequest):
            return ChatShape(self._texts, request.logprobs)
        assert isinstance(request, CompletionRequest)
        return CompletionShape(self._texts, request.logprobs)


def _head(request: SamplingRequest, asked: ParsedRequest) -> AnswerHead:
    kind = "chatcmpl" if isinstance(request, ChatRequest) else "cmpl"
    return AnswerHead(f"{kind}-{uuid.uuid4().hex}", int(time.time()), request.model, asked.policy.policy.name)
