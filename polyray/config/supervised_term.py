"""Cross-entropy on demonstrations beside an RL objective: L = weight x CE + the objective's own loss."""

from __future__ import annotations

from pydantic import Field

from polyray.config.base import StrictModel


class SupervisedTermSpec(StrictModel):
    """The task's demonstrations in every update: polychromic SFT, or RL that must not forget."""

    weight: float = Field(default=1.0, gt=0, description="of the cross-entropy in nats per response token")
    demonstrations_per_step: int = Field(default=64, ge=1)
    max_tokens: int = Field(default=64, ge=2, description="longest prompt + response")
