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


@pytest.mark.parametrize(
    ("texts", "changes", "message"),
    [
        (["b"], {"model_path": "roberta-large"}, "roberta-large"),
        (["b"], {"num_layers": 0}, r"num_layers=0.*\b1\b"),
        (["b", "c"], {}, r"\b1\b.*\b2\b"),
        (["b"], {}, r"bert-score==0\.3\.13"),
    ],
)
def test_unusable_arguments_and_missing_package_are_named(
    model_path, monkeypatch, texts, changes, message
) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises((ConfigError, DataError, ResourceError), match=message):
        bert_score(["a"], texts, **{"model_path": model_path, "num_layers": 2, **changes})


def test_bert_score_hands_over_model_layer_and_texts_in_order(model_path, monkeypatch) -> None:
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
    assert found.precision.tolist() == [0.5, 0.25] and found.recall.tolist() == [1.0, 0.5]
    assert found.f1.tolist() == [0.75, 0.125]
