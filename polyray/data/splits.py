"""Training, validation and test parts that share nothing: splits by what rows have in common.

Pure and seeded. Called by the tasks that are made from a file of texts, and by curation.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from polyray.types import Prompt

Part = Literal["train", "validation", "test"]


def linked_clusters(keys: Sequence[Collection[str]]) -> list[int]:
    """First row to which each row is linked, by a common key or through other rows.

    `keys[i]` are the keys of row i that must not be in two parts, e.g. its thread and its text.
    """
    leader = list(range(len(keys)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    first_with: dict[str, int] = {}
    for row, row_keys in enumerate(keys):
        for key in row_keys:
            a, b = find(first_with.setdefault(key, row)), find(row)
            leader[max(a, b)] = min(a, b)
    return [find(row) for row in range(len(keys))]


def prompt_key(prompt: Prompt) -> str:
    """Key that equal prompts share: system messages, case, and white space make no different prompt."""
    if prompt.messages is None:
        turns = [("user", prompt.text)]
    else:
        turns = [(turn["role"], turn["content"]) for turn in prompt.messages if turn["role"] != "system"]
    plain = [(role, " ".join(unicodedata.normalize("NFKC", text).casefold().split())) for role, text in turns]
    return f"prompt {json.dumps(plain, ensure_ascii=False)}"


def named_clusters(keys: Sequence[Collection[str]]) -> list[str]:
    """`linked_clusters` under names that do not depend on the order of the rows.

    A name is the cluster's first key in the alphabet; every row must have a key.
    """
    leaders = linked_clusters(keys)
    name_of: dict[int, str] = {}
    for leader, row_keys in zip(leaders, keys, strict=True):
        name = min(row_keys)
        name_of[leader] = min(name, name_of.get(leader, name))
    return [name_of[leader] for leader in leaders]


def split_clusters(
    clusters: Iterable[str], *, test_share: float, validation_share: float, seed: int
) -> dict[str, Part]:
    """cluster -> part, drawn by a hash of seed and cluster; the order of `clusters` is of no importance.

    Each share is rounded, and at least one cluster where it is above 0. Raises ValueError where none is left to
    train on.
    """
    names = sorted(set(clusters), key=lambda name: seeded_rank(seed, name))
    num_test = _num_of(test_share, len(names))
    num_validation = _num_of(validation_share, len(names))
    if num_test + num_validation >= len(names):
        raise ValueError(
            f"{len(names)} clusters cannot be split into {num_test} for test, {num_validation} for validation and "
            "some to train on; add data or lower the shares"
        )
    part_of: dict[str, Part] = dict.fromkeys(names, "train")
    part_of |= dict.fromkeys(names[:num_test], "test")
    part_of |= dict.fromkeys(names[num_test : num_test + num_validation], "validation")
    return part_of


def seeded_rank(seed: int, name: str) -> bytes:
    """A sort key that shuffles names the same way in every process."""
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogatepass")).digest()


def _num_of(share: float, total: int) -> int:
    return max(1, round(share * total)) if share > 0 else 0
