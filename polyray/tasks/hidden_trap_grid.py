"""Hidden-trap grid: plan a path on an 8x8 board with hidden traps.

    prompt   37|b1>e4=     map 37, start b1, goal e4 (columns a-h, rows 1-8), 2 to 4 columns and rows apart
    answer   RRURUU        U, D change the row, L, R the column; at most MAX_MOVES moves

An answer is right iff every step stays on the board, the path ends exactly on the goal, and no visited cell
is a trap. Traps are independent draws (sha256 of salt, prompt and cell): they cannot be learnt, so every
shortest path is equally good in expectation and k attempts are worth more the more they differ. The 900
start-goal pairs are split; a held-out pair occurs in no training prompt, in no demonstration and not in the
embedded model's pretraining. Validation prompts are of other pairs, just outside the range of these 900, with
shortest paths of 5, 7 and 8 moves: choices during training cost neither training nor held-out pairs.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Sequence

from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import DataError
from polyray.tasks.base import class_id, classes_of_each, indexed_rng
from polyray.types import WRONG_CLASS, Prompt

BOARD = 8
NUM_CELLS = BOARD * BOARD
NUM_MAPS = 100
MAX_MOVES = 9
"""A completion has at most 10 tokens and the last must be the end of sequence."""
MOVES = {"U": (0, 1), "D": (0, -1), "L": (-1, 0), "R": (1, 0)}

HORIZONTAL_FIRST_SHARE = 0.45
VERTICAL_FIRST_SHARE = 0.20
ERROR_SHARE = 0.30
"""Demonstrations come from an imperfect teacher: this share of them has one move replaced by a random one."""

_PROMPT = re.compile(r"(\d\d)\|([a-h][1-8])>([a-h][1-8])=")
_SPLIT_SEED = 0
VALIDATION_DISTANCES = frozenset({(1, 4), (2, 5), (3, 5)})
"""Columns and rows between start and goal of validation prompts, the smaller number first."""
NUM_VALIDATION_PAIRS = 200
VALIDATION_IDS_PER_PAIR = 10


def cell_name(cell: int) -> str:
    """Cell 8 * column + row as "b1"."""
    return "abcdefgh"[cell // BOARD] + str(cell % BOARD + 1)


def cell_index(name: str) -> int:
    """Inverse of `cell_name`."""
    return "abcdefgh".index(name[0]) * BOARD + int(name[1]) - 1


def _neighbour(cell: int, move: str) -> int:
    column, row = cell // BOARD + MOVES[move][0], cell % BOARD + MOVES[move][1]
    return column * BOARD + row if 0 <= column < BOARD and 0 <= row < BOARD else -1


NEIGHBOURS = [{move: _neighbour(cell, move) for move in MOVES} for cell in range(NUM_CELLS)]
"""Cell -> move -> the cell it leads to, -1 off the board."""


def walk(start: int, moves: str) -> tuple[int, ...] | None:
    """All cells visited, the start too; None for an unknown letter, a step off the board, too many moves."""
    if len(moves) > MAX_MOVES:
        return None
    cells = [start]
    for move in moves:
        following = NEIGHBOURS[cells[-1]].get(move, -1)
        if following < 0:
            return None
        cells.append(following)
    return tuple(cells)


def shortest_moves(start: int, goal: int) -> tuple[str, str]:
    """The horizontal and the vertical moves of every shortest path, e.g. ("RRR", "UUU")."""
    columns, rows = goal // BOARD - start // BOARD, goal % BOARD - start % BOARD
    return ("R" if columns > 0 else "L") * abs(columns), ("U" if rows > 0 else "D") * abs(rows)


def shuffled(moves: str, rng: random.Random) -> str:
    """A uniformly drawn order of `moves`: of all shortest paths where they are those of one."""
    return "".join(rng.sample(moves, len(moves)))


@functools.cache
def split_pairs(num_held_out: int) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """(training, held-out) pairs of (start, goal); a smaller held-out set is a prefix of a larger one."""
    pairs = [
        (start, goal)
        for start in range(NUM_CELLS)
        for goal in range(NUM_CELLS)
        if 2 <= abs(goal // BOARD - start // BOARD) <= 4 and 2 <= abs(goal % BOARD - start % BOARD) <= 4
    ]
    random.Random(_SPLIT_SEED).shuffle(pairs)
    return tuple(pairs[num_held_out:]), tuple(pairs[:num_held_out])


@functools.cache
def validation_pairs() -> tuple[tuple[int, int], ...]:
    """Pairs of (start, goal) that are neither training nor held-out ones, for any size of these."""
    pairs = [
        (start, goal)
        for start in range(NUM_CELLS)
        for goal in range(NUM_CELLS)
        if tuple(sorted((abs(goal // BOARD - start // BOARD), abs(goal % BOARD - start % BOARD))))
        in VALIDATION_DISTANCES
    ]
    random.Random(_SPLIT_SEED).shuffle(pairs)
    return tuple(pairs[:NUM_VALIDATION_PAIRS])


@functools.lru_cache(maxsize=4096)
def trap_cells(salt: str, text: str, probability: float) -> frozenset[int]:
    """The traps of the map that prompt `text` asks about: never its start or goal."""
    ends = parse_prompt(text)
    limit = int(probability * 2**64)
    return frozenset(
        cell
        for cell in range(NUM_CELLS)
        if cell not in ends
        and int.from_bytes(hashlib.sha256(f"{salt}|{text}|{cell_name(cell)}".encode()).digest()[:8], "big")
        < limit
    )


@functools.lru_cache(maxsize=4096)
def parse_prompt(text: str) -> tuple[int, int]:
    """(start, goal) of a prompt. Raises DataError for any other text."""
    match = _PROMPT.fullmatch(text.strip())
    if match is None:
        raise DataError(f"{text!r} is not a prompt of hidden_trap_grid; it must look like '37|b1>e4='")
    return cell_index(match[2]), cell_index(match[3])


class HiddenTrapGrid:
    """The default task; see the module docstring."""

    name = "hidden_trap_grid"
    has_verifier = True

    def __init__(self, spec: HiddenTrapGridSpec) -> None:
        self.spec = spec
        self.training_pairs, self.held_out_pairs = split_pairs(spec.num_held_out_pairs)

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """A random map of a random training pair."""
        return self._random_prompt(indexed_rng(self.name, "prompt", seed, index))

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """`held_out_ids_per_pair` maps of each held-out pair; the first prompts are of distinct pairs."""
        return self._of_pairs("test", "held_out", self.held_out_pairs, self.spec.held_out_ids_per_pair)[
            :limit
        ]

    def validation_prompts(self, limit: int | None = None) -> list[Prompt]:
        """Ten maps of each validation pair; the first prompts are of distinct pairs."""
        return self._of_pairs("validation", "validation", validation_pairs(), VALIDATION_IDS_PER_PAIR)[:limit]

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """A shortest path of a training pair in the teacher's mix of styles, at times with a wrong move."""
        rng = indexed_rng(self.name, "demonstration", seed, index)
        prompt = self._random_prompt(rng)
        horizontal, vertical = shortest_moves(*parse_prompt(prompt.text))
        style = rng.random()
        if style < HORIZONTAL_FIRST_SHARE:
            moves = horizontal + vertical
        elif style < HORIZONTAL_FIRST_SHARE + VERTICAL_FIRST_SHARE:
            moves = vertical + horizontal
        else:
            moves = shuffled(horizontal + vertical, rng)
        if rng.random() < ERROR_SHARE:
            at = rng.randrange(len(moves))
            moves = moves[:at] + rng.choice("UDLR") + moves[at + 1 :]
        return prompt, moves

    def reference(self, prompt: Prompt) -> str | None:
        """None: many paths are right, and which ones is hidden."""
        return prompt.reference

    def reward(self, prompt: Prompt, completion: str) -> float:
        """1 for a path that reaches the goal without leaving the board or touching a trap, else 0."""
        return 0.0 if self._safe_path(prompt.text, completion) is None else 1.0

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """The set of visited cells: two orders of moves through the same cells are one class."""
        cells = self._safe_path(prompt.text, completion)
        return WRONG_CLASS if cells is None else _class_of(cells)

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """The class of each."""
        return classes_of_each(self, prompt, completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """Jaccard distance of the visited cells, goal excluded, between two correct completions; else 0."""
        cells_a, cells_b = self._safe_path(prompt.text, a), self._safe_path(prompt.text, b)
        if cells_a is None or cells_b is None:
            return 0.0
        goal = parse_prompt(prompt.text)[1]
        visited_a, visited_b = cells_a - {goal}, cells_b - {goal}
        return 1.0 - len(visited_a & visited_b) / len(visited_a | visited_b)

    def _of_pairs(
        self, split: str, stream: str, pairs: Sequence[tuple[int, int]], ids_per_pair: int
    ) -> list[Prompt]:
        """`ids_per_pair` maps of each pair, pair by pair for one map after the other."""
        maps = {
            pair: indexed_rng(self.name, stream, *pair).sample(range(NUM_MAPS), NUM_MAPS) for pair in pairs
        }
        return [_prompt(split, maps[pair][turn], pair) for turn in range(ids_per_pair) for pair in pairs]

    def _random_prompt(self, rng: random.Random) -> Prompt:
        return _prompt("train", rng.randrange(NUM_MAPS), rng.choice(self.training_pairs))

    def _safe_path(self, text: str, completion: str) -> frozenset[int] | None:
        text = text.strip()
        start, goal = parse_prompt(text)
        cells = walk(start, completion.strip())
        if cells is None or cells[-1] != goal:
            return None
        visited = frozenset(cells)
        return (
            visited
            if visited.isdisjoint(trap_cells(self.spec.salt, text, self.spec.trap_probability))
            else None
        )


@functools.lru_cache(maxsize=16384)
def _class_of(cells: frozenset[int]) -> int:
    return class_id(",".join(cell_name(cell) for cell in sorted(cells)))


def _prompt(split: str, map_id: int, pair: tuple[int, int]) -> Prompt:
    ends = f"{cell_name(pair[0])}>{cell_name(pair[1])}"
    text = f"{map_id:02d}|{ends}="
    return Prompt(prompt_id=f"{split}-{text}", text=text, cluster_id=ends)
