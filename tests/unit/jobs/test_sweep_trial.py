"""A trial whose error another try would repeat is tried once per start of the sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.errors import DataError, LearnerError
from polyray.sweeps.trial import _tried_once


def test_permanent_error_of_trial_is_raised_again_without_a_second_try(tmp_path: Path) -> None:
    file, tries = tmp_path / "trial-0" / ".failed", 0
    for start, expected in (("a", DataError), ("a", LearnerError), ("b", DataError)):
        with pytest.raises(expected, match=r"mine\.jsonl:3: no text"), _tried_once(file, start):
            tries += 1
            raise DataError("mine.jsonl:3: no text")
    assert tries == 2


def test_transient_error_of_trial_leaves_the_next_try_free(tmp_path: Path) -> None:
    file, tries = tmp_path / ".failed", 0
    for _ in range(2):
        with pytest.raises(RuntimeError), _tried_once(file, "a"):
            tries += 1
            raise RuntimeError("the device is lost")
    assert tries == 2
    assert not file.exists()
