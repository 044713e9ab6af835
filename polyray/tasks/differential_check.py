"""Comparing a program's outputs with a reference's. Runs *inside the sandbox*, beside the untrusted program.

The text of this whole file becomes part of a test (differential.py puts it there), so it imports the standard
library only and nothing of polyray. The semantics are EvalPlus's (arXiv 2305.01210; its release 0.3.1): equal,
or numerically close where the problem or a float output allows it, with the special cases of ORACLES.

Unlike EvalPlus an output is first rebuilt from built-in types: an object whose `__eq__` always says yes equals
nothing here.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import signal
import sys
import time

TYPE_CHECKING = False  # typing's own would cost every test the import of that module
if TYPE_CHECKING:
    from typing import Any

RELATIVE_TOLERANCE = 1e-7
FLOAT_TOLERANCE = 1e-6
"""For outputs that are floats where the problem names no tolerance."""
SHOWN_CHARS = 120
REFERENCE_CPU_S = 1.0
REFERENCE_TOTAL_CPU_S = 2.0
"""Inputs that take the reference longer, each or together, cannot be tested within a program's time limit."""
MAX_LITERAL_CHARS = 100_000
"""Longer outputs are not compared: every test of a sample would carry them."""

ORACLES = {
    "similar_elements": "set",
    "find_char_long": "set",
    "common_in_nested_lists": "set",
    "extract_singly": "set",
    "larg_nnum": "set",
    "intersection_array": "set",
    "find_dissimilar": "set",
    "Diff": "set",
    "check_str": "not_none",
    "text_match_three": "not_none",
    "text_starta_endb": "not_none",
    "are_equivalent": "anything",
    "sum_div": "or_zero",
    "surface_Area": "pyramid",
    "digit_distance_nums": "digits",
    "find_zero": "root",
}
"""Entry point -> how its outputs are compared, where equality asks for more than the problem says."""


class Unknown:
    """Placeholder of an output that is made of no built-in type; equals nothing."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


def as_literal(value: Any) -> str:
    """ASCII source text of a value of built-in types. Raises TypeError for any other."""
    kind = type(value)
    if value is None or kind in (bool, str, bytes):
        return ascii(value)
    if issubclass(kind, int):
        return repr(int(value)) if abs(value) < 10**18 else hex(value)
    if issubclass(kind, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{value}")'
    if issubclass(kind, complex):
        return f"complex({as_literal(value.real)}, {as_literal(value.imag)})"
    if issubclass(kind, (list, tuple)):
        inner = "".join(as_literal(element) + ", " for element in value)
        return f"[{inner}]" if issubclass(kind, list) else f"({inner})"
    if issubclass(kind, (set, frozenset)):
        name = "set" if issubclass(kind, set) else "frozenset"
        return f"{name}([{', '.join(sorted(as_literal(element) for element in value))}])"
    if issubclass(kind, dict):
        return "{" + ", ".join(f"{as_literal(key)}: {as_literal(value[key])}" for key in value) + "}"
    if issubclass(kind, str):
        return ascii(str(value))
    raise TypeError(f"a {kind.__name__} cannot be written as text")


def plain(value: Any) -> Any:
    """The value rebuilt from built-in types; `Unknown` where it is none of them."""
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return value
    if issubclass(kind, list):
        return [plain(element) for element in list.__iter__(value)]
    if issubclass(kind, tuple):
        return tuple(plain(element) for element in tuple.__iter__(value))
    if issubclass(kind, dict):
        return {plain(key): plain(element) for key, element in dict.items(value)}
    if issubclass(kind, set):
        return {plain(element) for element in set.__iter__(value)}
    if issubclass(kind, frozenset):
        return frozenset(plain(element) for element in frozenset.__iter__(value))
    bases: Any = (int, float, complex, str)
    for base in bases:
        if issubclass(kind, base):
            return base.__add__(value, base())
    return _number(value)


def _number(value: Any) -> Any:
    """A Fraction, a Decimal or a NumPy scalar as a built-in number."""
    import decimal
    import fractions
    import sys

    if type(value) in (fractions.Fraction, decimal.Decimal):
        return float(value) if value != int(value) else int(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(type(value), (numpy.generic, numpy.ndarray)):
        return plain(value.tolist())
    return Unknown()


def is_close(output: Any, expected: Any, atol: float) -> bool:
    """Numbers, and lists of numbers of equal length, within atol + 1e-7 |expected|."""
    if isinstance(expected, (list, tuple)):
        if not isinstance(output, (list, tuple)) or len(output) != len(expected):
            return False
        return all(is_close(a, b, atol) for a, b in zip(output, expected, strict=True))
    if not isinstance(expected, (int, float, complex)) or not isinstance(output, (int, float, complex)):
        return False
    return output == expected or abs(output - expected) <= atol + RELATIVE_TOLERANCE * abs(expected)


def matches(output: Any, expected: Any, arguments: Any, atol: float, oracle: str | None = None) -> bool:
    """Whether `output` is as good as the reference's `expected`."""
    if oracle == "anything":
        return True
    if oracle == "not_none":
        return (output if type(output) is bool else output is not None) == expected
    output = plain(output)
    if oracle == "set":
        return set(output) == set(expected)
    if output == expected or (oracle == "or_zero" and output == 0):
        return True
    if oracle == "root":
        terms = (coefficient * output**power for power, coefficient in enumerate(arguments[0]))  # type: ignore
        value = sum(terms)
        return abs(value) <= atol
    if oracle in ("pyramid", "digits"):
        return output == (pyramid_area if oracle == "pyramid" else digit_distance)(*arguments)
    floats = isinstance(expected, float) or (
        isinstance(expected, (list, tuple)) and bool(expected) and all(isinstance(x, float) for x in expected)
    )
    atol = FLOAT_TOLERANCE if floats and not atol else atol
    return bool(atol) and type(output) is type(expected) and is_close(output, expected, atol)


