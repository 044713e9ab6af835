"""Headline tests: the rule about faulty weeks, log-odds under a prior, pairs of one image."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from polyray.data.headlines import (
    click_log_odds,
    read_headline_tests,
)
from polyray.errors import DataError
from tests.data_sets import shared_data

ROW = {"test_id": "t1", "headline": "Bees!", "impressions": 3000, "clicks": 30, "week": 201446}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_headline_packages_of_faulty_weeks_are_dropped_and_counted(tmp_path: Path) -> None:
    weeks = (201324, 201325, 201352, 201402, 201403, None)
    path = write(tmp_path / "h.jsonl", *({**ROW, "week": week} for week in weeks))
    found = read_headline_tests(path)
    assert [package.week for package in found.packages] == [201324, 201403, None]
    assert found.num_dropped == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "clicks": 3001}, r":2: 'clicks'.*\b3001\b.*'impressions' 3000"),
        ({**ROW, "clicks": "some"}, ":2.*'clicks'.*'some'"),
        ({"test_id": "t1", "impressions": 1, "clicks": 0}, ":2.*'headline'"),
        ({**ROW, "rate": 0.01}, ":2.*'rate'"),
    ],
)
def test_broken_headline_row_is_named(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_headline_tests(write(tmp_path / "h.jsonl", ROW, row))


@pytest.mark.parametrize("counts", [(5, 4), (-1, 4)])
def test_click_log_odds_follow_counts_under_a_prior(counts: tuple[int, int]) -> None:
    # Prior Beta(2, 98): (7 + 2) / (93 + 98) = 9 / 191.
    value = click_log_odds(7, 100, prior_click_rate=0.02, prior_impressions=100)
    assert value == pytest.approx(math.log(9 / 191), abs=1e-12)
    assert click_log_odds(0, 0, prior_click_rate=0.02) == pytest.approx(math.log(0.02 / 0.98), abs=1e-12)
    assert click_log_odds(1, 10) < click_log_odds(90, 3000), "the raw rate prefers the lucky start"
    assert click_log_odds(5_000_000, 10_000_000) == pytest.approx(0.0, abs=1e-3)
    with pytest.raises(ValueError, match=f"clicks={counts[0]}.*impressions=4"):
        click_log_odds(*counts)


def test_archive_has_published_sizes() -> None:
    path = shared_data("social/upworthy_exploratory.jsonl.gz")
    clean = read_headline_tests(path)
    assert len(clean.packages) + clean.num_dropped == 22666
    assert len({package.test_id for package in clean.packages}) == 3771
    rate = sum(p.clicks for p in clean.packages) / sum(p.impressions for p in clean.packages)
    assert rate == pytest.approx(0.0131, abs=5e-5)  # PRIOR_CLICK_RATE
