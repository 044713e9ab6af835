"""Texts that people reacted to: what reward models, SFT and RL on engagement are learnt from.

records.py    EngagementRecord, PreferencePair; pairs that may be compared
reading.py    files of either shape; what a data set's sha256 is
importing.py  Stack Exchange threads, headline tests and the user's own exports become records
priors.py     log-odds of engagement per impression under a Beta prior
"""

from polyray.shelf.preferences.engagement.importing import Imported, import_records, import_source
from polyray.shelf.preferences.engagement.reading import data_sha256, read_records
from polyray.shelf.preferences.engagement.records import (
    EngagementRecord,
    Part,
    PreferencePair,
)

__all__ = [
    "EngagementRecord",
    "Imported",
    "Part",
    "PreferencePair",
    "data_sha256",
    "import_records",
    "import_source",
    "read_records",
]
