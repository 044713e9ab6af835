"""The two protocols behind one: a chat request out, the answer's text and its token counts back.

    Provider.ask(ChatRequest, form) -> ChatAnswer
        AnthropicProvider   anthropic_provider.py, POST /v1/messages
        OpenAIProvider      openai_provider.py, POST /v1/chat/completions of any compatible endpoint

The SDKs retry what may pass, up to judge.max_attempts tries, and obey Retry-After. Every failure becomes one of
three: NoAnswer, Refused (this request), or JudgeError (no request will succeed). Limits and money are client.py's
business. The SDKs are imported when a provider is built.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from polyray.config.judge import JudgeSpec
from polyray.errors import ConfigError, JudgeError
from polyray.shelf.judge.questions import Question
from polyray.types import Message

Form = Literal["tool", "json_schema", "text"]
"""Form of a structured answer: a tool that must be called, a JSON schema, or the words of the question alone."""

FORMS: Mapping[str, tuple[Form, ...]] = {
    "anthropic": ("tool", "json_schema", "text"),
    "openai": ("json_schema", "tool", "text"),
}
"""Forms that `structured_output: auto` tries in turn; vLLM, for one, has tools only with a parser."""

MAX_ERROR_CHARS = 300
NO_KEY = "none"
"""Sent to endpoints that want no key; the SDKs insist on one."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A question and, after an answer that could not be used, the conversation since.

    Example:
        ChatRequest(Question(...), later=({"role": "assistant", "content": "A!"},
                                          {"role": "user", "content": "That could not be used: ..."}))
    """

    question: Question
    later: tuple[Message, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """Messages without the system prompt."""
        return [{"role": "user", "content": self.question.user}, *(dict(message) for message in self.later)]


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """Answer of the provider.

    Example:
        ChatAnswer(text='{"overall": "A"}', finish_reason="stop", input_tokens=310, cached_tokens=0,
                   output_tokens=9)
    """

    text: str
    finish_reason: str
    """stop, length (cut at max_tokens), or refusal."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int


class NoAnswer(Exception):
    """Every try of a request failed: rate limits, 5xx, time-outs; another day it may succeed."""


class Refused(Exception):
    """The endpoint will not answer this request, however often it is sent: too long, malformed, filtered."""


class Provider(Protocol):
    """One endpoint with one model."""

    async def ask(self, request: ChatRequest, form: Form) -> ChatAnswer:
        """One request over the wire. Raises NoAnswer, Refused or JudgeError."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


def read_key(spec: JudgeSpec) -> str:
    """The endpoint's key. Raises ConfigError where its variable is not set."""
    variable = spec.key_variable
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"the judge {spec.name} needs a key, but the environment variable {variable} is not set; "
            f"export {variable}=..., or name another one as judge.api_key_env"
        )
    return key


async def answered(
    spec: JudgeSpec, sdk: Any, call: Awaitable[Any], read: Callable[[Any], ChatAnswer]
) -> ChatAnswer:
    """`read` of the answer to a call of `sdk`. Raises NoAnswer, Refused or JudgeError."""
    try:
        said = await call
    except sdk.APIStatusError as error:
        raise status_error(spec, error.status_code, _error_text(error.body, error.message)) from None
    except (sdk.APIError, ValueError) as error:  # ValueError: a body that is no JSON
        raise NoAnswer(f"{type(error).__name__}: {error}{_tries(spec)}") from None
    try:
        return read(said)
    except (AttributeError, IndexError, TypeError):  # the SDK does not check what it is sent
        raise NoAnswer("the answer does not follow the protocol; is judge.base_url right?") from None


def status_error(spec: JudgeSpec, status: int, message: str) -> NoAnswer | Refused | JudgeError:
    """Classify an HTTP status: no answer for now, refused request, or the end of the job."""
    said = f"status {status}: {message[:MAX_ERROR_CHARS]}"
    if status in (408, 409, 425, 429) or status >= 500:
        return NoAnswer(said + _tries(spec))
    if status in (401, 402, 403):
        key = (
            f"the key in {spec.key_variable}" if spec.key_variable else "judge.api_key_env (no key was sent)"
        )
        return JudgeError(f"the judge {spec.name} is refused by its endpoint: {said}; check {key}")
    if status == 404:
        return JudgeError(
            f"the judge {spec.name} is not found: {said}; check judge.model={spec.model!r} and "
            f"judge.base_url={spec.base_url!r}"
        )
    return Refused(said)


def _tries(spec: JudgeSpec) -> str:
    return f" (judge.max_attempts={spec.max_attempts})"


def _error_text(body: Any, fallback: str) -> str:
    """The message inside an error body of either protocol."""
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(inner, Mapping) and isinstance(inner.get("message"), str):
        return inner["message"]
    return str(inner) if inner else fallback
