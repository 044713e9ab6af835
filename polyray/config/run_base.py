"""Fields of every job's file: name, place, seed, Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from polyray.config.base import StrictModel
from polyray.config.cost import PriceTableSpec
from polyray.config.paths import FilePath, base_dir


def _safe_name(value: str) -> str:
    if not value or not all(char.isalnum() or char in "-_." for char in value) or value.startswith("."):
        raise ValueError(
            f"name={value!r} must consist of letters, digits, '-', '_' and '.' (it becomes a folder)"
        )
    return value


RunName = Annotated[str, AfterValidator(_safe_name)]


class RaySpec(StrictModel):
    """The Ray a job starts, or joins where RAY_ADDRESS is set."""

    num_cpus: int = Field(
        default=8, ge=1, description="logical CPUs of a local Ray; more than the machine has is fine"
    )
    object_store_mib: int = Field(
        default=200, ge=80, description="memory of Ray's object store, of a local Ray"
    )
    dashboard: bool = Field(default=True, description="whether a local Ray starts its dashboard")


class RunBase(StrictModel):
    """Keys of every run: a name, a place, a seed, Ray."""

    name: RunName = Field(description="name of the run")
    runs_dir: FilePath = Field(default="runs", description="directory of all run directories")
    seed: int = Field(default=0, ge=0, description="seed of everything random in the run")
    ray: RaySpec = RaySpec()
    prices: PriceTableSpec | None = Field(
        default=None, description="prices of a core hour and a GPU hour, for cost.json; null: no money"
    )
    logging: Literal["text", "json"] = Field(
        default="text",
        description="json: one object a line with run, step, version, worker; POLYRAY_LOGGING goes before it",
    )
    base_dir: FilePath = Field(
        default_factory=base_dir,
        description="directory of relative paths here; default: the directory in which the command is run",
    )

    @property
    def run_dir(self) -> Path:
        """Directory of all files of this run."""
        return Path(self.runs_dir) / self.name
