"""Answers in OpenAI's shapes: whole ones, and the chunks of streams. Plain functions of what was sampled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from polyray.serving.generation.candidates_wire import TokenUsage
from polyray.types import TextDelta

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Text of a token that is a part of a character."""


class Decodes(Protocol):
    """A tokenizer, as far as it is needed here."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens, special ones included."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The tokens of a text."""
        ...


class TokenTexts:
    """The text that each token adds where it stands behind others: many tokenizers drop the space of a first word."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._before = tokenizer.encode("a", add_special_tokens=False)[-1]
        self._width = len(tokenizer.decode([self._before]))
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        """Text of a token, special ones included; a part of a character is the replacement character."""
        if token_id not in self._known:
            self._known[token_id] = self._tokenizer.decode([self._before, token_id])[self._width :]
        return self._known[token_id]


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

    def __init__(self, texts: TokenTexts, logprobs: int | None) -> None:
        self._texts = texts
        self._logprobs = logprobs
        self._sent: dict[int, int] = {}
        """Characters of the tokens that were sent, by completion; an engine may hold their text back for a while."""

    def choice(self, index: int, sampled: Sampled) -> dict[str, Any]:
        """A whole completion."""
        return {
            "index": index,
            "text": sampled.text,
            "finish_reason": sampled.finish_reason,
            "logprobs": self._rows(sampled.token_ids, sampled.logprobs, sampled.alternatives, 0),
        }

    def echo(
        self, index: int, sampled: Sampled, prompt: str, token_ids: Sequence[int], hidden: Collection[int]
    ) -> dict[str, Any]:
        """A whole completion with its prompt before it; the prompt's first token has no log-prob, and `hidden` tokens
        have no place in its text."""
        body = self.choice(index, sampled)
        body["text"] = prompt + body["text"]
        if self._logprobs is not None:
            logprobs = (0.0, *sampled.prompt_logprobs, *sampled.logprobs)
            rows = ((), *sampled.prompt_alternatives, *(sampled.alternatives or [()] * len(sampled.logprobs)))
            listed = self._rows((*token_ids, *sampled.token_ids), logprobs, rows, 0, hidden)
            assert listed is not None
            listed["token_logprobs"][0] = listed["top_logprobs"][0] = None
            body["logprobs"] = listed
        return body

    def first(self, index: int) -> dict[str, Any] | None:
        """No first chunk: nothing comes before the text."""
        return None

    def delta(self, index: int, delta: TextDelta) -> dict[str, Any]:
        """Added text."""
        offset = self._sent.get(index, 0)
        self._sent[index] = offset + sum(len(self._texts[token]) for token in delta.token_ids)
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
        hidden: Collection[int] = (),
    ) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        offsets = []
        for token in token_ids:
            offsets.append(offset)
            offset += 0 if token in hidden else len(self._texts[token])
        rows = alternatives or [()] * len(token_ids)
        return {
            "tokens": [self._texts[token] for token in token_ids],
            "token_logprobs": list(logprobs),
            "top_logprobs": [self._top(*place) for place in zip(token_ids, logprobs, rows, strict=True)],
            "text_offset": offsets,
        }

    def _top(self, token: int, logprob: float, row: tuple[tuple[int, float], ...]) -> dict[str, float]:
        """The likeliest tokens, the best first, and the token that was taken; of tokens with one text the best."""
        top: dict[str, float] = {}
        for other, value in (*row, (token, logprob)) if row else ():
            top.setdefault(self._texts[other], value)
        return top


class ChatShape:
    """POST /v1/chat/completions."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, texts: TokenTexts, logprobs: bool) -> None:
        self._texts = texts
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

    def delta(self, index: int, delta: TextDelta) -> dict[str, Any]:
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
        token = self._texts[token_id]
        whole = REPLACEMENT not in token
        return {"token": token, "logprob": logprob, "bytes": list(token.encode()) if whole else None}
