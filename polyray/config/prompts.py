"""Prompt templates for a model that was not trained for a task: configs/prompts/, and arms that name one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import FilePath


class PromptTemplate(StrictModel):
    """One way of asking: a system message, instructions, worked examples. configs/prompts/NAME.yaml."""

    name: str = Field(min_length=1)
    system: str | None = Field(default=None, description="a system message (chat), or the first line (text)")
    before: str = Field(default="", description="put before the prompt, after the examples")
    after: str = Field(default="", description="put behind the prompt")
    shots: int = Field(default=0, ge=0, description="worked examples from the task's training part")
    answers: int | None = Field(
        default=None,
        ge=2,
        description="answers that the words ask for in one completion, as a numbered list; they become the samples "
        "of the prompt, so it must be evaluation.num_samples",
    )
    separator: str = Field(default="\n\n", description="between examples, where the prompt is plain text")

    @model_validator(mode="after")
    def _says_something(self) -> PromptTemplate:
        if self.name != "zero_shot" and not (self.system or self.before or self.after or self.shots):
            raise ValueError(
                f"name={self.name!r}: the template changes nothing; set system, before, after or shots, or use "
                "zero_shot"
            )
        return self


class ArmSpec(StrictModel):
    """One model of a comparison: which adapter, and how it is asked."""

    adapter: FilePath | None = Field(
        default=None, description="adapter directory; null is the base model itself"
    )
    prompt: FilePath | None = Field(
        default=None,
        description="a template file, e.g. configs/prompts/few_shot.yaml; null: the task's own prompt",
    )


def _long_form(value: Any) -> Any:
    return {"adapter": value} if value is None or isinstance(value, str) else value


ShortArm = Annotated[ArmSpec, BeforeValidator(_long_form)]
"""An ArmSpec, or an adapter directory (or null, the base) in its place."""
