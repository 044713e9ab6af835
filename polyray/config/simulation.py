"""The latency and length model of `rollout.engine=simulated`."""

from __future__ import annotations

import math
import random

from pydantic import Field, model_validator

from polyray.config.base import StrictModel


class SimulationSpec(StrictModel):
    """Times and lengths of a simulated engine. All zero: one token per poll.

    A decoding step of n sequences takes `step_s + n * sequence_s` seconds and gives each of them one token.
    """

    step_s: float = Field(default=0.0, ge=0, description="seconds of a decoding step of any size")
    sequence_s: float = Field(default=0.0, ge=0, description="seconds that each sequence adds to a step")
    poll_s: float = Field(
        default=0.02,
        ge=0,
        description="a poll ends after this or one step, whichever is longer, at the latest",
    )
    start_s: float = Field(default=0.0, ge=0, description="seconds until the engine is there")
    load_s: float = Field(default=0.0, ge=0, description="seconds to load a policy version")
    keeps_versions: bool = Field(
        default=False,
        description="true: loads while groups run, as adapters do; false: only when idle, as merged weights do",
    )
    mean_length: float | None = Field(
        default=None,
        ge=1,
        description="tokens of a completion: exponential with this mean, cut at max_completion_tokens",
    )
    given_lengths: tuple[int, ...] = Field(default=(), description="or drawn from these")

    @property
    def takes_time(self) -> bool:
        """Whether decoding follows the clock; otherwise a poll is a token."""
        return self.step_s + self.sequence_s > 0

    def draw_length(self, draw: random.Random, max_tokens: int) -> tuple[int, bool]:
        """(tokens of a completion, whether it ends by itself); a longer one is cut at `max_tokens`.

        Without a length model they are uniform and all cut: the policy never ends a sequence.
        """
        if self.mean_length is not None:
            length = max(1, math.ceil(draw.expovariate(1 / self.mean_length)))
        elif self.given_lengths:
            length = draw.choice(self.given_lengths)
        else:
            return draw.randint(1, max_tokens), False
        return min(length, max_tokens), length <= max_tokens

    @model_validator(mode="after")
    def _one_source_of_lengths(self) -> SimulationSpec:
        if self.mean_length and self.given_lengths:
            raise ValueError("simulation has mean_length and given_lengths: keep one of them")
        if self.given_lengths and min(self.given_lengths) < 1:
            raise ValueError(
                f"simulation.given_lengths has {min(self.given_lengths)}: a completion has 1 token or more; remove it"
            )
        return self
