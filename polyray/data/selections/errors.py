"""Errors of stored candidates and selections.

DataError
├── UnknownCandidates      no such set, or another owner's
├── InvalidSelection       an index or a text that cannot be selected
├── SelectionConflict      a client_key that already names another selection
└── StoreUnavailable       the database did not take or give it; nothing was acknowledged
    └── StoreFull          because its disk is full
"""

from __future__ import annotations

from polyray.errors import DataError


class UnknownCandidates(DataError):
    """No candidates of that id are visible to this owner."""


class InvalidSelection(DataError):
    """The set has no such candidate, the text cannot be stored, or the answer has other texts than were shown."""


class SelectionConflict(DataError):
    """The owner has used this client_key for another selection."""


class StoreUnavailable(DataError):
    """The database cannot be written or read now: locked, read-only, unreachable, damaged."""


class StoreFull(StoreUnavailable):
    """The database has no space left."""
