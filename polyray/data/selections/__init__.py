"""What people picked of the candidates they were shown: kept for good, and turned into training data.

store.py      SelectionStore: the durable database      tables.py  database.py   what is below it
records.py    what is stored     errors.py   what can go wrong
export.py     preference pairs and demonstrations
measured.py   the quality of what people picked, beside what selectors would have picked
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
