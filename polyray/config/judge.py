"""LLM judges: the endpoint, what it may cost, what it is asked, and the file that polyray judge reads.

The key of an endpoint is never part of a configuration: `api_key_env` is the NAME of the environment variable
that holds it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import FilePath
from polyray.config.run_base import RunBase

JudgeMode = Literal["pairwise", "rubric", "cluster"]

CRITERIA: dict[str, str] = {
    "relevance": "The text answers this prompt and uses what the prompt asks for.",
    "coherence": "The text makes sense from beginning to end; its parts fit together and nothing contradicts itself.",
    "engagement": "The text holds a reader's attention and makes them want to read on or to react.",
    "empathy": "The reader understands what the characters feel and why.",
    "surprise": "The end, or the main turn, is not what the reader expects, and still makes sense.",
    "complexity": "The text is elaborate: its characters, setting or thoughts have depth and detail.",
}
"""The criteria known by name; the descriptions are what the judge reads."""

HANNA_CRITERIA = ("relevance", "coherence", "empathy", "surprise", "engagement", "complexity")
"""The six criteria of the HANNA benchmark (Chhun et al. 2022), in its order."""

MAX_CLUSTER_CANDIDATES = 64
"""Candidates that a judge of mode cluster groups in one call."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEFAULT_KEY = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
_RESERVED = ("reasoning", "overall")
"""Keys of an answer that are no criteria."""
_MAX_STEPS = 20
"""Finer scales are refused: judges use only a few levels, and schemas enumerate them."""


class CriterionSpec(StrictModel):
    """One criterion of a judge."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="also the key in its answers")
    description: str = Field(min_length=1, description="the criterion in words, for the judge")


def _known_criteria(value: Any) -> Any:
    """`hanna`, or a list of known names and {name, description} -> a list of {name, description}."""
    if value == "hanna":
        value = HANNA_CRITERIA
    if not isinstance(value, list | tuple):
        return value
    unknown = [item for item in value if isinstance(item, str) and item not in CRITERIA]
    if unknown:
        raise ValueError(
            f"criterion {unknown[0]!r} is not known by name; known: {', '.join(CRITERIA)}. "
            "Describe your own: {name: ..., description: ...}"
        )
    return [
        {"name": item, "description": CRITERIA[item]} if isinstance(item, str) else item for item in value
    ]


Criteria = Annotated[tuple[CriterionSpec, ...], BeforeValidator(_known_criteria), Field(min_length=1)]


class ScaleSpec(StrictModel):
    """Whole numbers from `low` (worst) to `high` (best)."""

    low: int = Field(default=1, description="the worst grade")
    high: int = Field(default=5, description="the best grade")

    @model_validator(mode="after")
    def _some_levels(self) -> ScaleSpec:
        if not 1 <= self.high - self.low <= _MAX_STEPS:
            raise ValueError(
                f"scale low={self.low}, high={self.high}: high must be 1 to {_MAX_STEPS} above low, e.g. 1 to 5"
            )
        return self

    def as_unit(self, score: float) -> float:
        """The score in [0, 1]."""
        return (score - self.low) / (self.high - self.low)


class PriceSpec(StrictModel):
    """US dollars per million tokens, from the provider's price list."""

    input: float = Field(ge=0, description="US dollars per million input tokens")
    output: float = Field(ge=0, description="US dollars per million output tokens")
    cached_input: float | None = Field(default=None, ge=0, description="null: like input")


class BudgetSpec(StrictModel):
    """Limits of one run's spend, over all its starts; null is no limit."""

    max_cost_usd: float | None = Field(
        default=None, gt=0, description="US dollars of one run, over all its starts"
    )
    max_tokens: int | None = Field(default=None, ge=1, description="input and output together")


