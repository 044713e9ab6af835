"""Candidates that were shown and people's selections: stored for good, and turned into training data.

store.py      SelectionStore: the durable database      tables.py  database.py   the layers below it
records.py    stored records     errors.py   errors
export.py     preference pairs and demonstrations
measured.py   the quality of people's picks, beside that of selectors' picks
"""

from polyray.data.selections.errors import (
    InvalidSelection,
    SelectionConflict,
    StoreFull,
    StoreUnavailable,
    UnknownCandidates,
)
from polyray.data.selections.records import CandidatesRecord, SelectionRecord, StoredRecord
from polyray.data.selections.store import SelectionStore

__all__ = [
    "CandidatesRecord",
    "InvalidSelection",
    "SelectionConflict",
    "SelectionRecord",
    "SelectionStore",
    "StoreFull",
    "StoreUnavailable",
    "StoredRecord",
    "UnknownCandidates",
]
