"""Our messages appear once; others' chatter is off unless the user asked for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from polyray.runs.logging import QUIET_ENVIRONMENT, setup_logging


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in QUIET_ENVIRONMENT:
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    ours = logging.getLogger("polyray")
    kept = ours.handlers[:], ours.propagate, ours.level
    ours.handlers = []
    yield
    ours.handlers, ours.propagate = kept[0], kept[1]
    ours.setLevel(kept[2])


def test_messages_appear_once_however_often_it_is_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("INFO")
    setup_logging("INFO")
    logging.getLogger("polyray.learner").info("step 3")
    logging.getLogger("polyray.learner").debug("details")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("INFO polyray.learner: step 3")


def test_the_environment_is_set_and_returned() -> None:
    assert setup_logging() == QUIET_ENVIRONMENT
    assert os.environ["VLLM_LOGGING_LEVEL"] == "WARNING"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_user_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    assert setup_logging()["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        setup_logging("LOUD")
