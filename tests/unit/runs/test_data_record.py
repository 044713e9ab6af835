"""data.json: what the data files held when steps were trained on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.run import SftConfig
from polyray.runs.data_record import put_before, recorded_data
from polyray.runs.run_directory import RunDirectory


def config_on(file: Path) -> SftConfig:
    values: dict[str, Any] = {
        "name": "r",
        "runs_dir": str(file.parent / "runs"),
        "data": {"type": "jsonl", "train": str(file)},
    }
    return SftConfig.model_validate(values)


def test_a_start_before_the_first_step_certifies_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    digests = []
    for text, logged in (("malformed", ""), ("good", '{"step": 0}\n'), ("changed", "")):
        file.write_text(text)
        digests.append(hashlib.sha256(text.encode()).hexdigest())
        with RunDirectory.open(config_on(file)) as directory:
            with directory.paths.metrics.open("a") as metrics:
                metrics.write(logged)
            record = recorded_data(directory.paths.data)
    assert record == {"data.train": digests[1:]}


@pytest.mark.parametrize(
    ("earlier", "here", "merged"),
    [
        (["a"], ["a"], ["a"]),
        (["a", "b"], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["a"], ["a", "b"]),
        (["a"], ["a", "b"], ["a", "b"]),
        (["a"], ["b"], ["a", "b"]),
        (["a", "b"], ["b", "c"], ["a", "b", "c"]),
        ([], ["a"], ["a"]),
    ],
)
def test_of_two_records_that_share_their_begin_one_goes_on_from_the_other(
    earlier: list[str], here: list[str], merged: list[str], tmp_path: Path
) -> None:
    record = tmp_path / "data.json"
    record.write_text(json.dumps({"data.train": here}))
    for _ in range(2):
        put_before(record, {"data.train": earlier})
    assert recorded_data(record) == {"data.train": merged}
