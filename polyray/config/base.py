"""The base of every configuration model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Frozen, unknown keys refused, defaults validated like values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def as_json(model: BaseModel) -> dict[str, Any]:
    """The fully resolved configuration as plain JSON values, in declaration order."""
    return model.model_dump(mode="json")
