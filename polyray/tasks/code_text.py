"""From what a model wrote to a program: stop words, fenced blocks, the part of the prompt it belongs to.

Texts in, texts out; nothing is parsed or run. Called by code.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from polyray.data.code_problems import CodeProblem, Dataset

HUMANEVAL_STOP = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
MBPP_STOP = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
r"""Stop words of the BigCode evaluation harness. MBPP's answers are whole programs: "\ndef" belongs to them."""

PUBLISHED_STOP: dict[Dataset, tuple[str, ...]] = {
    "humaneval": HUMANEVAL_STOP,
    "humaneval_plus": HUMANEVAL_STOP,
    "mbpp": MBPP_STOP,
    "mbpp_plus": MBPP_STOP,
}

_FENCED = re.compile(r"^[ \t]*```[\w+-]*[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first occurrence of any stop word."""
    found = [at for at in (text.find(word) for word in stop) if at >= 0]
    return text[: min(found)] if found else text


def fenced_program(text: str, entry_point: str | None) -> str | None:
    """The first fenced block that defines `entry_point` (any function without one), else the first; or None.

    A block that the end of the text cuts off counts.
    """
    blocks = [match[1] for match in _FENCED.finditer(text)]
    return next((block for block in blocks if defines(block, entry_point)), blocks[0] if blocks else None)


def defines(source: str, function: str | None) -> bool:
    """Whether a line at the left margin defines `function` (any function for None)."""
    name = r"\w+" if function is None else re.escape(function)
    return re.search(rf"^(?:async[ \t]+)?def[ \t]+{name}\b", source, re.MULTILINE) is not None


def whole_program(problem: CodeProblem, code: str) -> str:
    """`code` with the part of the prompt that it needs.

    A program that defines the entry point gets the prompt's text before it (imports, helpers that the tests call
    too); anything else continues the prompt.
    """
    if not problem.continues_prompt:
        return code
    if not defines(code, problem.entry_point):
        return problem.prompt + code
    before = re.split(rf"^def[ \t]+{problem.entry_point}\b", problem.prompt, maxsplit=1, flags=re.MULTILINE)[
        0
    ]
    return code if "from __future__" in code else before + code
