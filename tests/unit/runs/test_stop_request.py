"""A driver asks its workers to end through a file in the run's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.runs.stop_request import StopRequest, is_stop_requested


def test_stop_request_holds_from_the_call_until_the_driver_ends(tmp_path: Path) -> None:
    assert not is_stop_requested(tmp_path)
    with StopRequest(tmp_path) as stop:
        assert not is_stop_requested(tmp_path)
        stop.ask("SIGTERM")
        assert is_stop_requested(tmp_path)
        assert is_stop_requested(tmp_path), "a worker group that starts again sees it, too"
    assert list(tmp_path.iterdir()) == []


def test_stop_request_ignores_a_file_of_a_killed_driver_and_ends_after_an_interrupt(tmp_path: Path) -> None:
    StopRequest(tmp_path).ask("SIGTERM")
    with pytest.raises(KeyboardInterrupt), StopRequest(tmp_path) as stop:
        assert not is_stop_requested(tmp_path)
        stop.ask("SIGINT")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
