"""Lines as objects, where they are asked for: whose they are, how far that was, and nothing that is secret."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from polyray.runs import json_log
from polyray.runs.json_log import MAX_MESSAGE_CHARS, JsonFormatter, ProcessFields
from polyray.runs.logging import (
    LOGGING_VARIABLE,
    OUR_LOGGERS,
    QUIET_ENVIRONMENT,
    log_as,
    log_at,
    setup_logging,
)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*QUIET_ENVIRONMENT, LOGGING_VARIABLE):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    kept = [
        (logger, logger.handlers[:], logger.propagate, logger.level)
        for logger in map(logging.getLogger, OUR_LOGGERS)
    ]
    for logger, *_ in kept:
        logger.handlers = []
    monkeypatch.setattr(json_log.fields, "_values", ProcessFields().as_dict())
    yield
    for logger, handlers, propagate, level in kept:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_line_holds_run_worker_step_and_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOGGING_VARIABLE, "json")
    log_as("learner-0", "first")
    log_at(step=16)
    log_at(step=17, version=18)
    logging.getLogger("polyray.learner").warning("slow: %s\nsecond line", 3)
    logging.getLogger("polyray.serving.reward").info("loaded")
    first, second = lines(capsys)
    assert first.pop("time").endswith("Z") and first.pop("pid") == os.getpid()
    assert first == {
        "level": "WARNING",
        "logger": "polyray.learner",
        "message": "slow: 3\nsecond line",
        "run": "first",
        "step": 17,
        "version": 18,
        "worker": "learner-0",
    }
    assert (second["logger"], second["run"], second["step"]) == ("polyray.serving.reward", "first", 17)


def test_the_time_is_utc_with_milliseconds() -> None:
    record = logging.LogRecord("polyray", logging.INFO, "file", 1, "text", (), None)
    record.created = 1_772_366_400.25
    assert json.loads(JsonFormatter().format(record))["time"] == "2026-03-01T12:00:00.250Z"


def test_an_exception_is_named_and_its_traceback_is_one_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOGGING_VARIABLE, "json")
    log_as("driver")
    try:
        raise KeyError("missing")
    except KeyError:
        logging.getLogger("polyray").exception("it failed")
    (line,) = lines(capsys)
    assert (line["message"], line["error"], line["run"]) == ("it failed", "KeyError", None)
    assert line["traceback"].splitlines()[-1] == "KeyError: 'missing'"


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_planted_secret_is_not_in_the_log(
    style: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOGGING_VARIABLE, style)
    monkeypatch.setenv("POLYRAY_API_TOKEN", "pl4nt3d-0123456789")
    monkeypatch.setenv("SHORT_KEY", "step")
    setup_logging()
    try:
        raise ValueError("refused: Bearer pl4nt3d-0123456789")
    except ValueError:
        logging.getLogger("polyray").exception("step 3 sent pl4nt3d-0123456789")
    written = capsys.readouterr().err
    assert "pl4nt3d" not in written and written.count("***") >= 2 and "step 3 sent ***" in written


def test_a_message_is_no_place_for_a_batch_of_texts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOGGING_VARIABLE, "json")
    log_as("driver")
    logging.getLogger("polyray").info("x" * (MAX_MESSAGE_CHARS + 1))
    assert len(lines(capsys)[0]["message"]) == MAX_MESSAGE_CHARS


def test_workers_are_told_and_a_second_setup_adds_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert LOGGING_VARIABLE not in setup_logging()
    monkeypatch.setenv(LOGGING_VARIABLE, "json")
    assert setup_logging() == {**QUIET_ENVIRONMENT, LOGGING_VARIABLE: "json"}
    log_as("driver", "first")
    logging.getLogger("polyray").info("once")
    assert [line["message"] for line in lines(capsys)] == ["once"]


def test_plain_text_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("polyray").handlers[:]  # pytest may have some of its own here
    log_as("driver", "first")
    assert logging.getLogger("polyray").handlers == before
    setup_logging()
    logging.getLogger("polyray.learner").info("step 3")
    assert capsys.readouterr().err.endswith(" INFO polyray.learner: step 3\n")


def test_an_unknown_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOGGING_VARIABLE, "xml")
    with pytest.raises(ValueError, match=r"POLYRAY_LOGGING=xml.*text.*json"):
        setup_logging()


def test_a_field_that_no_line_has_is_refused() -> None:
    with pytest.raises(KeyError, match=r"'prompt'.*run, step, version, worker"):
        json_log.fields.set(prompt="37|b1>e4=")


@pytest.mark.parametrize(("variable", "key", "expected"), [("", "json", "json"), ("text", "json", "text")])
def test_job_file_sets_the_format_without_the_environment(variable: str, key: str, expected: str) -> None:
    program = (
        "from jobs.train import main; import os\n"
        "from tests.job_checks import check_without_models\n"
        f"check_without_models(main, ['configs/train/hidden_trap_grid.yaml', 'logging={key}'])\n"
        "import sys; print(os.environ['POLYRAY_LOGGING'], file=sys.stderr)"
    )
    environment = {**os.environ, **({LOGGING_VARIABLE: variable} if variable else {})}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == [expected] and json.loads(done.stdout)["config"]["logging"] == key
