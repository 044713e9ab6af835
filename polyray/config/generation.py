"""The file that polyray serve reads for a generation service (`service: generation`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from polyray.config.base import StrictModel
from polyray.config.delivery import check_quantised
from polyray.config.evaluation import SelectorName
from polyray.config.gpu_share import check_room
from polyray.config.model import ModelSpec
from polyray.config.node_labels import NodeLabels
from polyray.config.paths import FilePath, UrlOrPath
from polyray.config.reward import DiversitySpec, RewardSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import RaySpec, RunName
from polyray.config.task import HiddenTrapGridSpec, TaskSpec

MAX_CANDIDATES = 64
"""Largest number of candidates in one answer."""
MAX_OVERSAMPLE = 256
"""Completions that one answer is chosen from."""
MAKE_A_TOKEN = (
    'python -c "import hashlib, secrets; t = secrets.token_urlsafe(32); '
    'print(t, hashlib.sha256(t.encode()).hexdigest())"'
)
"""Command that prints a new token, and its sha256 for a tokens_file."""

PolicyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class GenerationEngineSpec(StrictModel):
    """The engine of one replica."""

    kind: Literal["auto", "vllm", "vllm_async"] = Field(
        default="auto",
        description="vllm: in the replica's own process; vllm_async: in processes of its own; auto: vllm on CPU, "
        "vllm_async on a GPU",
    )
    threads: int = Field(default=1, ge=1, description="threads of a CPU engine")
    tensor_parallel_size: int = Field(default=1, ge=1, description="more than 1 implies vllm_async")
    max_prompt_tokens: int = Field(default=64, ge=1, description="longer prompts are refused")
    max_completion_tokens: int = Field(
        default=64, ge=1, description="the largest max_tokens, and its default"
    )
    max_sequences: int = Field(default=64, ge=1, description="completions that are decoded together")
    max_queued_sequences: int = Field(
        default=256, ge=1, description="completions that wait for the engine; above it HTTP answers 429"
    )
    max_batched_tokens: int = Field(default=4096, ge=64, description="tokens of one engine step")
    kv_cache_mib: int = Field(default=256, ge=1, description="KV cache of a CPU engine")
    gpu_memory_utilization: float = Field(
        default=0.85, gt=0, le=1, description="share of the whole GPU that the engine takes"
    )
    start_timeout_s: float = Field(default=300.0, gt=0, description="longest start of the engine")
    health_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="an engine that does nothing for so long although it should is replaced",
    )

    def as_rollout(self, num_gpus: float = 0.0) -> RolloutSpec:
        """The same engine as a rollout worker's, in a replica with so many GPUs."""
        return RolloutSpec(
            gpus_per_worker=num_gpus,
            engine=self.kind if self.kind != "auto" else "vllm_async" if num_gpus else "vllm",
            max_prompt_tokens=self.max_prompt_tokens,
            max_completion_tokens=self.max_completion_tokens,
            max_sequences=self.max_sequences,
            max_batched_tokens=self.max_batched_tokens,
            kv_cache_mib=self.kv_cache_mib,
            gpu_memory_utilization=self.gpu_memory_utilization,
            start_timeout_s=self.start_timeout_s,
            threads_per_worker=self.threads,
            tensor_parallel_size=self.tensor_parallel_size,
        )


class AdapterSpec(StrictModel):
    """An adapter to serve: a directory in PEFT format, one version of a run, or a run that is followed."""

    path: FilePath | None = Field(
        default=None, min_length=1, description="a directory in PEFT format, e.g. runs/sft/adapter"
    )
    run: FilePath | None = Field(
        default=None,
        min_length=1,
        description="a run directory: its final adapter, or that of `version`; e.g. runs/first",
    )
    version: int | None = Field(default=None, ge=0, description="one of the versions/ of `run`")
    follow: FilePath | None = Field(
        default=None,
        min_length=1,
        description="a run directory: each version that appears in it is served as it comes",
    )
    name: PolicyName | None = Field(
        default=None,
        description="name in requests; for a run or a followed one it comes before -v17, -latest and -best. "
        "Default: the directory's name for `path`, policy-v17, latest and best for the others",
    )

    @model_validator(mode="after")
    def _one_source(self) -> AdapterSpec:
        given = [key for key in ("path", "run", "follow") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, run, follow; got {given or 'none'}")
        if self.version is not None and self.run is None:
            raise ValueError(f"version={self.version} needs run, which it is a version of")
        return self


class GenerationLimitsSpec(StrictModel):
    """Limits of requests, and of the time that they take."""

    max_body_bytes: int = Field(default=2**20, ge=1024, description="largest body of a request")
    max_candidates: int = Field(default=MAX_CANDIDATES, ge=1, le=MAX_CANDIDATES, description="the largest k")
    max_n: int = Field(
        default=MAX_OVERSAMPLE,
        ge=1,
        le=MAX_OVERSAMPLE,
        description="the largest n of a completion, and the largest oversample",
    )
    max_logprobs: int = Field(default=5, ge=0, le=20, description="alternatives per token")
    request_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="a request that takes longer gets 504, and the engine stops working on it",
    )
    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="requests of one token, or of all callers if no token is needed; null: no limit",
    )
    burst: int = Field(default=20, ge=1, description="requests of one token that may come at once")


