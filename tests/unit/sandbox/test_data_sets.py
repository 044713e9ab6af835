"""The references of the real data sets pass."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from polyray.sandbox import Limits, Program, run_programs
from polyray.tasks.code_results import returns_values
from tests.data_sets import shared_data

LIMITS = Limits(timeout_s=10)


def rows(name: str) -> list[dict[str, Any]]:
    path = shared_data(name)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


def failures(programs: list[Program], limits: Limits, strict: bool = False) -> list[str]:
    results = run_programs(programs, limits, workers=2, strict=strict)
    return [f"{r.program_id} {r.verdict} {r.message}" for r in results if not r.passed]


@pytest.mark.parametrize("strict", [False, True])
def test_humaneval_canonical_solutions_pass(strict: bool) -> None:
    programs = [
        Program(row["task_id"], row["prompt"] + row["canonical_solution"], row["test"], row["entry_point"])
        for row in rows("code/HumanEval.jsonl.gz")
    ]
    assert len(programs) == 164
    assert failures(programs, LIMITS, strict) == []


def test_humaneval_fails_for_an_object_that_equals_everything() -> None:
    liar = (
        "class Any:\n"
        "    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = lambda self, *other: True\n"
        "    __hash__ = None\n"
        "    __sub__ = __rsub__ = __abs__ = __round__ = lambda self, *other: 0\n"
        "    __iter__ = lambda self: iter([self])\n"
        "def {}(*_): return Any()\n"
    )
    chosen = [row for at, row in enumerate(rows("code/HumanEval.jsonl.gz")) if at % 8 == 0 or at == 53]
    programs = [
        Program(row["task_id"], liar.format(row["entry_point"]), row["test"], row["entry_point"])
        for row in chosen
    ]
    assert len(programs) == 22
    assert [result.program_id for result in run_programs(programs, LIMITS) if result.passed] == []


def mbpp() -> list[Program]:
    """As the task builds them: the guard is off where the reference defines a class."""
    programs = []
    for row in rows("code/mbpp.jsonl"):
        test = "\n".join([row["test_setup_code"], *row["test_list"]])
        guarded = returns_values(row["code"]) and returns_values(test)
        programs.append(Program(str(row["task_id"]), row["code"], test, guarded=guarded))
    return programs


@pytest.mark.slow
def test_mbpp_references_pass() -> None:
    programs = mbpp()
    assert len(programs) == 974
    assert sum(program.guarded for program in programs) == 967
    assert failures(programs, Limits(timeout_s=300)) == []  # task 123 needs 2 s of an idle core


@pytest.mark.slow
def test_mbpp_in_strict_mode_fails_only_where_a_test_hands_over_a_type() -> None:
    (failure,) = failures(mbpp(), Limits(timeout_s=300), strict=True)
    assert failure.startswith("533 failed TypeError (test, line 2): strict mode ")
