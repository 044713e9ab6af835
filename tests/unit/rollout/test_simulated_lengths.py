"""Lengths of simulated completions: their distributions, and a file of them."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from polyray.config.simulation import SimulationSpec


def drawn(simulation: SimulationSpec, max_tokens: int, count: int = 4000) -> list[tuple[int, bool]]:
    return [simulation.draw_length(random.Random(seed), max_tokens) for seed in range(count)]


def test_exponential_lengths_have_their_mean_and_are_cut_at_the_limit() -> None:
    unlimited = [length for length, _ in drawn(SimulationSpec(mean_length=50), 10_000)]
    # A rounded-up exponential is geometric.
    assert sum(unlimited) / len(unlimited) == pytest.approx(1 / (1 - math.exp(-1 / 50)), rel=0.05)
    cut = drawn(SimulationSpec(mean_length=50), 100)
    share = sum(not stops for _, stops in cut) / len(cut)
    assert share == pytest.approx(math.exp(-2), abs=0.02)
    assert max(length for length, _ in cut) == 100
    assert all(stops or length == 100 for length, stops in cut)


def test_uniform_lengths_are_never_ends(tmp_path: Path) -> None:
    assert set(drawn(SimulationSpec(), 4)) == {(1, False), (2, False), (3, False), (4, False)}


def test_given_lengths_come_from_the_list() -> None:
    assert set(drawn(SimulationSpec(given_lengths=(3, 12, 5)), 10)) == {(3, True), (5, True), (10, False)}


def test_lengths_have_one_source_and_at_least_one_token() -> None:
    with pytest.raises(ValidationError, match=r"mean_length.*given_lengths"):
        SimulationSpec(mean_length=3, given_lengths=(1,))
    with pytest.raises(ValidationError, match=r"given_lengths.*\b0\b"):
        SimulationSpec(given_lengths=(3, 0))


def test_only_latencies_of_decoding_need_a_clock() -> None:
    assert not SimulationSpec(load_s=3, start_s=1, mean_length=5).takes_time
    for key in ("step_s", "sequence_s"):
        assert SimulationSpec.model_validate({key: 0.1}).takes_time
