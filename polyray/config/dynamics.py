"""Quality and diversity during training: rounds on fixed prompts.

Without `evaluation` these rounds are separate and few, so that they cost little; with it, its rounds are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from polyray.config.base import StrictModel
from polyray.config.paths import NameOrPath
from polyray.config.text_tasks import TextTaskSpec

ROUND_KS = (1, 2, 4, 8)
"""The k of pass@k and its like, as far as there are so many completions."""
PromptsPart = Literal["auto", "validation", "held_out"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Schedule of the rounds on fixed prompts, and their size.

    Example:
        Rounds(every=12, last=60, prompts="auto", num_prompts=16, num_samples=8)
    """

    every: int
    """Versions; version 0 and the last one have a round, too."""
    last: int
    prompts: PromptsPart
    num_prompts: int
    num_samples: int
    from_training: bool = False
    """Whether a task without any other prompts is asked the first ones of its training, instead of refused."""
    semantic_distances: bool = False
    """Whether the distances that scoring brings are those of meaning."""
    encoder: str | None = None
    """Encoder for distances of meaning; None: no such distances."""

    @property
    def ks(self) -> tuple[int, ...]:
        """The k for which there are samples for an unbiased estimate."""
        return tuple(k for k in ROUND_KS if k <= self.num_samples)

    def due(self, version: int) -> bool:
        """Whether this version has a round."""
        return version % self.every == 0 or version == self.last

    @property
    def count(self) -> int:
        """Rounds of a whole run."""
        return len({*range(0, self.last + 1, self.every), self.last})


class DynamicsSpec(StrictModel):
    """Fixed prompts with fixed seeds, for trajectories: dynamics.jsonl."""

    every: int | None = Field(
        default=None,
        ge=1,
        description="versions between rounds; null: as few as keep the rounds below max_share",
    )
    max_share: float = Field(
        default=0.04,
        gt=0,
        le=1,
        description="most samples of the rounds, as a share of the completions that training samples; with "
        "every=null",
    )
    prompts: PromptsPart = Field(
        default="auto",
        description="the task's part; auto: its validation part, else the first prompts of training",
    )
    num_prompts: int = Field(default=16, ge=1, description="prompts of a round")
    num_samples: int = Field(default=8, ge=1, description="completions per prompt")
    encoder: NameOrPath | None = Field(
        default="auto",
        description="semantic_diversity, by this sentence encoder (packaged: MiniLM); auto: packaged where answers "
        "are prose; null: only where diversity.source=embedding measures it anyway",
    )

    def rounds(self, steps: int, samples_per_step: int) -> Rounds:
        """Rounds of a run of `steps` steps."""
        every = self.every or self._affordable(steps, samples_per_step)
        return Rounds(every, steps, self.prompts, self.num_prompts, self.num_samples, self.prompts == "auto")

    def encoder_for(self, task: StrictModel) -> str | None:
        """The encoder of a run on this task; None: there is none."""
        if self.encoder != "auto":
            return self.encoder
        return "packaged" if isinstance(task, TextTaskSpec) else None

    def _affordable(self, steps: int, samples_per_step: int) -> int:
        """Two rounds there always are: before the first step and after the last one."""
        budget = self.max_share * steps * samples_per_step / (self.num_prompts * self.num_samples)
        return max(1, math.ceil(steps / max(1, math.floor(budget) - 1)))
