"""The file of polyray curate data: where records come from, what is kept, how it is divided."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import BuiltinOrPath, FilePath, NameOrPath
from polyray.config.run_base import RunBase

EXPORT_FIELDS = (
    "prompt", "completion", "engagement", "impressions", "created_at", "author_hash", "thread_id", "record_id",
    "kind", "url", "licence",
)  # fmt: skip
"""Fields that a column of a user's own file can hold."""


class StackExchangeSource(StrictModel):
    """Threads of a Stack Exchange site: replies with up-votes (polyray/data/stack_exchange.py)."""

    type: Literal["stack_exchange"] = "stack_exchange"
    path: BuiltinOrPath = Field(
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
    path: BuiltinOrPath = Field(
        default="builtin", description="a file of packages, or the small set that ships with polyray"
    )
    prior: BetaPriorSpec = BetaPriorSpec(rate=0.0131, impressions=1300.0)


class TableSource(StrictModel):
    """Keys of tables of your own, in files and on the hub."""

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
            raise ValueError(f"columns: {twice[0]!r} is named for two fields; name each column once")
        return self


class ExportSource(TableSource):
    """The user's own export as JSON Lines (.gz), CSV or Parquet (polyray/data/social.py has the fields)."""

    type: Literal["export"] = "export"
    path: BuiltinOrPath = Field(
        default="builtin", description="a file, or the small set that ships with polyray"
    )


class HubSource(TableSource):
    """A data set of the Hugging Face hub, or a directory that `datasets` wrote with save_to_disk."""

    type: Literal["hub"] = "hub"
    name: NameOrPath = Field(min_length=1, description="e.g. user/replies, or a directory")
    subset: str | None = Field(default=None, description="what the hub calls the configuration")
    split: str = Field(default="train", description="split of the data set")
    revision: str | None = Field(default=None, description="a commit; without one the newest is read")
    origin: str = Field(default="hub", min_length=1, description="what the records say they come from")


class RecordsSource(StrictModel):
    """Records as polyray writes them: a file, or the directory of an earlier curation."""

    type: Literal["records"] = "records"
    path: FilePath = Field(description="a file of records, or the directory of an earlier curation")


SourceSpec = Annotated[
    StackExchangeSource | UpworthySource | ExportSource | HubSource | RecordsSource,
    Field(discriminator="type"),
]


class LanguageSpec(StrictModel):
    """Languages that stay. A text that is short, or of uncertain language, stays and is counted."""

    keep: tuple[str, ...] = Field(default=("en",), min_length=1, description="ISO 639-1 codes")


class FilterSpec(StrictModel):
    """Rules that look at one record each, in this order; null: not applied. Limits are included."""

    min_words: int | None = Field(
        default=None, ge=0, description="fewest words of the completion; letters and digits make words"
    )
    max_words: int | None = Field(default=None, ge=1, description="most words of the completion")
    max_links: int | None = Field(default=None, ge=0, description="in the completion")
    max_mentions: int | None = Field(default=None, ge=0, description="of people, as @name, in the completion")
    flagged_words: BuiltinOrPath | None = Field(
        default=None,
        description="a file with one word or phrase a line, or builtin: a small English list; whole words, any case",
    )
    language: LanguageSpec | None = None
    min_impressions: int | None = Field(
        default=None, ge=0, description="drops records without impressions, too"
    )
    min_engagement: float | None = Field(
        default=None, allow_inf_nan=False, description="on the data set's own scale"
    )

    @model_validator(mode="after")
    def _ranges(self) -> FilterSpec:
        low, high = self.min_words, self.max_words
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_words={low} is above max_words={high}, so nothing would stay; lower it")
        return self


class NearDuplicateSpec(StrictModel):
    """Texts that are almost the same: Jaccard similarity of their shingles, found with MinHash."""

    threshold: float = Field(
        default=0.8, gt=0, le=1, description="Jaccard similarity from which on texts count as one"
    )


class DuplicateSpec(StrictModel):
    """Equal and almost equal completions; the one with the most engagement stays."""

    exact: bool = Field(default=True, description="whether equal completions are duplicates")
    near: NearDuplicateSpec | None = NearDuplicateSpec()
    scope: Literal["all", "prompt"] = Field(
        default="all",
        description="prompt: only those of one prompt_id are dropped; others come into one cluster, so never into "
        "two parts",
    )


class SelectionSpec(StrictModel):
    """The best completions that differ from each other."""

    count: int = Field(ge=1, description="how many; 800 to 1,200 in the research this follows")
    min_distance: float = Field(
        default=0.3,
        ge=0,
        lt=2,
        description="from every better one that is chosen: 1 - cosine of sentence embeddings",
    )
    max_per_prompt: int | None = Field(default=2, ge=1, description="most completions of one prompt")
    encoder: NameOrPath = Field(
        default="packaged", description="a sentence-transformers directory or hub name, or packaged (MiniLM)"
    )


class PartsSpec(StrictModel):
    """Parts and phases: shares of the records, divided by cluster and balanced by engagement."""

    test_share: float = Field(default=0.1, ge=0, lt=1, description="share of the clusters that is held out")
    validation_share: float = Field(
        default=0.1, ge=0, lt=1, description="share of the clusters for validation"
    )
    sft_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the training records for phase 1 (SFT); the rest is for phase 2 (RL)",
    )

    @model_validator(mode="after")
    def _leaves_training(self) -> PartsSpec:
        if self.test_share + self.validation_share >= 1:
            raise ValueError(
                f"test_share={self.test_share} and validation_share={self.validation_share} leave nothing to train "
                "on; together they must stay below 1"
            )
        return self


class RowsSpec(StrictModel):
    """Shape of a row of sft.jsonl and rl.jsonl."""

    mode: Literal["chat", "completion"] = Field(
        default="chat", description="messages, or plain text for a model without a chat template"
    )
    instruction: str | None = Field(
        default=None,
        description="instruction to the model; {source} becomes the post or story; null: as the tasks "
        "social_replies and headlines",
    )
    max_source_words: int | None = Field(
        default=300, ge=1, description="a longer source is cut and ends in [...]"
    )

    @model_validator(mode="after")
    def _names_source(self) -> RowsSpec:
        if self.instruction is not None and self.instruction.count("{source}") != 1:
            raise ValueError(
                f"instruction={self.instruction!r} must name {{source}} once, for the post or story"
            )
        return self


class TokensSpec(StrictModel):
    """Length of the rows for a model: its chat template, without a thinking part."""

    path: NameOrPath = Field(
        description="a directory in Hugging Face format or a hub name; only its tokenizer is read"
    )
    max_tokens: int = Field(
        default=512, ge=2, description="longest prompt and completion, with the template's own tokens"
    )
    too_long: Literal["count", "drop"] = Field(
        default="count", description="whether rows that are too long are only counted, or dropped"
    )


class CurateConfig(RunBase):
    """polyray curate data: records of engagement, what is kept of them, and how it is divided."""

    source: SourceSpec = Field(description="kind and place of the records")
    filters: FilterSpec = FilterSpec()
    duplicates: DuplicateSpec = DuplicateSpec()
    select: SelectionSpec | None = None
    parts: PartsSpec = PartsSpec()
    rows: RowsSpec = RowsSpec()
    model: TokensSpec | None = None
    review: FilePath | None = Field(
        default=None, description="a review.csv with decisions; null: the run's own, where there is one"
    )
