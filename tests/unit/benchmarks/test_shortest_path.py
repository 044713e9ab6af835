"""Boards of the shortest-path study: the answers listed are all shortest paths, and the reward knows them."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "train"
SIZE = 6
STEPS = {"U": (0, 1), "D": (0, -1), "L": (-1, 0), "R": (1, 0)}
BOARD = {(column, row) for column in range(SIZE) for row in range(SIZE)}


def boards() -> list[dict[str, Any]]:
    lines = (CONFIGS / "shortest_path.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def cell(name: str) -> tuple[int, int]:
    return "abcdef".index(name[0]), int(name[1]) - 1


def walked(start: tuple[int, int], path: str, free: set[tuple[int, int]]) -> tuple[int, int] | None:
    at = start
    for letter in path:
        at = at[0] + STEPS[letter][0], at[1] + STEPS[letter][1]
        if at not in free:
            return None
    return at


def test_answers_are_all_shortest_paths_of_the_board() -> None:
    for board in boards():
        *blocked, ends = board["prompt"].removesuffix("=").split("|")
        start, goal = map(cell, ends.split(">"))
        free = BOARD - set(map(cell, blocked))
        right = board["metadata"]["right"]
        # Walks of n steps by the cell in which they end: the first n that reaches the goal is the distance.
        ways, steps = Counter({start: 1}), 0
        while not ways[goal]:
            following: Counter[tuple[int, int]] = Counter()
            for at, step in product(ways, STEPS.values()):
                if (to := (at[0] + step[0], at[1] + step[1])) in free:
                    following[to] += ways[at]
            ways, steps = following, steps + 1
        assert len(right) == len(set(right)) == ways[goal] >= 4, board["id"]
        assert all(len(path) == steps and walked(start, path, free) == goal for path in right), board["id"]
        assert board["response"] in right


def test_boards_differ() -> None:
    assert len({board["prompt"] for board in boards()}) == len({board["id"] for board in boards()}) == 2000


def test_reward_gives_each_right_path_a_class_of_its_own() -> None:
    score = runpy.run_path(str(CONFIGS / "shortest_path.py"))["score"]
    metadata = {"right": ["RRU", "RUR", "URR", "RURL"]}
    items = [{"completion": path, "metadata": metadata} for path in ("URR", "RRU", "RR", "", "RRU=")]
    assert score(items) == [
        {"score": 1.0, "class": 2},
        {"score": 1.0, "class": 0},
        *[{"score": 0.0, "class": -1}] * 3,
    ]
