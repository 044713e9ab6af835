"""How a reward runs on Ray Serve, and how patient its callers are."""

from __future__ import annotations

from pydantic import Field

from polyray.config.base import StrictModel


class ServiceSpec(StrictModel):
    """The reward service: replicas, batches, address, limits."""

    num_replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    max_batch_size: int = Field(
        default=64, ge=1, description="groups that one call of the reward function scores together"
    )
    batch_wait_timeout_s: float = Field(default=0.002, ge=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    request_timeout_s: float = Field(default=60.0, gt=0)
    max_attempts: int = Field(default=5, ge=1, description="tries per group before it counts as unscored")
    max_unscored_share: float = Field(default=0.25, ge=0, le=1, description="above it the run stops")


class SandboxServiceSpec(ServiceSpec):
    """The service's defaults for a reward whose calls take seconds."""

    max_batch_size: int = Field(
        default=8, ge=1, description="groups that one call of the reward function scores together"
    )
    request_timeout_s: float = Field(
        default=300.0, gt=0, description="more than a batch of programs that all hang takes, over the workers"
    )
