"""Prices of cores and GPUs, in every job's file. The judge has its own (judge.py)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from polyray.config.base import StrictModel


def _price(description: str) -> Any:
    return Field(default=None, ge=0, allow_inf_nan=False, description=description)


class PriceTableSpec(StrictModel):
    """Prices by resource. A resource without a price is not in the money of cost.json.

    Example:
        PriceTableSpec(currency="EUR", core_hour=0.02, gpu_hour=2.10)
    """

    currency: str = Field(
        default="USD", pattern=r"^[A-Z]{3}$", description="currency of all prices here, e.g. USD, EUR"
    )
    core_hour: float | None = _price("one logical CPU, held for an hour; null: not priced")
    gpu_hour: float | None = _price("one GPU, held for an hour; null: not priced")

    @model_validator(mode="after")
    def _prices_something(self) -> PriceTableSpec:
        if self.core_hour is None and self.gpu_hour is None:
            raise ValueError(
                f"prices in {self.currency} name no price; give core_hour or gpu_hour, or leave prices out"
            )
        return self
