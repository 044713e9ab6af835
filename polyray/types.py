"""The values that cross a process boundary: frozen, small, each with an example.

    Prompt --> Group (completions of one prompt under one PolicyVersion) --> ScoredGroup --> TrainingBatch

Shape suffixes: G = samples of one group, T = tokens of one completion. Arrays are numpy; nothing here imports
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

FinishReason = Literal["stop", "length", "error"]
Message = Mapping[str, str]
"""One chat message: `{"role": "user", "content": "..."}`."""

WRONG_CLASS = -1
"""The class of a wrong or unparsable completion; never counted as a class of its own."""

SECOND_OPINION = "second_opinion"
"""The component that holds the score of a reward which is logged and never optimised."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to the policy.

    Example:
        Prompt(prompt_id="train-37|b1>e4=", text="37|b1>e4=", cluster_id="b1>e4")
    """

    prompt_id: str
    text: str
    """The prompt as the policy reads it; for chat prompts the last user message (the rewards see this)."""
    reference: str | None = None
    messages: tuple[Message, ...] | None = None
    """Set for chat prompts: rendered with the model's own chat template instead of `text`."""
    cluster_id: str = ""
    """The unit of statistics where several prompts share something (here the start-goal pair)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """The identity of one published policy.

    `version` counts published batches. After a learner rollback the same number returns with other bytes,
    so the attempt and the hash belong to the identity.

    Example:
        PolicyVersion(attempt=1, version=17, sha256="9f86d081884c7d65...")  # .name ==
        "policy-a1-v17-9f86d081"
    """

    attempt: int
    version: int
    sha256: str
    run: str = ""
    """Name of the run, for runs that share an engine; empty for a single run."""

    @property
    def name(self) -> str:
        """The name engines know this version by."""
        run = f"{self.run}-" if self.run else ""
        return f"policy-{run}a{self.attempt}-v{self.version}-{self.sha256[:8]}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer.

    Example:
        Completion(token_ids=np.array([23, 20, 2], np.int32), rollout_logprobs=np.array([-.1, -.7, -.0],
        np.float32),
                   text="RU", finish_reason="stop", seed=81)
    """

    token_ids: np.ndarray
    """[T] int32, with the end-of-sequence token where the policy sampled one."""
    rollout_logprobs: np.ndarray
    """[T] float32, log pi_rollout(token): the distribution that was sampled from."""
    text: str
    finish_reason: FinishReason
    seed: int


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """A group to be sampled.

    Example:
        GroupRequest(group_id=40, prompt=Prompt(...), seeds=(812, 99), max_completion_tokens=10,
        temperature=1.0)
    """

    group_id: int
    prompt: Prompt
    seeds: tuple[int, ...]
    """One per sample; a sample's tokens depend on its seed and the policy, never on worker or neighbours."""
    max_completion_tokens: int
    temperature: float = 1.0
    run: str = ""
    """Run with the newest version that samples it, on an engine that several runs share."""
    share: float = 1.0
    """Share of that engine, relative to the other runs'."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings of a completion.

    Example:
        Sampling(max_tokens=64, temperature=0.8, top_p=0.95, stop=("END",), logprobs=0)
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Stop strings: the text ends before the first of these, and does not hold it."""
    stop_token_ids: tuple[int, ...] = ()
    """Stop tokens: the completion ends with the first of these, or with the end of sequence."""
    logprobs: int | None = None
    """None: no log-probs; else those of the sampled tokens, and of so many likeliest ones beside each."""
    prompt_logprobs: bool = False
    """With `logprobs`: the same of the prompt's tokens from the second on."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One completion to be sampled, whole or as a stream.

    Example:
        TextRequest(prompt_token_ids=(1, 9, 4), sampling=Sampling(max_tokens=8), seed=81, run="policy-v17")
    """

    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    run: str
    """Run of the adapter that answers: the `run` of a loaded payload; the base is one of these."""
    stream: bool = False
    """False: one delta, at the end, which costs less."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text and tokens of a completion.

    Example:
        TextDelta(text=" word", token_ids=(412,), logprobs=(-.2,), alternatives=(), finish_reason=None)
    """

    text: str
    """May be empty: half a character, or what may become a stop string, is held back."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probs of `token_ids`; empty unless asked for."""
    alternatives: tuple[tuple[tuple[int, float], ...], ...]
    """Per token, the likeliest (token id, log-prob), best first; empty unless asked for."""
    finish_reason: FinishReason | None
    """Set in the last one."""
    prompt_logprobs: tuple[float, ...] = ()
    """Log-probs of the prompt's tokens from the second on, in the first delta; empty unless asked for."""
    prompt_alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one prompt, i.i.d. draws from one policy version.

    Example:
        Group(group_id=40, prompt=Prompt(...), prompt_token_ids=np.array([1, 9, 4], np.int32),
              completions=(Completion(...), Completion(...)), policy=PolicyVersion(...))
    """

    group_id: int
    prompt: Prompt
    prompt_token_ids: np.ndarray
    """[P] int32, as the engine saw the prompt."""
    completions: tuple[Completion, ...]
    policy: PolicyVersion

    @property
    def num_tokens(self) -> int:
        """Sampled tokens, all completions together."""
        return sum(len(completion.token_ids) for completion in self.completions)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as a few flat arrays: a group of 16 travels as 2 buffers instead of 32."""
        items = self.completions
        flat = (
            np.array([len(item.token_ids) for item in items], np.int32),
            np.concatenate([item.token_ids for item in items]) if items else np.zeros(0, np.int32),
            np.concatenate([item.rollout_logprobs for item in items]) if items else np.zeros(0, np.float32),
            tuple((item.text, item.finish_reason, item.seed) for item in items),
        )
        return _unflatten_group, (self.group_id, self.prompt, self.prompt_token_ids, flat, self.policy)


