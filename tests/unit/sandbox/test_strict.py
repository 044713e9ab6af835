"""Strict mode: what tests may do with a source in another process, and what they may not."""

from __future__ import annotations

import re

import pytest

from polyray.sandbox import Limits, Program, ProgramResult, run_program, run_programs
from tests.unit.sandbox.adversarial import programs_with_tests

LIMITS = Limits(timeout_s=20)


def strictly(source: str, test: str) -> ProgramResult:
    return run_program(Program("p", source, test), LIMITS, strict=True)


HANDED_BACK = Program(
    "objects handed back",
    "class Node:\n  next = None\n  def __init__(s, v): s.v = v\n"
    "def f(n): return 0 if n is None else n.v + f(n.next)",
    "a = Node(1)\na.next = Node(2)\nassert a.next.v == 2 and f(a) == 3",
)


def test_strict_mode_passes_honest_programs() -> None:
    results = run_programs([HANDED_BACK, *programs_with_tests("values.txt")], LIMITS, strict=True)
    assert {result.program_id: result.message for result in results if not result.passed} == {}


BAD = {
    "an object where a value belongs": (
        "class A:\n  __eq__ = lambda s, o: True\ndef f(): return A()",
        "assert f() == 1",
        r"TypeError \(test, line 1\): strict mode .*\bA$",
    ),
    "an object where a truth belongs": (
        "class A: pass\ndef f(): return A()",
        "assert f()",
        r"TypeError \(test, line 1\): strict mode .*\bA$",
    ),
    "a function of the tests'": ("def f(g): return g(1)", "f(lambda x: x)", r"TypeError .* strict mode .*function"),
    "a failing assertion": ("def f(): return 1", "assert f() == 2, 'one'", r"AssertionError \(test, line 1\): one"),
    "an exception": ("def f(): return {}['x']", "f()", r"KeyError \(test, line 1\): .*'x'"),
    "a broken source": ("def f(", "f()", r"SyntaxError: .*<source>, line 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_strict_mode_refuses_forbidden_tests(name: str) -> None:
    source, test, message = BAD[name]
    result = strictly(source, test)
    assert result.verdict == "failed" and re.match(message, result.message)


def test_strict_source_has_no_test_in_its_memory() -> None:
    source = (
        "import gc, sys\n"
        "def f():\n"
        "    texts = [o for o in gc.get_objects() if isinstance(o, dict)]\n"
        "    frame, found = sys._getframe(), 0\n"
        "    while frame:\n"
        "        found += sum('unlikely' + 'word' in str(v) for v in [*frame.f_locals.values()])\n"
        "        frame = frame.f_back\n"
        "    return found\n"
    )
    result = strictly(source, "SECRET = 'unlikelyword'\nassert f() == 0")
    assert (result.verdict, result.message) == ("passed", "")
