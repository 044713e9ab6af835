"""Numbers and reasoning in texts: the number that is the answer, and the steps to it. Pure.

The answer follows the last "####", else is in the last \\boxed{}, else follows the last "answer is" or
"A:", else is the last number. Commas, currency signs, percent signs, units and a final dot do not count. Called by
math.py.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?<![\w.)])-?\s?\$?\s?(?:{_DIGITS})(?:\s?/\s?(?:{_DIGITS}))?|(?:{_DIGITS})")
_FRAC = re.compile(r"(-?)\s*\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_MARKED = re.compile(r"####([^\n]*)")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SAID = re.compile(r"(?:\banswer(?:\s+is|\s*:)|^\s*A:)([^\n]*)", re.IGNORECASE | re.MULTILINE)
_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_TOKEN = re.compile(r"\d{1,30}(?:,\d{3})*(?:\.\d{1,30})?|\.\d{1,30}|[-+*/x\u00d7\u00f7()=]")
_UNIT = re.compile(r"(?<![A-Za-z])(?![xX](?![A-Za-z]))[A-Za-z][A-Za-z'-]*(?:/[A-Za-z]+)*")
"""Words between the numbers of an equation, e.g. GB/minute; a lone x is a sign."""
_WORD = re.compile(r"\w+")
MAX_DIGITS = 400
"""A longer number is no answer: its arithmetic would not end."""


def answer_of(text: str) -> Fraction | None:
    """The number a text gives as its answer; None where there is none."""
    text = _ANNOTATION.sub("", text.replace("\u2212", "-"))
    for pattern in (_MARKED, _BOXED, _SAID):
        found = pattern.findall(text)
        if found:
            number = _first_number(found[-1])
            if number is not None:
                return number
    numbers = _NUMBER.findall(text)
    return as_number(numbers[-1]) if numbers else None


def as_number(text: str) -> Fraction | None:
    """A number as written: 1,234.50, $12, 50%, 3/4, \\frac{3}{4}; None for anything else."""
    plain = _FRAC.sub(r"\1\2/\3", text)
    plain = re.sub(r"[\s,$%]|\\[$%,]", "", plain).rstrip(".")
    if len(plain) > MAX_DIGITS:
        return None
    try:
        numerator, _, denominator = plain.partition("/")
        return Fraction(numerator) / (Fraction(denominator) if denominator else 1)
    except (ValueError, ZeroDivisionError):
        return None


def _first_number(clause: str) -> Fraction | None:
    """The number after the last "=" of a clause, else its first one."""
    clause = _FRAC.sub(r"\1\2/\3", clause)
    found = _NUMBER.search(clause[clause.rfind("=") + 1 :])
    return as_number(found[0]) if found else None


def reasoning_steps(text: str) -> list[str]:
    """The canonical equations of a solution, in order, e.g. ["24*2=48"]; [] where there are none.

    Calculator annotations <<...>> count where there are any, else equations in the text. Factors and summands are
    sorted and numbers written one way: 2 x $24.0 = 48 and <<24*2=48>> are the same step.
    """
    annotations = [part.rpartition("=")[::2] for part in _ANNOTATION.findall(text)]
    lines = [] if annotations else text.replace("\u2212", "-").splitlines()
    equations = annotations or [equation for line in lines for equation in _equations(line)]
    steps = [f"{_canonical(left)}={_value_text(right)}" for left, right in equations]
    return [step for step in steps if step != "="]


def _equations(line: str) -> list[tuple[str, str]]:
    """(expression, result) of the equations in a line of text, words between the numbers left out.

    For "so 3 kg at 2 x 4 dollars = 8" it is ("2x4", "8"): a number after a number begins a new expression.
    """
    equations: list[tuple[str, str]] = []
    expression: list[str] = []
    complete: str | None = None  # the text before the last "="
    for token in _TOKEN.findall(_UNIT.sub(" ", line)):
        is_number = token[-1].isdigit()
        after_value = bool(expression) and (expression[-1][-1].isdigit() or expression[-1] == ")")
        if token == "=":
            complete = "".join(expression) if after_value else None
            expression = []
        elif is_number or token == "(":
            if after_value:
                expression = []
            expression.append(token)
            if is_number and complete is not None and expression in ([token], ["-", token]):
                if not _is_number(complete):
                    equations.append((complete, "".join(expression)))
                complete = None
        elif after_value or token == "-":
            expression.append(token)
        else:
            expression = []
    return equations


def _is_number(expression: str) -> bool:
    return as_number(expression) is not None and "/" not in expression


def normal_words(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation."""
    return _WORD.findall(text.lower())


def _value_text(text: str) -> str:
    number = as_number(text)
    return text.strip() if number is None else str(number)


def _canonical(expression: str) -> str:
    """An arithmetic expression with sorted summands and factors; stripped text where it is no such thing."""
    plain = re.sub(r"(?<=\d),(?=\d{3})|[$%\s]", "", expression).replace("\u2212", "-")
    plain = re.sub("[x\u00d7]", "*", plain).replace("\u00f7", "/")
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", plain)  # 007 is no number of Python's
    try:
        tree = ast.parse(plain[:MAX_DIGITS], mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return plain
    return _written(tree.body)


def _written(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return _value_text(str(node.value))
    if isinstance(node, ast.UnaryOp):
        return f"-({_written(node.operand)})" if isinstance(node.op, ast.USub) else _written(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        sign = "+" if isinstance(node.op, ast.Add) else "*"
        return f"({sign.join(sorted(_written(term) for term in _terms(node, type(node.op))))})"
    if isinstance(node, ast.BinOp):
        signs = {ast.Sub: "-", ast.Div: "/", ast.Pow: "**", ast.FloorDiv: "//", ast.Mod: "%"}
        return f"({_written(node.left)}{signs.get(type(node.op), '?')}{_written(node.right)})"
    return ast.unparse(node)


def _terms(node: ast.AST, operator: type[ast.operator]) -> list[ast.AST]:
    """The operands of a chain of one operator."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, operator):
        return [*_terms(node.left, operator), *_terms(node.right, operator)]
    return [node]
