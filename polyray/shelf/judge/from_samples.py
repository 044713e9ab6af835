"""From the samples of an evaluation, or texts that people have rated, to the items of a judge.

Which samples: the first `per_prompt` of every prompt by sample index, the same for all models. Called by
polyray judge.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyray.config.judge import MAX_CLUSTER_CANDIDATES
from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList
from polyray.shelf.judge.items import Candidate, ClusterItem, PairItem, RubricItem

ByModel = Mapping[str, Mapping[str, Sequence[SampleRecord]]]
"""model -> task_id -> samples in order of their index."""


@dataclass(frozen=True, slots=True)
class RatedText:
    """A text with the mean of its human ratings.

    Example:
        RatedText(RubricItem("hanna-000|Human:0", ...), ratings={"relevance": 3.67, "coherence": 4.0})
    """

    item: RubricItem
    ratings: Mapping[str, float]


def select_samples(
    records: Sequence[SampleRecord], models: Sequence[str] | None, num_prompts: int | None
) -> dict[str, dict[str, list[SampleRecord]]]:
    """The samples of `models` on the first `num_prompts` prompts, in the first model's order of prompts.

    Raises DataError for a model that has no samples, for models that were not asked the same prompts, and for
    samples without their prompt.
    """
    source = SampleList(records)
    grouped = {
        model: {task_id: source.group(model, task_id) for task_id in source.task_ids(model)}
        for model in source.models
    }
    names = list(grouped) if models is None else list(models)
    absent = [name for name in names if name not in grouped]
    if absent:
        raise DataError(f"there are no samples of {absent[0]!r}; the file holds {', '.join(grouped)}")
    prompts = list(grouped[names[0]])
    for name in names[1:]:
        different = sorted(grouped[name].keys() ^ set(prompts))
        if different:
            raise DataError(
                f"{name} and {names[0]} were not asked the same prompts: {len(different)} differ, the first is "
                f"{different[0]}; judge samples of one evaluation"
            )
    chosen = {name: {task_id: grouped[name][task_id] for task_id in prompts[:num_prompts]} for name in names}
    for samples in chosen[names[0]].values():
        if not samples[0].prompt:
            raise DataError(
                f"the samples of {samples[0].task_id} have no `prompt`; a judge must see what was asked"
            )
    return chosen


def pair_items(chosen: ByModel, baseline: str, per_prompt: int = 1) -> Iterator[PairItem]:
    """Every other model against the baseline: sample i of the one with sample i of the other."""
    if baseline not in chosen:
        raise DataError(f"compare_to={baseline!r} is none of the models: {', '.join(chosen)}")
    if len(chosen) < 2:
        raise DataError(f"pairs need two models, the samples are of {baseline} alone; add one, or use rubric")
    for model in chosen:
        if model == baseline:
            continue
        for task_id, samples in chosen[model].items():
            others = _first(chosen[baseline][task_id], per_prompt)
            for one, other in zip(_first(samples, per_prompt), others, strict=True):
                yield PairItem(
                    item_id=f"{task_id}|{model}:{one.sample_index}|{baseline}:{other.sample_index}",
                    task_id=task_id,
                    prompt=one.prompt,
                    cluster_id=one.cluster,
                    first=_candidate(one),
                    second=_candidate(other),
                )


def rubric_items(chosen: ByModel, per_prompt: int = 1) -> Iterator[RubricItem]:
    """The first samples of every model and prompt."""
    for model, prompts in chosen.items():
        for task_id, samples in prompts.items():
            for sample in _first(samples, per_prompt):
                item_id = f"{task_id}|{model}:{sample.sample_index}"
                yield RubricItem(item_id, task_id, sample.prompt, sample.cluster, _candidate(sample))


def cluster_items(chosen: ByModel, per_prompt: int | None = None) -> Iterator[ClusterItem]:
    """One item per model and prompt with its first samples, all of them by default."""
    for model, prompts in chosen.items():
        for task_id, samples in prompts.items():
            members = _first(samples, per_prompt or len(samples))
            if len(members) > MAX_CLUSTER_CANDIDATES:
                raise DataError(
                    f"{task_id} has {len(members)} samples of {model}; one call groups at most "
                    f"{MAX_CLUSTER_CANDIDATES}: set samples_per_prompt"
                )
            yield ClusterItem(
                item_id=f"{task_id}|{model}",
                task_id=task_id,
                prompt=members[0].prompt,
                cluster_id=members[0].cluster,
                members=tuple(_candidate(sample) for sample in members),
            )


def read_rated_texts(path: Path) -> list[RatedText]:
    """The stories with `human_ratings_mean` of a JSONL file (.gz or plain) of {id, prompt, stories}.

    That is the form of HANNA's stories and ratings (Chhun et al. 2022). Raises DataError naming the line.
    """
    if not path.is_file():
        raise DataError(f"no rated texts at {path}; give a JSONL file of {{id, prompt, stories}}")
    found: list[RatedText] = []
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found.extend(_rated(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path}:{number} is not a prompt with stories ({type(error).__name__}: {error}); its form is "
                    '{"id", "prompt", "stories": [{"model", "text", "human_ratings_mean": {CRITERION: NUMBER}}]}'
                ) from None
    if not found:
        raise DataError(f"{path} holds no story with human_ratings_mean; at least one is needed")
    return found


def _rated(row: Mapping[str, object]) -> Iterator[RatedText]:
    task_id, prompt, stories = str(row["id"]), str(row["prompt"]), row["stories"]
    if not isinstance(stories, list):
        raise TypeError("stories is not a list")
    for index, story in enumerate(stories):
        ratings = story.get("human_ratings_mean")
        if ratings is None:
            continue
        model = f"rated/{story['model']}"
        candidate = Candidate(story["text"], model, index)
        item = RubricItem(f"{task_id}|{model}:{index}", task_id, prompt, task_id, candidate)
        yield RatedText(item, {name: float(value) for name, value in ratings.items()})


def _first(samples: Sequence[SampleRecord], count: int) -> Sequence[SampleRecord]:
    if len(samples) < count:
        raise DataError(
            f"{samples[0].task_id} has {len(samples)} samples of {samples[0].model}, fewer than "
            f"samples_per_prompt={count}; lower it, or sample more"
        )
    return samples[:count]


def _candidate(sample: SampleRecord) -> Candidate:
    return Candidate(sample.completion, sample.model, sample.sample_index)
