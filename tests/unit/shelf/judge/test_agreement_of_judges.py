"""Agreement with another judge and with people, against values from the literature, scipy, or by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from polyray.config.judge import JudgeMode
from polyray.errors import DataError
from polyray.shelf.judge import Intervals, agreement, human_correlation
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


def pairs(verdicts: Sequence[str], wit: str = "a") -> list[Judgement]:
    return [
        row(
            str(number),
            "pairwise",
            {"verdict": verdict, "criteria": {"wit": wit}, "orders": [], "flipped": False},
        )
        for number, verdict in enumerate(verdicts)
    ]


def rubric(number: int, scores: dict[str, int], quality: float = 0.0, task: str = "") -> Judgement:
    return row(str(number), "rubric", {"scores": scores, "quality": quality}, task=task)


def test_verdicts_of_two_judges() -> None:
    # 20 of a/a, 5 a/b, 10 b/a, 15 b/b: the textbook table with kappa 0.4
    first = pairs("a" * 25 + "b" * 25)
    second = pairs("a" * 20 + "b" * 5 + "a" * 10 + "b" * 15)
    found = agreement(first, second)
    assert (found["n_items"], found["n_unjudged"], found["n_unmatched"]) == (50, 0, 0)
    assert found["values"]["verdict"]["share"] == 0.7
    assert found["values"]["verdict"]["cohens_kappa"] == pytest.approx(0.4)
    assert found["values"]["wit"] == {"share": 1.0, "cohens_kappa": None, "krippendorff_alpha": None}


def test_agreement_counts_only_items_judged_by_both() -> None:
    first = [*pairs("aab"), row("9", "pairwise", {}, reason="no answer: x"), *pairs("a" * 20)[10:12]]
    second = [*pairs("ab"), row("2", "pairwise", {}, reason="no answer: x"), *pairs("a" * 20)[9:10]]
    found = agreement(first, second)
    assert (found["n_items"], found["n_unjudged"], found["n_unmatched"]) == (2, 2, 2)
    assert found["values"]["verdict"]["share"] == 0.5


def test_rubrics_and_strategies() -> None:
    ratings_a, ratings_b = [1, 2, 3, 3, 2, 1, 4, 1, 2], [1, 2, 3, 3, 2, 2, 4, 1, 2]
    first = [rubric(number, {"wit": score}) for number, score in enumerate(ratings_a)]
    second = [rubric(number, {"wit": score}) for number, score in enumerate(ratings_b)]
    found = agreement(first, second)["values"]["wit"]
    assert found["share"] == pytest.approx(8 / 9)
    # Expected by chance: 3 x 2 (ones) + 3 x 4 (twos) + 2 x 2 (threes) + 1 (fours) of 81
    assert found["cohens_kappa"] == pytest.approx((8 / 9 - 23 / 81) / (1 - 23 / 81))
    assert 0.9 < found["krippendorff_alpha"] < 1.0
    same = agreement(
        [row("c", "cluster", {"classes": [0, 0, 1]})], [row("c", "cluster", {"classes": [0, 1, 1]})]
    )  # of the three pairs of candidates they agree on one
    assert same["values"]["same_strategy"]["share"] == pytest.approx(1 / 3)


def test_judgements_without_common_items_or_modes_are_refused() -> None:
    with pytest.raises(DataError, match="1 and 1 items, 0 "):
        agreement(pairs("a"), [row("other", "pairwise", {})])
    with pytest.raises(DataError, match=r"\(pairwise, rubric\)"):
        agreement(pairs("a"), [rubric(0, {"wit": 1})])


def test_correlation_with_people_overall_and_within_prompts() -> None:
    generator = np.random.default_rng(0)
    rows, ratings = [], {}
    for prompt in range(12):
        for story in range(5):
            number = prompt * 5 + story
            wit, depth = (int(value) for value in generator.integers(1, 6, size=2))
            rows.append(rubric(number, {"wit": wit, "depth": depth}, (wit + depth - 2) / 8, f"t{prompt}"))
            ratings[str(number)] = {"wit": wit + generator.normal(), "depth": float(generator.normal())}
    found = human_correlation(rows, ratings, Intervals(200, 0.9, 1))
    judge = np.array([row.result["scores"]["wit"] for row in rows])
    human = np.array([ratings[row.item_id]["wit"] for row in rows])
    assert found["wit"]["spearman"] == pytest.approx(spearman(judge, human))
    assert found["wit"]["kendall"] == pytest.approx(kendall(judge, human))
    within = [spearman(judge[i : i + 5], human[i : i + 5]) for i in range(0, 60, 5)]
    assert found["wit"]["spearman_within"] == pytest.approx(np.mean(within))
    low, high = found["wit"]["spearman_interval"]
    assert low < found["wit"]["spearman"] < high
    assert abs(found["depth"]["spearman"]) < 0.35 < found["wit"]["spearman"]
    assert set(found) == {"wit", "depth", "quality"}
    mean = np.mean([list(ratings[row.item_id].values()) for row in rows], axis=1)
    expected = spearman([row.result["quality"] for row in rows], mean)
    assert found["quality"]["spearman"] == pytest.approx(expected)


def test_one_text_per_prompt_has_no_correlation_within() -> None:
    rows = [rubric(number, {"wit": number % 3}, number % 3) for number in range(6)]
    found = human_correlation(rows, {str(n): {"wit": n % 3} for n in range(6)}, Intervals(50))
    assert found["wit"]["spearman"] == pytest.approx(1.0)
    assert found["wit"]["spearman_within"] is None


def test_ratings_of_other_texts_are_an_error() -> None:
    rows = [rubric(number, {"wit": 1}) for number in range(3)]
    with pytest.raises(DataError, match="0 judged texts"):
        human_correlation(rows, {"x": {"wit": 1.0}})
    with pytest.raises(DataError, match="0 criteria"):
        human_correlation(rows, {str(number): {"depth": 1.0} for number in range(3)})


def test_hannas_ratings_agree_with_themselves() -> None:
    from polyray.config.judge import HANNA_CRITERIA
    from polyray.shelf.judge.from_samples import read_rated_texts

    texts = read_rated_texts(shared_data("creative/writingprompts_hanna.jsonl.gz"))
    assert len(texts) == 96
    assert all(tuple(text.ratings) == HANNA_CRITERIA for text in texts)
    assert len({text.item.item_id for text in texts}) == 96
    assert texts[0].item.item_id == "hanna-000|rated/Human:0"
    assert texts[0].item.candidate.text.startswith("3,000 years have I been fighting.")
    rounded = {
        text.item.item_id: {name: round(value) for name, value in text.ratings.items()} for text in texts
    }
    rows = [
        row(
            text.item.item_id,
            "rubric",
            {"scores": rounded[text.item.item_id], "quality": 0.5},
            task=text.item.task_id,
        )
        for text in texts
    ]
    ratings = {text.item.item_id: text.ratings for text in texts}
    found = human_correlation(rows, ratings, Intervals(100, 0.95, 0))
    # Whole numbers instead of thirds keep the order up to ties.
    assert all(found[name]["spearman"] > 0.85 for name in HANNA_CRITERIA)
