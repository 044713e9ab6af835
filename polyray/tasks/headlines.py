"""Headlines: write one for a story, learnt from randomised tests of which headline got the clicks.

Data: the Upworthy Research Archive, tests of the user's own, or a built-in dozen (polyray/data/headlines.py).
One prompt per test, made of its lede and, where it belongs to this test alone, its excerpt. Stories were
tested again and again (1,710 of the archive's 3,771 clean tests share their lede with another one), so tests
with a lede or a headline in common stay in one part. Engagement is the log-odds of a click; the packages of a
test with the same headline (and different images) are pooled. The heuristic reward does not predict clicks: of
two headlines of one test it prefers the one with more clicks in 50 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyray.config.text_tasks import HeadlinesSpec
from polyray.data.headlines import (
    HeadlinePackage,
    click_log_odds,
    packages_by_test,
    read_headline_tests,
    story_keys,
    story_texts,
)
from polyray.data.sources import data_path
from polyray.tasks.text_quality import QualityProfile
from polyray.tasks.text_task import RatedText, SourceRow, TextTask


class Headlines(TextTask):
    """Headlines of stories; see the module docstring."""

    name = "headlines"
    profiles: Mapping[str, QualityProfile] = {
        "": QualityProfile(
            length_band=(0, 8, 19, 40),
            enough_shared_words=2,
            relevance_weight=0.7,
            vocabulary_weight=0.3,
            ending_weight=0.0,
        )
    }
    instructions: Mapping[str, str] = {
        "": (
            "Write the headline of the story below for a website. One line that makes people want to read the story "
            "and promises nothing it does not have. Write nothing but the headline.\n\n{source}"
        )
    }

    def __init__(self, spec: HeadlinesSpec, device: str = "cpu") -> None:
        super().__init__(spec, device)

    def read(self, path: str, key: str) -> list[SourceRow]:
        """One row per test, in the order of the file."""
        found = read_headline_tests(data_path(self.name, path, key=key), key=key)
        self.count_left_out("packages of weeks with faulty randomisation", found.num_dropped)
        tests = packages_by_test(found.packages)
        rows = [
            SourceRow(test_id, source, _headlines(tests[test_id]), story_keys(tests[test_id]))
            for test_id, source in story_texts(tests).items()
        ]
        self.count_left_out("tests without a text about the story", len(tests) - len(rows))
        return rows


def _headlines(packages: Sequence[HeadlinePackage]) -> tuple[RatedText, ...]:
    """Different headlines of one test with the log-odds over all their packages."""
    shown: dict[str, tuple[int, int]] = {}
    for package in packages:
        clicks, impressions = shown.get(package.headline.strip(), (0, 0))
        shown[package.headline.strip()] = (clicks + package.clicks, impressions + package.impressions)
    return tuple(
        RatedText(headline, click_log_odds(clicks, impressions))
        for headline, (clicks, impressions) in shown.items()
    )
