"""The prompts and completions of a finished evaluation as tokens, and the models that it compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig
from polyray.data.chat import encode_prompt
from polyray.errors import DataError
from polyray.evaluation.arms import resolve_arms
from polyray.evaluation.fingerprints import check_unchanged, model_fingerprints
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleFile
from polyray.models.base_files import resolve_model_dir
from polyray.models.tokenizer import load_tokenizer
from polyray.shelf.research.evaluated.inputs import EvaluatedRun
from polyray.shelf.research.mechanistic.policies import Row
from polyray.tasks import build_task
from polyray.types import Prompt


@dataclass(frozen=True, slots=True)
class Sampled:
    """Answers of one model to one prompt.

    Example:
        Sampled(rows=(Row(...), Row(...)), classes=(4711, None))
    """

    rows: tuple[Row, ...]
    classes: tuple[int | None, ...]
    """Class of each answer; None: it is wrong."""


@dataclass(frozen=True, slots=True)
class Material:
    """Inputs of the analysis.

    Example:
        Material(model_dir=Path("base"), adapters={"warm start": Path("a"), "drgrpo": Path("b")},
                 answers={"warm start": [Sampled(...)], "drgrpo": [Sampled(...)]})
    """

    model_dir: Path
    adapters: dict[str, Path | None]
    """None: the base itself."""
    answers: dict[str, list[Sampled]]
    """Per model, in the order of the prompts. Prompts share no cluster: each is a unit of statistics."""


def read_material(
    run: EvaluatedRun, models: Sequence[str] | None, num_prompts: int, num_samples: int
) -> Material:
    """The first `num_prompts` prompts of different clusters, `num_samples` completions of each model to each.

    Completions are read as text and made into tokens again; empty ones are left out. Raises DataError for a model
    that the evaluation does not have, and where its samples are gone; ConfigError where an adapter is not the one
    that was sampled.
    """
    names = list(models or run.models)
    unknown = [name for name in names if name not in run.models]
    if unknown:
        raise DataError(f"{run.label} has no model {unknown[0]!r}; it has {', '.join(run.models)}")
    config = build_config(EvaluateConfig, dict(run.evaluation.config), str(run.evaluation.path))
    task = build_task(config.task)
    prompts = _of_different_clusters(task.held_out_prompts(config.evaluation.num_prompts), num_prompts)
    arms = {
        arm.name: arm for arm in resolve_arms(config.adapters, prompts, task, config.seed, config.evaluation)
    }
    check_unchanged(run.samples_file.parent, model_fingerprints(config, list(arms.values())))
    model_dir = resolve_model_dir(config.model)
    tokenizer = load_tokenizer(model_dir)
    adapters = {name: arms[name].adapter_dir for name in names}
    with SampleFile(run.samples_file) as samples:
        answers = {
            name: [
                _sampled(
                    tokenizer,
                    asked,
                    _answers(samples, name, asked.prompt_id)[:num_samples],
                    run.pass_threshold,
                )
                for asked in arms[name].asked_P
            ]
            for name in names
        }
    return Material(
        model_dir, {name: None if path is None else Path(path) for name, path in adapters.items()}, answers
    )


def _of_different_clusters(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.cluster_id or prompt.prompt_id, prompt)
    return list(first.values())[:count]


def _answers(samples: SampleFile, model: str, prompt_id: str) -> list[SampleRecord]:
    if model not in samples.models or prompt_id not in samples.task_ids(model):
        raise DataError(
            f"the samples have no answer of {model!r} to {prompt_id}; evaluate again, or take fewer prompts"
        )
    return samples.group(model, prompt_id)


def _sampled(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    samples: Sequence[SampleRecord],
    pass_threshold: float,
) -> Sampled:
    prompt_ids = tuple(encode_prompt(tokenizer, prompt))
    kept = [sample for sample in samples if sample.completion]
    rows = [
        Row(prompt_ids, tuple(tokenizer.encode(sample.completion, add_special_tokens=False)))
        for sample in kept
    ]
    classes = [sample.class_id if sample.reward >= pass_threshold else None for sample in kept]
    return Sampled(tuple(rows), tuple(classes))
