"""Fields that objectives share before their own formula: scale, truncated samples, length, filters, schedules."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator

from polyray.config.base import StrictModel
from polyray.config.loss import LossSpec


class AnnealSpec(StrictModel):
    """Ends of k and lambda in the course of a run; they start at set_size and diversity_weight."""

    set_size: int | None = Field(default=None, ge=1, description="k at the end; 1 ends with single samples")
    diversity_weight: float | None = Field(default=None, ge=0, description="lambda at the end")
    over_steps: int = Field(ge=1, description="reached after this many steps, constant from there on")
    shape: Literal["linear", "cosine"] = Field(default="linear", description="shape of the way to the end")


class ObjectiveSpec(LossSpec):
    """Fields of every objective."""

    scale: Literal["none", "group", "batch"] = Field(
        default="none",
        description="advantages are divided by their standard deviation in the group (also called std) or the batch",
    )
    std: Literal["sample", "population"] = Field(
        default="sample", description="standard deviation of `scale`: ddof 1 or 0"
    )
    truncated: Literal["keep", "mask", "drop"] = Field(
        default="keep",
        description="completions cut at max_completion_tokens: judged like all; mask: they train nothing (DAPO's "
        "overlong filtering); drop: they leave the set, like unscored ones",
    )
    overlong_buffer: int = Field(
        default=0,
        ge=0,
        description="tokens before max_completion_tokens over which a punishment grows; 0: none",
    )
    overlong_weight: float = Field(default=1.0, ge=0, description="punishment at max_completion_tokens")
    dynamic_sampling: bool = Field(
        default=False,
        description="groups whose advantages are all equal are replaced by new ones (DAPO); with KL in the reward "
        "only where the completions are all equal, too",
    )
    max_resampled_batches: int = Field(
        default=3, ge=1, description="batches of groups that may be replaced per step; then all are taken"
    )
    anneal: AnnealSpec | None = None

    @field_validator("scale", mode="before")
    @classmethod
    def _std_is_that_of_the_group(cls, value: Any) -> Any:
        return "group" if value == "std" else value

    @property
    def min_samples(self) -> int:
        """Completions a group needs to teach anything."""
        return 2

    @property
    def needs_classes(self) -> bool:
        """Whether the objective counts classes."""
        return False

    @property
    def needs_distances(self) -> bool:
        """Whether the objective looks at pairwise distances."""
        return False

    @property
    def of_passes(self) -> tuple[str, str] | None:
        """Setting that needs rewards of 1, and what to do where there are none."""
        return None

    def at(self, values: dict[str, Any]) -> Self:
        """This objective with some fields replaced."""
        return self.model_copy(update=values)


class OfSetsSpec(ObjectiveSpec):
    """Keys of objectives of sets."""

    set_size: int = Field(
        default=4,
        ge=1,
        description="k: how many candidates a user sees; a group needs more scored completions than that",
    )

    @property
    def min_samples(self) -> int:
        """A set and one sample outside it, also where k is annealed upwards."""
        end = self.anneal.set_size if self.anneal is not None else None
        return max(self.set_size, end or 0) + 1
