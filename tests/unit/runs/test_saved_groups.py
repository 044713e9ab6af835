"""Groups of a checkpoint are restored bit for bit, or left out if their request has changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyray.runs.saved_groups import INDEX, decode_groups, encode_groups, num_groups
from polyray.types import Completion, Group, GroupRequest, PolicyVersion, Prompt, ScoredGroup


def _prompt(group_id: int) -> Prompt:
    return Prompt(
        f"p{group_id}", "37|b1>e4=", "RU", ({"role": "user", "content": "é"},), "c", {"tests": (1, 2)}
    )


def _request(group_id: int, size: int = 3) -> GroupRequest:
    return GroupRequest(group_id, _prompt(group_id), tuple(2**62 + group_id + i for i in range(size)), 10)


def _scored(group_id: int, distances: bool, size: int = 3) -> ScoredGroup:
    draw = np.random.default_rng(group_id)
    completions = tuple(
        Completion(
            draw.integers(0, 2**31 - 1, length, dtype=np.int32),
            -draw.random(length, np.float32),
            f"text {group_id} \u2603 \n{index}",
            ("stop", "length", "error")[index % 3],
            seed,
        )
        for index, (length, seed) in enumerate(
            zip(draw.integers(0, 9, size), _request(group_id, size).seeds, strict=True)
        )
    )
    prompt_tokens = draw.integers(0, 50, 2 + group_id, dtype=np.int32)
    group = Group(
        group_id,
        _prompt(group_id),
        prompt_tokens,
        completions,
        PolicyVersion(2, group_id, "ab" * 32, "arm-1"),
    )
    matrix = draw.random((size, size))
    rewards = draw.random(size)
    rewards[1] = np.nan
    return ScoredGroup(
        group,
        rewards,
        draw.integers(-1, 2**40, size),
        matrix + matrix.T if distances else None,
        {"legal": (1.0, float("nan"), 0.1)[:size], "a/b": tuple(draw.random(size))},
    )


def _equal(a: Any, b: Any) -> bool:
    """Every field of every dataclass, arrays by dtype and bits."""
    if dataclasses.is_dataclass(a):
        fields = dataclasses.fields(a)
        return type(a) is type(b) and all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() and b.flags.writeable
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return a == b or (a != a and b != b)


@pytest.mark.parametrize("distances", [False, True])
def test_decoded_groups_are_equal_bit_for_bit(distances: bool) -> None:
    groups = [_scored(4, distances), _scored(7, not distances), _scored(9, distances)]
    assert not _equal(groups[0], replace(groups[0], rewards_G=groups[0].rewards_G + 1e-16))
    files = encode_groups(groups)
    assert num_groups(files) == 3
    back = decode_groups(files, _request)
    assert [_equal(a, b) for a, b in zip(groups, back, strict=True)] == [True] * 3
    assert encode_groups(back) == files


def test_decode_leaves_out_groups_whose_request_has_changed() -> None:
    groups = [_scored(group_id, True) for group_id in (4, 5, 6, 7)]
    other: dict[int, GroupRequest] = {
        4: replace(_request(4), prompt=replace(_prompt(4), reference="UR")),  # the task's file was edited
        5: replace(_request(5), seeds=(1, 2, 3)),
        6: _request(6, size=4),
    }
    back = decode_groups(encode_groups(groups), lambda group_id: other.get(group_id, _request(group_id)))
    assert len(back) == 1 and _equal(groups[3], back[0])


def test_decode_ignores_no_files_and_files_of_another_format() -> None:
    assert encode_groups([]) == {}
    assert (decode_groups({}, _request), num_groups({})) == ([], 0)
    files = encode_groups([_scored(4, False)])
    files[INDEX] = json.dumps(json.loads(files[INDEX]) | {"format": 2}).encode()
    assert (decode_groups(files, _request), num_groups(files)) == ([], 1)
