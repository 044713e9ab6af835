"""Programs that try to pass without a solution, to stay alive or to do harm; and odd honest ones.

All are judged by TEST, which asks for `f(x) == x + 1`. Used by test_adversaries.py.
The programs are in programs/*.txt, each below a line `# name`. There @OUTSIDE@ stands for a directory that is not the
program's, @MARK@ for a text that marks what a program starts, and three more for what a text file cannot hold.
"""

from __future__ import annotations

import re
from pathlib import Path

from polyray.sandbox import Program

TEST = """
import math

def check(candidate):
    assert candidate(1) == 2
    assert candidate(-7) == -6
    assert abs(candidate(2.5) - 3.5) < 1e-9
    assert math.isclose(candidate(0.25), 1.25)
    assert sorted(map(candidate, [3, 1])) == [2, 4]
    assert all(isinstance(candidate(n), int) for n in range(3))
    assert len({candidate(n) for n in range(5)}) == 5
"""


def _programs(file: str, kind: str, outside: str, mark: str) -> list[Program]:
    text = (Path(__file__).parent / "programs" / file).read_text(encoding="utf-8")
    text = text.replace("@OUTSIDE@", outside).replace("@MARK@", mark).replace("@SURROGATE@", "\ud800")
    text = text.replace("@LONG@", "1 + " * 2_000_000 + "1").replace("@NUL@", "\0")
    parts = re.split(r"^# (.+)\n", text, flags=re.MULTILINE)[1:]
    return [
        Program(f"{kind}/{name}", source, TEST, "f")
        for name, source in zip(parts[::2], parts[1::2], strict=True)
    ]


def adversarial_programs(outside: str, mark: str) -> list[Program]:
    """Programs that must not pass, in default mode or in strict mode."""
    return _programs("adversarial.txt", "bad", outside, mark)


def strict_adversarial_programs() -> list[Program]:
    """Programs that must not pass in strict mode; in default mode they share the memory of the tests, and pass."""
    return _programs("strict.txt", "strict", "", "")


def honest_programs() -> list[Program]:
    """All of these must pass, in default mode and in strict mode."""
    return _programs("honest.txt", "good", "", "")


ANY = """
class Any:
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = lambda s, *o: True
    __ne__ = lambda s, o: False
    __hash__ = lambda s: 0
    __sub__ = __rsub__ = __abs__ = lambda s, *o: 0
    __iter__ = lambda s: iter([s])
    __len__ = lambda s: 1
    __getitem__ = __getattr__ = __call__ = lambda s, *o: s
"""
"""Source of a class whose objects equal everything; `@ANY@` in the files."""


def programs_with_tests(file: str) -> list[Program]:
    """Programs with tests of their own, which follow a line `## test`.

    liars.txt: objects that lie about their equality, which fail where the guard is on. values.txt: honest programs of
    either mode. objects.txt: honest programs of default mode.
    """
    text = (
        (Path(__file__).parent / "programs" / file).read_text(encoding="utf-8").replace("@ANY@", ANY.strip())
    )
    parts = re.split(r"^# (.+)\n", text, flags=re.MULTILINE)[1:]
    cases = zip(parts[::2], parts[1::2], strict=True)
    return [Program(name, source, test) for name, case in cases for source, test in [case.split("## test\n")]]
