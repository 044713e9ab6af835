"""Number of tokens of a simulated completion: uniform, exponential, or drawn from given lengths."""

from __future__ import annotations

import math
import random
from pathlib import Path

from polyray.config.simulation import SimulationSpec
from polyray.errors import DataError


class Lengths:
    """See the module. Raises DataError for a `lengths_path` that holds anything but whole numbers from 1 on."""

    def __init__(self, simulation: SimulationSpec) -> None:
        self._mean = simulation.mean_length
        path = simulation.lengths_path
        self._given = simulation.given_lengths if path is None else read_lengths(Path(path))

    def draw(self, draw: random.Random, max_tokens: int) -> tuple[int, bool]:
        """(tokens, whether the completion ends by itself); a longer one is cut at `max_tokens`.

        Uniform lengths are all cut ones: without a length model the policy never ends a sequence.
        """
        if self._mean is None and not self._given:
            return draw.randint(1, max_tokens), False
        if self._mean is not None:
            length = max(1, math.ceil(draw.expovariate(1 / self._mean)))
        else:
            length = draw.choice(self._given)
        return min(length, max_tokens), length <= max_tokens


def read_lengths(path: Path) -> tuple[int, ...]:
    """One number a line; empty lines do not count."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(
            f"rollout.simulation.lengths_path={path}: {error.strerror}; name a text file"
        ) from error
    bad = [line for line in lines if line and not (line.isdecimal() and int(line) >= 1)]
    lengths = tuple(int(line) for line in lines if line and line.isdecimal())
    if bad or not lengths:
        what = repr(bad[0]) if bad else "nothing"
        raise DataError(
            f"rollout.simulation.lengths_path={path} holds {what}; it takes one whole number from 1 on a line"
        )
    return lengths
