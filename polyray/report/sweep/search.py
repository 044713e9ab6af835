"""Description of a sweep's search: handed in by polyray sweep, shown by the page. Called by results.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyray.report.sweep.settings import Setting


@dataclass(frozen=True, slots=True)
class SearchNote:
    """Description of the search.

    Example:
        SearchNote(words="Optuna suggested the settings (...).", on_front=("t002-3f9a", "t003-81cc"))
    """

    words: str
    """Whole sentences."""
    on_front: tuple[str, ...] = ()
    """Ids of trials with settings that no other beats in all objectives, for a search with several objectives."""


def search_entry(note: SearchNote, settings: Sequence[Setting]) -> dict[str, Any]:
    """JSON entry: the front by labels of settings."""
    on_front = [
        setting.label
        for setting in settings
        if any(trial.trial_id in note.on_front for trial in setting.trials)
    ]
    return {"words": note.words, "front": on_front}
