"""Sample every model on the same prompts with the same seeds, score, write the files of an evaluation.

    requests --sample(name, adapter_dir, requests)--> Group --score(prompt, texts)--> samples.jsonl
                                                              --> results.jsonl, metrics.json (scoring.py)

Where the engines are is the caller's business (`jobs.evaluate` passes a Ray pool, tests a function). Sample i
of a prompt has the same seed for every model, so models are compared on common random numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyray.config.evaluation import EvaluationSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError
from polyray.evaluation.per_prompt import PASS_THRESHOLD
from polyray.evaluation.records import ResultRecord, SampleRecord, as_line, write_lines, written_whole
from polyray.evaluation.scoring import score_samples
from polyray.observability.atomic import atomic_write_json
from polyray.rollout.seeds import sample_seed
from polyray.types import Group, GroupRequest, Prompt

Sample = Callable[[str, str | None, Sequence[GroupRequest]], Iterable[Group]]
"""(model name, adapter directory or None for the base, requests) -> their groups, in any order."""
Score = Callable[[Prompt, Sequence[str]], tuple[Sequence[float], Sequence[int]]]
"""(prompt, texts) -> rewards (NaN = unscored) and classes, one each per text."""
Progress = Callable[[str, int, int], None]
"""(model name, groups done, groups in all), after every group."""


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """Where an evaluation lies.

    Example:
        EvaluationFiles(Path("runs/eval/evaluation")).samples  # runs/eval/evaluation/samples.jsonl
    """

    directory: Path

    @property
    def samples(self) -> Path:
        """Every sample, one a line."""
        return self.directory / "samples.jsonl"

    @property
    def results(self) -> Path:
        """How each sample was judged."""
        return self.directory / "results.jsonl"

    @property
    def metrics(self) -> Path:
        """Values, intervals, comparisons."""
        return self.directory / "metrics.json"


def evaluation_requests(
    prompts: Sequence[Prompt], spec: EvaluationSpec, rollout_spec: RolloutSpec, seed: int
) -> list[GroupRequest]:
    """One request per prompt (the first `spec.num_prompts`); no training group shares their seeds."""
    return [
        GroupRequest(
            group_id=number,
            prompt=prompt,
            seeds=tuple(
                sample_seed(seed, f"evaluation/{prompt.prompt_id}", index)
                for index in range(spec.num_samples)
            ),
            max_completion_tokens=rollout_spec.max_completion_tokens,
            temperature=rollout_spec.temperature,
        )
        for number, prompt in enumerate(prompts[: spec.num_prompts])
    ]


def evaluate_models(
    adapters: Mapping[str, str | None],
    requests: Sequence[GroupRequest],
    *,
    sample: Sample,
    score: Score,
    files: EvaluationFiles,
    spec: EvaluationSpec,
    seed: int,
    domain: str,
    baseline: str | None = None,
    pass_threshold: float = PASS_THRESHOLD,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Samples and scores every model, writes the three files and returns the contents of metrics.json.

    Records are streamed to samples.jsonl in the order of `adapters` and `requests`, whatever order groups
    arrive in; the file takes its name when all models are done. Raises RolloutError where a model's groups do
    not all arrive.
    """
    records: list[SampleRecord] = []
    with written_whole(files.samples) as file:
        for name, adapter_dir in adapters.items():
            groups = sample(name, adapter_dir, requests)
            arrived = _in_request_order(name, requests, groups, progress)
            for request, group in arrived:
                rewards, classes = score(group.prompt, [completion.text for completion in group.completions])
                scored = _records(name, request, group, rewards, classes, domain, is_base=adapter_dir is None)
                file.writelines(map(as_line, scored))
                records.extend(scored)
    write_lines(files.results, (judge(record, pass_threshold) for record in records))
    metrics = score_samples(records, spec, seed=seed, baseline=baseline, pass_threshold=pass_threshold)
    atomic_write_json(files.metrics, metrics)
    return metrics


def judge(record: SampleRecord, pass_threshold: float = PASS_THRESHOLD) -> ResultRecord:
    """The verdict on a sample of which only the reward is known: nothing was executed."""
    passed = record.reward >= pass_threshold
    unscored = record.reward != record.reward
    return ResultRecord(
        task_id=record.task_id,
        sample_index=record.sample_index,
        model=record.model,
        passed=passed,
        verdict="unscored" if unscored else "passed" if passed else "failed",
        message="truncated" if record.finish_reason == "length" else "",
    )


def prompt_sha256(prompt: Prompt) -> str:
    """A hash of what the policy reads: the text, or all messages of a chat prompt."""
    content = prompt.text if prompt.messages is None else [dict(message) for message in prompt.messages]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _in_request_order(
    name: str, requests: Sequence[GroupRequest], groups: Iterable[Group], progress: Progress | None
) -> Iterator[tuple[GroupRequest, Group]]:
    """Releases groups in the order of their requests; those that arrive early wait."""
    waiting: dict[int, Group] = {}
    released = 0
    for done, group in enumerate(groups, 1):
        waiting[group.group_id] = group
        if progress is not None:
            progress(name, done, len(requests))
        while released < len(requests) and requests[released].group_id in waiting:
            yield requests[released], waiting.pop(requests[released].group_id)
            released += 1
    if released < len(requests):
        missing = requests[released].prompt.prompt_id
        raise RolloutError(
            f"{name}: sampling ended with {len(requests) - released} of {len(requests)} groups missing, the "
            f"first is {missing}; see the rollout workers' logs"
        )


def _records(
    name: str,
    request: GroupRequest,
    group: Group,
    rewards: Sequence[float],
    classes: Sequence[int],
    domain: str,
    *,
    is_base: bool,
) -> list[SampleRecord]:
    prompt_hash = prompt_sha256(group.prompt)
    return [
        SampleRecord(
            task_id=group.prompt.prompt_id,
            completion=completion.text,
            sample_index=index,
            domain=domain,
            model=name,
            policy_version=group.policy.version,
            adapter_sha256=None if is_base else group.policy.sha256,
            sampling={
                "temperature": request.temperature,
                "top_p": 1.0,
                "seed": completion.seed,
                "max_tokens": request.max_completion_tokens,
            },
            finish_reason=completion.finish_reason,
            prompt_sha256=prompt_hash,
            reward=float(reward),
            class_id=int(class_),
            num_tokens=len(completion.token_ids),
            logprob=float(completion.rollout_logprobs.sum(dtype="float64")),
            cluster_id=group.prompt.cluster_id,
            prompt=group.prompt.text,
        )
        for index, (completion, reward, class_) in enumerate(
            zip(group.completions, rewards, classes, strict=True)
        )
    ]
