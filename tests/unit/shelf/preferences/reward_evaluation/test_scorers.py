"""Baselines, the part they learn from, and the store of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.config.reward_validation import (
    EngagementScorerSpec,
    LengthScorerSpec,
    LogprobScorerSpec,
    NgramSpec,
    RandomScorerSpec,
    RewardValidationConfig,
    TaskScorerSpec,
    ValidationDataSpec,
)
from polyray.config.text_tasks import HeadlinesSpec
from polyray.errors import ConfigError, DataError, RewardError
from polyray.metrics.pairwise import pair_hits
from polyray.models.text_encoder import embed_texts
from polyray.shelf.preferences.engagement import EngagementRecord
from polyray.shelf.preferences.reward_evaluation.held_out import HeldOut, read_held_out
from polyray.shelf.preferences.reward_evaluation.score_store import ScoreStore
from polyray.shelf.preferences.reward_evaluation.scorers import BLANK, build_scorer
from polyray.shelf.preferences.reward_evaluation.seen import check_unseen, seen_by_models
from polyray.tasks import build_task
from polyray.types import Prompt
from tests.unit.shelf.preferences.reward_evaluation.planted import records, write_records
from tests.unit.shelf.preferences.reward_model.stand_ins import save_engagement_model


def record(number: int, text: str, engagement: float, part: str, prompt: int = 0) -> EngagementRecord:
    values = {"record_id": f"{part}-{prompt}-{number}", "prompt": "Which?", "completion": text, "part": part}
    own = f"{part}-{prompt}"
    return EngagementRecord.model_validate(
        {**values, "engagement": engagement, "prompt_id": own, "cluster_id": own}
    )


def held_out(tmp_path: Path, rows: list[EngagementRecord]) -> HeldOut:
    path = write_records(tmp_path / "records.jsonl", rows)
    return read_held_out(ValidationDataSpec(path=str(path)), seed=0)


def accuracy(data: HeldOut, spec: Any) -> float:
    texts = data.validated
    scores = build_scorer("it", spec, data, seed=0).scores(texts.prompts, texts.completions)
    return float(pair_hits(scores[texts.pairs.better_M], scores[texts.pairs.worse_M]).mean())


def test_length_scorer_never_learns_its_direction_on_the_test_part(tmp_path: Path) -> None:
    """Longer is better on train and validation, shorter on test."""
    rows = [
        record(n, "ab " * n, sign * n, part, prompt)
        for part, sign in (("train", 1), ("validation", 1), ("test", -1))
        for prompt in range(6)
        for n in (2, 5, 9)
    ]
    data = held_out(tmp_path, rows)
    for spec in ({}, {"shape": "curve"}, {"direction": "higher", "unit": "words"}):
        assert accuracy(data, LengthScorerSpec.model_validate(spec)) == 0.0
    assert accuracy(data, LengthScorerSpec(direction="lower")) == 1.0
    assert "right about 100.0% of 36 pairs" in build_scorer("length", LengthScorerSpec(), data, 0).note


def test_length_scorer_of_a_curve_learns_a_best_length(tmp_path: Path) -> None:
    """Ten words win against shorter and longer ones, which no direction can say."""
    rows = [
        record(n, "ab " * length, float(n == 1), part, prompt)
        for part in ("train", "test")
        for prompt in range(30)
        for n, length in enumerate((3 + prompt % 3, 10 + prompt % 2, 20 + prompt % 4))
    ]
    data = held_out(tmp_path, rows)
    assert accuracy(data, LengthScorerSpec()) == 0.5
    assert accuracy(data, LengthScorerSpec(shape="curve")) == 1.0


def test_logprob_scorer_trains_on_train_and_learns_its_sign_on_validation(tmp_path: Path) -> None:
    rows = [record(0, "the cat sat on the mat today", 0.0, "train", 99)]
    for part, sign in (("train", 1), ("validation", -1), ("test", -1)):
        for prompt in range(60):
            rows.append(record(1, f"the cat sat on the mat {prompt}", sign, part, prompt))
            if part != "train":
                rows.append(record(2, f"zebra {prompt} quantum ladder {prompt} violet", 0.0, part, prompt))
    data = held_out(tmp_path, rows)
    assert data.train is not None and not len(data.train.pairs)
    assert accuracy(data, LogprobScorerSpec(model=NgramSpec(order=2))) == 1.0
    assert accuracy(data, LogprobScorerSpec(direction="higher")) == 0.0


def test_random_scorer_is_deterministic_and_near_one_half(tmp_path: Path) -> None:
    data = held_out(tmp_path, records(600, 0.5))
    assert accuracy(data, RandomScorerSpec()) == accuracy(data, RandomScorerSpec())
    assert accuracy(data, RandomScorerSpec()) == pytest.approx(0.5, abs=0.06)


def test_task_scorer_has_the_heuristic_of_the_task(tmp_path: Path) -> None:
    spec = TaskScorerSpec(task=HeadlinesSpec())
    scorer = build_scorer("h", spec, held_out(tmp_path, records(8, 1.0)), 0)
    (found,) = scorer.scores(["A cat was found."], ["The Cat Nobody Lost."])
    expected = build_task(spec.task).reward(Prompt("", "A cat was found."), "The Cat Nobody Lost.")
    assert found == expected > 0.3


def test_scorer_without_a_part_to_fit_on_needs_a_direction(tmp_path: Path) -> None:
    data = held_out(tmp_path, [row for row in records(40, 1.0) if row.part == "test"])
    assert data.fit == []
    for spec in (LengthScorerSpec(), LengthScorerSpec(shape="curve"), LogprobScorerSpec()):
        with pytest.raises(ConfigError, match=r"it: .*part"):
            build_scorer("it", spec, data, 0)
    build_scorer("it", LengthScorerSpec(direction="higher"), data, 0)


def test_held_out_divides_clusters_and_skips_equal_texts(tmp_path: Path) -> None:
    data = held_out(tmp_path, records(50, 1.0, parts=False))
    assert data.train is not None and len(set(data.train.clusters_N)) == 10
    assert not set(data.train.clusters_N) & set(data.validated.clusters_N)
    assert len(data.validated) + len(data.train) == 200
    texts = ("same", "same", "other")
    rows = [record(n, text, float(n), "test", p) for p in range(2) for n, text in enumerate(texts)]
    assert len(held_out(tmp_path, rows).validated.pairs) == 4


class Counted:
    """A scorer that remembers its calls."""

    name, version, log_odds, note = "a b/c", "f" * 64, True, ""

    def __init__(self, answer: Any = None) -> None:
        self.asked: list[str] = []
        self._answer = answer

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        self.asked += completions
        return np.array([float(len(text)) for text in completions]) if self._answer is None else self._answer


def stored(folder: Path, scorer: Counted) -> ScoreStore:
    return ScoreStore(folder, scorer, lambda *_: None)


def test_score_store_asks_once_for_each_text(tmp_path: Path) -> None:
    scorer = Counted()
    assert stored(tmp_path, scorer).scores(["p", "p", "q"], ["a", "a", "abc"]).tolist() == [1.0, 1.0, 3.0]
    assert sorted(scorer.asked) == ["a", "abc"]
    again = stored(tmp_path, scorer)
    assert again.path.name == "a_b_c-ffffffffffff.jsonl"
    assert again.scores(["p", "q", "q"], ["a", "abc", "\ud800"]).tolist() == [1.0, 3.0, 1.0]
    assert scorer.asked[2:] == ["\ud800"]


@pytest.mark.parametrize("answer", [np.array([1.0]), np.array([1.0, np.inf]), np.array([["1", "x"]])])
def test_score_store_refuses_nonsense_of_a_scorer(tmp_path: Path, answer: np.ndarray) -> None:
    with pytest.raises(RewardError, match="scorer 'a b/c'"):
        stored(tmp_path, Counted(answer)).scores(["p", "p"], ["a", "b"])


def test_score_store_keeps_unscored_texts_unscored(tmp_path: Path) -> None:
    stored(tmp_path, Counted(np.array([np.nan, 2.0]))).scores(["p", "p"], ["a", "b"])
    found = stored(tmp_path, Counted()).scores(["p", "p"], ["a", "b"])
    assert np.isnan(found[0]) and found[1] == 2.0


def test_engagement_scorer_gives_log_odds(tmp_path: Path) -> None:
    data = held_out(tmp_path, records(8, 1.0))
    path = save_engagement_model(tmp_path / "model", ["c1", "c3"])
    scorer = build_scorer("m", EngagementScorerSpec(path=str(path)), data, 0)
    assert scorer.log_odds
    texts = ["A cat sat.", "Birds over grey roofs."]
    expected = embed_texts("packaged", texts)[:, 0] * 4.0 / 0.5
    found = scorer.scores(["Who?"] * 3, [*texts, " \n"])
    assert found[:2] == pytest.approx(expected, abs=1e-5)
    assert found[2] == BLANK, "as the reward, which gives a blank completion 0"


def test_held_out_never_validates_training_clusters_of_a_model(tmp_path: Path) -> None:
    write_records(tmp_path / "parts.jsonl", records(8, 1.0))
    write_records(tmp_path / "whole.jsonl", records(8, 1.0, parts=False))
    path = save_engagement_model(tmp_path / "model", ["c1", "c4", "c5"])
    spec = EngagementScorerSpec(path=str(path))
    config = RewardValidationConfig(
        name="x", data=ValidationDataSpec(path=str(tmp_path / "parts.jsonl")), models={"m": spec}
    )
    seen = seen_by_models(config.scorers.values())
    assert [name for name in ("c0", "c1", "c4") if seen(name)] == ["c1", "c4"]
    with pytest.raises(ConfigError, match=r"m .* 1 of the clusters .*'c4'"):
        check_unseen(config, read_held_out(config.data, 0, seen))
    whole = read_held_out(ValidationDataSpec(path=str(tmp_path / "whole.jsonl")), 0, seen)
    assert whole.train is not None and set(whole.train.clusters_N) == {"c1", "c4", "c5"}
    assert set(whole.validated.clusters_N) == {"c0", "c2", "c3", "c6", "c7"}
    assert whole.part.startswith("clusters that no model was trained on")
    check_unseen(config, whole)
    with pytest.raises(DataError, match="8 clusters"):
        read_held_out(ValidationDataSpec(path=str(tmp_path / "whole.jsonl")), 0, lambda cluster: True)
