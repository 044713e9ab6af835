"""When simulated sequences end: against a loop over every sequence, and by hand."""

from __future__ import annotations

import math
import random

import pytest

from polyray.rollout.simulated_engine import DecodingBatch


class Groups(DecodingBatch):
    """A batch of whole groups."""

    def add_group(self, group_id: int, lengths: list[int]) -> None:
        for place, length in enumerate(lengths):
            self.add(100 * group_id + place, length)

    def remove_group(self, group_id: int) -> None:
        self.remove(range(100 * group_id, 100 * (group_id + 1)))

    def groups(self, seconds: float) -> list[int]:
        """Groups of the sequences that end."""
        return [sample // 100 for sample in self.run(seconds)]


def brute_force(
    arrivals: list[tuple[float, int, list[int]]], step_s: float, sequence_s: float, room: int
) -> dict[int, float]:
    """Group -> when its last sequence ends; every sequence's remaining tokens are counted down one by one."""
    now = 0.0
    waiting: list[tuple[int, int]] = []
    running: list[list[float]] = []
    ended: dict[int, float] = {}
    coming = sorted(arrivals)
    while coming or running or waiting:
        while waiting and len(running) < room:
            group_id, length = waiting.pop(0)
            running.append([group_id, length])
        step = step_s + sequence_s * len(running)
        left = min((item[1] for item in running), default=math.inf)
        until_end = left * step if running else math.inf
        until_next = coming[0][0] - now if coming else math.inf
        passed = min(until_end, until_next)
        for item in running:
            item[1] -= passed / step
        now += passed
        if until_next <= until_end:
            _, group_id, lengths = coming.pop(0)
            waiting += [(group_id, length) for length in lengths]
        for item in [item for item in running if item[1] < 1e-9]:
            running.remove(item)
            ended[int(item[0])] = now
    return ended


@pytest.mark.parametrize("seed", range(20))
def test_groups_end_as_in_a_loop_over_all_sequences(seed: int) -> None:
    draw = random.Random(seed)
    step_s, sequence_s, room = draw.uniform(0.01, 0.1), draw.uniform(0, 0.02), draw.randint(2, 9)
    arrivals = [
        (
            draw.uniform(0, 3),
            group_id,
            [draw.randint(1, 30) for _ in range(draw.randint(1, 5))],
        )
        for group_id in range(12)
    ]
    expected = brute_force(arrivals, step_s, sequence_s, room)
    batch, now, ended = Groups(step_s, sequence_s, room), 0.0, {}
    for at, group_id, lengths in sorted(arrivals):
        while now + batch.next_end_s() < at:  # in pieces: the next end, sometimes less
            piece = batch.next_end_s() * draw.choice((1.0, 0.5))
            now += piece
            ended |= dict.fromkeys(batch.groups(piece), now)
        ended |= dict.fromkeys(batch.groups(at - now), at)
        now = at
        batch.add_group(group_id, lengths)
    while math.isfinite(batch.next_end_s()):
        now += (piece := batch.next_end_s())
        ended |= dict.fromkeys(batch.groups(piece * (1 + 1e-12)), now)
    assert set(ended) == set(expected) == set(range(12))
    for group_id, when in expected.items():
        assert ended[group_id] == pytest.approx(when, abs=1e-6)


def test_removed_group_makes_room_for_waiting_ones() -> None:
    batch = Groups(step_s=1.0, sequence_s=0.0, max_sequences=1)
    batch.add_group(0, [100])
    batch.add_group(1, [2])
    batch.remove_group(0)
    batch.remove_group(7)
    assert batch.groups(2.0) == [1]
