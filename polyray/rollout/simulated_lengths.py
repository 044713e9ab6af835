"""Number of tokens of a simulated completion: uniform, exponential, or drawn from given lengths."""

from __future__ import annotations

import math
import random

from polyray.config.simulation import SimulationSpec


class Lengths:
    """Lengths of completions under a length model."""

    def __init__(self, simulation: SimulationSpec) -> None:
        self._mean = simulation.mean_length
        self._given = simulation.given_lengths

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
