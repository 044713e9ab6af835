"""Stored records: sets of candidates as they were shown, and their selections.

`request` and `answer` are the JSON of POST /v1/candidates as dictionaries; its schema belongs to the generation
service. Read here are of the request `prompt`, `messages`, `k`; of the answer `selector`, `selected_index`, `policy`
and of each candidate `text`, `score`, `logprob`, `num_tokens`, `finish_reason`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CandidatesRecord:
    """One answered request.

    Example:
        CandidatesRecord(id="cand-1", created=1767225600.0, owner="ann", model="policy-v17", policy_sha256="9f...",
                         request={"prompt": "2+2=", "k": 2, ...},
                         answer={"selected_index": 0, "candidates": [{"text": "4", ...}, {"text": "5", ...}], ...})
    """

    id: str
    created: float
    """Seconds since 1970, for people; the order of storing is what counts."""
    owner: str
    model: str
    """Model that answered, as /v1/models lists it; never an alias."""
    policy_sha256: str
    request: Mapping[str, Any]
    answer: Mapping[str, Any]

    @property
    def candidates(self) -> Sequence[Mapping[str, Any]]:
        """Candidates in the order in which they were shown; an index is a place in it."""
        return self.answer["candidates"]

    @property
    def last_turn(self) -> str:
        """The prompt's text, or that of its last message: what names the prompt in statistics."""
        if self.request.get("prompt") is not None:
            return self.request["prompt"]
        return self.request["messages"][-1]["content"]


@dataclass(frozen=True, slots=True)
class SelectionRecord:
    """A person's selection.

    Example:
        SelectionRecord(id="sel-5f0c...", created=1767225630.0, candidates_id="cand-1", owner="ann", selected_index=1,
                        edited_text=None, client_key="page-7")
    """

    id: str
    created: float
    candidates_id: str
    owner: str
    selected_index: int | None
    """None: none of them was good enough."""
    edited_text: str | None = None
    """The person's edit of the candidate, or own text."""
    client_key: str | None = None

    @property
    def content(self) -> tuple[str, int | None, str | None]:
        """Fields that must be equal if a client_key is sent again."""
        return self.candidates_id, self.selected_index, self.edited_text


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A set with its latest selection, e.g. StoredRecord(CandidatesRecord(...), selection=None)."""

    candidates: CandidatesRecord
    selection: SelectionRecord | None
