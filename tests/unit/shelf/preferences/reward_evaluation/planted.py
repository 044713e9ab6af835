"""Data whose truth is known: a completion carries its engagement and whether a planted scorer is right about it.

`write_records` makes a file in which every pair of one prompt has a marked winner; `planted_reward` is a reward
function that prefers the better one in a known share of the pairs.
"""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

from polyray.shelf.preferences.engagement import EngagementRecord

WORDS = "the cat sat on a mat saw many small birds fly over grey roofs"
PLANTED_SOURCE = '''"""Reads the score that stands in the text: <0.25>."""

import re


def score(items):
    found = [re.search("<([0-9.]+)>", item["completion"]) for item in items]
    return [float(match.group(1)) if match else 0.0 for match in found]
'''


def records(num_clusters: int, accuracy: float, seed: int = 0, parts: bool = True) -> list[EngagementRecord]:
    """Two completions per prompt and two prompts per cluster.

    Texts end in <s>, the score that the planted scorer gives: it is higher for the better one in exactly
    `accuracy` of the prompts of every part. Lengths are drawn without looking at engagement.
    """
    generator, words = random.Random(seed), WORDS.split()
    found: list[EngagementRecord] = []
    for number, prompt in product(range(num_clusters), range(2)):
        # Clusters of one part take turns, so that the share is exact in each of them.
        turn = (number // 4) * 2 + prompt
        is_right = (turn + 1) * accuracy // 1 > turn * accuracy // 1
        votes = generator.sample(range(20), 2)
        for place, value in enumerate(votes):
            score = 0.75 if (value == max(votes)) == is_right else 0.25
            text = " ".join(generator.choices(words, k=generator.randint(3, 30)))
            values = {
                "record_id": f"c{number}/p{prompt}/{place}",
                "prompt": f"Who saw it {number}-{prompt}?",
                "completion": f"{text}. Indeed, said the {generator.choice(words)} {number} <{score}>",
                "engagement": float(value),
                "prompt_id": f"c{number}/p{prompt}",
                "cluster_id": f"c{number}",
                "position": place,
                "created_at": f"20{10 + number % 3}-01-01T00:00:00",
                "kind": ("comment", "answer")[prompt],
                "part": ("test", "train", "test", "validation")[number % 4] if parts else None,
            }
            found.append(EngagementRecord.model_validate(values))
    return found


def write_records(path: Path, rows: list[EngagementRecord]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row.model_dump(mode="json")) + "\n" for row in rows), encoding="utf-8")
    return path


def planted_reward(directory: Path) -> dict[str, Any]:
    """The specification of the planted scorer, and its file."""
    file = directory / "planted.py"
    file.write_text(PLANTED_SOURCE, encoding="utf-8")
    return {"type": "reward", "reward": {"type": "python", "path": f"{file}:score"}}
