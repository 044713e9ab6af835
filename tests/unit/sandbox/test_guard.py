"""Default mode: tests compare builtin and numpy values, whatever objects a source returns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyray.sandbox import Limits, Program, run_program, run_programs
from polyray.tasks.code_results import returns_values
from tests.unit.sandbox.adversarial import ANY, programs_with_tests

LIMITS = Limits(timeout_s=20)
ADD = "def check(f):\n    assert f(2, 3) == 5\n    assert f(5, 7) == 12\n"


def test_guarded_test_fails_for_each_lying_object() -> None:
    results = list(run_programs(programs_with_tests("liars.txt"), LIMITS, workers=2))
    assert [result.program_id for result in results if result.verdict != "failed"] == []


def test_unguarded_test_passes_for_each_lying_object() -> None:
    """Every case above passes without the guard, so the guard is needed."""
    unguarded = [replace(program, guarded=False) for program in programs_with_tests("liars.txt")]
    results = run_programs(unguarded, LIMITS, workers=2)
    assert {result.program_id: result.message for result in results if not result.passed} == {}


@pytest.mark.parametrize("value", ["Any()", "[Any()]"])
def test_guarded_check_names_the_refused_class(value: str) -> None:
    result = run_program(Program("p", ANY + f"def f(a, b): return {value}", ADD, "f"), LIMITS)
    assert result.verdict == "failed"
    assert "NotPlain (test, line 2): " in result.message
    assert "<class 'candidate.Any'>" in result.message


def test_guarded_honest_programs_pass() -> None:
    results = run_programs(
        programs_with_tests("objects.txt") + programs_with_tests("values.txt"), LIMITS, workers=2
    )
    assert {result.program_id: result.message for result in results if not result.passed} == {}


def test_guarded_and_unguarded_runs_of_one_source_are_two() -> None:
    liar = Program("p", ANY + "def f(): return Any()", "assert f() == 1")
    results = list(run_programs([liar, replace(liar, guarded=False), liar], LIMITS))
    assert [result.passed for result in results] == [False, True, False]


VALUES_ALONE = [
    "def f(x):\n    return x + 1",
    "import math, re\nfrom collections import Counter\nimport numpy as np\ndef f(x): return type(x)",
    "def f(",
]
OTHER_OBJECTS = [
    "class Node:\n    pass",
    "def f():\n    class Node: pass\n    return Node()",
    "from collections import namedtuple\nP = namedtuple('P', 'x')",
    "import collections\nP = collections.namedtuple('P', 'x')",
    "P = type('P', (), {})",
    "from fractions import Fraction",
    "import pandas as pd",
    "def f():\n    from sympy.abc import x\n    return x",
]


@pytest.mark.parametrize("source", VALUES_ALONE + OTHER_OBJECTS)
def test_returns_values_depends_on_classes_and_imports(source: str) -> None:
    assert returns_values(source) is (source in VALUES_ALONE)
