"""Labels of machines in a configuration."""

from __future__ import annotations

import pytest

from polyray.config.learner import LearnerSpec
from polyray.config.node_labels import matches
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
def test_invalid_label_is_named(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r" label\b"):
        RolloutSpec(node_labels=labels)


def test_a_list_of_values_may_have_spaces() -> None:
    assert RolloutSpec(node_labels={"zone": "in(a, b)"}).node_labels == {"zone": "in(a,b)"}


@pytest.mark.parametrize(
    ("conditions", "labels", "met"),
    [
        ({}, {}, True),
        ({"kind": "H100"}, {"kind": "H100", "rack": "7"}, True),
        ({"kind": "H100"}, {"kind": "H200"}, False),
        ({"kind": "H100"}, {}, False),
        ({"kind": "in(H100,H200)"}, {"kind": "H200"}, True),
        ({"kind": "!in(H100,H200)"}, {"kind": "H200"}, False),
        ({"capacity": "!spot"}, {"capacity": "spot"}, False),
        ({"capacity": "!spot"}, {"capacity": "reserved"}, True),
        ({"capacity": "!spot"}, {}, True),
        ({"kind": "H100", "capacity": "!spot"}, {"kind": "H100", "capacity": "spot"}, False),
    ],
)
def test_which_machines_conditions_allow(
    conditions: dict[str, str], labels: dict[str, str], met: bool
) -> None:
    assert matches(conditions, labels) is met
