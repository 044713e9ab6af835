"""Our messages on stderr, and silence from vLLM, Ray and transformers below a warning.

POLYRAY_LOGGING=json, or `logging: json` in a job's file, makes every line an object (json_log.py), in the driver and
in every process that Ray starts for it: those call `log_as` first, and `log_at` as they get on.
"""

from __future__ import annotations

import logging
import os
import sys

from polyray.errors import ConfigError
from polyray.runs.json_log import JsonFormatter, TextFormatter, fields

LOGGING_VARIABLE = "POLYRAY_LOGGING"

QUIET_ENVIRONMENT: dict[str, str] = {
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Defaults; a variable that is set already keeps its value."""

NOISY_LOGGERS = ("ray", "vllm", "transformers", "sentence_transformers", "httpx", "urllib3", "filelock")
OUR_LOGGERS = ("polyray", "services", "jobs")


def setup_logging(level: str = "INFO") -> dict[str, str]:
    """Sets up our loggers and quietens the rest; returns the variables that Ray workers need too.

    Call it before anything heavy is imported, because libraries read the variables when they are imported. A
    second call only changes level and format. Raises ValueError for a level or a POLYRAY_LOGGING that is unknown.
    """
    as_json = wants_json()
    for name in OUR_LOGGERS if as_json else OUR_LOGGERS[:1]:
        _show(name, level, as_json)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    variables = {name: os.environ.setdefault(name, value) for name, value in QUIET_ENVIRONMENT.items()}
    return variables | ({LOGGING_VARIABLE: "json"} if as_json else {})


def wants_json() -> bool:
    """Whether POLYRAY_LOGGING asks for JSON. Raises ValueError unless it is text or json."""
    value = os.environ.get(LOGGING_VARIABLE) or "text"
    if value not in ("text", "json"):
        raise ValueError(f"{LOGGING_VARIABLE}={value} is unknown; set it to text or json")
    return value == "json"


def log_as(worker: str, run: str | None = None) -> None:
    """Tag this process's JSON log records, and start JSON logging if requested; plain text is unchanged."""
    fields.set(worker=worker, run=run)
    if wants_json():
        for name in OUR_LOGGERS:
            _show(name, "INFO", as_json=True)


def log_at(*, step: int | None = None, version: int | None = None) -> None:
    """Set the progress of this process for its log records; given values replace earlier ones."""
    if step is not None:
        fields.set(step=step)
    if version is not None:
        fields.set(version=version)


def _show(name: str, level: str, as_json: bool) -> None:
    ours = logging.getLogger(name)
    ours.setLevel(level)
    handler = next((each for each in ours.handlers if isinstance(each, _CurrentStderrHandler)), None)
    if handler is None:
        handler = _CurrentStderrHandler()
        ours.addHandler(handler)
        ours.propagate = False
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())


class _CurrentStderrHandler(logging.Handler):
    """Write to the current sys.stderr, so that a live display can replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def choose_log_format(of_config: str) -> None:
    """Use the file's log format if the environment sets none, for this process and its children."""
    if of_config == "json":
        os.environ.setdefault(LOGGING_VARIABLE, of_config)
    try:
        wants_json()
    except ValueError as error:
        raise ConfigError(str(error)) from None
