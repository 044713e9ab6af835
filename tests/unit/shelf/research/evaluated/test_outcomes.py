from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np
import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.shelf.research.evaluated.outcomes import ALL, EVEN, ODD, read_outcomes
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, records_of

MODELS = {
    "A": [[5, WRONG, 5, 6], [WRONG, WRONG, WRONG, 7]],
    "B": [[WRONG, 5, 5, 5], [WRONG, 8, WRONG, WRONG]],
}
METRICS = {
    "models": {
        "A": {"pass_at_k": {"1": {"value": 0.5}}},
        "B": {"pass_at_k": {"1": {"value": 0.5}}},
    },
    "pass_threshold": 0.999,
}


def test_samples_become_arrays_in_the_order_of_the_first_model() -> None:
    records = records_of(MODELS, clusters=("c", "d"), prompts=("one", "three3"))
    found = read_outcomes(SampleList(records), METRICS)
    a = found["A"]
    assert a.task_ids == found["B"].task_ids == ("p0", "p1") and a.clusters == ("c", "d")
    assert a.passed_PN.tolist() == [[True, False, True, True], [False, False, False, True]]
    assert a.classes_PN.tolist() == MODELS["A"]
    assert a.tokens_PN.tolist() == [[10] * 4, [20] * 4] and a.prompt_chars_P.tolist() == [3, 6]


def test_halves_share_no_sample() -> None:
    a = read_outcomes(SampleList(records_of(MODELS)), METRICS)["A"]
    assert a.num_correct(EVEN).tolist() == [2, 0] and a.num_correct(ODD).tolist() == [1, 1]
    assert (a.num_correct(EVEN) + a.num_correct(ODD)).tolist() == a.num_correct(ALL).tolist() == [3, 1]
    assert (a.num_taken(EVEN), a.num_taken(ODD), a.num_taken()) == (2, 2, 4)


def without_scores(*unscored: tuple[str, str, int]) -> list[SampleRecord]:
    return [
        replace(record, reward=nan)
        if (record.model, record.task_id, record.sample_index) in unscored
        else record
        for record in records_of(MODELS)
    ]


def test_outcomes_of_unscored_samples_keep_halves_apart_by_index() -> None:
    """B's sample 0 of p1 is unscored: its sample 2 takes the place, and no odd one moves among the even ones."""
    records = without_scores(("B", "p1", 0))
    metrics = score_samples(records, EvaluationSpec(num_samples=4, ks=(1, 2)), ScoringContext(seed=0))
    found = read_outcomes(SampleList(records), metrics)
    assert {model.num_samples for model in found.values()} == {2}
    assert found["B"].classes_PN.tolist() == [[WRONG, 5], [WRONG, 8]]
    assert np.array_equal(found["A"].classes_PN, np.array(MODELS["A"])[:, :2])

    records = without_scores(("B", "p1", 1))
    metrics = score_samples(records, EvaluationSpec(num_samples=4, ks=(1, 2)), ScoringContext(seed=0))
    found = read_outcomes(SampleList(records), metrics)
    assert found["B"].classes_PN.tolist() == [[WRONG, 5, 5], [WRONG, WRONG, WRONG]]
    assert np.array_equal(found["A"].classes_PN, np.array(MODELS["A"])[:, :3])


def test_outcomes_without_two_halves_have_one_sample() -> None:
    records = without_scores(("B", "p1", 0), ("B", "p1", 2))
    metrics = score_samples(records, EvaluationSpec(num_samples=4, ks=(1, 2)), ScoringContext(seed=0))
    found = read_outcomes(SampleList(records), metrics)
    assert found["A"].classes_PN.tolist() == [[5], [WRONG]]
    assert found["B"].classes_PN.tolist() == [[WRONG], [8]]


def test_samples_of_another_evaluation_are_refused() -> None:
    other = {**METRICS, "models": {"A": {"pass_at_k": {"1": {"value": 0.6}}}}}
    with pytest.raises(DataError, match=r"pass@1 of A .*0\.500000 .*samples\.jsonl .*0\.600000"):
        read_outcomes(SampleList(records_of(MODELS)), other)
    with pytest.raises(DataError, match="samples of C"):
        read_outcomes(SampleList(records_of(MODELS)), {"models": {"C": {}}})
    fewer = records_of({"A": MODELS["A"], "B": MODELS["B"][:1]})
    with pytest.raises(DataError, match=r"B .*A .*prompts"):
        read_outcomes(SampleList(fewer), METRICS)