def pyramid_area(base: float, height: float) -> int:
    """Mbpp/581 as its text says; its reference computes something else."""
    return round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))


def digit_distance(first: int, second: int) -> int:
    """Mbpp/558 digit by digit; its reference subtracts first."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)


def check_outputs(candidate: Any, cases: Any, atol: float, entry_point: str) -> None:
    """Calls `candidate` with each case's arguments. Raises AssertionError at the first wrong output."""
    oracle = ORACLES.get(entry_point)
    for number, (label, arguments, expected) in enumerate(cases):
        given = shown(arguments)  # a program may change its arguments
        kept = copy.deepcopy(arguments) if oracle is not None else arguments
        output = candidate(*arguments)
        if not matches(output, expected, kept, atol, oracle):
            raise AssertionError(
                f"{label} input {number}: {entry_point}(*{given}) gave {shown(output)}, not {shown(expected)}"
            )


def shown(value: Any) -> str:
    """The beginning of a value's text; its type where it has none, as integers of thousands of digits."""
    try:
        return repr(value)[:SHOWN_CHARS]
    except Exception:
        return f"<{type(value).__name__}>"


def print_outputs(reference: Any, inputs: Any, entry_point: str, marker: str) -> None:
    """Prints a line for each input: marker and literal of the reference's output, or marker, "!" and why there is
    none. Where only the presence of an output counts, it is True or False."""
    oracle, out = ORACLES.get(entry_point), sys.stdout
    signal.signal(signal.SIGVTALRM, _too_slow)
    lines, started = [], time.process_time()
    for arguments in inputs:
        sys.stdout = out  # the signal may have come while it was being put back
        left_s = REFERENCE_TOTAL_CPU_S - (time.process_time() - started)
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, max(1e-6, min(REFERENCE_CPU_S, left_s)))
            with contextlib.redirect_stdout(io.StringIO()):
                output = reference(*arguments)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            text = as_literal(output is not None if oracle == "not_none" else output)
            if len(text) > MAX_LITERAL_CHARS:
                raise ValueError(f"an output of {len(text)} characters, more than {MAX_LITERAL_CHARS}")
            lines.append(marker + text)
        except Exception as error:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            lines.append(f"{marker}!{type(error).__name__}: {str(error)!a:.80}")
    print("\n" + "\n".join(lines), file=out)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {REFERENCE_CPU_S} CPU seconds, or {REFERENCE_TOTAL_CPU_S} for all inputs")
