from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np
import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.errors import DataError
from polyray.evaluation.sample_source import SampleList
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.shelf.research.evaluated.outcomes import ALL, EVEN, ODD, read_outcomes
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, records_of

MODELS = {
    "A": [[5, WRONG, 5, 6], [WRONG, WRONG, WRONG, 7]],
    "B": [[WRONG, 5, 5, 5], [WRONG, 8, WRONG, WRONG]],
}
METRICS = {
    "models": {"A": {"pass_at_k": {"1": {"value": 0.5}}}, "B": {"pass_at_k": {"1": {"value": 0.5}}}},
    "pass_threshold": 0.999,
}


def test_outcomes_are_arrays_with_halves_that_share_no_sample() -> None:
    records = records_of(MODELS, clusters=("c", "d"), prompts=("one", "three3"))
    found = read_outcomes(SampleList(records), METRICS)
    a = found["A"]
    assert a.task_ids == found["B"].task_ids == ("p0", "p1") and a.clusters == ("c", "d")
    assert a.passed_PN.tolist() == [[True, False, True, True], [False, False, False, True]]
    assert a.classes_PN.tolist() == MODELS["A"]
    assert a.tokens_PN.tolist() == [[10] * 4, [20] * 4] and a.prompt_chars_P.tolist() == [3, 6]
    assert [a.num_correct(half).tolist() for half in (EVEN, ODD, ALL)] == [[2, 0], [1, 1], [3, 1]]
    assert (a.num_taken(EVEN), a.num_taken(ODD), a.num_taken()) == (2, 2, 4)


@pytest.mark.parametrize(
    ("unscored", "expected"),
    [
        # A kept sample never moves from the odd ones to the even ones: sample 2 takes the place of 0.
        ({0}, [[WRONG, 5], [WRONG, 8]]),
        ({1}, [[WRONG, 5, 5], [WRONG, WRONG, WRONG]]),
        ({0, 2}, [[WRONG], [8]]),  # no two halves: one sample
    ],
)
def test_outcomes_without_unscored_samples_keep_halves_apart(
    unscored: set[int], expected: list[list[int]]
) -> None:
    """Samples of B for p1 are unscored."""
    records = [
        replace(record, reward=nan)
        if (record.model, record.task_id) == ("B", "p1") and record.sample_index in unscored
        else record
        for record in records_of(MODELS)
    ]
    metrics = score_samples(records, EvaluationSpec(num_samples=4, ks=(1, 2)), ScoringContext(seed=0))
    found = read_outcomes(SampleList(records), metrics)
    assert found["B"].classes_PN.tolist() == expected
    assert np.array_equal(found["A"].classes_PN, np.array(MODELS["A"])[:, : len(expected[0])])


def test_outcomes_of_another_evaluation_are_refused() -> None:
    other = {**METRICS, "models": {"A": {"pass_at_k": {"1": {"value": 0.6}}}}}
    with pytest.raises(DataError, match=r"pass@1 of A .*0\.500000 .*samples\.jsonl .*0\.600000"):
        read_outcomes(SampleList(records_of(MODELS)), other)
    with pytest.raises(DataError, match="samples of C"):
        read_outcomes(SampleList(records_of(MODELS)), {"models": {"C": {}}})
    fewer = records_of({"A": MODELS["A"], "B": MODELS["B"][:1]})
    with pytest.raises(DataError, match=r"B .*A .*prompts"):
        read_outcomes(SampleList(fewer), METRICS)
