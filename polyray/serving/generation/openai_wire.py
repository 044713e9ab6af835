"""The JSON of OpenAI's completions and chat completions, as far as it is supported here.

    POST /v1/completions       CompletionRequest     POST /v1/chat/completions  ChatRequest
    GET  /v1/models            ModelList

A field that has no effect here is accepted where its value asks for none (NEUTRAL), or where it only describes the
call (DESCRIPTIONS). Every other one is refused by name: a caller learns that its `logit_bias` would have no effect.
Answers are built in openai_answers.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from polyray.config.base import StrictModel
from polyray.serving.generation.candidates_wire import MAX_MESSAGES, ChatMessage, Stops, Text

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "min_p": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (-1, 0),
    "verbosity": ("medium",),
}
"""Fields of OpenAI's and vLLM's clients -> values that change nothing."""
DESCRIPTIONS = frozenset(
    {
        "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "safety_identifier", "user",
    }
)  # fmt: skip
"""Fields that change no completion, whatever their value."""


def _kind(value: Any) -> str:
    """Intended member of a union, so that an error is about that one."""
    if not isinstance(value, list | tuple):
        return "text"
    if value and all(isinstance(entry, list) for entry in value):
        return "rows"
    return "tokens" if value and all(isinstance(entry, int) for entry in value) else "texts"


TokenIds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
PromptText = Annotated[Text, Field(min_length=1)]
Prompts = Annotated[
    Annotated[PromptText, Tag("text")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[tuple[TokenIds, ...], Field(min_length=1), Tag("rows")]
    | Annotated[tuple[PromptText, ...], Field(min_length=1), Tag("texts")],
    Discriminator(_kind),
]


class StreamOptions(StrictModel):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class SamplingRequest(StrictModel):
    """Fields of both kinds of completions."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    n: int = Field(default=1, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=0)
    stop: Stops | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_spoken(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {key: value for key, value in values.items() if value is not None and key not in DESCRIPTIONS}
        for key in [key for key in given if key not in cls.model_fields]:
            if key not in NEUTRAL:
                raise ValueError(
                    f"{key!r} is not supported by this service; leave it out. Supported: "
                    f"{', '.join(cls.model_fields)}"
                )
            if given[key] not in NEUTRAL[key]:
                allowed = " or ".join(repr(value) for value in NEUTRAL[key])
                raise ValueError(
                    f"{key!r} is {given[key]!r}, which this service cannot do; leave it out, or send {allowed}"
                )
            del given[key]
        return given

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> SamplingRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings as a tuple."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else self.stop


class CompletionRequest(SamplingRequest):
    """The body of POST /v1/completions."""

    prompt: Prompts
    logprobs: int | None = Field(default=None, ge=0)
    echo: bool = False

    @model_validator(mode="after")
    def _echoes_whole(self) -> CompletionRequest:
        if self.echo and self.stream:
            raise ValueError("echo cannot be streamed; leave stream out")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens=0 asks for nothing; give 1 or more, or echo=true")
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """One entry per prompt: text, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        first, *others = self.prompt
        if isinstance(first, int):
            return [tuple(int(token) for token in (first, *others))]  # pyright: ignore[reportArgumentType]
        return [first, *others]  # pyright: ignore[reportReturnType]


class ChatRequest(SamplingRequest):
    """The body of POST /v1/chat/completions."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, max_length=MAX_MESSAGES)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.max_tokens == 0:
            raise ValueError("max_tokens=0 asks for nothing; give 1 or more")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same; give one of them")
        return self


class PolicyDetails(BaseModel):
    """Fields of a model that OpenAI's API lacks."""

    alias_of: str | None = Field(description="the model that this name means now")
    version: int | None = Field(description="of its run")
    sha256: str = Field(description="of the adapter; of nothing for the base")
    source: str = Field(description="the directory it was read from; empty for the base")
    delivery_difference: float | None = Field(
        description="largest |engine - reference| log-prob of the probe that proved it, in nats"
    )


class Model(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "polyray"
    polyray: PolicyDetails


class ModelList(BaseModel):
    """The answer of GET /v1/models: the base first."""

    object: Literal["list"] = "list"
    data: list[Model]