class GenerationServeConfig(StrictModel):
    """A generation service: k candidates over HTTP, and what people pick."""

    service: Literal["generation"] = "generation"
    name: RunName = Field(default="generation", description="name of the Serve application")
    model: ModelSpec = Field(default_factory=ModelSpec)
    engine: GenerationEngineSpec = GenerationEngineSpec()
    adapters: tuple[AdapterSpec, ...] = Field(
        default=(), description="served from the start; more come and go over /v1/adapters"
    )
    adapter_roots: tuple[FilePath, ...] = Field(
        default=("runs",), min_length=1, description="adapters outside these directories are refused"
    )
    max_adapters: int = Field(
        default=8,
        ge=1,
        le=128,
        description="served at a time, beside the base; one more unloads the one that was asked longest ago",
    )
    max_lora_rank: int = Field(default=16, ge=1, le=512, description="the largest rank of an adapter")
    follow_interval_s: float = Field(default=1.0, gt=0, description="how often a followed run is looked at")
    num_probes: int = Field(
        default=2,
        ge=1,
        description="fixed sequences with log-probs that verify an adapter before it is served",
    )
    task: TaskSpec = HiddenTrapGridSpec()
    reward: RewardSpec | None = Field(
        default=None, description="scores candidates; null: no scores, and no selector that needs them"
    )
    diversity: DiversitySpec = Field(
        default=DiversitySpec(source="ngram", n=2),
        description="the distance between candidates; task_class and task_distance need a reward",
    )
    cluster_distance: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="candidates nearer than this are one cluster, where the reward names no classes",
    )
    duplicate_distance: float = Field(
        default=0.0, ge=0, lt=1, description="candidates not further apart than this are shown once"
    )
    selector: SelectorName = Field(default="logprob", description="selector of a request that names none")
    database: UrlOrPath = Field(
        default="sqlite:///runs/selections.db",
        description="database of candidates and selections: a URL of SQLAlchemy",
    )
    num_replicas: int = Field(default=1, ge=1, description="replicas, with an engine each")
    num_cpus: float = Field(default=1.0, ge=0, description="CPUs of one replica")
    num_gpus: float = Field(
        default=0.0, ge=0, description="GPUs of one replica; 0: none, and vLLM's CUDA build needs one"
    )
    node_labels: NodeLabels = Field(default_factory=dict)
    host: str = Field(default="127.0.0.1", description="address of the HTTP proxy")
    port: int = Field(default=8000, ge=0, le=65535, description="port of the HTTP proxy; 0: a free one")
    route_prefix: str = Field(default="/", pattern=r"^/(.*[^/])?$", description="prefix of all routes")
    limits: GenerationLimitsSpec = GenerationLimitsSpec()
    tokens_file: FilePath | None = Field(
        default=None,
        description="a YAML list of {name, scope: user | admin, sha256 of the token, requests_per_minute?}; beside "
        f"POLYRAY_API_TOKEN (user) and POLYRAY_ADMIN_TOKEN (admin). A new token and its sha256: `{MAKE_A_TOKEN}`",
    )
    log_prompts: bool = Field(default=False, description="prompts in the access log")
    ray: RaySpec = RaySpec(num_cpus=4)

    def rollout(self) -> RolloutSpec:
        """Engine settings of a replica."""
        return self.engine.as_rollout(self.num_gpus)

    @model_validator(mode="after")
    def _room_on_a_gpu(self) -> GenerationServeConfig:
        utilization = ("engine.gpu_memory_utilization", self.engine.gpu_memory_utilization)
        check_room(("num_gpus", self.num_gpus), ("num_replicas", self.num_replicas), utilization)
        size = self.engine.tensor_parallel_size
        if size > 1 and self.num_gpus not in (0, size):
            raise ValueError(
                f"engine.tensor_parallel_size={size} needs as many devices per replica, but num_gpus="
                f"{self.num_gpus:g}; set num_gpus={size}"
            )
        return self

    @model_validator(mode="after")
    def _selector_has_its_scores(self) -> GenerationServeConfig:
        check_quantised(self.model, "adapter", self.engine.tensor_parallel_size)
        if self.reward is None:
            if self.selector in ("reward", "noisy_user"):
                raise ValueError(
                    f"selector={self.selector!r} needs scores, but reward is null; set reward, or another selector"
                )
            if self.diversity.source in ("task_class", "task_distance"):
                raise ValueError(
                    f"diversity.source={self.diversity.source!r} comes with a reward, but reward is null; set "
                    "reward, or diversity.source to embedding or ngram"
                )
        return self
