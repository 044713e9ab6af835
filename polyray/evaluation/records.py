"""The lines of samples.jsonl and results.jsonl, and how these files are read and written.

samples.jsonl is the product of an evaluation: everything else is recomputed from it. Its first two fields are
those that HumanEval's own tools read. Unscored samples have `reward: null` in the file and NaN here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from polyray.errors import DataError
from polyray.types import WRONG_CLASS, Prompt


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One sample of one model: one line of samples.jsonl.

    Example:
        SampleRecord(task_id="eval-37|b1>e4=", completion="RRURUU", sample_index=0, domain="hidden_trap_grid",
                     model="Dr.GRPO", policy_version=60, adapter_sha256="9f86d0...", finish_reason="stop",
                     sampling={"temperature": 1.0, "top_p": 1.0, "seed": 81, "max_tokens": 10},
                     prompt_sha256="2c26b4...", reward=1.0, class_id=7731, num_tokens=7, logprob=-2.31,
                     cluster_id="b1>e4", prompt="37|b1>e4=")
    """

    task_id: str
    completion: str
    sample_index: int
    domain: str = ""
    model: str = "model"
    policy_version: int | None = None
    adapter_sha256: str | None = None
    """None: the base model itself."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"
    prompt_sha256: str = ""
    reward: float = math.nan
    """In [0, 1]; NaN = unscored (`null` in the file)."""
    class_id: int = WRONG_CLASS
    """`class` in the file."""
    num_tokens: int = 0
    logprob: float = math.nan
    """Sum of the rollout log-probs of all tokens, in nats (`null` where unknown)."""
    cluster_id: str = ""
    """The unit of statistics; empty: the prompt itself."""
    prompt: str = ""

    @property
    def cluster(self) -> str:
        """The unit of statistics this sample belongs to."""
        return self.cluster_id or self.task_id


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """Verdict about one sample: one line of results.jsonl. Times and memory are null if nothing ran.

    Example:
        ResultRecord(task_id="eval-37|b1>e4=", sample_index=0, model="Dr.GRPO", passed=True, verdict="passed")
    """

    task_id: str
    sample_index: int
    model: str
    passed: bool
    verdict: str
    """passed, failed or unscored."""
    message: str = ""
    wall_s: float | None = None
    cpu_s: float | None = None
    max_rss: int | None = None
    """Bytes."""
    isolation: str = "none"


def prompt_sha256(prompt: Prompt) -> str:
    """A hash of what a task asks: the text, or all messages of a chat prompt."""
    content = prompt.text if prompt.messages is None else [dict(message) for message in prompt.messages]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


_TO_FILE = {"class_id": "class"}
_FROM_FILE = {_TO_FILE.get(entry.name, entry.name): entry.name for entry in fields(SampleRecord)}
_NULL_IS_NAN = ("reward", "logprob")
_TEXTS = (
    "task_id",
    "completion",
    "domain",
    "model",
    "finish_reason",
    "prompt_sha256",
    "cluster_id",
    "prompt",
)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(_TEXTS, ((str,), "a text")),
    **dict.fromkeys(("sample_index", "class", "num_tokens"), ((int,), "a whole number")),
    **dict.fromkeys(_NULL_IS_NAN, ((int, float, type(None)), "a number, or null where it is not known")),
    "policy_version": ((int, type(None)), "a whole number, or null where it is not known"),
    "adapter_sha256": ((str, type(None)), "a text, or null for the base model"),
    "sampling": ((dict,), "an object"),
}
"""Field of the file -> its types, and these in words. bool is not int here."""
_ANY: tuple[tuple[type, ...], str] = ((), "")


def as_line(record: SampleRecord | ResultRecord) -> str:
    """One JSON line with its newline; fields in declaration order, NaN as null."""
    values: dict[str, Any] = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, float) and math.isnan(value):
            value = None
        values[_TO_FILE.get(entry.name, entry.name)] = value
    return json_line(values)


def json_line(values: Mapping[str, Any]) -> str:
    """One line of JSON that UTF-8 can hold: lone surrogates, which it cannot, are escaped."""
    line = json.dumps(values, ensure_ascii=False, allow_nan=False)
    if not line.isascii() and any("\ud800" <= character <= "\udfff" for character in line):
        line = json.dumps(values, allow_nan=False)
    return line + "\n"


def read_samples(path: str | Path) -> list[SampleRecord]:
    """All lines of a samples.jsonl; fields that polyray does not know are ignored.

    Raises DataError naming the file, the line and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no samples at {path}; give the samples.jsonl that an evaluation wrote")
    with path.open("rb") as file:
        records = [
            parse_sample(line, f"{path}:{number}") for number, line in enumerate(file, 1) if line.strip()
        ]
    if not records:
        raise DataError(f"{path} holds no samples; at least one line is needed")
    return records


def parse_sample(line: str | bytes, where: str) -> SampleRecord:
    """One line of a samples.jsonl; `where` is named in the DataError for a broken one."""
    return _as_sample(checked_sample(line, where))


def parsed_before(line: str | bytes) -> SampleRecord:
    """A line that `checked_sample` has seen: what is known to be there is not looked for again."""
    return _as_sample(json.loads(line))


def checked_sample(line: str | bytes, where: str) -> dict[str, Any]:
    """The values of one line as the file has them. Raises DataError naming `where` for a broken one."""
    try:
        values = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 ({error.reason} at byte {error.start}); write it again"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{where} holds a {type(values).__name__}; a sample is one JSON object a line")
    missing = [name for name in ("task_id", "completion", "sample_index") if name not in values]
    if missing:
        raise DataError(
            f"{where} lacks {', '.join(missing)}; every sample needs task_id, completion and sample_index"
        )
    for name, value in values.items():
        types, wanted = _TYPES.get(name, _ANY)
        if types and type(value) not in types:
            raise DataError(f"{where}: {name}={value!r} must be {wanted}")
    return values


def _as_sample(values: dict[str, Any]) -> SampleRecord:
    known = {_FROM_FILE[name]: value for name, value in values.items() if name in _FROM_FILE}
    for name in _NULL_IS_NAN:
        if known.get(name, 0) is None:
            del known[name]
    return SampleRecord(**known)
