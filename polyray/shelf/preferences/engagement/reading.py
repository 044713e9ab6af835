"""Files of engagement records and of preference pairs, as reward models are trained on them.

A record is an object as in records.py; `prompt_id`, `cluster_id` and `record_id` may be absent. A pair is

    {"prompt": "2+2?", "chosen": "4", "rejected": "5"}

where each may also be a list of messages: of `chosen` and `rejected` the last assistant turn counts, of `prompt`
the last user turn, which is what a reward is shown in training. Without `prompt` the conversations of `chosen`
and `rejected` begin with it. `gap` (or `margin`) says how much better; other fields of a pair are left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from polyray.config.base import StrictModel
from polyray.data.tables import Row, read_rows
from polyray.errors import DataError, MissingFile
from polyray.shelf.preferences.engagement.records import EngagementRecord, Part, PreferencePair

PARTS: tuple[Part, ...] = get_args(Part)
_EXAMPLE = '{"prompt": "...", "chosen": "...", "rejected": "..."} or {"prompt", "completion", "engagement"}'
_PAIR_FIELDS = ("prompt_id", "cluster_id", "part")
ModelT = TypeVar("ModelT", bound=StrictModel)


def read_records(path: Path, key: str = "data.path") -> list[EngagementRecord] | list[PreferencePair]:
    """All rows of a file (JSON Lines, .gz too, CSV, Parquet), or of a curated directory, in their order.

    The first row decides the shape. Raises DataError naming file, line, value and fix; `key` is the
    configuration's name for the path.
    """
    path = path.expanduser()
    rows = [row for file in _files(path, key) for row in read_rows(file, key=key, example=_EXAMPLE)]
    if not rows:
        raise DataError(f"{path}: no rows; set {key} to rows such as {_EXAMPLE}")
    if "chosen" in rows[0][1]:
        return [_pair(values, where) for where, values in rows]
    return _records(rows)


def data_sha256(path: Path) -> str:
    """sha256 of the bytes of the file, or of the files that `read_records` reads in a directory, with their names."""
    path = path.expanduser()
    digest = hashlib.sha256()
    for file in _files(path, "data.path"):
        if file != path:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def build_record(model: type[ModelT], values: Mapping[str, Any], where: str) -> ModelT:
    """Validates; `where` starts the message. Raises DataError."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        item = error.errors()[0]
        field = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown field; known: {', '.join(model.model_fields)}"
        elif item["type"] != "missing" and field:
            message = f"{message} (it is {str(item['input'])[:60]!a})"
        raise DataError(f"{where}: {f'{field!r}: ' if field else ''}{message}") from None


def text_hash(*texts: str) -> str:
    """16 hexadecimal digits that name texts."""
    joined = "\0".join(texts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _files(path: Path, key: str) -> list[Path]:
    if not path.exists():
        raise MissingFile(
            f"{path}: no such file or directory; make it with polyray curate data CONFIG, or set {key} to a "
            f"file of rows such as {_EXAMPLE}"
        )
    if not path.is_dir():
        return [path]
    for directory in (path / "data", path):
        files = [directory / f"{part}.jsonl" for part in PARTS]
        if files[0].is_file():  # a part may be empty, and then its file is
            return [file for file in files if file.is_file() and file.stat().st_size > 0]
    raise DataError(
        f"{path}: no data/train.jsonl in this directory; set {key} to a run of polyray curate or to a file of rows"
    )


def _records(rows: list[Row]) -> list[EngagementRecord]:
    records: list[EngagementRecord] = []
    where_is: dict[str, str] = {}
    for where, row in rows:
        values = {name: value for name, value in row.items() if value is not None and value != ""}
        prompt, completion = (str(values.get(name, "")) for name in ("prompt", "completion"))
        values.setdefault("prompt_id", f"prompt-{text_hash(prompt)}")
        values.setdefault("cluster_id", values["prompt_id"])
        values.setdefault("record_id", f"{values['prompt_id']}/{text_hash(prompt, completion)}")
        record = build_record(EngagementRecord, values, where)
        earlier = where_is.setdefault(record.record_id, where)
        if earlier != where:
            raise DataError(
                f"{where}: record_id {record.record_id!r} is already that of {earlier}; ids must differ, and rows "
                "of one prompt and completion need one each"
            )
        records.append(record)
    return records


def _pair(values: Mapping[str, Any], where: str) -> PreferencePair:
    for name in ("chosen", "rejected"):
        if values.get(name) is None:
            raise DataError(f"{where}: no {name!r}; a pair looks like {_EXAMPLE}")
    chosen, rejected = values["chosen"], values["rejected"]
    prompt = values.get("prompt")
    if prompt is None:
        prompt = _common_start(chosen, rejected, where)
    found: dict[str, Any] = {
        "prompt": _last_turn(prompt, "user", f"{where}, 'prompt'"),
        "chosen": _last_turn(chosen, "assistant", f"{where}, 'chosen'"),
        "rejected": _last_turn(rejected, "assistant", f"{where}, 'rejected'"),
    }
    found |= {name: values[name] for name in _PAIR_FIELDS if values.get(name) not in (None, "")}
    gap = values.get("gap") if values.get("gap") not in (None, "") else values.get("margin")
    if gap not in (None, ""):
        found["gap"] = gap
    found.setdefault("prompt_id", f"prompt-{text_hash(found['prompt'])}")
    found.setdefault("cluster_id", found["prompt_id"])
    return build_record(PreferencePair, found, where)


def _common_start(chosen: Any, rejected: Any, where: str) -> list[Any]:
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise DataError(
            f"{where}: no 'prompt'; without it 'chosen' and 'rejected' are whole conversations, lists of messages"
        )
    shared = list(_shared(chosen, rejected))
    if not shared:
        raise DataError(
            f"{where}: no 'prompt', and 'chosen' and 'rejected' do not begin with the same messages"
        )
    return shared


def _shared(a: list[Any], b: list[Any]) -> Iterator[Any]:
    for first, second in zip(a, b, strict=False):
        if first != second:
            return
        yield first


def _last_turn(value: Any, role: str, where: str) -> str:
    """A text as it is; of messages the last one, which must be `role`'s."""
    if isinstance(value, str):
        return value
    last = value[-1] if isinstance(value, list) and value else None
    if not isinstance(last, dict) or last.get("role") != role or not isinstance(last.get("content"), str):
        raise DataError(
            f'{where} is {str(value)[:60]!r}; write a text, or messages the last of which is {{"role": "{role}", '
            '"content": "..."}'
        )
    return last["content"]
