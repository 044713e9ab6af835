"""From requests to what the engine is asked: which policy, which tokens, which seeds; and what is refused.

Used by completions and by candidates alike. Nothing here waits.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyray.config.generation import GenerationServeConfig
from polyray.data.chat import encode_prompt, stop_tokens
from polyray.errors import DataError
from polyray.seeds import SEED_BITS, sample_seed
from polyray.serving.generation.candidates_wire import CandidatesRequest, ChatMessage
from polyray.serving.generation.errors import InvalidRequest
from polyray.serving.generation.openai_wire import ChatRequest, CompletionRequest
from polyray.serving.generation.policies import LivePolicies, LivePolicy
from polyray.types import Prompt, Sampling, TextRequest

MAX_PROMPTS = 64
"""Prompts in one request to /v1/completions."""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """Engine requests of one HTTP request.

    Example:
        ParsedRequest(policy=LivePolicy(...), requests=(TextRequest(...),), prompt_tokens=3)
    """

    policy: LivePolicy
    requests: tuple[TextRequest, ...]
    """Prompt by prompt, n completions each."""
    prompt_tokens: int
    """Tokens of all prompts, each counted once."""


class RequestParser:
    """Checks requests against the limits of the service."""

    def __init__(self, config: GenerationServeConfig, tokenizer: Any, policies: LivePolicies) -> None:
        self._config = config
        self._limits = config.limits
        self._tokenizer = tokenizer
        self._policies = policies
        self._vocabulary = len(tokenizer)

    def completion(self, request: CompletionRequest) -> ParsedRequest:
        """POST /v1/completions. Raises InvalidRequest and UnknownPolicy."""
        prompts = request.prompts
        _at_most("the number of prompts", len(prompts), MAX_PROMPTS, "prompt")
        rows = [self._text(prompt) if isinstance(prompt, str) else self._tokens(prompt) for prompt in prompts]
        self._check_logprobs(request.logprobs, "logprobs")
        # The engine samples a token at least; the answer leaves it out where none was asked for.
        tokens = 1 if request.max_tokens == 0 else request.max_tokens
        sampling = self._sampling(request, tokens, request.stops, request.logprobs)
        sampling = replace(sampling, prompt_logprobs=request.echo and request.logprobs is not None)
        return self._asked(request.model, rows, request.n, sampling, request.seed, request.stream)

    def chat(self, request: ChatRequest) -> ParsedRequest:
        """POST /v1/chat/completions. Raises InvalidRequest and UnknownPolicy."""
        self._check_logprobs(request.top_logprobs, "top_logprobs")
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        tokens = request.max_completion_tokens or request.max_tokens
        sampling = self._sampling(request, tokens, request.stops, logprobs)
        prompt = as_prompt(None, request.messages)
        rows, sampling = [self._encode(prompt, "messages")], self._ended(sampling, prompt)
        return self._asked(request.model, rows, request.n, sampling, request.seed, request.stream)

    def candidates(self, request: CandidatesRequest) -> ParsedRequest:
        """POST /v1/candidates. Raises InvalidRequest and UnknownPolicy."""
        _at_most("k", request.k, self._limits.max_candidates, "k")
        stop = request.stop
        stops = () if stop is None else (stop,) if isinstance(stop, str) else stop
        sampling = self._sampling(request, request.max_tokens, stops, 0)
        param = "prompt" if request.messages is None else "messages"
        prompt = as_prompt(request.prompt, request.messages)
        rows, sampling = [self._encode(prompt, param)], self._ended(sampling, prompt)
        return self._asked(request.model, rows, request.num_samples, sampling, request.seed, request.stream)

    def _asked(
        self,
        model: str | None,
        rows: Sequence[tuple[int, ...]],
        n: int,
        sampling: Sampling,
        seed: int | None,
        stream: bool,
    ) -> ParsedRequest:
        most = max(self._limits.max_n, len(rows))  # one of each prompt is a batch
        _at_most("the number of completions", n * len(rows), most, "n")
        policy = self._policies.resolve(model)
        seed = secrets.randbits(SEED_BITS) if seed is None else seed
        requests = [
            TextRequest(row, sampling, sample_seed(seed, f"prompt {place}", index), policy.model, stream)
            for place, row in enumerate(rows)
            for index in range(n)
        ]
        return ParsedRequest(policy, tuple(requests), sum(len(row) for row in rows))

    def _sampling(
        self, request: Any, max_tokens: int | None, stops: Sequence[str], logprobs: int | None
    ) -> Sampling:
        limit = self._config.engine.max_completion_tokens
        if max_tokens is not None:
            _at_most("max_tokens", max_tokens, limit, "max_tokens")
        if any(not text for text in stops):
            raise InvalidRequest("stop holds an empty text; leave it out", "stop")
        return Sampling(
            max_tokens or limit, request.temperature, request.top_p, tuple(stops), logprobs=logprobs
        )

    def _ended(self, sampling: Sampling, prompt: Prompt) -> Sampling:
        """The sampling settings with the tokens that end a completion of this prompt."""
        return replace(sampling, stop_token_ids=stop_tokens(self._tokenizer, prompt))

    def _check_logprobs(self, wanted: int | None, param: str) -> None:
        if wanted is not None:
            _at_most(param, wanted, self._limits.max_logprobs, param)

    def _text(self, text: str) -> tuple[int, ...]:
        return self._encode(as_prompt(text, None), "prompt")

    def _encode(self, prompt: Prompt, param: str) -> tuple[int, ...]:
        try:
            return self._checked(tuple(encode_prompt(self._tokenizer, prompt)), param)
        except DataError as error:
            raise InvalidRequest(str(error), param) from None

    def _tokens(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        largest = max(tokens)
        if largest >= self._vocabulary:
            raise InvalidRequest(
                f"prompt holds the token id {largest}; the vocabulary ends at {self._vocabulary - 1}",
                "prompt",
            )
        return self._checked(tokens, "prompt")

    def _checked(self, tokens: tuple[int, ...], param: str) -> tuple[int, ...]:
        limit = self._config.engine.max_prompt_tokens
        if not tokens:
            raise InvalidRequest(f"{param} has no tokens; give some text", param)
        if len(tokens) > limit:
            raise InvalidRequest(
                f"{param} has {len(tokens)} tokens, the limit is {limit}; shorten it, or raise "
                "engine.max_prompt_tokens",
                param,
            )
        return tokens


def as_prompt(text: str | None, messages: Sequence[ChatMessage] | None) -> Prompt:
    """The prompt as tokenizers and rewards read it."""
    if messages is None:
        return Prompt("request", text or "")
    last = next((turn.content for turn in reversed(messages) if turn.role == "user"), messages[-1].content)
    return Prompt("request", last, messages=tuple(turn.model_dump() for turn in messages))


def _at_most(what: str, value: int, limit: int, param: str) -> None:
    if value > limit:
        raise InvalidRequest(f"{what} is {value}, the limit is {limit}; ask for less", param)
