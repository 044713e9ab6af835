"""The latency, length and failure model of `rollout.engine=simulated`."""

from __future__ import annotations

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import FilePath


class SimulationSpec(StrictModel):
    """Times, lengths and failures of a simulated engine. All zero: one token per poll.

    A decoding step of n sequences takes `step_s + n * sequence_s` seconds and gives each of them one token.
    """

    step_s: float = Field(default=0.0, ge=0, description="seconds of a decoding step of any size")
    sequence_s: float = Field(default=0.0, ge=0, description="seconds that each sequence adds to a step")
    prefill_token_s: float = Field(
        default=0.0, ge=0, description="seconds per prompt token, once a group; all others wait meanwhile"
    )
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
    lengths_path: FilePath | None = Field(default=None, description="or from a text file, one number a line")
    group_failure_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of groups that the engine refuses"
    )
    engine_failure_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of groups on which it dies, with all it holds"
    )
    hang_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of groups on which it answers nothing any more"
    )
    hang_s: float = Field(default=3600.0, gt=0, description="seconds that it hangs before it dies")

    @property
    def takes_time(self) -> bool:
        """Whether decoding follows the clock; otherwise a poll is a token."""
        return self.step_s + self.sequence_s + self.prefill_token_s > 0

    @model_validator(mode="after")
    def _one_source_of_lengths(self) -> SimulationSpec:
        sources = {
            "mean_length": self.mean_length,
            "given_lengths": self.given_lengths,
            "lengths_path": self.lengths_path,
        }
        named = [name for name, value in sources.items() if value]
        if len(named) > 1:
            raise ValueError(
                f"simulation has {' and '.join(named)}: lengths have one source; keep one of them"
            )
        if self.given_lengths and min(self.given_lengths) < 1:
            raise ValueError(
                f"simulation.given_lengths has {min(self.given_lengths)}: a completion has 1 token or more; remove it"
            )
        return self
