"""BERTScore's wrapper: it names what is missing, fetches nothing, and hands over model and layer."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from polyray.errors import ConfigError, DataError, ResourceError
from polyray.evaluation.bertscore import bert_score


@pytest.fixture
def model_path(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_the_missing_package_is_named_with_the_fix(model_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(ResourceError, match=r"bert-score==0\.3\.13"):
        bert_score(["a"], ["b"], model_path=model_path, num_layers=2)


def test_model_and_layer_are_asked_for(model_path) -> None:
    with pytest.raises(ConfigError, match="roberta-large"):
        bert_score(["a"], ["b"], model_path="roberta-large", num_layers=17)
    with pytest.raises(ConfigError, match=r"num_layers=0.*\b1\b"):
        bert_score(["a"], ["b"], model_path=model_path, num_layers=0)
    with pytest.raises(DataError, match=r"\b2\b.*\b1\b"):
        bert_score(["a", "b"], ["b"], model_path=model_path, num_layers=2)


def test_scores_come_back_in_order(model_path, monkeypatch) -> None:
    asked = {}

    class BERTScorer:
        def __init__(self, **options) -> None:
            asked.update(options)

        def score(self, candidates, references):
            assert (candidates, references) == (["a", "b"], ["c", "d"])
            return torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.5]), torch.tensor([0.75, 0.125])

    package = ModuleType("bert_score")
    package.BERTScorer = BERTScorer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "bert_score", package)
    found = bert_score(("a", "b"), ("c", "d"), model_path=model_path, num_layers=3)
    assert (asked["model_type"], asked["num_layers"]) == (str(model_path), 3)
    assert [column.tolist() for column in (found.precision, found.recall, found.f1)] == [
        [0.5, 0.25],
        [1.0, 0.5],
        [0.75, 0.125],
    ]
