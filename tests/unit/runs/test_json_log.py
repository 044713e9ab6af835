"""Logging: quiet libraries, text or JSON lines with fields of the process, no secrets."""

from __future__ import annotations

import json
import logging
import os
import re
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


def test_json_line_has_utc_time_and_the_traceback_in_one_field() -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        record = logging.LogRecord("polyray", logging.INFO, "file", 1, "it failed", (), sys.exc_info())
    record.created = 1_772_366_400.25
    line = json.loads(JsonFormatter().format(record))
    assert line["time"] == "2026-03-01T12:00:00.250Z"
    assert (line["message"], line["error"], line["run"]) == ("it failed", "KeyError", None)
    assert line["traceback"].splitlines()[-1] == "KeyError: 'missing'"


@pytest.mark.parametrize("style", ["text", "json"])
def test_log_hides_secrets_of_the_environment(
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


def test_setup_logging_tells_workers_and_a_second_call_adds_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert LOGGING_VARIABLE not in setup_logging()
    monkeypatch.setenv(LOGGING_VARIABLE, "json")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    expected = {**QUIET_ENVIRONMENT, "VLLM_LOGGING_LEVEL": "DEBUG", LOGGING_VARIABLE: "json"}
    assert setup_logging() == expected
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    log_as("driver", "first")
    logging.getLogger("polyray").info("x" * (MAX_MESSAGE_CHARS + 1))
    assert [len(line["message"]) for line in lines(capsys)] == [MAX_MESSAGE_CHARS]


def test_text_lines_are_plain_and_appear_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("polyray").handlers[:]  # pytest may have some of its own here
    log_as("driver", "first")
    assert logging.getLogger("polyray").handlers == before
    setup_logging("INFO")
    setup_logging("INFO")
    logging.getLogger("polyray.learner").info("step 3")
    logging.getLogger("polyray.learner").debug("details")
    assert re.fullmatch(r".* INFO polyray\.learner: step 3\n", capsys.readouterr().err)


def test_unknown_format_level_and_field_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        setup_logging("LOUD")
    with pytest.raises(KeyError, match=r"'prompt'.*run, step, version, worker"):
        json_log.fields.set(prompt="37|b1>e4=")
    monkeypatch.setenv(LOGGING_VARIABLE, "xml")
    with pytest.raises(ValueError, match=r"POLYRAY_LOGGING=xml.*text.*json"):
        setup_logging()


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
