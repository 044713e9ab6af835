"""Labels of machines in a configuration."""

from __future__ import annotations

import pytest

from polyray.config.node_labels import matches
from polyray.config.rollout import RolloutSpec


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"ray.io/accelerator-type": "H200"}, {"ray.io/accelerator-type": "H200"}),
        (
            {"polyray.io/capacity": "!spot", "zone": "in(a, b)"},
            {"polyray.io/capacity": "!spot", "zone": "in(a,b)"},
        ),
    ],
)
def test_label_is_taken_without_spaces(written: dict[str, str], meant: dict[str, str]) -> None:
    assert RolloutSpec(node_labels=written).node_labels == meant


@pytest.mark.parametrize("labels", [{"": "x"}, {"two words": "x"}, {"a/b/c": "x"}, {"zone": " "}])
def test_invalid_label_is_refused(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r" label\b"):
        RolloutSpec(node_labels=labels)


@pytest.mark.parametrize(
    ("conditions", "labels", "met"),
    [
        ({}, {}, True),
        ({"kind": "H100"}, {"kind": "H100", "rack": "7"}, True),
        ({"kind": "H100"}, {}, False),
        ({"kind": "in(H100,H200)"}, {"kind": "H200"}, True),
        ({"kind": "!in(H100,H200)"}, {"kind": "H200"}, False),
        ({"capacity": "!spot"}, {"capacity": "spot"}, False),
        ({"capacity": "!spot"}, {}, True),
        ({"kind": "H100", "capacity": "!spot"}, {"kind": "H100", "capacity": "spot"}, False),
    ],
)
def test_node_matches_when_every_condition_holds(
    conditions: dict[str, str], labels: dict[str, str], met: bool
) -> None:
    assert matches(conditions, labels) is met
