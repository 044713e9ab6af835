"""Records for the tests of curation."""

from __future__ import annotations

from typing import Any

from polyray.data.words import canonical_text
from polyray.shelf.preferences.curation.fingerprints import MIN_WORDS, SHINGLE_CHARS
from polyray.shelf.preferences.engagement import EngagementRecord


def record(name: str, completion: str = "", engagement: float = 0.0, **more: Any) -> EngagementRecord:
    """A record of its own prompt and cluster unless `more` says otherwise."""
    values: dict[str, Any] = {
        "record_id": name,
        "prompt": f"post number {name} about {name * 3}",
        "completion": completion or f"a reply to {name}",
        "engagement": engagement,
        "prompt_id": f"prompt-{name}",
        "cluster_id": f"cluster-{name}",
    }
    return EngagementRecord(**(values | more))


def shingles(text: str) -> set[str] | None:
    """Parts of SHINGLE_CHARS characters, or None for a text of few words."""
    canonical = " ".join(canonical_text(text).split())
    if len(canonical.split()) < MIN_WORDS:
        return None
    size = min(SHINGLE_CHARS, len(canonical))
    return {canonical[at : at + size] for at in range(len(canonical) - size + 1)}


def similarity(a: str, b: str) -> float:
    """Exact Jaccard similarity of the shingles of two texts."""
    first, second = shingles(a), shingles(b)
    return 0.0 if first is None or second is None else len(first & second) / len(first | second)
