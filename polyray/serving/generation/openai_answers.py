"""Answers in OpenAI's shapes: whole ones, and the chunks of streams. Plain functions of what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from polyray.serving.generation.candidates_wire import TokenUsage
from polyray.types import TextDelta


class Decodes(Protocol):
    """A tokenizer, as far as it is needed here."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens, special ones included."""
        ...


@dataclass(slots=True)
class Sampled:
    """A completion as far as it has come.

    Example:
        Sampled(); then `add` for every delta
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_logprobs: tuple[float, ...] = ()
    prompt_alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()

    def add(self, delta: TextDelta) -> None:
        """Add a delta."""
        self.text += delta.text
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.alternatives.extend(delta.alternatives)
        self.finish_reason = delta.finish_reason
        if delta.prompt_logprobs:
            self.prompt_logprobs, self.prompt_alternatives = delta.prompt_logprobs, delta.prompt_alternatives

    def without_tokens(self) -> Sampled:
        """The prompt's part alone."""
        return Sampled(
            finish_reason="length",
            prompt_logprobs=self.prompt_logprobs,
            prompt_alternatives=self.prompt_alternatives,
        )


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Fields that every chunk of one answer repeats.

    Example:
        AnswerHead(id="cmpl-6f1e", created=1760000000, model="latest", policy="policy-v17")
    """

    id: str
    created: int
    model: str
    policy: str
    """The model that `model` stood for when it was asked."""

    def body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """An answer, or a chunk of one."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.policy,
            "choices": choices,
        }


def usage_of(prompt_tokens: int, completions: Sequence[Sampled]) -> TokenUsage:
    """Each prompt counts once, however many completions it has."""
    sampled = sum(len(completion.token_ids) for completion in completions)
    return TokenUsage(
        prompt_tokens=prompt_tokens, completion_tokens=sampled, total_tokens=prompt_tokens + sampled
    )


class CompletionShape:
    """POST /v1/completions."""

    kind = "text_completion"
    chunk_kind = "text_completion"

    def __init__(self, tokenizer: Decodes, logprobs: int | None) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs

    def choice(self, index: int, sampled: Sampled) -> dict[str, Any]:
        """A whole completion."""
        return {
            "index": index,
            "text": sampled.text,
            "finish_reason": sampled.finish_reason,
            "logprobs": self._rows(sampled.token_ids, sampled.logprobs, sampled.alternatives, 0),
        }

    def echo(self, index: int, sampled: Sampled, prompt: str, token_ids: Sequence[int]) -> dict[str, Any]:
        """A whole completion with its prompt before it. The prompt's first token has no log-prob."""
        body = self.choice(index, sampled)
        body["text"] = prompt + body["text"]
        if self._logprobs is not None:
            logprobs = (0.0, *sampled.prompt_logprobs, *sampled.logprobs)
            rows = ((), *sampled.prompt_alternatives, *(sampled.alternatives or [()] * len(sampled.logprobs)))
            listed = self._rows((*token_ids, *sampled.token_ids), logprobs, rows, 0)
            assert listed is not None
            listed["token_logprobs"][0] = listed["top_logprobs"][0] = None
            body["logprobs"] = listed
        return body

    def first(self, index: int) -> dict[str, Any] | None:
        """No first chunk: nothing comes before the text."""
        return None

    def delta(self, index: int, delta: TextDelta, offset: int) -> dict[str, Any]:
        """Added text, at `offset` characters of the whole text."""
        return {
            "index": index,
            "text": delta.text,
            "finish_reason": delta.finish_reason,
            "logprobs": self._rows(delta.token_ids, delta.logprobs, delta.alternatives, offset),
        }

    def _rows(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        alternatives: Sequence[tuple[tuple[int, float], ...]],
        offset: int,
    ) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        tokens = [self._tokenizer.decode([token]) for token in token_ids]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        top = [
            {self._tokenizer.decode([token]): logprob for token, logprob in row} for row in alternatives
        ] or [{} for _ in tokens]
        return {
            "tokens": tokens,
            "token_logprobs": list(logprobs),
            "top_logprobs": top,
            "text_offset": offsets,
        }


class ChatShape:
    """POST /v1/chat/completions."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, tokenizer: Decodes, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs

    def choice(self, index: int, sampled: Sampled) -> dict[str, Any]:
        """A whole completion."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": sampled.text, "refusal": None},
            "finish_reason": sampled.finish_reason,
            "logprobs": self._rows(sampled.token_ids, sampled.logprobs, sampled.alternatives),
        }

    def first(self, index: int) -> dict[str, Any] | None:
        """Role of the speaker."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}

    def delta(self, index: int, delta: TextDelta, offset: int) -> dict[str, Any]:
        """Added text."""
        return {
            "index": index,
            "delta": {"content": delta.text} if delta.text else {},
            "finish_reason": delta.finish_reason,
            "logprobs": self._rows(delta.token_ids, delta.logprobs, delta.alternatives),
        }

    def _rows(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        alternatives: Sequence[tuple[tuple[int, float], ...]],
    ) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        rows = alternatives or [()] * len(token_ids)
        content = [
            {
                **self._entry(token, logprob),
                "top_logprobs": [self._entry(other, value) for other, value in row],
            }
            for token, logprob, row in zip(token_ids, logprobs, rows, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self._tokenizer.decode([token_id])
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
