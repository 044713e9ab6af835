"""Scored groups as files of a checkpoint and back, bit for bit: arrays in safetensors, all else in JSON.

    groups.safetensors  tokens and log-probs of all completions one after another, rewards, classes, distances
    groups.json         ids, versions, texts, seeds, and by which prompt each group was sampled

The learner's rank 0 writes them (launch/rl_worker.py), the coordinator reads them when an attempt
begins. A run
directory refuses another configuration; what may change all the same, the task's own files, is noticed here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from polyray.types import Completion, Group, GroupRequest, PolicyVersion, Prompt, ScoredGroup

SNAPSHOT_FILES = "files"
"""The key of a coordinator's snapshot under which it holds binary payloads: name -> bytes."""
ARRAYS = "groups.safetensors"
INDEX = "groups.json"
FORMAT = 1


def encode_groups(groups: Sequence[ScoredGroup]) -> dict[str, bytes]:
    """File name -> content; nothing for no groups."""
    if not groups:
        return {}
    completions = [item for scored in groups for item in scored.group.completions]
    distances = [scored.distances_GG.ravel() for scored in groups if scored.distances_GG is not None]
    arrays = {
        "lengths": np.array([len(item.token_ids) for item in completions], np.int32),
        "token_ids": np.concatenate([item.token_ids for item in completions]),
        "rollout_logprobs": np.concatenate([item.rollout_logprobs for item in completions]),
        "prompt_lengths": np.array([len(scored.group.prompt_token_ids) for scored in groups], np.int32),
        "prompt_token_ids": np.concatenate([scored.group.prompt_token_ids for scored in groups]),
        "rewards": np.concatenate([scored.rewards_G for scored in groups]),
        "classes": np.concatenate([scored.classes_G for scored in groups]),
        "distances": np.concatenate([*distances, np.zeros(0)]),
    }
    index = {"format": FORMAT, "groups": [_entry(scored) for scored in groups]}
    return {ARRAYS: save(arrays), INDEX: json.dumps(index).encode()}


def decode_groups(files: Mapping[str, bytes], request_of: Callable[[int], GroupRequest]) -> list[ScoredGroup]:
    """The groups in `files` (see `encode_groups`) but for those that would be asked for differently today.

    Args:
        request_of: how the group of an id is asked for: its prompt and seeds.
    """
    index = _index(files)
    if not index["groups"] or index["format"] != FORMAT:
        return []
    arrays = load(files[ARRAYS])
    taken = {name: _Cursor(array) for name, array in arrays.items()}
    groups = []
    for entry in index["groups"]:
        request = request_of(entry["group_id"])
        scored = _decoded(entry, request.prompt, taken)  # even if it is left out, to advance the cursors
        if entry["prompt_sha256"] == _prompt_sha256(request.prompt) and entry["seeds"] == list(request.seeds):
            groups.append(scored)
    return groups


def num_groups(files: Mapping[str, bytes]) -> int:
    """Number of groups in `files`."""
    return len(_index(files)["groups"])


class _Cursor:
    """Hands out an array piece by piece, as copies: arrays in a file cannot be written to."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self._at = 0

    def take(self, size: int) -> np.ndarray:
        self._at += size
        return self._array[self._at - size : self._at].copy()


def _index(files: Mapping[str, bytes]) -> dict[str, Any]:
    return json.loads(files[INDEX]) if INDEX in files else {"groups": []}


def _entry(scored: ScoredGroup) -> dict[str, Any]:
    group = scored.group
    policy = group.policy
    return {
        "group_id": group.group_id,
        "policy": [policy.attempt, policy.version, policy.sha256, policy.run],
        "prompt_sha256": _prompt_sha256(group.prompt),
        "texts": [item.text for item in group.completions],
        "finish_reasons": [item.finish_reason for item in group.completions],
        "seeds": [item.seed for item in group.completions],
        "has_distances": scored.distances_GG is not None,
        "components": {
            name: [None if math.isnan(value) else float(value) for value in values]
            for name, values in scored.components.items()
        },
    }


def _decoded(entry: Mapping[str, Any], prompt: Prompt, taken: Mapping[str, _Cursor]) -> ScoredGroup:
    size = len(entry["seeds"])
    completions = []
    for length, text, reason, seed in zip(
        taken["lengths"].take(size), entry["texts"], entry["finish_reasons"], entry["seeds"], strict=True
    ):
        token_ids, logprobs = taken["token_ids"].take(length), taken["rollout_logprobs"].take(length)
        completions.append(Completion(token_ids, logprobs, text, reason, seed))
    prompt_token_ids = taken["prompt_token_ids"].take(int(taken["prompt_lengths"].take(1)[0]))
    policy = PolicyVersion(*entry["policy"])
    distances = taken["distances"].take(size * size) if entry["has_distances"] else None
    return ScoredGroup(
        Group(entry["group_id"], prompt, prompt_token_ids, tuple(completions), policy),
        rewards_G=taken["rewards"].take(size),
        classes_G=taken["classes"].take(size),
        distances_GG=None if distances is None else distances.reshape(size, size),
        components={
            name: tuple(math.nan if value is None else value for value in values)
            for name, values in entry["components"].items()
        },
    )


def _prompt_sha256(prompt: Prompt) -> str:
    said = [prompt.prompt_id, prompt.text, prompt.reference, prompt.messages, prompt.metadata]
    return hashlib.sha256(repr(said).encode()).hexdigest()
