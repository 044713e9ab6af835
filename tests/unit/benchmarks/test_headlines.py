"""Division of headline tests into files that share no story."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.headlines import divide, main
from tests.conftest import REPOSITORY_ROOT
from tests.data_sets import shared_data


def write(path: Path, num_stories: int) -> Path:
    """Two tests of every story, with a lede in common."""
    rows = [
        {"test_id": f"t{story}{half}", "headline": f"Headline {story}{half}", "lede": f"Lede {story}",
         "impressions": 100, "clicks": 1, "winner": True}
        for story in range(num_stories)
        for half in "ab"
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_parts_have_their_shares_and_no_story_in_common(tmp_path: Path) -> None:
    parts = divide(write(tmp_path / "h.jsonl", 50))
    assert {part: len(found) for part, found in parts.items()} == {"test": 10, "policy": 30, "clicks": 60}
    stories = [{name[:-1] for name in found} for found in parts.values()]
    assert sum(map(len, stories)) == 50
    for part in parts.values():
        first = part[: len(part) // 2]
        assert len({name[:-1] for name in first}) == len(first)


def test_shipped_files_are_those_of_the_rule(tmp_path: Path) -> None:
    assert main([str(shared_data("social/upworthy_exploratory.jsonl.gz")), "--out", str(tmp_path)]) == 0
    shipped = REPOSITORY_ROOT / "configs/data/upworthy"
    for file in sorted(shipped.glob("*.gz")):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
