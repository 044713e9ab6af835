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
from polyray.shelf.preferences.engagement import EngagementRecord
from polyray.shelf.preferences.reward_evaluation.held_out import HeldOut, read_held_out
from polyray.shelf.preferences.reward_evaluation.score_store import ScoreStore
from polyray.shelf.preferences.reward_evaluation.scorers import BLANK, build_scorer
from polyray.shelf.preferences.reward_evaluation.seen import check_unseen, seen_by_models
from tests.unit.shelf.preferences.reward_evaluation.planted import records, write_records
from tests.unit.shelf.preferences.reward_model.stand_ins import save_engagement_model


def record(number: int, text: str, engagement: float, part: Any, prompt: int = 0) -> EngagementRecord:
    return EngagementRecord(
        record_id=f"{part}-{prompt}-{number}",
        prompt="Which?",
        completion=text,
        engagement=engagement,
        prompt_id=f"{part}-{prompt}",
        cluster_id=f"{part}-{prompt}",
        part=part,
    )


def held_out(tmp_path: Path, rows: list[EngagementRecord], **spec: Any) -> HeldOut:
    path = write_records(tmp_path / "records.jsonl", rows)
    return read_held_out(ValidationDataSpec(path=str(path), **spec), seed=0)


def opposite_parts(tmp_path: Path) -> HeldOut:
    """Longer is better on train and validation, shorter on test."""
    rows = []
    for part, sign in (("train", 1), ("validation", 1), ("test", -1)):
        for prompt in range(6):
            rows += [record(n, "ab " * n, sign * n, part, prompt) for n in (2, 5, 9)]
    return held_out(tmp_path, rows)


def accuracy(data: HeldOut, spec: Any) -> float:
    texts = data.validated
    scores = build_scorer("it", spec, data, seed=0).scores(texts.prompts, texts.completions)
    return float(pair_hits(scores[texts.pairs.better_M], scores[texts.pairs.worse_M]).mean())


def test_the_direction_of_length_is_never_learnt_on_the_test_part(tmp_path: Path) -> None:
    data = opposite_parts(tmp_path)
    assert accuracy(data, LengthScorerSpec()) == 0.0
    assert accuracy(data, LengthScorerSpec(shape="curve")) == 0.0
    assert accuracy(data, LengthScorerSpec(direction="lower")) == 1.0
    assert accuracy(data, LengthScorerSpec(direction="higher", unit="words")) == 0.0
    assert "right about 100.0% of 36 pairs" in build_scorer("length", LengthScorerSpec(), data, 0).note


def test_a_curve_learns_a_best_length(tmp_path: Path) -> None:
    """Ten words win against shorter and longer ones, which no direction can say."""
    rows = []
    for part in ("train", "test"):
        for prompt in range(30):
            lengths = [3 + prompt % 3, 10 + prompt % 2, 20 + prompt % 4]
            rows += [
                record(n, "ab " * length, float(n == 1), part, prompt) for n, length in enumerate(lengths)
            ]
    data = held_out(tmp_path, rows)
    assert accuracy(data, LengthScorerSpec()) == 0.5
    assert accuracy(data, LengthScorerSpec(shape="curve")) == 1.0


def test_the_language_model_is_trained_on_train_and_turned_on_validation(tmp_path: Path) -> None:
    rows = [record(0, "the cat sat on the mat today", 0.0, "train", 99)]
    for part, sign in (("train", 1), ("validation", -1), ("test", -1)):
        for prompt in range(60):
            rows.append(record(1, f"the cat sat on the mat {prompt}", sign, part, prompt))
            rows.append(record(2, f"zebra {prompt} quantum ladder {prompt} violet", 0.0, part, prompt))
    data = held_out(
        tmp_path, [row for row in rows if not (row.part == "train" and "zebra" in row.completion)]
    )
    assert data.train is not None and not len(data.train.pairs)
    assert accuracy(data, LogprobScorerSpec(model=NgramSpec(order=2))) == 1.0
    assert accuracy(data, LogprobScorerSpec(direction="higher")) == 0.0


def test_chance_is_deterministic_and_near_one_half(tmp_path: Path) -> None:
    data = held_out(tmp_path, records(600, 0.5))
    assert accuracy(data, RandomScorerSpec()) == accuracy(data, RandomScorerSpec())
    assert accuracy(data, RandomScorerSpec()) == pytest.approx(0.5, abs=0.06)


