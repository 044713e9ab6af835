"""Writes configs/train/shortest_path.jsonl: boards of reasoning-gym's `shortest_path` for the embedded model.

    pip install reasoning-gym==0.1.25      in an environment of its own
    python -m benchmarks.shortest_path_prompts

A prompt names the blocked cells, the start and the goal of a 6 x 6 board; the answer is a shortest path. Only boards
with at least four shortest paths are taken. The metadata has all of them, and reasoning-gym's verifier gives each the
full score. The demonstration is one of them, drawn at random.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import reasoning_gym  # pyright: ignore[reportMissingImports]

FILE = Path(__file__).resolve().parents[1] / "configs" / "train" / "shortest_path.jsonl"
NUM_PROMPTS, SIZE, BLOCKED_SHARE, SEED = 2000, 6, 0.3, 0
MIN_PATHS = 4
LENGTHS = range(3, 10)
"""Moves of a shortest path; a completion has at most 10 tokens, the end of sequence included."""
MOVES = {"R": (0, 1, "right"), "D": (1, 0, "down"), "L": (0, -1, "left"), "U": (-1, 0, "up")}

Cell = tuple[int, int]


def shortest_paths(board: Sequence[Sequence[str]]) -> list[str]:
    """All shortest paths from * to #, as letters of MOVES; empty where there is none."""
    (start,) = _cells(board, "*")
    paths, seen = {start: [""]}, {start}
    while paths:
        following: dict[Cell, list[str]] = {}
        for (row, column), found in paths.items():
            for letter, (down, right, _) in MOVES.items():
                cell = row + down, column + right
                if cell not in seen and all(0 <= at < SIZE for at in cell) and board[cell[0]][cell[1]] != "X":
                    following.setdefault(cell, []).extend(path + letter for path in found)
        for cell, found in following.items():
            if board[cell[0]][cell[1]] == "#":
                return found
        seen.update(following)
        paths = following
    return []


def prompts() -> Iterator[dict[str, Any]]:
    """The lines of the file. Raises ValueError where reasoning-gym's verifier rejects a path."""
    boards = reasoning_gym.create_dataset(
        "shortest_path",
        min_rows=SIZE, max_rows=SIZE, min_cols=SIZE, max_cols=SIZE, p_blocked=BLOCKED_SHARE,
        seed=SEED, size=20 * NUM_PROMPTS,
    )  # fmt: skip
    draw = random.Random(SEED)
    for entry in boards:
        board = entry["metadata"]["matrix"]
        paths = shortest_paths(board)
        if len(paths) < MIN_PATHS or len(paths[0]) not in LENGTHS:
            continue
        for path in paths:
            words = " ".join(MOVES[letter][2] for letter in path)
            if boards.score_answer(words, entry) != 1.0:
                raise ValueError(f"{words} is no right answer of board {entry['metadata']['source_index']}")
        (start,), (goal,) = _cells(board, "*"), _cells(board, "#")
        blocked = "".join(f"{_name(cell)}|" for cell in _cells(board, "X"))
        yield {
            "id": f"shortest_path-{entry['metadata']['source_index']}",
            "prompt": f"{blocked}{_name(start)}>{_name(goal)}=",
            "response": draw.choice(paths),
            "metadata": {"right": paths},
        }


def _cells(board: Sequence[Sequence[str]], kind: str) -> list[Cell]:
    return [(row, column) for row in range(SIZE) for column in range(SIZE) if board[row][column] == kind]


def _name(cell: Cell) -> str:
    """Column a to f, row 1 (the lowest) to 6."""
    return "abcdef"[cell[1]] + str(SIZE - cell[0])


if __name__ == "__main__":
    lines = []
    for prompt in prompts():
        lines.append(json.dumps(prompt))
        if len(lines) == NUM_PROMPTS:
            break
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(lines)} prompts")
