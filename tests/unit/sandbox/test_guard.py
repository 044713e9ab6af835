"""Default mode: tests compare builtin and numpy values, whatever objects a source returns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyray.sandbox import Limits, Program, ProgramResult, run_program, run_programs
from polyray.tasks.code_results import returns_values

LIMITS = Limits(timeout_s=20)
ADD = "def check(f):\n    assert f(2, 3) == 5\n    assert f(5, 7) == 12\n"
ANY = (
    "class Any:\n"
    "    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = lambda s, *o: True\n"
    "    __ne__ = lambda s, o: False\n"
    "    __hash__ = lambda s: 0\n"
    "    __sub__ = __rsub__ = __abs__ = lambda s, *o: 0\n"
    "    __iter__ = lambda s: iter([s])\n"
    "    __len__ = lambda s: 1\n"
    "    __getitem__ = __getattr__ = __call__ = lambda s, *o: s\n"
)


def run(source: str, test: str) -> ProgramResult:
    return run_program(Program("p", source, test), LIMITS)


LIARS = {
    "an object": (ANY + "def f(*a): return Any()", "assert f(2, 3) == 5"),
    "an object where a truth belongs": (ANY + "def f(*a): return Any()", "assert f(2, 3)"),
    "an object that is near everything": (ANY + "def f(*a): return Any()", "assert abs(f(2, 3) - 5) < 1e-6"),
    "an object with items": (ANY + "def f(*a): return Any()", "assert list(f(2, 3)) == [5]"),
    "a class that builds itself": (ANY + "class f(Any):\n  def __init__(s, *a): pass", "assert f(2, 3) == 5"),
    "a callable object": (ANY + "f = Any()", "assert f(2, 3) == 5"),
    "a decorated function": (
        "import functools\n" + ANY + "@functools.cache\ndef f(*a): return Any()",
        "assert f(2, 3) == 5",
    ),
    "in a list": (ANY + "def f(*a): return [1, Any()]", "assert f() == [1, 2]"),
    "in a tuple in a dict": (ANY + "def f(*a): return {'a': (Any(),)}", "assert f() == {'a': (2,)}"),
    "a key": (ANY + "def f(*a): return {Any(): 1}", "assert f() == {0: 1}"),
    "in a set": (ANY + "def f(*a): return {Any()}", "assert f() == {0}"),
    "in a deque": (
        "from collections import deque\n" + ANY + "def f(*a): return deque([Any()])",
        "assert list(f()) == [2]",
    ),
    "out of a generator": (ANY + "def f(*a): yield Any()", "assert list(f()) == [2]"),
    "out of a map": (ANY + "def f(*a): return map(lambda x: Any(), [1])", "assert list(f()) == [2]"),
    "out of a dict's view": (ANY + "def f(*a): return {1: Any()}.values()", "assert list(f()) == [2]"),
    "out of a function that is returned": (ANY + "def f(*a): return lambda: Any()", "assert f()() == 2"),
    "in an argument": (ANY + "def f(x): x[0] = Any()", "x = [1]\nf(x)\nassert x == [2]"),
    "in an argument within a tuple": (ANY + "def f(x): x[0][0] = Any()", "x = [1]\nf((x,))\nassert x == [2]"),
    "a constant": (ANY + "N = Any()", "assert N == 2"),
    "in a constant": (ANY + "N = [Any()]", "assert N == [2]"),
    "int": ("class L(int): __eq__ = lambda s, o: True\ndef f(*a): return L(4)", "assert f() == 5"),
    "int by __ne__": ("class L(int): __ne__ = lambda s, o: False\ndef f(*a): return L(4)", "assert not f() != 5"),
    "int by __lt__": ("class L(int): __lt__ = lambda s, o: True\ndef f(*a): return L(9)", "assert f() < 5"),
    "float": ("class L(float): __eq__ = lambda s, o: True\ndef f(*a): return L(4)", "assert f() == 5.0"),
    "float by __sub__": (
        "class L(float): __sub__ = lambda s, o: 0.0\ndef f(*a): return L(4)",
        "assert abs(f() - 5) < 1e-6",
    ),
    "str": ("class L(str): __eq__ = lambda s, o: True\ndef f(*a): return L('a')", "assert f() == 'b'"),
    "bytes": ("class L(bytes): __eq__ = lambda s, o: True\ndef f(*a): return L(b'a')", "assert f() == b'b'"),
    "list": ("class L(list): __eq__ = lambda s, o: True\ndef f(*a): return L()", "assert f() == [1]"),
    "tuple": ("class L(tuple): __eq__ = lambda s, o: True\ndef f(*a): return [L()]", "assert f() == [(1,)]"),
    "dict": ("class L(dict): __eq__ = lambda s, o: True\ndef f(*a): return L()", "assert f() == {1: 2}"),
    "set": ("class L(set): __eq__ = lambda s, o: True\ndef f(*a): return L()", "assert f() == {1}"),
    "list by __iter__": (
        "class L(list): __iter__ = lambda s: iter([5])\ndef f(*a): return L()",
        "assert [*f()] == [5]",
    ),
    "a metaclass that equals int": (
        "class M(type):\n  __eq__ = lambda s, o: True\n  __hash__ = lambda s: hash(int)\n"
        "class A(metaclass=M):\n  __eq__ = lambda s, o: True\n  __module__ = 'builtins'\ndef f(*a): return A()",
        "assert f() == 5",
    ),
    "a metaclass with an order of its own": (
        "class M(type):\n  mro = lambda s: (s, object)\n"
        "class A(metaclass=M):\n  __eq__ = lambda s, o: True\ndef f(*a): return A()",
        "assert f() == 5",
    ),
    "a __class__ that lies": (
        "class A:\n  __class__ = int\n  __eq__ = lambda s, o: True\ndef f(*a): return A()",
        "assert f() == 5 and isinstance(f(), int)",
    ),
    "changed builtins": (
        "import builtins\n" + ANY + "builtins.type = lambda v: int\nbuiltins.id = lambda v: 0\n"
        "builtins.isinstance = lambda *a: True\ndef f(*a): return Any()",
        "assert f() == 5",
    ),
    "a mock": ("from unittest.mock import ANY\ndef f(*a): return ANY", "assert f() == 5"),
    "a proxy": (
        "import weakref\n" + ANY + "keep = Any()\ndef f(*a): return weakref.proxy(keep)",
        "assert f() == 5",
    ),
    "a view of a mapping": (
        "from types import MappingProxyType as P\nclass L(dict): __eq__ = lambda s, o: True\n"
        "def f(*a): return P(L())",
        "assert f() == {1: 2}",
    ),
    "a namespace": (
        "from types import SimpleNamespace as S\n" + ANY + "def f(*a): return S(x=Any())",
        "assert f().x == 5",
    ),
    "a match of a text that is none": (
        "import re\nclass L(str): __eq__ = lambda s, o: True\ndef f(*a): return re.match('a', L('a'))",
        "assert f().string == 'b'",
    ),
    "numpy by __eq__": (
        "import numpy as np\nclass L(np.ndarray): __eq__ = lambda s, o: np.True_\n"
        "def f(*a): return np.zeros(2).view(L)",
        "import numpy as np\nassert (f() == np.ones(2)).all()",
    ),
    "numpy by __array_ufunc__": (
        "import numpy as np\nclass L:\n  __array_ufunc__ = lambda s, *a, **k: np.True_\n  __array_priority__ = 99\n"
        "  __eq__ = lambda s, o: np.True_\ndef f(*a): return L()",
        "import numpy as np\nassert np.equal(f(), 5) and (np.ones(2) == f()).all()",
    ),
    "numpy by __array__": (
        "import numpy as np\nclass L:\n  __array__ = lambda s, *a, **k: np.ones(2)\ndef f(*a): return L()",
        "import numpy as np\nassert np.allclose(f(), np.ones(2))",
    ),
    "numpy of objects": (
        "import numpy as np\nclass A: __eq__ = lambda s, o: True\n"
        "def f(*a): return np.array([A()], dtype=object)",
        "assert (f() == [5]).all()",
    ),
    "a numpy number": (
        "import numpy as np\nclass L(np.float64): __eq__ = lambda s, o: True\ndef f(*a): return L(4)",
        "assert f() == 5",
    ),
}  # fmt: skip


def programs(cases: dict[str, tuple[str, str]]) -> list[Program]:
    return [Program(name, *case) for name, case in cases.items()]


def test_guarded_test_is_passed_by_no_object_that_lies() -> None:
    results = list(run_programs(programs(LIARS), LIMITS, workers=2))
    assert [result.program_id for result in results if result.verdict != "failed"] == []


def test_unguarded_test_passes_every_liar() -> None:
    """Every case above passes without the guard, so the guard is needed."""
    results = run_programs([replace(each, guarded=False) for each in programs(LIARS)], LIMITS, workers=2)
    assert {result.program_id: result.message for result in results if not result.passed} == {}


@pytest.mark.parametrize("value", ["Any()", "[Any()]"])
def test_guarded_check_function_says_which_class_it_refuses(value: str) -> None:
    result = run_program(Program("p", ANY + f"def f(a, b): return {value}", ADD, "f"), LIMITS)
    assert result.verdict == "failed"
    assert "NotPlain (test, line 2): " in result.message
    assert "<class 'candidate.Any'>" in result.message


HONEST = {
    "a sum": ("def f(a, b): return a + b", "assert f(2, 3) == 5"),
    "recursion": ("def f(n): return 1 if n < 2 else n * f(n - 1)", "assert f(20) == 2432902008176640000"),
    "several functions": ("def g(x): return x * 2\ndef f(x): return g(x) + 1", "assert f(g(1)) == 5"),
    "an argument changed in place": ("def f(x): x.sort()", "x = [2, 1]\nassert f(x) is None and x == [1, 2]"),
    "arguments by name": ("def f(a, *, b=1): return a + b", "assert f(1) == 2 and f(a=1, b=2) == 3"),
    "an exception": (
        "def f(x): raise ValueError('no')",
        "try: f(1)\nexcept ValueError as e: assert str(e) == 'no'\nelse: assert False",
    ),
    "a generator without end": (
        "def f():\n  n = 0\n  while True:\n    yield n\n    n += 1",
        "import itertools\nassert list(itertools.islice(f(), 3)) == [0, 1, 2]",
    ),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
        "assert f() == (1, 2)",
    ),
    "a counter": (
        "from collections import Counter\ndef f(x): return Counter(x)",
        "assert f('aab') == {'a': 2, 'b': 1}",
    ),
    "an ordered dict": (
        "from collections import OrderedDict\ndef f(): return OrderedDict(a=1).items()",
        "assert list(f()) == [('a', 1)]",
    ),
    "an enum of numbers": (
        "from enum import IntEnum\nE = IntEnum('E', 'a b')\ndef f(): return E.b",
        "assert f() == 2",
    ),
    "a subclass with the right value": ("class L(int): pass\ndef f(): return L(5)", "assert f() == 5"),
    "a class that solves it": ("class f:\n  def __new__(cls, a, b): return a + b", "assert f(2, 3) == 5"),
    "functions of the tests'": ("def f(g): return g(1)", "assert f(lambda x: x + 1) == 2"),
    "objects of the tests'": (
        "def f(items): return len(items)",
        "class A: pass\nx = [A(), A()]\nassert f(x) == 2 and type(x[0]) is A",
    ),
    "a helper that the tests define": ("def f(x): return helper(x)", "def helper(x): return x + 1\nassert f(1) == 2"),
    "a global that a call changes": ("N = []\ndef f(): N.append(1)", "f()\nassert N == [1]"),
    "a name that is a builtin's": ("def sum(a, b): return a + b", "assert sum(1, 2) == 3"),
    "modules of the source": ("import math\ndef f(): return 4", "assert math.sqrt(f()) == 2"),
    "numpy": (
        "import numpy as np\ndef f(n): return np.arange(n)\ndef g(): return np.float64(2.5), np.matrix([[1]])",
        "assert (f(3) == np.array([0, 1, 2])).all() and g()[0] == 2.5 and (g()[1] == 1).all()",
    ),
    "numpy of plain objects": (
        "import numpy as np\ndef f(): return np.array([1, 'a'], dtype=object)",
        "assert f()[1] == 'a'",
    ),
    "decimals and dates": (
        "import datetime, decimal\ndef f(): return decimal.Decimal('2.5'), datetime.date(2020, 1, 2)",
        "assert f()[0] == 2.5 and f()[1].day == 2",
    ),
    "a match": ("import re\ndef f(s): return re.search('b+', s)", "assert f('abb').group() == 'bb' and not f('a')"),
    "a text with a surrogate": ("def f(): return '\\ud800'", "assert f() == '\\ud800'"),
    "a constant": ("N = (1, [2])", "assert N == (1, [2])"),
    "a name that the tests define themselves": (
        "class A: pass\nx = A()\ndef f(): return 1",
        "x = f()\nassert x == 1",
    ),
}  # fmt: skip


def test_guarded_honest_programs_pass() -> None:
    results = run_programs(programs(HONEST), LIMITS, workers=2)
    assert {result.program_id: result.message for result in results if not result.passed} == {}


def test_guarded_and_unguarded_runs_of_one_source_are_two_runs() -> None:
    liar = Program("p", ANY + "def f(): return Any()", "assert f() == 1")
    results = list(run_programs([liar, replace(liar, guarded=False), liar], LIMITS))
    assert [result.passed for result in results] == [False, True, False]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x):\n    return x + 1", True),
        (
            "import math, re\nfrom collections import Counter\nimport numpy as np\ndef f(x): return type(x)",
            True,
        ),
        ("def f(", True),
        ("class Node:\n    pass", False),
        ("def f():\n    class Node: pass\n    return Node()", False),
        ("from collections import namedtuple\nP = namedtuple('P', 'x')", False),
        ("import collections\nP = collections.namedtuple('P', 'x')", False),
        ("P = type('P', (), {})", False),
        ("from fractions import Fraction", False),
        ("import pandas as pd", False),
        ("def f():\n    from sympy.abc import x\n    return x", False),
    ],
)
def test_returns_values_depends_on_classes_and_imports(source: str, expected: bool) -> None:
    assert returns_values(source) is expected
