"""Tasks about texts that nothing can verify: replies, headlines, stories. Part of the union in task.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import BuiltinOrPath, FilePath, NameOrPath

UNIGRAM_CLASS_THRESHOLD = 0.458
EMBEDDING_CLASS_THRESHOLD = 0.8
"""Different human replies to one post are rarely closer (1 in 100), reworded headlines of one story are."""


class TextTaskSpec(StrictModel):
    """Keys of tasks without a verifier: data, splits, and equality of two texts."""

    path: BuiltinOrPath = Field(
        default="builtin", description="builtin: a dozen prompts of polyray's own; or a file"
    )
    test_path: FilePath | None = Field(
        default=None, description="the held-out prompts; null: the share `test_share` of `path`"
    )
    test_share: float = Field(default=0.2, gt=0, lt=1, description="share of the clusters that is held out")
    validation_share: float = Field(
        default=0.2, gt=0, lt=1, description="share of the clusters for validation"
    )
    split_seed: int = Field(default=0, ge=0, description="seed of the split")
    mode: Literal["chat", "completion"] = Field(
        default="chat", description="a chat message, or plain text for a model without a chat template"
    )
    instruction: str | None = Field(
        default=None, description="instruction to the model; {source} becomes the post, story or prompt"
    )
    max_source_words: int = Field(default=300, ge=1, description="a longer source is cut and ends in [...]")
    max_demonstrations: int = Field(
        default=4, ge=1, description="texts to learn from per prompt, those with the most engagement"
    )
    max_demonstration_words: int | None = Field(
        default=None, ge=1, description="longer human texts are neither demonstrations nor references"
    )
    classes: Literal["unigram", "embedding"] = Field(
        default="unigram",
        description="when two texts are one class: common words (NoveltyBench's rule), or meaning; distances, too",
    )
    encoder: NameOrPath = Field(
        default="packaged",
        description="of classes=embedding: a sentence-transformers directory or hub name, or packaged (MiniLM)",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description=f"same class above it: ROUGE-1 F ({UNIGRAM_CLASS_THRESHOLD}) or cosine "
        f"({EMBEDDING_CLASS_THRESHOLD})",
    )

    @property
    def class_threshold(self) -> float:
        """The threshold in force."""
        if self.threshold is not None:
            return self.threshold
        return UNIGRAM_CLASS_THRESHOLD if self.classes == "unigram" else EMBEDDING_CLASS_THRESHOLD

    @model_validator(mode="after")
    def _consistent(self) -> TextTaskSpec:
        if self.instruction is not None and self.instruction.count("{source}") != 1:
            raise ValueError(
                f"instruction={self.instruction!r} must name {{source}} once, for the post, story or prompt"
            )
        if self.test_path is None and self.test_share + self.validation_share >= 1:
            raise ValueError(
                f"test_share={self.test_share} and validation_share={self.validation_share} leave nothing to train "
                "on; together they must stay below 1"
            )
        return self


class SocialRepliesSpec(TextTaskSpec):
    """Reply to a post. `path`: an export as CSV or JSON Lines, or Stack Exchange threads."""

    type: Literal["social_replies"] = "social_replies"
    max_demonstration_words: int | None = Field(
        default=120, ge=1, description="longer human replies are neither demonstrations nor references"
    )
    kind: Literal["any", "answer", "comment"] = Field(
        default="any", description="of Stack Exchange threads: which replies count"
    )
    min_engagement: float | None = Field(
        default=None, description="replies with less are neither demonstrations nor references"
    )


class HeadlinesSpec(TextTaskSpec):
    """Write the headline of a story. `path`: headline tests as the Upworthy Research Archive has them."""

    type: Literal["headlines"] = "headlines"


class CreativeWritingSpec(TextTaskSpec):
    """Write a story, or what a prompt asks for. `path`: HANNA, NoveltyBench, ROCStories or your own."""

    type: Literal["creative_writing"] = "creative_writing"
