"""Placement of a part of a run on machines of a cluster, by the labels that Ray has of its nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", re.ASCII)
"""Syntax of a label's name, as in Kubernetes: a domain before the slash, if any, then a name."""
LIST = re.compile(r"in\((.*)\)")
"""A condition that several values meet."""


def _names(labels: dict[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not NAME.fullmatch(name) or not value.strip():
            raise ValueError(
                f"{name!r}: {value!r} is not a label; write e.g. ray.io/accelerator-type: H200, or "
                "polyray.io/capacity: spot for nodes that were started with that"
            )
    # To Ray a space would belong to the value after it.
    return {name: "".join(value.split()) for name, value in labels.items()}


def matches(conditions: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a machine with `labels` is one that the conditions allow; one without a label is not of any value."""
    return all(_holds(condition, labels.get(name)) for name, condition in conditions.items())


def _holds(condition: str, value: str | None) -> bool:
    if condition.startswith("!"):
        return not _holds(condition[1:], value)
    listed = LIST.fullmatch(condition)
    return value in (listed[1].split(",") if listed is not None else [condition])


NodeLabels = Annotated[
    dict[str, str],
    AfterValidator(_names),
    Field(
        description="of the machines it may run on, e.g. {ray.io/accelerator-type: H200}; a value may also be "
        "!spot or in(H100, H200); empty: any",
    ),
]
"""Label -> value, or a condition as Ray's label selectors have them."""
