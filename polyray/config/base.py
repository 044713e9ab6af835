"""The base of every configuration model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Frozen, unknown keys refused, defaults validated like values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def as_json(model: BaseModel) -> dict[str, Any]:
    """The fully resolved configuration as plain JSON values, in declaration order."""
    return model.model_dump(mode="json")


def default_type(name: str) -> Callable[[Any], Any]:
    """A before-validator for unions on `type`: a mapping without one means `name`.

    So an override like reward.service.port=0 works on a file that never mentions the reward.
    """

    def with_type(value: Any) -> Any:
        return {"type": name, **value} if isinstance(value, dict) else value

    return with_type
