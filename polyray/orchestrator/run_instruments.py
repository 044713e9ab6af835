"""Metrics of training runs as Ray exports them: names, tags, descriptions.

run_metrics.py explains them. The dashboards and alerts of deploy/grafana query these names; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge, Histogram

PREFIX = "polyray_train_"
RUN_TAGS = ("run", "runs_dir")
_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]

STEP_VALUES: Mapping[str, tuple[str, str]] = {
    "reward_mean": ("reward_mean", "Mean reward of the scored completions."),
    "reward_std": ("reward_std", "Standard deviation of the rewards."),
    "pass_at_1": ("pass_at_1", "Share of scored completions that are correct."),
    "pass_at_8": ("pass_at_8", "Unbiased pass@k at k = 8, or at the group size where that is smaller."),
    "diversity": ("diversity", "Mean pairwise distance within a group, in [0, 1]."),
    "distinct_classes": ("distinct_classes", "Expected distinct correct classes among 8 completions."),
    "advantage_share_diversity": ("advantage_share_diversity", "Share of the advantages' power from diversity."),
    "zero_advantage_share": ("zero_advantage_share", "Share of groups whose advantages are all zero."),
    "entropy": ("entropy_nats", "Mean entropy of the policy per token."),
    "kl_reference": ("kl_reference_nats", "KL divergence from the reference policy per token."),
    "kl_rollout": ("kl_rollout_nats", "KL divergence between the learner and the engines that sampled."),
    "ess": ("effective_sample_share", "Effective share of the samples under importance weights."),
    "clip_share": ("clip_share", "Share of tokens whose ratio was clipped."),
    "loss": ("loss", "The step's loss."),
    "grad_norm": ("grad_norm", "Norm of the gradient before clipping."),
    "lr": ("learning_rate", "Learning rate of the step."),
    "staleness_mean": ("staleness_versions", "Mean age of the trained groups, in policy versions."),
    "completion_length_mean": ("completion_length_tokens", "Mean length of the completions."),
    "truncated_share": ("truncated_share", "Share of completions that were cut at the limit."),
    "step_s": ("step_seconds", "Seconds of the step."),
    "delivery_difference_max": ("delivery_difference_nats", "Largest log-prob difference in a delivery's proof."),
    "logprob_difference_max": ("logprob_difference_nats", "Largest log-prob difference, learner to engine."),
    "step": ("step", "Number of the newest step, from 0."),
    "policy_version": ("policy_version", "The version that the newest step made."),
}  # fmt: skip
"""Key of metrics.jsonl -> (name without prefix, description): gauges without tags of their own."""

TAGGED_VALUES: Mapping[str, tuple[str, str, str]] = {
    "generate_s": ("phase_seconds", "phase", "generate"),
    "score_s": ("phase_seconds", "phase", "score"),
    "learn_s": ("phase_seconds", "phase", "learn"),
    "deliver_s": ("phase_seconds", "phase", "deliver"),
    "idle_generate": ("idle_share", "part", "rollout"),
    "idle_learn": ("idle_share", "part", "learner"),
    "gpu_memory_allocated_bytes": ("learner_gpu_memory_bytes", "kind", "allocated"),
    "gpu_memory_peak_bytes": ("learner_gpu_memory_bytes", "kind", "peak"),
}
"""Key of the report -> (name without prefix, tag, its value)."""

OTHER_GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "phase_seconds": ("Seconds of the newest step, by what they were spent on.", ("phase",)),
    "idle_share": ("Share of the time without work: rollout engines, learner.", ("part",)),
    "learner_gpu_memory_bytes": ("GPU memory of the learner's first rank.", ("kind",)),
    "validation": ("The newest round of fixed prompts.", ("metric",)),
    "reward_component": ("Mean of a named part of the reward.", ("component",)),
    "groups_running": ("Groups that workers are busy with.", ()),
    "groups_waiting": ("Scored groups that wait for the learner.", ()),
    "workers": ("Rollout workers in the pool.", ()),
    "workers_behind": ("Rollout workers that have not proven the newest version yet.", ()),
    "target_steps": ("Steps of the whole run.", ()),
    "last_step_timestamp_seconds": ("Unix time of the newest step, or of the start.", ()),
    "tokens_generated_total": ("Tokens sampled since the coordinator started.", ()),
    "completions_total": ("Completions sampled.", ()),
    "completions_unscored_total": ("Completions whose reward could not be computed.", ()),
    "groups_total": ("Groups that came from workers.", ("outcome",)),
    "groups_stale_total": ("Groups dropped for their age, since the start of the run.", ()),
    "delivery_failures_total": ("Deliveries that a worker did not take or prove.", ()),
    "alarms_total": ("Steps on which a watch of the configuration raised its alarm.", ("kind",)),
    "incidents_total": ("Incidents, as in incidents.jsonl.", ("kind",)),
    "info": ("Task, algorithm and model of the run; always 1.", ("task", "algorithm", "model")),
}
"""Name without prefix -> (description, tags of its own)."""


class Instruments:
    """Ray's side, made with the first export. `gauges` by their names without PREFIX."""

    def __init__(self) -> None:
        self.gauges: dict[str, Gauge] = {}
        for name, description in STEP_VALUES.values():
            self.gauges[name] = Gauge(PREFIX + name, description, RUN_TAGS)
        for name, (description, own_tags) in OTHER_GAUGES.items():
            self.gauges[name] = Gauge(PREFIX + name, description, (*RUN_TAGS, *own_tags))
        self.delivery_seconds = Histogram(
            f"{PREFIX}delivery_seconds",
            description="From a version's publication to the last worker's proof.",
            boundaries=_SECONDS,
            tag_keys=RUN_TAGS,
        )