class JudgeSpec(StrictModel):
    """An endpoint with a model, how it is asked and what it may cost."""

    provider: Literal["anthropic", "openai"] = Field(
        description="the protocol; openai is any compatible endpoint: vLLM, a gateway, OpenAI itself"
    )
    model: str = Field(min_length=1, description="the provider's name of the model")
    base_url: str | None = Field(
        default=None,
        description="e.g. http://127.0.0.1:8000/v1 (openai) or http://127.0.0.1:8000 (anthropic)",
    )
    api_key_env: str | None = Field(
        default=None,
        validate_default=False,
        description="NAME of the environment variable with the key; default ANTHROPIC_API_KEY or "
        "OPENAI_API_KEY, and no key where base_url is given",
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="null: not sent; several current models refuse one"
    )
    max_tokens: int = Field(default=1024, ge=1, description="longest answer, in tokens")
    structured_output: Literal["auto", "tool", "json_schema", "text"] = Field(
        default="auto",
        description="auto: a tool (anthropic) or a JSON schema (openai); where the endpoint refuses that the "
        "other one, else JSON in the text",
    )
    explain: bool = Field(default=True, description="ask for a short reasoning before the verdict")
    criteria: Criteria = tuple(
        CriterionSpec(name=name, description=CRITERIA[name])
        for name in ("relevance", "coherence", "engagement")
    )
    scale: ScaleSpec = ScaleSpec()
    max_retries: int = Field(default=2, ge=0, description="further tries after an answer that cannot be used")
    max_attempts: int = Field(
        default=6,
        ge=1,
        description="tries of one request that meets a rate limit, a 5xx or no connection; the SDK's own pauses",
    )
    timeout_s: float = Field(default=120.0, gt=0, description="seconds for one try")
    concurrency: int = Field(default=8, ge=1, le=256, description="requests in flight")
    max_unjudged_share: float = Field(default=0.1, ge=0, le=1, description="above it the job stops")
    prices: PriceSpec | None = None
    budget: BudgetSpec = BudgetSpec()

    @field_validator("api_key_env")
    @classmethod
    def _a_name_and_no_key(cls, value: str | None) -> str | None:
        # The value is not repeated: a user who gets this wrong has put the key itself here.
        if value is not None and (not _VARIABLE.fullmatch(value) or len(value) > 64):
            raise ValueError(
                "api_key_env is not the name of an environment variable; give the name, e.g. "
                "ANTHROPIC_API_KEY, and export the key under it"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _an_address_without_password(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if "@" in parts.netloc or parts.query:
            raise ValueError("base_url must hold no user, password or query; export the key (api_key_env)")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"base_url={value!r} is not an address; write e.g. http://127.0.0.1:8000/v1")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> JudgeSpec:
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) < len(names):
            raise ValueError(f"criteria={names} names one twice; each needs a name of its own")
        if any(name in _RESERVED for name in names):
            raise ValueError(f"criteria={names}: {', '.join(_RESERVED)} are keys of every answer; rename it")
        if self.budget.max_cost_usd is not None and self.prices is None:
            raise ValueError(
                f"budget.max_cost_usd={self.budget.max_cost_usd} cannot be kept without prices; give "
                "prices: {input, output} in dollars per million tokens, or limit budget.max_tokens"
            )
        return self

    @property
    def key_variable(self) -> str | None:
        """The environment variable with the key; None where the endpoint is asked without one."""
        if self.api_key_env is not None or self.base_url is not None:
            return self.api_key_env
        return _DEFAULT_KEY[self.provider]

    @property
    def name(self) -> str:
        """Name of this judge in results, e.g. openai/qwen3-32b."""
        return f"{self.provider}/{self.model}"


class JudgingSpec(StrictModel):
    """Judge of an evaluation while it samples; `polyray judge` does the same with a finished samples.jsonl."""

    mode: JudgeMode = Field(
        default="pairwise",
        description="pairwise: two samples in both orders; rubric: a grade by criteria; cluster: strategies of a "
        "prompt's samples",
    )
    judge: JudgeSpec
    samples_per_prompt: int | None = Field(
        default=None, ge=1, description="per model; default 1 (pairwise, rubric) or all (cluster)"
    )


class JudgeConfig(RunBase):
    """polyray judge: an evaluation's samples.jsonl, judged; or texts that people have rated; or both."""

    samples: FilePath | None = Field(default=None, description="the samples.jsonl of an evaluation")
    mode: JudgeMode = Field(
        default="pairwise",
        description="pairwise: two samples in both orders; rubric: a grade by criteria; cluster: strategies of a "
        "prompt's samples",
    )
    judge: JudgeSpec
    models: tuple[str, ...] | None = Field(
        default=None, description="which models of the samples; null: all of them"
    )
    compare_to: str | None = Field(
        default=None, description="pairwise: the model all others are compared with; default the first"
    )
    samples_per_prompt: int | None = Field(
        default=None, ge=1, description="per model; default 1 (pairwise, rubric) or all (cluster)"
    )
    num_prompts: int | None = Field(default=None, ge=1, description="the first so many prompts; null: all")
    cache_dir: FilePath | None = Field(
        default=None, description="answers are kept here for several runs; default the run's own judge/"
    )
    bootstrap_resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of an interval")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="confidence of intervals")
    human_ratings: FilePath | None = Field(
        default=None,
        description="rubric: JSONL (.gz) of prompts with stories and human_ratings_mean; the rated stories are "
        "judged as well, and the correlation with the ratings is reported",
    )

    @model_validator(mode="after")
    def _fits_the_mode(self) -> JudgeConfig:
        if self.samples is None and self.human_ratings is None:
            raise ValueError("there is nothing to judge; give samples: runs/NAME/evaluation/samples.jsonl")
        if self.models is not None and self.compare_to is not None and self.compare_to not in self.models:
            raise ValueError(f"compare_to={self.compare_to!r} is none of models={list(self.models)}")
        if self.compare_to is not None and self.mode != "pairwise":
            raise ValueError(f"compare_to belongs to mode pairwise, not to {self.mode}; remove it")
        if self.human_ratings is not None and self.mode != "rubric":
            raise ValueError(f"human_ratings belong to mode rubric, not to {self.mode}; remove them")
        return self


ANSWERS_FILE = "answers.jsonl"
"""File of a judge's paid answers."""

RESUMABLE_KEYS = (
    "runs_dir",
    "ray.*",
    "cache_dir",
    "judge.base_url",
    "judge.api_key_env",
    "judge.concurrency",
    "judge.timeout_s",
    "judge.max_attempts",
    "judge.max_unjudged_share",
    "judge.budget.*",
)
"""Keys that may differ on resume: no answer and no price depends on them."""
