"""Strict mode: what tests may do with a source in another process, and what they may not."""

from __future__ import annotations

import pytest

from polyray.sandbox import Limits, Program, ProgramResult, run_program

LIMITS = Limits(timeout_s=20)


def strictly(source: str, test: str) -> ProgramResult:
    return run_program(Program("p", source, test), LIMITS, strict=True)


GOOD = {
    "arguments by name": ("def f(a, *, b=1): return a + b", "assert f(1) == 2 and f(a=1, b=2) == 3"),
    "an argument changed in place": ("def f(x): x.sort()", "x = [2, 1]\nassert f(x) is None and x == [1, 2]"),
    "a dict changed in place": ("def f(x): x['a'] = 1", "x = {}\nf(x)\nassert x == {'a': 1}"),
    "values and modules of the source": (
        "import math\nN = [1]\ndef f(): return 4",
        "assert math.sqrt(f()) == 2 and N == [1]",
    ),
    "an exception": (
        "def f(x): raise ValueError('no')",
        "try: f(1)\nexcept ValueError as e: assert str(e) == 'no'\nelse: assert False",
    ),
    "objects handed back": (
        "class Node:\n  next = None\n  def __init__(s, v): s.v = v\n"
        "def f(n): return 0 if n is None else n.v + f(n.next)",
        "a = Node(1)\na.next = Node(2)\nassert a.next.v == 2 and f(a) == 3",
    ),
    "several functions": ("def g(x): return x * 2\ndef f(x): return g(x) + 1", "assert f(g(1)) == 5"),
    "numpy": ("import numpy as np\ndef f(n): return np.arange(n)", "assert (f(3) == np.array([0, 1, 2])).all()"),
    "a name that is a builtin's": ("def sum(a, b): return a + b", "assert sum(1, 2) == 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_strict_mode_accepts_allowed_tests(name: str) -> None:
    result = strictly(*GOOD[name])
    assert (result.verdict, result.message) == ("passed", "")


BAD = {
    "an object where a value belongs": (
        "class A:\n  __eq__ = lambda s, o: True\ndef f(): return A()",
        "assert f() == 1",
        "TypeError (test, line 1): strict mode compares builtin and numpy values; the source gave a A",
    ),
    "an object where a truth belongs": (
        "class A: pass\ndef f(): return A()",
        "assert f()",
        "TypeError (test, line 1): strict mode compares builtin and numpy values; the source gave a A",
    ),
    "a function of the tests'": (
        "def f(g): return g(1)",
        "f(lambda x: x)",
        "TypeError (test, line 1): strict mode cannot hand a function of the tests' to the source",
    ),
    "a failing assertion": ("def f(): return 1", "assert f() == 2, 'one'", "AssertionError (test, line 1): one"),
    "an exception": ("def f(): return {}['x']", "f()", "KeyError (test, line 1): \"'x'\""),
    "a broken source": ("def f(", "f()", "SyntaxError: '(' was never closed (<source>, line 1)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_strict_mode_refuses_forbidden_tests(name: str) -> None:
    source, test, message = BAD[name]
    result = strictly(source, test)
    assert (result.verdict, result.message) == ("failed", message)


def test_the_source_never_has_the_tests_in_memory() -> None:
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
