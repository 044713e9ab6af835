"""Members of a run's pool of rollout workers, and the consequence of a loss.

A run needs `num_needed` workers, no matter which ones. A worker has joined once it has proven a version; the
others may still wait for room. Plain bookkeeping of names; the coordinator's serving fleet acts on it.
"""

from __future__ import annotations

from enum import Enum

MAX_FAILED_JOINS = 20
"""Failed joins in a row of workers above the needed ones; a lost node ends some."""


class FailureAction(Enum):
    """Consequence of the loss of a worker."""

    REPLACED = "another one takes its place"
    STILL_WAITS = "another one waits for room in its place; no incident"
    GIVEN_UP = "its place stays empty: its replacements have ended too often"
    TOO_MANY = "the run ends: more workers were lost than it may replace"


class Roster:
    """See the module.

    Example:
        roster = Roster(num_needed=1, max_replacements=8)
        roster.published(); roster.proved("worker-0"); roster.all_serve  # True
    """

    def __init__(self, num_needed: int, max_replacements: int) -> None:
        self.num_needed = num_needed
        self.replacements = 0
        """Workers that the run needed and lost."""
        self.failed_joins = 0
        """Failed joins since an optional worker last joined."""
        self._max_replacements = max_replacements
        self._joined: set[str] = set()
        self._behind: set[str] = set()
        """Joined workers that do not serve the newest version yet."""

    @property
    def all_serve(self) -> bool:
        """Whether every worker that has joined, and as many as the run needs, have proven the newest version."""
        return len(self._joined) >= self.num_needed and not self._behind

    @property
    def num_joined(self) -> int:
        """Workers that have proven a version."""
        return len(self._joined)

    @property
    def num_expected(self) -> int:
        """Workers to share the work among: those that have joined, and at least as many as the run needs."""
        return max(self.num_needed, len(self._joined))

    @property
    def num_behind(self) -> int:
        """Workers that have joined and have not proven the newest version."""
        return len(self._behind)

    def has_joined(self, name: str) -> bool:
        """Whether this worker has proven a version."""
        return name in self._joined

    def published(self) -> None:
        """Record a newer version, which no worker serves yet."""
        self._behind = set(self._joined)

    def proved(self, name: str) -> bool:
        """The worker serves the newest version. True where it has joined a run that has all it needs."""
        self._behind.discard(name)
        if name in self._joined:
            return False
        beside = len(self._joined) >= self.num_needed
        if beside:
            self.failed_joins = 0
        self._joined.add(name)
        return beside

    def lost(self, name: str, *, in_time: bool) -> FailureAction:
        """The worker is gone; `in_time`: it failed, rather than taking longer than it may."""
        has_joined = name in self._joined
        self.left(name)
        if len(self._joined) < self.num_needed:
            self.replacements += 1
            return (
                FailureAction.TOO_MANY
                if self.replacements > self._max_replacements
                else FailureAction.REPLACED
            )
        if has_joined:
            return FailureAction.REPLACED
        if not in_time:
            return FailureAction.STILL_WAITS
        self.failed_joins += 1
        return FailureAction.GIVEN_UP if self.failed_joins > MAX_FAILED_JOINS else FailureAction.REPLACED

    def left(self, name: str) -> None:
        """The worker was taken out of the pool."""
        self._joined.discard(name)
        self._behind.discard(name)
