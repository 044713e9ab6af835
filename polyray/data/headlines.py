"""Headline tests: headlines of one story shown to visitors at random, and how many clicked. Not replies.

The exposure is randomised, so a difference in clicks is caused by the headline (where image and text are the
same). One JSON object a line, a package that was shown:

    {"test_id": "t1", "headline": "...", "lede": "...", "excerpt": "...", "image_id": "i1", "week": 201446,
     "impressions": 3052, "clicks": 150}

Everything but test_id and headline, impressions and clicks may be absent. Packages of the weeks in which the
Upworthy Research Archive's randomisation was faulty are dropped by rule. The reward is the log-odds of a
click under a Beta prior, never the raw rate, which is noise where impressions are few. Source: Matias,
Munger, Aubin Le Quere, Ebersole, Scientific Data 8:195 (2021).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyray.data.fields import RowFields
from polyray.data.json_lines import read_objects
from polyray.data.words import canonical_text

FIRST_FAULTY_WEEK, LAST_FAULTY_WEEK = 201325, 201402
"""Year and week, both included. Reported by the archive's authors in June 2024: 22 % of the tests between
25 June 2013 and 10 January 2014 were not randomised properly."""

PRIOR_CLICK_RATE = 0.0131
"""Pooled click rate of the archive's exploratory part without the faulty weeks."""
PRIOR_IMPRESSIONS = 1300.0
"""Weight of the prior in impressions: click rates within a test of that part spread like this Beta."""

_FIELDS = (
    "test_id", "headline", "lede", "excerpt", "image_id", "week", "impressions", "clicks", "winner",
)  # fmt: skip
_EXAMPLE = '{"test_id": "t1", "headline": "...", "lede": "...", "image_id": "i1", "impressions": 3052, "clicks": 150}'


@dataclass(frozen=True, slots=True)
class HeadlinePackage:
    """A headline as it was shown, with image and text beside it.

    Example:
        HeadlinePackage(test_id="t1", headline="She Counted The Bees. Nobody Asked Her To.", impressions=3052,
                        clicks=150, lede="A beekeeper in Ohio ...", image_id="i1", week=201446)
    """

    test_id: str
    """The unit of splits and statistics."""
    headline: str
    impressions: int
    clicks: int
    lede: str = ""
    excerpt: str = ""
    image_id: str = ""
    """Empty: shown without an image."""
    week: int | None = None
    """Year and week, e.g. 201446."""


@dataclass(frozen=True, slots=True)
class HeadlineTests:
    """The packages of a file.

    Example:
        HeadlineTests(packages=(HeadlinePackage(...),), num_dropped=4490)
    """

    packages: tuple[HeadlinePackage, ...]
    num_dropped: int
    """Packages of the faulty weeks, which are not among `packages`."""


def read_headline_tests(path: Path, *, key: str = "task.path") -> HeadlineTests:
    """All packages of sound weeks in the order of the file. Raises DataError naming file, line, value and fix."""
    packages = [
        _package(RowFields(record, f"{path}:{number}"))
        for number, record in read_objects(path, key=key, example=_EXAMPLE)
    ]
    kept = tuple(item for item in packages if not _is_faulty(item))
    return HeadlineTests(kept, len(packages) - len(kept))


def click_log_odds(
    clicks: int,
    impressions: int,
    *,
    prior_click_rate: float = PRIOR_CLICK_RATE,
    prior_impressions: float = PRIOR_IMPRESSIONS,
) -> float:
    """Log-odds of a click under a Beta prior with mean `prior_click_rate` worth `prior_impressions`.

    ln((clicks + a) / (impressions - clicks + b)) with a = rate * weight and b = (1 - rate) * weight: without
    impressions the prior's own log-odds. Raises ValueError for counts or a prior that cannot be.
    """
    if not 0 <= clicks <= impressions:
        raise ValueError(f"clicks={clicks} must lie between 0 and impressions={impressions}")
    if not (0 < prior_click_rate < 1 and prior_impressions > 0):
        raise ValueError(
            f"prior_click_rate={prior_click_rate} must lie between 0 and 1, and prior_impressions="
            f"{prior_impressions} above 0"
        )
    clicked = clicks + prior_click_rate * prior_impressions
    passed_by = impressions - clicks + (1.0 - prior_click_rate) * prior_impressions
    return math.log(clicked / passed_by)


def packages_by_test(packages: Sequence[HeadlinePackage]) -> dict[str, list[HeadlinePackage]]:
    """Test id -> its packages, in the order of the file."""
    tests: dict[str, list[HeadlinePackage]] = {}
    for package in packages:
        tests.setdefault(package.test_id, []).append(package)
    return tests


def story_texts(tests: Mapping[str, Sequence[HeadlinePackage]]) -> dict[str, str]:
    """Test id -> what is known about its story: its lede and, where it belongs to this test alone, its excerpt.

    Many tests share an excerpt that says nothing about their story. Tests without any text are not in the answer.
    """
    num_tests_with: Counter[str] = Counter()
    for packages in tests.values():
        num_tests_with.update({package.excerpt for package in packages})
    stories: dict[str, str] = {}
    for test_id, packages in tests.items():
        own_excerpts = [item.excerpt for item in packages if num_tests_with[item.excerpt] == 1]
        parts = [_most_common(item.lede for item in packages), _most_common(own_excerpts)]
        story = "\n".join(dict.fromkeys(part for part in parts if part))
        if story:
            stories[test_id] = story
    return stories


def story_keys(packages: Sequence[HeadlinePackage]) -> frozenset[str]:
    """Ledes and headlines: stories were tested again and again, and tests that share one belong together."""
    return frozenset(
        f"{kind}:{canonical_text(text)}"
        for package in packages
        for kind, text in (("lede", package.lede), ("headline", package.headline))
        if canonical_text(text)
    )


def _most_common(texts: Iterable[str]) -> str:
    """The most frequent text, the first of the alphabet among equals; "" where there is none."""
    counts = Counter(text for text in texts if text)
    return min(counts, key=lambda text: (-counts[text], text), default="")


def _is_faulty(package: HeadlinePackage) -> bool:
    return package.week is not None and FIRST_FAULTY_WEEK <= package.week <= LAST_FAULTY_WEEK


def _package(row: RowFields) -> HeadlinePackage:
    row.check_known(_FIELDS, "remove it")
    impressions, clicks = row.count("impressions"), row.count("clicks")
    if clicks > impressions:
        raise row.error(f"'clicks' is {clicks}, more than 'impressions' {impressions}; correct one of them")
    return HeadlinePackage(
        test_id=row.text("test_id"),
        headline=row.text("headline", strip=False),
        impressions=impressions,
        clicks=clicks,
        lede=row.optional_text("lede"),
        excerpt=row.optional_text("excerpt"),
        image_id=row.optional_text("image_id"),
        week=row.count("week") if row.has("week") else None,
    )