def _unflatten_group(
    group_id: int, prompt: Prompt, prompt_token_ids: np.ndarray, flat: tuple[Any, ...], policy: PolicyVersion
) -> Group:
    lengths_G, token_ids, logprobs, rest = flat
    ends = np.cumsum(lengths_G)
    completions = tuple(
        Completion(token_ids[end - length : end], logprobs[end - length : end], *fields)
        for end, length, fields in zip(ends, lengths_G, rest, strict=True)
    )
    return Group(group_id, prompt, prompt_token_ids, completions, policy)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with its rewards; a completion that could not be scored is NaN and leaves the set.

    Example:
        ScoredGroup(group=Group(...), rewards_G=np.array([1., 0.]), classes_G=np.array([7731, -1]),
        distances_GG=None)
    """

    group: Group
    rewards_G: np.ndarray
    """[G] float64, in [0, 1]; NaN = unscored (never zero)."""
    classes_G: np.ndarray
    """[G] int64; WRONG_CLASS for wrong or unparsable completions."""
    distances_GG: np.ndarray | None = None
    """[G, G] float64 in [0, 1], symmetric with a zero diagonal, where the objective asks for distances."""
    components: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Named parts of the reward, [G] each."""

    @property
    def scored_mask_G(self) -> np.ndarray:
        """[G] bool: which completions have a reward."""
        return np.isfinite(self.rewards_G)


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Input of one learner rank in one step.

    Example:
        TrainingBatch(step=17, groups=(ScoredGroup(...),), num_groups_total=16, timings={"generate_s": 0.2})
    """

    step: int
    """The batch that turns policy version `step` into `step + 1`."""
    groups: tuple[ScoredGroup, ...]
    """This rank's share."""
    num_groups_total: int
    """Groups over all ranks: the loss normaliser is global."""
    counters: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, Any] = field(default_factory=dict)
    """This batch's line of ledger.jsonl: {"step", "attempt", "groups", "versions", "dropped"}, over all ranks."""


StepMetrics = dict[str, float | int | str | None]
"""One line of metrics.jsonl, e.g. {"step": 3, "reward_mean": 0.41, "step_s": 0.52}."""

METRIC_KEYS: Sequence[str] = (
    "step", "policy_version", "reward_mean", "reward_std", "pass_at_1", "diversity", "distinct_classes",
    "advantage_share_quality", "advantage_share_diversity", "mean_advantage_correct", "zero_advantage_share",
    "loss", "grad_norm", "lr", "entropy", "clip_share", "kl_reference", "kl_rollout", "ess", "staleness_mean",
    "completion_length_mean", "completion_length_max", "truncated_share", "groups_used", "groups_dropped",
    "unscored", "tokens_generated",
    "generate_s", "score_s", "learn_s", "deliver_s", "step_s", "idle_generate", "idle_learn",
)  # fmt: skip
"""The keys every line of metrics.jsonl has; there may be more (reward/<component>, pass_at_8)."""


def is_timing_key(key: str) -> bool:
    """True for metrics that depend on the clock (also those outside METRIC_KEYS)."""
    return key.endswith("_s") or key.startswith("idle_")


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """An engine's time so far, by purpose.

    Example:
        EngineUsage(busy_s=12.5, loads=40, load_s=.9, returns=3, return_s=.07, kept_s=.02)
    """

    busy_s: float = 0.0
    """Stepping."""
    loads: int = 0
    """Versions that were taken on, with `load_s` seconds in all."""
    load_s: float = 0.0
    returns: int = 0
    """Loads that only brought a run's newest version back, for its next turn, with `return_s` seconds in all."""
    return_s: float = 0.0
    kept_s: float = 0.0
    """Idle for a run with a version that was just loaded, while others waited."""
