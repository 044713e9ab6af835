"""Agreement with another judge and with people, against values from the literature, scipy, or by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from polyray.config.judge import HANNA_CRITERIA, JudgeMode
from polyray.errors import DataError
from polyray.shelf.judge import Intervals, agreement, human_correlation
from polyray.shelf.judge.from_samples import read_rated_texts
from polyray.shelf.judge.items import Judgement, Usage
from tests.data_sets import shared_data


def spearman(a: Any, b: Any) -> float:
    return float(cast(Any, stats.spearmanr(a, b)).statistic)


def kendall(a: Any, b: Any) -> float:
    return float(cast(Any, stats.kendalltau(a, b)).statistic)


def row(
    item: str, mode: JudgeMode, result: dict[str, Any], reason: str | None = None, task: str = ""
) -> Judgement:
    return Judgement(
        item_id=item, mode=mode, task_id=task or item, cluster_id=task or item, models=("m",), samples=(0,),
        status="judged" if reason is None else "unjudged", reason=reason, result=result, usage=Usage(),
        requests=(), judge="j",
    )  # fmt: skip


def pairs(verdicts: Sequence[str], start: int = 0) -> list[Judgement]:
    result = {"criteria": {"wit": "a"}, "orders": [], "flipped": False}
    return [
        row(str(at), "pairwise", {"verdict": verdict, **result}) for at, verdict in enumerate(verdicts, start)
    ]


def rubric(number: int, scores: dict[str, int], quality: float = 0.0, task: str = "") -> Judgement:
    return row(str(number), "rubric", {"scores": scores, "quality": quality}, task=task)


def test_agreement_on_verdicts_matches_the_textbook() -> None:
    # 20 of a/a, 5 a/b, 10 b/a, 15 b/b: the textbook table with kappa 0.4
    first = pairs("a" * 25 + "b" * 25)
    second = pairs("a" * 20 + "b" * 5 + "a" * 10 + "b" * 15)
    found = agreement(first, second)
    assert (found["n_items"], found["n_unjudged"], found["n_unmatched"]) == (50, 0, 0)
    assert found["values"]["verdict"]["share"] == 0.7
    assert found["values"]["verdict"]["cohens_kappa"] == pytest.approx(0.4)
    assert found["values"]["wit"] == {"share": 1.0, "cohens_kappa": None, "krippendorff_alpha": None}


def test_agreement_counts_only_items_judged_by_both() -> None:
    first = [*pairs("aab"), row("9", "pairwise", {}, reason="no answer: x"), *pairs("aa", 10)]
    second = [*pairs("ab"), row("2", "pairwise", {}, reason="no answer: x"), *pairs("a", 9)]
    found = agreement(first, second)
    assert (found["n_items"], found["n_unjudged"], found["n_unmatched"]) == (2, 2, 2)
    assert found["values"]["verdict"]["share"] == 0.5
    with pytest.raises(DataError, match="1 and 1 items, 0 "):
        agreement(pairs("a"), [row("other", "pairwise", {})])
    with pytest.raises(DataError, match=r"\(pairwise, rubric\)"):
        agreement(pairs("a"), [rubric(0, {"wit": 1})])


def test_agreement_on_rubrics_and_strategies_matches_hand_computation() -> None:
    ratings = ([1, 2, 3, 3, 2, 1, 4, 1, 2], [1, 2, 3, 3, 2, 2, 4, 1, 2])
    first, second = ([rubric(at, {"wit": score}) for at, score in enumerate(scores)] for scores in ratings)
    found = agreement(first, second)["values"]["wit"]
    assert found["share"] == pytest.approx(8 / 9)
    # Expected by chance: 3 x 2 (ones) + 3 x 4 (twos) + 2 x 2 (threes) + 1 (fours) of 81
    assert found["cohens_kappa"] == pytest.approx((8 / 9 - 23 / 81) / (1 - 23 / 81))
    assert 0.9 < found["krippendorff_alpha"] < 1.0
    one, other = ([row("c", "cluster", {"classes": classes})] for classes in ([0, 0, 1], [0, 1, 1]))
    values = agreement(one, other)["values"]  # of the three pairs of candidates they agree on one
    assert values["same_strategy"]["share"] == pytest.approx(1 / 3)


def test_human_correlation_matches_scipy_overall_and_within_prompts() -> None:
    generator = np.random.default_rng(0)
    rows, ratings = [], {}
    for number in range(60):
        wit, depth = (int(value) for value in generator.integers(1, 6, size=2))
        rows.append(rubric(number, {"wit": wit, "depth": depth}, (wit + depth - 2) / 8, f"t{number // 5}"))
        ratings[str(number)] = {"wit": wit + generator.normal(), "depth": float(generator.normal())}
    found = human_correlation(rows, ratings, Intervals(200, 0.9, 1))
    judge = np.array([row.result["scores"]["wit"] for row in rows])
    human = np.array([ratings[row.item_id]["wit"] for row in rows])
    within = [spearman(judge[i : i + 5], human[i : i + 5]) for i in range(0, 60, 5)]
    wit, depth = found["wit"], found["depth"]
    values = [wit[name] for name in ("spearman", "kendall", "spearman_within")]
    assert values == pytest.approx([spearman(judge, human), kendall(judge, human), np.mean(within)])
    low, high = wit["spearman_interval"]
    assert low < wit["spearman"] < high
    assert abs(depth["spearman"]) < 0.35 < wit["spearman"]
    assert set(found) == {"wit", "depth", "quality"}
    mean = np.mean([list(ratings[row.item_id].values()) for row in rows], axis=1)
    expected = spearman([row.result["quality"] for row in rows], mean)
    assert found["quality"]["spearman"] == pytest.approx(expected)


def test_human_correlation_needs_common_texts_and_criteria() -> None:
    rows = [rubric(number, {"wit": number % 3}, number % 3) for number in range(6)]
    found = human_correlation(rows, {str(n): {"wit": n % 3} for n in range(6)}, Intervals(50))
    assert found["wit"]["spearman"] == pytest.approx(1.0)
    assert found["wit"]["spearman_within"] is None, "one text per prompt"
    with pytest.raises(DataError, match="0 judged texts"):
        human_correlation(rows, {"x": {"wit": 1.0}})
    with pytest.raises(DataError, match="0 criteria"):
        human_correlation(rows, {str(number): {"depth": 1.0} for number in range(6)})


def test_human_correlation_of_rounded_hanna_ratings_is_high() -> None:
    texts = read_rated_texts(shared_data("creative/writingprompts_hanna.jsonl.gz"))
    assert len({text.item.item_id for text in texts}) == len(texts) == 96
    assert all(tuple(text.ratings) == HANNA_CRITERIA for text in texts)
    assert texts[0].item.item_id == "hanna-000|rated/Human:0"
    assert texts[0].item.candidate.text.startswith("3,000 years have I been fighting.")
    rows = []
    for text in texts:
        scores = {name: round(value) for name, value in text.ratings.items()}
        rows.append(
            row(text.item.item_id, "rubric", {"scores": scores, "quality": 0.5}, task=text.item.task_id)
        )
    found = human_correlation(rows, {t.item.item_id: t.ratings for t in texts}, Intervals(100, 0.95, 0))
    # Whole numbers instead of thirds keep the order up to ties.
    assert all(found[name]["spearman"] > 0.85 for name in HANNA_CRITERIA)
