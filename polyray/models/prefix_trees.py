"""Completions of a prompt as a tree of their prefixes: every distinct prefix is one node and is computed once.

    prompt | a b c          prompt | a b   d   e       a node attends to its ancestors and to itself; the last
    prompt | a b d                                      token of a completion predicts nothing and has no node
    prompt | a b d          position 0..   0 1   1     <- after the prompt's length
    prompt | e f

Nodes are in depth-first order, so the descendants of a node follow it without a gap: node i sees node j where
j <= i < end of j's descendants. A tree that would be wider than the limit is cut between completions, and the trees
of all groups are put side by side. Arrays in, arrays out; called by packing.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class PackedTrees:
    """Trees side by side in one sequence of W positions.

    Example:
        prompt [1, 9] with the completions [4, 2], [4, 5, 2]:
        PackedTrees(input_ids_W=array([1, 9, 4, 5]), position_ids_W=array([0, 1, 2, 3]),
                    ends_W=array([4, 4, 4, 4]), predictor_N=array([1, 2, 1, 2, 3]), sizes_U=array([4]))
    """

    input_ids_W: np.ndarray
    position_ids_W: np.ndarray
    """Place in prompt + completion."""
    ends_W: np.ndarray
    """The place in its tree behind the last descendant."""
    predictor_N: np.ndarray
    """Predictor of every completion token, row by row: the place of its node in the sequence."""
    sizes_U: np.ndarray
    """Positions of each tree, in order."""


@dataclass(frozen=True, slots=True)
class _SortedRows:
    """Rows in an order in which equal beginnings are neighbours; T counts tokens that have a node."""

    order_B: np.ndarray
    """Index of each row before sorting."""
    prompt_lengths_B: np.ndarray
    tokens_BT: np.ndarray
    lengths_B: np.ndarray
    """Nodes of each row, own and shared."""
    shared_B: np.ndarray
    """Number of nodes of each row that the tree holds already."""
    trees_B: np.ndarray
    """0, 1, ... ascending: the tree it belongs to."""
    starts_B: np.ndarray
    """First own node of each row in the tree; the prompt comes first."""
    sizes_U: np.ndarray
    """Nodes of each tree, prompt included."""


def pack_trees(
    input_ids_BL: np.ndarray,
    prompt_lengths_B: np.ndarray,
    completion_lengths_B: np.ndarray,
    group_B: np.ndarray,
    max_width: int,
) -> PackedTrees:
    """Every distinct prefix of each group's completions once.

    Args:
        input_ids_BL: [B, L] prompt + completion, right-padded.
        prompt_lengths_B: [B].
        completion_lengths_B: [B], all > 0.
        group_B: [B] rows with the same number have the same prompt.
        max_width: positions of a tree; no row may need more.
    """
    rows = _sorted_rows(input_ids_BL, prompt_lengths_B, completion_lengths_B, group_B, max_width)
    offset_U = rows.sizes_U.cumsum() - rows.sizes_U
    base_B = offset_U[rows.trees_B]
    node_BT, ends_BT, own_BT = _nodes(rows)
    last_prompt_B = rows.prompt_lengths_B - 1

    ids, positions, ends = np.zeros((3, rows.sizes_U.sum()), np.int64)
    row_N, at_N = own_BT.nonzero()
    where_N = base_B[row_N] + node_BT[row_N, at_N]
    ids[where_N] = rows.tokens_BT[row_N, at_N]
    positions[where_N] = rows.prompt_lengths_B[row_N] + at_N
    ends[where_N] = ends_BT[row_N, at_N]

    first_U = np.searchsorted(rows.trees_B, np.arange(len(rows.sizes_U)))
    tree_N, at_N = _below(rows.prompt_lengths_B[first_U]).nonzero()
    where_N = offset_U[tree_N] + at_N
    ids[where_N] = input_ids_BL[rows.order_B[first_U[tree_N]], at_N]
    positions[where_N] = at_N
    ends[where_N] = rows.sizes_U[tree_N]

    predictor_BT = np.zeros((len(base_B), node_BT.shape[1] + 1), np.int64)
    predictor_BT[rows.order_B] = base_B[:, None] + np.concatenate([last_prompt_B[:, None], node_BT], axis=1)
    return PackedTrees(ids, positions, ends, predictor_BT[_below(completion_lengths_B)], rows.sizes_U)


def _sorted_rows(
    input_ids_BL: np.ndarray,
    prompt_lengths_B: np.ndarray,
    completion_lengths_B: np.ndarray,
    group_B: np.ndarray,
    max_width: int,
) -> _SortedRows:
    inner_BT = _below(completion_lengths_B - 1)
    columns_BT = np.minimum(
        prompt_lengths_B[:, None] + np.arange(inner_BT.shape[1]), input_ids_BL.shape[1] - 1
    )
    tokens_BT = np.where(inner_BT, np.take_along_axis(input_ids_BL, columns_BT, axis=1), -1)
    keys = [(group, tokens_T.tobytes()) for group, tokens_T in zip(group_B.tolist(), tokens_BT, strict=True)]
    order_B = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    tokens_BT, inner_BT, groups_B = tokens_BT[order_B], inner_BT[order_B], group_B[order_B]
    same_BT = (tokens_BT[1:] == tokens_BT[:-1]) & inner_BT[1:] & (groups_B[1:] == groups_B[:-1])[:, None]
    common_B = np.concatenate([[0], np.cumprod(same_BT, axis=1).sum(1)])
    prompts_B, lengths_B = prompt_lengths_B[order_B], inner_BT.sum(1)
    parts = _cut(groups_B, prompts_B, lengths_B, common_B, max_width)
    return _SortedRows(order_B, prompts_B, tokens_BT, lengths_B, *parts)


def _cut(
    groups_B: Sequence[int] | np.ndarray,
    prompts_B: np.ndarray,
    lengths_B: np.ndarray,
    common_B: np.ndarray,
    max_width: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(shared_B, trees_B, starts_B, sizes_U) of `_SortedRows`: a new tree for a new group and where one is full."""
    shared, trees, starts, sizes = [], [], [], []
    group = None
    rows = zip(
        *(np.asarray(values).tolist() for values in (groups_B, prompts_B, lengths_B, common_B)), strict=True
    )
    for group_of_row, prompt, length, common in rows:
        if group_of_row != group or sizes[-1] + length - common > max_width:
            sizes.append(prompt)
            common = 0
        group = group_of_row
        shared.append(common)
        trees.append(len(sizes) - 1)
        starts.append(sizes[-1])
        sizes[-1] += length - common
    return np.array(shared), np.array(trees), np.array(starts), np.array(sizes)


def _nodes(rows: _SortedRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([B, T] node of every token in its tree, [B, T] end of its descendants, [B, T] whether it is the row's own)."""
    inner_BT = _below(rows.lengths_B)
    columns = np.arange(inner_BT.shape[1])
    own_BT = inner_BT & (columns >= rows.shared_B[:, None])
    row_B = np.arange(len(own_BT))[:, None]
    # The owner of a shared node is the nearest row above that brought its own.
    owner_BT = np.maximum.accumulate(np.where(own_BT, row_B, 0), axis=0)
    node_BT = (rows.starts_B - rows.shared_B)[owner_BT] + columns
    # A node's descendants end with those of the last row that shares it: later assignments win.
    row_N, at_N = inner_BT.nonzero()
    last_BT = np.zeros_like(owner_BT)
    last_BT[owner_BT[row_N, at_N], at_N] = row_N
    stops_B = rows.starts_B + rows.lengths_B - rows.shared_B
    return node_BT, stops_B[last_BT], own_BT


def _below(lengths_B: np.ndarray) -> np.ndarray:
    """[B, longest] bool: True at the first `lengths_B` places of each row."""
    return np.arange(int(lengths_B.max(initial=0))) < lengths_B[:, None]
