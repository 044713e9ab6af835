"""Prefix trees against brute force over every prefix: which nodes there are, what they see, what they predict."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.models.prefix_trees import PackedTrees, pack_trees

Row = tuple[tuple[int, ...], tuple[int, ...]]
FIXED: list[tuple[int, Row]] = [
    (0, ((1, 9), (4, 5, 2))),
    (0, ((1, 9), (4, 5, 6, 2))),
    (0, ((1, 9), (4, 5, 2))),  # a duplicate
    (0, ((1, 9), (7,))),  # has no node of its own
    (0, ((1, 9), (7, 2))),
    (1, ((1, 8, 8), (4, 5, 2))),  # shares nothing: another prompt
    (2, ((3,), (6, 6, 6, 6, 6))),
    (2, ((3,), (2,))),
]


def random_rows(seed: int, longest: int = 7) -> list[tuple[int, Row]]:
    draw = np.random.default_rng(seed)
    rows = []
    for group in range(5):
        prompt = tuple(draw.integers(1, 4, draw.integers(1, 5)).tolist())
        rows += [
            (group, (prompt, tuple(draw.integers(1, 3, draw.integers(1, longest + 1)).tolist())))
            for _ in range(draw.integers(1, 9))
        ]
    return rows


def arrays(rows: list[tuple[int, Row]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    ids = np.zeros((len(rows), max(len(p) + len(c) for _, (p, c) in rows)), np.int64)
    for i, (_, (prompt, completion)) in enumerate(rows):
        ids[i, : len(prompt) + len(completion)] = prompt + completion
    lengths = [(len(prompt), len(completion)) for _, (prompt, completion) in rows]
    return ids, *np.array(lengths).T.copy(), np.array([group for group, _ in rows])


def seen_by(packed: PackedTrees, place_in_all: int) -> list[tuple[int, int]]:
    """(position id, token) of everything a place attends to, in order."""
    starts_U = packed.sizes_U.cumsum() - packed.sizes_U
    start = int(starts_U[starts_U <= place_in_all].max())
    visible = [j for j in range(start, place_in_all + 1) if start + packed.ends_W[j] > place_in_all]
    return [(int(packed.position_ids_W[j]), int(packed.input_ids_W[j])) for j in visible]


@pytest.mark.parametrize("rows", [FIXED, random_rows(0), random_rows(1), random_rows(2)])
@pytest.mark.parametrize("max_width", [11, 40, 1000])
def test_each_token_is_predicted_from_exactly_its_prefix(rows: list[tuple[int, Row]], max_width: int) -> None:
    packed = pack_trees(*arrays(rows), max_width)
    assert packed.sizes_U.max() <= max_width
    assert packed.sizes_U.sum() == len(packed.input_ids_W)
    token = 0
    for _, (prompt, completion) in rows:
        for length in range(len(completion)):
            prefix = prompt + completion[:length]
            assert seen_by(packed, packed.predictor_N[token]) == list(enumerate(prefix))
            token += 1
    assert token == len(packed.predictor_N)


@pytest.mark.parametrize("rows", [FIXED, random_rows(0), random_rows(3)])
def test_each_distinct_prefix_is_one_node(rows: list[tuple[int, Row]]) -> None:
    packed = pack_trees(*arrays(rows), 1000)
    prefixes = {
        (group, prompt + completion[:length])
        for group, (prompt, completion) in rows
        for length in range(len(completion))
    }
    prompts = {(group, prompt[:length]) for group, (prompt, _) in rows for length in range(1, len(prompt))}
    assert len(np.unique(packed.predictor_N)) == len(prefixes)
    assert len(packed.input_ids_W) == len(prefixes | prompts)


def test_wide_tree_is_cut_between_completions() -> None:
    rows = [(0, ((1, 9), tuple([token] * 5))) for token in (3, 4, 5, 3)]
    packed = pack_trees(*arrays(rows), 10)  # 2 + 4 + 4 fit, the third brings the prompt again
    assert packed.input_ids_W.tolist() == [1, 9, 3, 3, 3, 3, 4, 4, 4, 4, 1, 9, 5, 5, 5, 5]
    assert packed.sizes_U.tolist() == [10, 6]
    assert packed.position_ids_W.tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert packed.ends_W.tolist() == [10, 10, 6, 6, 6, 6, 10, 10, 10, 10, 6, 6, 6, 6, 6, 6]
    assert packed.predictor_N.reshape(4, 5)[[0, 3]].tolist() == [[1, 2, 3, 4, 5]] * 2
    alone = pack_trees(*arrays(rows), 6).input_ids_W  # two equal rows are one tree
    assert alone.reshape(3, 6).tolist() == [[1, 9, token, token, token, token] for token in (3, 4, 5)]


def test_equal_rows_give_equal_bytes_in_any_order() -> None:
    rows = random_rows(4)
    once, again = pack_trees(*arrays(rows), 60), pack_trees(*arrays(rows), 60)
    backwards = pack_trees(*arrays(rows[::-1]), 60)
    for name in ("input_ids_W", "position_ids_W", "ends_W", "predictor_N"):
        assert getattr(once, name).tobytes() == getattr(again, name).tobytes()
    assert sorted(backwards.predictor_N.tolist()) == sorted(once.predictor_N.tolist())