def test_the_heuristic_of_a_task(tmp_path: Path) -> None:
    from polyray.tasks import build_task
    from polyray.types import Prompt

    data = held_out(tmp_path, records(8, 1.0))
    spec = TaskScorerSpec(task=HeadlinesSpec())
    found = build_scorer("h", spec, data, 0).scores(["A cat was found."], ["The Cat Nobody Lost."])
    assert found.tolist() == [
        build_task(spec.task).reward(Prompt("", "A cat was found."), "The Cat Nobody Lost.")
    ]
    assert found[0] > 0.3


def test_without_a_part_to_fit_on_a_direction_must_be_given(tmp_path: Path) -> None:
    data = held_out(tmp_path, [row for row in records(40, 1.0) if row.part == "test"])
    assert data.fit == []
    for spec in (LengthScorerSpec(), LengthScorerSpec(shape="curve"), LogprobScorerSpec()):
        with pytest.raises(ConfigError, match=r"it: .*part"):
            build_scorer("it", spec, data, 0)
    build_scorer("it", LengthScorerSpec(direction="higher"), data, 0)


def test_a_file_without_parts_gives_a_fifth_of_its_clusters(tmp_path: Path) -> None:
    data = held_out(tmp_path, records(50, 1.0, parts=False))
    assert data.train is not None and len(set(data.train.clusters_N)) == 10
    assert not set(data.train.clusters_N) & set(data.validated.clusters_N)
    assert len(data.validated) + len(data.train) == 200


def test_equal_texts_are_no_pair(tmp_path: Path) -> None:
    rows = [record(n, "same" if n < 2 else "other", float(n), "test", p) for p in range(2) for n in range(3)]
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


def test_the_store_asks_once_for_each_text(tmp_path: Path) -> None:
    scorer = Counted()
    store = ScoreStore(tmp_path, scorer, lambda *_: None)
    assert store.scores(["p", "p", "q"], ["a", "a", "abc"]).tolist() == [1.0, 1.0, 3.0]
    assert sorted(scorer.asked) == ["a", "abc"], "equal texts are scored once"
    again = ScoreStore(tmp_path, scorer, lambda *_: None)
    assert again.path.name == "a_b_c-ffffffffffff.jsonl"
    assert again.scores(["p", "q", "q"], ["a", "abc", "\ud800"]).tolist() == [1.0, 3.0, 1.0]
    assert scorer.asked[2:] == ["\ud800"], "lone surrogates have an identity, too"


@pytest.mark.parametrize("answer", [np.array([1.0]), np.array([1.0, np.inf]), np.array([["1", "x"]])])
def test_nonsense_from_a_scorer_is_an_error(tmp_path: Path, answer: np.ndarray) -> None:
    with pytest.raises(RewardError, match="scorer 'a b/c'"):
        ScoreStore(tmp_path, Counted(answer), lambda *_: None).scores(["p", "p"], ["a", "b"])


def test_unscored_stays_unscored_on_disk(tmp_path: Path) -> None:
    ScoreStore(tmp_path, Counted(np.array([np.nan, 2.0])), lambda *_: None).scores(["p", "p"], ["a", "b"])
    found = ScoreStore(tmp_path, Counted(), lambda *_: None).scores(["p", "p"], ["a", "b"])
    assert np.isnan(found[0]) and found[1] == 2.0


def test_an_engagement_model_is_asked_for_its_log_odds(tmp_path: Path) -> None:
    from polyray.models.text_encoder import embed_texts

    data = held_out(tmp_path, records(8, 1.0))
    path = save_engagement_model(tmp_path / "model", ["c1", "c3"])
    scorer = build_scorer("m", EngagementScorerSpec(path=str(path)), data, 0)
    assert scorer.log_odds
    texts = ["A cat sat.", "Birds over grey roofs."]
    expected = embed_texts("packaged", texts)[:, 0] * 4.0 / 0.5
    found = scorer.scores(["Who?"] * 3, [*texts, " \n"])
    assert found[:2] == pytest.approx(expected, abs=1e-5)
    assert found[2] == BLANK, "as the reward, which gives a blank completion 0"


def test_training_clusters_of_a_model_are_never_validated(tmp_path: Path) -> None:
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
