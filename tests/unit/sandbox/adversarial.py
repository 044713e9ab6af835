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
