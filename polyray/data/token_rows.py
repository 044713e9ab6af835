"""A text for training: its token ids, and a mask of trained ones. No tokeniser, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Prompt and response as one sequence, e.g. TokenRow(token_ids=(1, 9, 4, 23, 2), response_start=3)."""

    token_ids: tuple[int, ...]
    response_start: int
    """Index of the first trained token, at least 1: nothing predicts the first token of a row."""
    untrained: tuple[tuple[int, int], ...] = ()
    """[start, end) after `response_start` that are not trained: the user's turns between trained ones. All
    other tokens from `response_start` on are trained, the end of sequence too."""
    truncated: bool = False
    """The end of the response was cut off."""

    @property
    def num_targets(self) -> int:
        """Trained tokens."""
        return len(self.token_ids) - self.response_start - sum(end - start for start, end in self.untrained)
