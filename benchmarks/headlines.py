"""Divides headline tests into the three files of configs/data/upworthy/, which share no story.

The rule, without a choice by hand:

1. Packages of the weeks with faulty randomisation are left out (polyray/data/headlines.py), and so is the column
   `winner`, which nothing reads.
2. Tests with a lede or a headline in common are one story. Stories are shuffled by a hash of SEED and of their first
   test_id.
3. In that order, the first tenth of the tests is test.jsonl.gz (held out), the next 0.3 is policy.jsonl.gz (SFT, RL
   and validation), and the rest is clicks.jsonl.gz (reward models).
4. The first test of every story comes before the second ones, so that the first prompts are of different stories.

The archive (https://osf.io/jd64p, CC BY 4.0) as JSON Lines is polyray's own input format, one package a line.

  python -m benchmarks.headlines upworthy.jsonl.gz --out configs/data/upworthy
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyray.cli.arguments import JobParser, run
from polyray.data.headlines import packages_by_test, read_headline_tests, story_keys
from polyray.data.json_lines import read_objects
from polyray.data.splits import linked_clusters, seeded_rank

PARTS = {"test": 0.1, "policy": 0.3, "clicks": 0.6}
"""File -> share of the tests, in the order in which they are filled."""
SEED = 0
COLUMNS = ("test_id", "headline", "lede", "excerpt", "image_id", "week", "impressions", "clicks")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks.headlines", __doc__)
    parser.add_argument("archive", type=Path, help="headline tests as JSON Lines, also .gz")
    parser.add_argument("--out", type=Path, default=Path("configs/data/upworthy"), help="directory")
    given = parser.parse_strictly(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    for _, row in read_objects(given.archive, key="archive", example="{}"):
        rows.setdefault(str(row["test_id"]), []).append(row)
    for part, test_ids in divide(given.archive).items():
        lines = [
            json.dumps({name: row[name] for name in COLUMNS if name in row}, ensure_ascii=False)
            for test_id in test_ids
            for row in rows[test_id]
        ]
        path = given.out / f"{part}.jsonl.gz"
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
        print(f"{path}: {len(test_ids)} tests, {len(lines)} packages, {path.stat().st_size} bytes")
    return 0


def divide(archive: Path) -> dict[str, list[str]]:
    """Part -> its test ids, in the order of the file."""
    tests = packages_by_test(read_headline_tests(archive, key="archive").packages)
    test_ids = sorted(tests)
    first_of = linked_clusters([story_keys(tests[test_id]) for test_id in test_ids])
    stories: dict[str, list[str]] = {}
    for test_id, first in zip(test_ids, first_of, strict=True):
        stories.setdefault(test_ids[first], []).append(test_id)
    parts: dict[str, list[tuple[int, int, str]]] = {part: [] for part in PARTS}
    for rank, story in enumerate(sorted(stories, key=lambda name: seeded_rank(SEED, name))):
        part = next(name for name, share in PARTS.items() if len(parts[name]) < share * len(tests))
        parts[part] += [(number, rank, test_id) for number, test_id in enumerate(stories[story])]
    return {part: [test_id for _, _, test_id in sorted(found)] for part, found in parts.items()}


if __name__ == "__main__":
    run(main)
