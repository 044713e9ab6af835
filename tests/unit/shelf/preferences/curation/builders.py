"""Records for the tests of curation."""

from __future__ import annotations

from typing import Any

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
