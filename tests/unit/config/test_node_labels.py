"""Labels of machines in a configuration."""

from __future__ import annotations

import pytest

from polyray.config.learner import LearnerSpec
from polyray.config.rollout import RolloutSpec


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"ray.io/accelerator-type": "H200"},
        {"polyray.io/capacity": "!spot", "zone": "in(a,b)"},
    ],
)
def test_labels_are_taken_as_they_are(labels: dict[str, str]) -> None:
    assert (
        RolloutSpec(node_labels=labels).node_labels == LearnerSpec(node_labels=labels).node_labels == labels
    )


@pytest.mark.parametrize("labels", [{"": "x"}, {"two words": "x"}, {"a/b/c": "x"}, {"zone": " "}])
def test_what_is_no_label_is_named(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"is no label; write e\.g\."):
        RolloutSpec(node_labels=labels)


def test_a_list_of_values_may_have_spaces() -> None:
    assert RolloutSpec(node_labels={"zone": "in(a, b)"}).node_labels == {"zone": "in(a,b)"}
