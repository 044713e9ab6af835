"""Our messages on stderr, and silence from vLLM, Ray and transformers below a warning."""

from __future__ import annotations

import logging
import os
import sys

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


def setup_logging(level: str = "INFO") -> dict[str, str]:
    """Sets up the `polyray` logger and quietens the rest; returns the variables that Ray workers need too.

    Call it before anything heavy is imported, because libraries read the variables when they are imported. A
    second call only changes the level. Raises ValueError for a level that logging does not know.
    """
    ours = logging.getLogger("polyray")
    ours.setLevel(level)
    if not any(isinstance(handler, _CurrentStderrHandler) for handler in ours.handlers):
        handler = _CurrentStderrHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
        ours.addHandler(handler)
        ours.propagate = False
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    return {name: os.environ.setdefault(name, value) for name, value in QUIET_ENVIRONMENT.items()}


class _CurrentStderrHandler(logging.Handler):
    """Writes to whatever sys.stderr is at that moment, so that a live display can put itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)
