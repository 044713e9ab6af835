"""The choice of a worker, against a brute-force scan of all of them."""

from __future__ import annotations

import random

import pytest

from polyray.orchestrator import dispatch
from polyray.orchestrator.dispatch import Dispatcher, ExpectedLengths


def test_the_least_loaded_worker_with_room_takes_the_group() -> None:
    dispatcher = Dispatcher(window=2)
    for index, name in enumerate(("a", "b")):
        dispatcher.serve(name, index, 0)
    chosen = []
    while (name := dispatcher.choose(lambda version: True)) is not None:
        dispatcher.started(name)
        chosen.append(name)
    assert chosen == ["a", "b", "a", "b"]
    dispatcher.ended("b")
    assert dispatcher.choose(lambda version: True) == "b"


def test_weight_decides_between_workers_and_the_window_counts_groups() -> None:
    dispatcher = Dispatcher(window=3)
    for index, name in enumerate(("a", "b")):
        dispatcher.serve(name, index, 0)
    dispatcher.started("a", 3.0)
    dispatcher.started("b", 1.0)
    dispatcher.started("b", 1.0)
    assert dispatcher.choose(lambda version: True) == "b"
    dispatcher.started("b", 0.5)
    assert dispatcher.choose(lambda version: True) == "a"  # b has no room, however light its groups


def test_only_versions_that_may_start_are_considered_and_a_new_attempt_serves_none() -> None:
    dispatcher = Dispatcher(window=1)
    dispatcher.serve("old", 0, 3)
    dispatcher.serve("new", 1, 4)
    assert dispatcher.choose(lambda version: version >= 4) == "new"
    assert dispatcher.choose(lambda version: True) == "old"
    dispatcher.serve_nothing()
    assert dispatcher.choose(lambda version: True) is None
    dispatcher.serve("old", 0, 0)
    assert dispatcher.choose(lambda version: True) == "old"


def test_a_window_that_changes_counts_for_all_at_once() -> None:
    dispatcher = Dispatcher(window=1)
    for index, name in enumerate(("a", "b")):
        dispatcher.serve(name, index, 0)
        dispatcher.started(name)
    assert dispatcher.choose(lambda version: True) is None
    dispatcher.window = 2
    assert dispatcher.choose(lambda version: True) == "a"
    dispatcher.started("a")
    dispatcher.window = 1
    assert dispatcher.choose(lambda version: True) is None
    dispatcher.ended("b")
    assert dispatcher.choose(lambda version: True) == "b"


def test_a_worker_that_is_gone_is_never_chosen_and_its_groups_may_still_end() -> None:
    dispatcher = Dispatcher(window=2)
    dispatcher.serve("a", 0, 0)
    dispatcher.started("a")
    dispatcher.remove("a")
    assert dispatcher.choose(lambda version: True) is None
    dispatcher.ended("a")
    assert dispatcher.is_idle("a")


@pytest.mark.parametrize("seed", range(5))
def test_choices_equal_a_scan_of_all_workers(seed: int) -> None:
    draw = random.Random(seed)
    dispatcher, window = Dispatcher(window=3), 3
    state: dict[str, list[float]] = {}  # name -> [index, version, groups, load]
    in_flight: list[tuple[str, float]] = []
    for turn in range(400):
        event = draw.random()
        if event < 0.15 or not state:
            name = f"w{draw.randrange(8)}"
            version = turn // 100 + draw.randrange(2)
            entry = state.setdefault(name, [int(name[1:]), 0, 0, 0.0])
            entry[1] = version
            dispatcher.serve(name, int(name[1:]), version)
        elif event < 0.2:
            name = draw.choice(list(state))
            del state[name]
            in_flight = [item for item in in_flight if item[0] != name]
            dispatcher.remove(name)
        elif event < 0.5 and in_flight:
            name, weight = in_flight.pop(draw.randrange(len(in_flight)))
            state[name][2] -= 1
            state[name][3] = state[name][3] - weight if state[name][2] else 0.0
            dispatcher.ended(name, weight)
        lowest = turn // 100

        def may_start(version: int, lowest: int = lowest) -> bool:
            return version >= lowest

        able = [
            (load, index, name)
            for name, (index, version, groups, load) in state.items()
            if groups < window and may_start(int(version))
        ]
        expected = min(able)[2] if able else None
        assert dispatcher.choose(may_start) == expected
        if expected is not None and draw.random() < 0.7:
            weight = draw.choice((0.5, 1.0, 2.0))
            state[expected][2] += 1
            state[expected][3] += weight
            in_flight.append((expected, weight))
            dispatcher.started(expected, weight)


def test_expected_lengths_are_means_of_a_prompt_over_the_mean_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_KNOWN_PROMPTS", 2)
    lengths = ExpectedLengths()
    assert lengths.weight("p") == 1.0
    for prompt, tokens in (("p", 30), ("p", 50), ("q", 10), ("r", 70)):
        lengths.observe(prompt, tokens)
    assert lengths.weight("p") == 1.0  # 40 of a mean of 40
    assert lengths.weight("q") == 0.25
    assert lengths.weight("r") == 1.0  # not remembered
