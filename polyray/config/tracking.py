"""Trackers beside metrics.jsonl: where else a run's metrics are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from polyray.config.base import StrictModel
from polyray.config.paths import UrlOrPath


class TensorBoardSpec(StrictModel):
    """Event files in runs/NAME/tracking/tensorboard."""

    type: Literal["tensorboard"] = "tensorboard"


class WandbSpec(StrictModel):
    """Weights & Biases; the key comes from the environment (WANDB_API_KEY) or from `wandb login`."""

    type: Literal["wandb"] = "wandb"
    project: str = Field(default="polyray", description="project of the tracker")
    entity: str | None = Field(default=None, description="a user or a team; null: the key's own")
    group: str | None = Field(default=None, description="e.g. the runs of one comparison")
    tags: tuple[str, ...] = Field(default=(), description="tags of the tracker's run")
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline: into runs/NAME/tracking, for `wandb sync`"
    )


class MlflowSpec(StrictModel):
    """MLflow; credentials come from the environment (MLFLOW_TRACKING_USERNAME, ..._PASSWORD, ..._TOKEN)."""

    type: Literal["mlflow"] = "mlflow"
    tracking_uri: UrlOrPath | None = Field(
        default=None,
        description="e.g. http://HOST:5000 or sqlite:////PATH; null: sqlite in runs/NAME/tracking",
    )
    experiment: str = Field(default="polyray", description="experiment of the tracker")

    @field_validator("tracking_uri")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "tracking_uri holds a user or a password, which config.json would show; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        return value


TrackerSpec = Annotated[TensorBoardSpec | WandbSpec | MlflowSpec, Field(discriminator="type")]


def as_one_experiment(spec: TrackerSpec, name: str, directory: Path) -> TrackerSpec:
    """The tracker of one of several runs that belong together: what the file leaves open is their common name and
    place. TensorBoard shows them together from the folder that holds their run directories."""
    if isinstance(spec, WandbSpec):
        return spec.model_copy(update={"group": spec.group or name})
    if isinstance(spec, MlflowSpec):
        given = spec.model_fields_set
        local = f"sqlite:///{(directory / 'mlflow.db').resolve()}"
        return spec.model_copy(
            update={
                "experiment": spec.experiment if "experiment" in given else name,
                "tracking_uri": spec.tracking_uri or local,
            }
        )
    return spec
