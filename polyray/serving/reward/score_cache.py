"""Scores by content: an item that a model has scored before is not scored again.

Only for rewards that declare themselves deterministic; models.py decides. Thread-safe, bounded, in memory.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from polyray.rewards.base import Reward, Score, ScoreItem


@dataclass(frozen=True, slots=True)
class CachedScores:
    """The scores of some items, and where they came from.

    Example:
        CachedScores(scores=[Score(0.5, 0)], hits=0, misses=1)
    """

    scores: list[Score]
    hits: int
    """Items that were known, or equal to an earlier one of the same call."""
    misses: int


class ScoreCache:
    """The last `capacity` scores, the least recently used gone first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._scores: OrderedDict[bytes, Score] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._scores)

    def score(self, reward: Reward, items: Sequence[ScoreItem]) -> CachedScores:
        """Like `reward.score`, called for unknown items only. Unscored items are not kept."""
        keys = [item_key(reward.version, item) for item in items]
        with self._lock:
            known = {key: self._scores[key] for key in keys if key is not None and key in self._scores}
            for key in known:
                self._scores.move_to_end(key)
        first: dict[bytes, int] = {}
        asked: list[int] = []
        for at, key in enumerate(keys):
            if key is None or (key not in known and key not in first):
                asked.append(at)
                if key is not None:
                    first[key] = at
        fresh = dict(zip(asked, reward.score([items[at] for at in asked]), strict=True)) if asked else {}
        new = {key: fresh[at] for key, at in first.items()}
        scores = [
            fresh[at] if key is None else known[key] if key in known else new[key]
            for at, key in enumerate(keys)
        ]
        self._keep(new)
        return CachedScores(scores, hits=len(items) - len(asked), misses=len(asked))

    def _keep(self, new: dict[bytes, Score]) -> None:
        with self._lock:
            self._scores.update((key, score) for key, score in new.items() if score.score is not None)
            while len(self._scores) > self._capacity:
                self._scores.popitem(last=False)


def item_key(version: str, item: ScoreItem) -> bytes | None:
    """A hash of all that a score may depend on; None where the item holds something that JSON cannot say."""
    content = [version, item.prompt, item.completion, item.reference, item.metadata and dict(item.metadata)]
    if item.messages is not None:
        content.append([dict(message) for message in item.messages])
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError):
        return None
    return hashlib.sha256(text.encode()).digest()
