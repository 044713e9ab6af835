"""Sample every arm on the same prompts with the same seeds, score meanwhile, append to the files of an evaluation.

    requests --sample(arm, requests)--> Group --scorer, in threads--> samples.jsonl, results.jsonl (sample_log.py)
                                                                       --> metrics.json (scoring.py)

The caller brings the engines (`polyray evaluate` passes a Ray pool, tests a function). Sample i
of a prompt has the same seed for every arm, so arms are compared on common random numbers. The files are written
in the order of arms and prompts: neither the order in which groups arrive nor a kill changes them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from polyray.config.evaluation import EvaluationSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import DataError, RewardError, RolloutError
from polyray.evaluation.arms import Arm
from polyray.evaluation.baselines import listed_answers
from polyray.evaluation.records import ResultRecord, SampleRecord, prompt_sha256
from polyray.evaluation.sample_log import SampleLog
from polyray.evaluation.scorers import Scored, Scorer
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.seeds import sample_seed
from polyray.types import Group, GroupRequest, Prompt

Sample = Callable[[str, str | None, Sequence[GroupRequest]], Iterable[Group]]
"""(arm's name, adapter directory or None for the base, requests) -> their groups, in any order."""
Progress = Callable[[str, int, int], None]
"""(arm's name, groups done, groups in all), after every group."""
SCORING_THREADS = 2
"""Groups scored at once; a scorer of programs runs several at a time by itself."""
MAX_UNSCORED_GROUPS = 64
"""Groups that wait for scoring at most, so that slow scoring does not fill memory."""
FIRST_GROUPS = 2
"""Groups without a single score after which the reward counts as broken."""
Judged = tuple[GroupRequest, Group, Sequence[Scored]]


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """Files of an evaluation.

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
        """Verdicts, one line per sample."""
        return self.directory / "results.jsonl"

    @property
    def metrics(self) -> Path:
        """Values, intervals, comparisons."""
        return self.directory / "metrics.json"


@dataclass(frozen=True, slots=True)
class EvaluationPaths:
    """Output directories of one evaluation.

    Example:
        EvaluationPaths(evaluation=Path("runs/eval/evaluation"), judge=Path("runs/eval/judge"))
    """

    evaluation: Path
    judge: Path


def evaluation_requests(
    prompts: Sequence[Prompt], spec: EvaluationSpec, rollout_spec: RolloutSpec, seed: int
) -> list[GroupRequest]:
    """One request per prompt; no training group shares their seeds, which depend on the prompt's id alone."""
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
        for number, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling, without the arms.

    Example:
        Sampling(prompts, spec, rollout, seed=0, domain="code", sample=sample, scorer=RewardScorer(reward))
    """

    prompts: Sequence[Prompt]
    """Prompts of the task, as rewards and the data set's hash see them."""
    spec: EvaluationSpec
    rollout: RolloutSpec
    seed: int
    domain: str
    sample: Sample
    scorer: Scorer
    pass_threshold: float = PASS_THRESHOLD
    progress: Progress | None = None
    kept_text: Callable[[Prompt, str], str] | None = None
    """The part of a completion that is written down: of a program, the judged part. None: all of it."""
    on_group: Callable[[Sequence[SampleRecord]], None] | None = None
    """Called with every group of the files in their order, those of earlier starts included."""


def sample_arms(arms: Sequence[Arm], sampling: Sampling, files: EvaluationFiles) -> None:
    """Samples and scores what the files do not hold yet.

    Raises DataError where the files belong to other arms or prompts, RolloutError where an arm's groups do not
    all arrive, RewardError where its first groups have no score.
    """
    prompts = sampling.prompts
    with SampleLog(files.samples, files.results, sampling.spec.num_samples) as log:
        done, total = log.groups_done, len(arms) * len(prompts)
        _check_same_run(log, arms, prompts, files)
        if sampling.on_group is not None:
            for group in log.groups():
                sampling.on_group(group)
        for number, arm in enumerate(arms):
            start = min(max(done - number * len(prompts), 0), len(prompts))
            if start < len(prompts):
                _sample_arm(arm, sampling, start, log)
        if log.groups_done != total:
            raise DataError(f"{files.samples} holds {log.groups_done} groups, not {total}; move it away")


def _check_same_run(
    log: SampleLog, arms: Sequence[Arm], prompts: Sequence[Prompt], files: EvaluationFiles
) -> None:
    last = log.last_group()
    if last is None:
        return
    number = log.groups_done - 1
    arm, at = divmod(number, len(prompts))
    expected = (arms[arm].name, prompts[at].prompt_id) if arm < len(arms) else ("nothing", "nothing")
    if last != expected:
        raise DataError(
            f"{files.samples} holds {last[1]!r} of {last[0]!r} where this evaluation has {expected[1]!r} of "
            f"{expected[0]!r}: it belongs to another evaluation; give this one another name"
        )


def _sample_arm(arm: Arm, sampling: Sampling, start: int, log: SampleLog) -> None:
    """One arm from prompt `start` on: scoring runs in threads while the next groups are sampled."""
    requests = evaluation_requests(arm.asked_P, sampling.spec, sampling.rollout, sampling.seed)[start:]
    if arm.answers is not None:
        requests = [replace(request, seeds=request.seeds[:1]) for request in requests]
    with ThreadPoolExecutor(SCORING_THREADS, thread_name_prefix="score") as threads:
        room = threading.BoundedSemaphore(MAX_UNSCORED_GROUPS)

        def judged(group: Group) -> Future[Sequence[Scored]]:
            texts = [completion.text for completion in group.completions]
            room.acquire()
            scores = threads.submit(sampling.scorer, sampling.prompts[group.group_id], texts)
            scores.add_done_callback(lambda _: room.release())
            return scores

        sampled = sampling.sample(arm.name, arm.adapter_dir, requests)
        groups = sampled if arm.answers is None else (_taken_apart(group, arm.answers) for group in sampled)
        arriving = ((group, judged(group)) for group in groups)
        judged_groups = _in_request_order(arm.name, requests, arriving, start, sampling.progress)
        for request, group, scores in _scored_at_all(arm.name, judged_groups):
            prompt = sampling.prompts[request.group_id]
            samples = _records(arm, request, group, prompt, scores, sampling)
            log.append(
                samples,
                [
                    result_of(sample, scored, sampling.pass_threshold)
                    for sample, scored in zip(samples, scores, strict=True)
                ],
            )
            if sampling.on_group is not None:
                sampling.on_group(samples)


def _taken_apart(group: Group, answers: int) -> Group:
    """Answers listed in a group's only completion, as completions with a share of the tokens and no log-prob."""
    (whole,) = group.completions
    texts, shares = listed_answers(whole.text, answers), np.array_split(whole.token_ids, answers)
    unknown = np.array([np.nan], np.float32)
    completions = tuple(
        replace(whole, text=text, token_ids=share, rollout_logprobs=unknown)
        for text, share in zip(texts, shares, strict=True)
    )
    return replace(group, completions=completions)


def _in_request_order(
    name: str,
    requests: Sequence[GroupRequest],
    arriving: Iterable[tuple[Group, Future[Sequence[Scored]]]],
    start: int,
    progress: Progress | None,
) -> Iterator[Judged]:
    """Releases scored groups in the order of their requests; those that arrive or are scored early wait."""
    waiting: dict[int, tuple[Group, Future[Sequence[Scored]]]] = {}
    released = 0
    for done, (group, scores) in enumerate(arriving, 1):
        waiting[group.group_id] = group, scores
        if progress is not None:
            progress(name, start + done, start + len(requests))
        while released < len(requests) and (ready := waiting.get(requests[released].group_id)) is not None:
            if not ready[1].done() and done < len(requests):
                break  # the engines come first; later groups wait
            del waiting[requests[released].group_id]
            yield requests[released], ready[0], ready[1].result()
            released += 1
    while released < len(requests) and (ready := waiting.pop(requests[released].group_id, None)) is not None:
        yield requests[released], ready[0], ready[1].result()
        released += 1
    if released < len(requests):
        missing = requests[released].prompt.prompt_id
        raise RolloutError(
            f"{name}: sampling ended with {len(requests) - released} of {len(requests)} groups missing, the "
            f"first is {missing}; see the rollout workers' logs"
        )


def _scored_at_all(name: str, groups: Iterator[Judged]) -> Iterator[Judged]:
    """The same groups. Raises RewardError, before any of them is written, where the first have no score."""
    first: list[Judged] = []
    for judged in groups:
        first.append(judged)
        if len(first) == FIRST_GROUPS or _any_scored(judged):
            break
    if first and not any(map(_any_scored, first)):
        raise _no_score(name, [each for _, _, scores in first for each in scores])
    yield from first
    yield from groups


def _any_scored(judged: Judged) -> bool:
    return not all(math.isnan(each.reward) for each in judged[2])


def _no_score(name: str, scores: Sequence[Scored]) -> RewardError:
    """The log gets the whole reason, e.g. a traceback of the reward function."""
    reason = scores[-1].message or "the reward gave none"
    error = RewardError(
        f"none of the first {len(scores)} completions of {name} could be scored; the reason given: "
        f"{reason.splitlines()[0]}"
    )
    error.add_note(reason)
    return error


def result_of(record: SampleRecord, scored: Scored, pass_threshold: float) -> ResultRecord:
    """The verdict on a sample: how its program ended, or what its reward says."""
    passed = record.reward >= pass_threshold
    verdict = scored.verdict or ("passed" if passed else "failed")
    truncated = "truncated" if record.finish_reason == "length" else ""
    return ResultRecord(
        task_id=record.task_id,
        sample_index=record.sample_index,
        model=record.model,
        passed=passed,
        verdict=verdict,
        message=scored.message or truncated,
        wall_s=scored.wall_s,
        cpu_s=scored.cpu_s,
        max_rss=scored.max_rss,
        isolation=scored.isolation,
    )


def _records(
    arm: Arm,
    request: GroupRequest,
    group: Group,
    prompt: Prompt,
    scores: Sequence[Scored],
    sampling: Sampling,
) -> list[SampleRecord]:
    prompt_hash = prompt_sha256(prompt)
    kept = sampling.kept_text or (lambda _, text: text)
    template = {} if arm.template is None else {"prompt": arm.template}
    return [
        SampleRecord(
            task_id=prompt.prompt_id,
            completion=kept(prompt, completion.text),
            sample_index=index,
            domain=sampling.domain,
            model=arm.name,
            policy_version=group.policy.version,
            adapter_sha256=None if arm.adapter_dir is None else group.policy.sha256,
            sampling={
                "temperature": request.temperature,
                "top_p": 1.0,
                "seed": completion.seed,
                "max_tokens": request.max_completion_tokens,
                **template,
            },
            finish_reason=completion.finish_reason,
            prompt_sha256=prompt_hash,
            reward=scored.reward,
            class_id=scored.class_id,
            num_tokens=len(completion.token_ids),
            logprob=float(completion.rollout_logprobs.sum(dtype="float64")),
            cluster_id=prompt.cluster_id,
            prompt=prompt.text,
        )
        for index, (completion, scored) in enumerate(zip(group.completions, scores, strict=True))
    ]
