"""The file of jobs.curate data: where records come from, what is kept, how it is divided."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel

EXPORT_FIELDS = (
    "prompt", "completion", "engagement", "impressions", "created_at", "author_hash", "thread_id", "record_id",
    "kind", "url", "licence",
)  # fmt: skip
"""What a column of a user's own file can be."""


class StackExchangeSource(StrictModel):
    """Threads of a Stack Exchange site: replies with up-votes (polyray/data/stack_exchange.py)."""

    type: Literal["stack_exchange"] = "stack_exchange"
    path: str = Field(
        default="builtin", description="a file of threads, or the small set that ships with polyray"
    )
    kind: Literal["any", "answer", "comment"] = Field(default="any", description="which replies count")


class BetaPriorSpec(StrictModel):
    """The prior of a click rate: what is believed before the first impression."""

    rate: float | None = Field(
        default=None, gt=0, lt=1, description="its mean; null: estimated from the data"
    )
    impressions: float | None = Field(
        default=None, gt=0, description="how many impressions it is worth; null: estimated from the data"
    )


class UpworthySource(StrictModel):
    """Randomised headline tests of the Upworthy Research Archive, or your own (polyray/data/headlines.py)."""

    type: Literal["upworthy"] = "upworthy"
    path: str = Field(
        default="builtin", description="a file of packages, or the small set that ships with polyray"
    )
    drop_faulty_weeks: bool = Field(
        default=True, description="leave out the weeks in which the archive's randomisation was faulty"
    )
    prior: BetaPriorSpec = BetaPriorSpec(rate=0.0131, impressions=1300.0)


class TableSource(StrictModel):
    """What the user's own rows share, wherever they lie."""

    columns: dict[str, str] = Field(
        default_factory=dict,
        description="field: column, e.g. {completion: reply_text}; columns that are not named are then left alone",
    )
    scale: Literal["auto", "count", "log_odds"] = Field(
        default="auto",
        description="of engagement: the count, or its log-odds per impression; auto: log_odds where every row has "
        "impressions",
    )
    prior: BetaPriorSpec = BetaPriorSpec()
    origin: str = Field(default="export", min_length=1, description="what the records say they come from")

    @model_validator(mode="after")
    def _known_columns(self) -> TableSource:
        unknown = sorted(set(self.columns) - set(EXPORT_FIELDS))
        if unknown:
            raise ValueError(f"columns.{unknown[0]}: no such field; known: {', '.join(EXPORT_FIELDS)}")
        columns = list(self.columns.values())
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise ValueError(f"columns: {twice[0]!r} stands for two fields; name each column once")
        return self


class ExportSource(TableSource):
    """The user's own export as JSON Lines (.gz), CSV or Parquet (polyray/data/social.py has the fields)."""

    type: Literal["export"] = "export"
    path: str = Field(default="builtin", description="a file, or the small set that ships with polyray")


class HubSource(TableSource):
    """A data set of the Hugging Face hub, or a directory that `datasets` wrote with save_to_disk."""

    type: Literal["hub"] = "hub"
    name: str = Field(min_length=1, description="e.g. user/replies, or a directory")
    subset: str | None = Field(default=None, description="what the hub calls the configuration")
    split: str = "train"
    revision: str | None = Field(default=None, description="a commit; without one the newest is read")
    origin: str = Field(default="hub", min_length=1, description="what the records say they come from")


class RecordsSource(StrictModel):
    """Records as polyray writes them: a file, or the directory of an earlier curation."""

    type: Literal["records"] = "records"
    path: str


SourceSpec = Annotated[
    StackExchangeSource | UpworthySource | ExportSource | HubSource | RecordsSource,
    Field(discriminator="type"),
]
