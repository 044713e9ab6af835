"""The JSON of /v1/candidates and /v1/selections.

    POST /v1/candidates               CandidatesRequest -> CandidatesAnswer; with "stream": true server-sent events:
                                      delta {"sample", "text"}, finish {"sample", "finish_reason"}, at the end
                                      candidates (the CandidatesAnswer) or error (the common shape), then [DONE]
    GET  /v1/candidates?limit&before  CandidatesPage: the caller's own, newest first; each with its selection
    GET  /v1/candidates/ID            StoredCandidates
    POST /v1/candidates/ID/scores     StoredCandidates, scored now where they were not
    POST /v1/selections               SelectionRequest -> Selection: 201, or 200 where its client_key is known

Requests refuse unknown keys, and unsupported ones by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from polyray.config.base import StrictModel
from polyray.config.evaluation import SelectorName
from polyray.config.generation import MAX_CANDIDATES, MAX_OVERSAMPLE

MAX_TEXT_CHARS = 200_000
MAX_MESSAGES = 256

MAX_STOPS = 16

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[
    Annotated[Stop, Tag("text")] | Annotated[tuple[Stop, ...], Field(max_length=MAX_STOPS), Tag("texts")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "texts"),
]
"""Each is looked for after every token, so they are few and short."""
FinishReason = Literal["stop", "length", "error"]


class ChatMessage(StrictModel):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: Text

    @model_validator(mode="before")
    @classmethod
    def _from_openai(cls, values: Any) -> Any:
        """Accept answers that are sent back with their empty fields, parts of text, and the role `developer`."""
        if not isinstance(values, dict):
            return values
        given = {key: value for key, value in values.items() if value is not None and value != []}
        if given.get("role") == "developer":
            given["role"] = "system"
        parts = given.get("content")
        if isinstance(parts, list):
            kinds = [part.get("type") if isinstance(part, dict) else part for part in parts]
            if any(kind != "text" for kind in kinds):
                raise ValueError(f"content has parts of the types {kinds}; this service reads text alone")
            given["content"] = "".join(str(part.get("text", "")) for part in parts)
        return given


class CandidatesRequest(StrictModel):
    """The body of POST /v1/candidates."""

    prompt: Text | None = Field(default=None, min_length=1)
    messages: tuple[ChatMessage, ...] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    k: int = Field(default=4, ge=1, le=MAX_CANDIDATES, description="candidates to choose from")
    model: str | None = Field(default=None, max_length=256, description="one of /v1/models; null: the base")
    selector: SelectorName | None = Field(
        default=None, description="selector of selected_index; null: the service's own"
    )
    oversample: int | None = Field(
        default=None, ge=1, le=MAX_OVERSAMPLE, description="completions that the k are chosen from; null: k"
    )
    diversity_weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of maximal marginal relevance: 0 the best alone, 1 the farthest apart",
    )
    score: bool | None = Field(
        default=None, description="whether to score them now; null: where the selector needs it"
    )
    reference: Text | None = Field(default=None, description="what a verifier compares with")
    metadata: dict[str, Any] = Field(default_factory=dict, description="for the reward")
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: Stops | None = None
    seed: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="of the samples and of random picks; null: a new one"
    )
    stream: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> CandidatesRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.oversample is not None and self.oversample < self.k:
            raise ValueError(f"oversample={self.oversample} is below k={self.k}; raise it, or leave it out")
        return self

    @property
    def num_samples(self) -> int:
        """Completions that are sampled."""
        return self.oversample or self.k


class Candidate(BaseModel):
    """One completion that is shown; near-duplicates of it are counted in `count`."""

    index: int = Field(description="its place in the answer; what selected_index refers to")
    sample: int = Field(description="its place among what was sampled; what the stream's events refer to")
    text: str
    score: float | None = Field(default=None, description="in [0, 1]; null: not scored")
    components: dict[str, float] = Field(default_factory=dict)
    score_error: str | None = None
    logprob: float = Field(description="of the whole completion by the model at temperature 1, in nats")
    num_tokens: int
    finish_reason: FinishReason
    cluster: int | None = Field(
        description="equal for candidates that are one kind; null: wrong by the verifier"
    )
    count: int = Field(default=1, description="samples that were near-duplicates of it, itself included")
    seed: int


class Collapsed(BaseModel):
    """A near-duplicate that is not shown."""

    sample: int
    text: str
    candidate: int | None = Field(
        description="index of the candidate that represents it; null: not among the k"
    )


class ServedPolicy(BaseModel):
    """Weights that answered."""

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(description="as /v1/models lists it; never an alias")
    version: int | None = Field(description="of its run; null: the base, or an adapter without a run")
    sha256: str = Field(description="of the adapter; of nothing for the base")


class SetDiversity(BaseModel):
    """Diversity of the shown candidates."""

    source: str
    mean_distance: float = Field(description="over all pairs, in [0, 1]; 0 for one candidate")
    clusters: int


class Timings(BaseModel):
    """Seconds."""

    generate_s: float
    first_token_s: float | None = Field(description="null where nothing was streamed")
    score_s: float
    choose_s: float
    total_s: float


class TokenUsage(BaseModel):
    """Token counts as in OpenAI's API."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CandidatesAnswer(BaseModel):
    """Answer of POST /v1/candidates."""

    id: str
    object: Literal["candidates"] = "candidates"
    created: int
    model: str = Field(description="as it was asked for")
    policy: ServedPolicy
    selector: str
    selected_index: int = Field(description="the candidate that the selector would pick")
    candidates: list[Candidate]
    collapsed: list[Collapsed]
    diversity: SetDiversity
    usage: TokenUsage
    timings: Timings


class SelectionRequest(StrictModel):
    """The body of POST /v1/selections."""

    candidates_id: str = Field(min_length=1, max_length=64)
    selected_index: int | None = Field(
        ge=0, lt=MAX_CANDIDATES, description="null: none of them was good enough"
    )
    edited_text: Text | None = Field(default=None, description="what the person made of it, or wrote instead")
    client_key: str | None = Field(
        default=None, min_length=1, max_length=128, description="the same key again is the same selection"
    )


class Selection(BaseModel):
    """Answer of POST /v1/selections, once it is stored."""

    id: str
    object: Literal["selection"] = "selection"
    created: int
    candidates_id: str
    selected_index: int | None
    edited_text: str | None
    client_key: str | None


class StoredCandidates(BaseModel):
    """A stored answer with what was asked, and what was picked last."""

    request: CandidatesRequest
    answer: CandidatesAnswer
    selection: Selection | None


class CandidatesPage(BaseModel):
    """Answer of GET /v1/candidates."""

    object: Literal["list"] = "list"
    data: list[StoredCandidates]
    has_more: bool
