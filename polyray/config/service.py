"""Settings of a reward on Ray Serve, and of its callers' patience."""

from __future__ import annotations

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.node_labels import NodeLabels

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Addresses that other machines cannot reach."""


class AutoscalingSpec(StrictModel):
    """Replicas that come and go with the load."""

    min_replicas: int = Field(default=1, ge=1, description="fewest replicas")
    max_replicas: int = Field(default=4, ge=1, description="most replicas")
    target_ongoing_requests: float = Field(
        default=16.0,
        gt=0,
        description="requests in flight per replica: with more, replicas are added; with fewer, they are removed",
    )
    upscale_delay_s: float = Field(
        default=10.0, ge=0, description="seconds of load before replicas are added"
    )
    downscale_delay_s: float = Field(
        default=300.0, ge=0, description="seconds without load before replicas are removed"
    )

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalingSpec:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}; raise it"
            )
        return self


class ServiceSpec(StrictModel):
    """The reward service: replicas, batches, address, limits."""

    num_replicas: int = Field(
        default=1, ge=1, description="replicas; with autoscaling the number at the start"
    )
    autoscaling: AutoscalingSpec | None = Field(
        default=None, description="null: always num_replicas; otherwise they start with num_replicas"
    )
    num_cpus: float = Field(default=1.0, ge=0, description="CPUs of one replica")
    num_gpus: float = Field(
        default=0.0,
        ge=0,
        description="GPUs of one replica; a fraction shares a GPU. Its models and encoders run there; with 0 on "
        "the CPU",
    )
    node_labels: NodeLabels = Field(default_factory=dict)
    max_batch_size: int = Field(
        default=64, ge=1, description="groups that one call of the reward function scores together"
    )
    max_batch_tokens: int = Field(
        default=16_384,
        ge=1,
        description="estimated tokens of prompts and completions that one call scores together",
    )
    batch_wait_timeout_s: float = Field(
        default=0.002, ge=0, description="how long an idle replica waits for company; a busy one never does"
    )
    max_queued_batches: int = Field(
        default=16, ge=1, description="full batches that wait in a replica; above it HTTP answers 429"
    )
    host: str = Field(default="127.0.0.1", description="address of the HTTP proxy")
    port: int = Field(default=8000, ge=0, le=65535, description="port of the HTTP proxy; 0: a free one")
    request_timeout_s: float = Field(
        default=60.0, gt=0, description="a request that takes longer ends unanswered, and is tried again"
    )
    drain_timeout_s: float = Field(
        default=10.0, ge=0, description="a replica that stops has this long to answer what it has accepted"
    )
    max_attempts: int = Field(default=5, ge=1, description="tries per group before it counts as unscored")
    max_unscored_share: float = Field(default=0.25, ge=0, le=1, description="above it the run stops")

    @model_validator(mode="after")
    def _starts_within_autoscaling(self) -> ServiceSpec:
        limits = self.autoscaling
        if limits is not None and not limits.min_replicas <= self.num_replicas <= limits.max_replicas:
            raise ValueError(
                f"num_replicas={self.num_replicas} is outside autoscaling.min_replicas={limits.min_replicas} to "
                f"max_replicas={limits.max_replicas}; it is the number that they start with"
            )
        return self

    @property
    def most_replicas(self) -> int:
        """Largest number of replicas."""
        return self.num_replicas if self.autoscaling is None else self.autoscaling.max_replicas

    @property
    def max_ongoing_requests(self) -> int:
        """Limit of one replica: the batch being scored and three behind it. Each request is at least one group.

        At the limit Serve's router tries again after pauses, in which the replica may run dry.
        """
        return 4 * self.max_batch_size


class SandboxServiceSpec(ServiceSpec):
    """Defaults of the service for a reward with calls that take seconds."""

    max_batch_size: int = Field(
        default=8, ge=1, description="groups that one call of the reward function scores together"
    )
    request_timeout_s: float = Field(
        default=300.0, gt=0, description="more than a batch of programs that all hang takes, over the workers"
    )
