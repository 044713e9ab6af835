"""Records of engagement and preference pairs: the two shapes that reward models are trained on.

Both are frozen and check themselves; one JSON object a line in files. Reading is reading.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from polyray.config.base import StrictModel

Part = Literal["train", "validation", "test"]


def _is_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"no Unicode text: half of a surrogate pair at {error.start}; repair it") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank; write a text")
    return text


def moment(text: str) -> datetime:
    """A point in time; one without a zone is taken as UTC. Raises ValueError for what is not ISO 8601."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not ISO 8601, e.g. 2026-03-01T12:30:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _is_moment(text: str | None) -> str | None:
    if text is not None:
        moment(text)
    return text


Unicode = Annotated[str, AfterValidator(_is_unicode)]
Text = Annotated[Unicode, AfterValidator(_not_blank)]


class EngagementRecord(StrictModel):
    """One completion that people reacted to.

    Example:
        EngagementRecord(record_id="q1/a2", prompt="Should answers cite sources?", completion="Yes, where there "
                         "are any.", engagement=26.0, prompt_id="q1/answer", cluster_id="thread:q1", position=0)
    """

    record_id: Text
    """Unique within a data set."""
    prompt: Text
    """The post or the story, without instructions around it."""
    completion: Text
    engagement: float = Field(allow_inf_nan=False)
    """Engagement on the data set's own scale: up-votes, likes, or log-odds of a click under a Beta prior."""
    prompt_id: Text
    """Completions with one prompt_id may be compared: one post and kind; one test and image."""
    cluster_id: Text
    """Thread, or tests linked by a lede or headline: the unit of splits and statistics."""
    impressions: int | None = Field(default=None, ge=0)
    clicks: int | None = Field(default=None, ge=0)
    created_at: Annotated[str | None, AfterValidator(_is_moment)] = None
    """ISO 8601 as the file has it."""
    age_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Seconds after the post it replies to, or after the first completion of its prompt."""
    position: int | None = Field(default=None, ge=0)
    """0: the first completion of its prompt_id, by time."""
    kind: Unicode = ""
    origin: Unicode = ""
    url: Unicode = ""
    licence: Unicode = ""
    part: Part | None = None
    phase: Literal["sft", "rl"] | None = None
    """Phase of a training record; None for others."""

    @model_validator(mode="after")
    def _possible(self) -> EngagementRecord:
        if self.clicks is not None and (self.impressions is None or self.clicks > self.impressions):
            raise ValueError(f"clicks={self.clicks} need as many impressions; there are {self.impressions}")
        if self.phase is not None and self.part != "train":
            raise ValueError(f"phase={self.phase!r} is of training records only; part is {self.part!r}")
        return self


class PreferencePair(StrictModel):
    """Two completions of one prompt, the better one first.

    Example:
        PreferencePair(prompt="Should answers cite sources?", chosen="Yes, where there are any.", rejected="No.")
    """

    prompt: Text
    chosen: Unicode
    rejected: Unicode
    gap: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Advantage of the chosen one, on the data set's own scale."""
    prompt_id: Unicode = ""
    cluster_id: Unicode = ""
    """The unit of splits and statistics; `read_records` fills in both ids."""
    part: Part | None = None

    @model_validator(mode="after")
    def _different(self) -> PreferencePair:
        if self.chosen == self.rejected:
            raise ValueError(f"chosen and rejected are the same text {self.chosen[:60]!r}; remove the pair")
        return self
