"""Progress of a training run for its driver, limits on unscored completions, and its Prometheus metrics.

Metrics go through Ray's metrics agent, which prefixes names with `ray_`:

    polyray_train_<value of metrics.jsonl>            the newest step's: see STEP_VALUES
    polyray_train_phase_seconds{phase}                generate, score, learn, deliver: of the newest step
    polyray_train_idle_share{part}                    rollout, learner
    polyray_train_delivery_seconds                    histogram: published to proven by every worker
    polyray_train_validation{metric}                  the newest round of fixed prompts
    polyray_train_reward_component{component}         the first MAX_COMPONENTS of a run
    polyray_train_learner_gpu_memory_bytes{kind}      allocated, peak; only where the learner has a GPU
    polyray_train_groups_running, groups_waiting      queues: with workers; scored and waiting for the learner
    polyray_train_workers, workers_behind             in the pool; of them without the newest version
    polyray_train_last_step_timestamp_seconds         Unix time of the newest step, or of the start
    polyray_train_<what>_total                        tokens_generated, completions, completions_unscored,
                                                      groups{outcome}, groups_stale, delivery_failures,
                                                      alarms{monitor}, incidents{kind}
    polyray_train_info{task, algorithm, model}        always 1

Every one also has `run` and `runs_dir`. Totals are gauges that begin at 0: a counter of Ray's first appears with its
first event, and Prometheus sees no increase in a series that begins at 1. The coordinator calls; a value costs it an
addition, and everything is handed to Ray at most every EXPORT_EVERY_S. A failure here is a warning, once.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ray.util.metrics import Gauge, Histogram

from polyray.config.monitors import MonitorSpec
from polyray.config.run import TrainConfig
from polyray.errors import RewardError
from polyray.learner.monitors import raised_monitors
from polyray.orchestrator.rollout_actor import RolloutReply
from polyray.orchestrator.worker_table import RunState

logger = logging.getLogger(__name__)

EXPORT_EVERY_S = 2.0
"""Ray's own interval is 10 s by default, and it drops a gauge that was not set for two of them."""
MAX_COMPONENTS = 32

FIRST_GROUPS = 2
"""Groups of a run without a single score after which its reward counts as broken."""

GroupOutcome = Literal["kept", "unscored", "truncated", "zero_advantage"]
GROUP_OUTCOMES: tuple[GroupOutcome, ...] = ("kept", "unscored", "truncated", "zero_advantage")
INCIDENT_KINDS = (
    "failure",
    "worker_replaced",
    "learner_failed",
    "learner_restarted",
    "learner_waits",
    "groups_lost",
    "reward_retried",
    "unscored",
)
"""Kinds that exist from the start, with 0; others appear with their first incident."""

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
    "alarms_total": ("Steps on which the alarm of a monitor was raised.", ("monitor",)),
    "incidents_total": ("Incidents, as in incidents.jsonl.", ("kind",)),
    "info": ("Task, algorithm and model of the run; always 1.", ("task", "algorithm", "model")),
}
"""Name without prefix -> (description, tags of its own)."""


@dataclass(frozen=True, slots=True)
class RunLoad:
    """Current load of the coordinator's parts, and faults so far.

    Example:
        RunLoad(groups_running=8, groups_waiting=3, groups_stale=0, workers=2, workers_behind=0, tokens=5120,
                delivery_failures=0, incidents=({"kind": "worker_replaced", "message": "..."},))
    """

    groups_running: int
    groups_waiting: int
    groups_stale: int
    workers: int
    workers_behind: int
    tokens: int
    delivery_failures: int
    incidents: Sequence[Mapping[str, str]]


class RunMetrics:
    """All of them; one per coordinator, called from its event loop."""

    def __init__(
        self,
        config: TrainConfig,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` decides when it is time to export, `wall_clock` is the time of a step; both in seconds."""
        self._config = config
        self._clock = clock
        self._wall_clock = wall_clock
        self._tags = {"run": config.name, "runs_dir": config.runs_dir}
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        """(name, own tags) -> what is exported next."""
        self._delivery_seconds: list[float] = []
        self._groups: Tally[str] = Tally(dict.fromkeys(GROUP_OUTCOMES, 0))
        self._kinds: Tally[str] = Tally(dict.fromkeys(INCIDENT_KINDS, 0))
        self._components: set[str] = set()
        self._alarms: Tally[str] = Tally(dict.fromkeys((monitor.name for monitor in config.monitors), 0))
        self._completions = self._unscored = self._incidents_seen = 0
        self._due = -math.inf
        self._instruments: Instruments | None = None
        self._broken = False
        self._put("last_step_timestamp_seconds", wall_clock())
        self._put("target_steps", config.learner.steps)
        self._put(
            "info", 1, task=config.task.type, algorithm=config.algorithm.type, model=str(config.model.path)
        )

    def step(self, metrics: Mapping[str, Any]) -> None:
        """The newest step's line of metrics; what is missing, None or not finite keeps its value."""
        for key, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            if key in STEP_VALUES:
                self._put(STEP_VALUES[key][0], value)
            elif key in TAGGED_VALUES:
                name, tag, tag_value = TAGGED_VALUES[key]
                self._put(name, value, **{tag: tag_value})
            elif key.startswith("validation/"):
                self._put("validation", value, metric=key.partition("/")[2])
            elif key.startswith("reward/") and self._has_room(key):
                self._put("reward_component", value, component=key.partition("/")[2])
        if metrics.get("deliver_s"):  # 0: no version arrived everywhere since the line before
            self._delivery_seconds.append(float(metrics["deliver_s"]))
        self._alarms.update(monitor.name for monitor in raised_monitors(self._config.monitors, metrics))
        self._put("last_step_timestamp_seconds", self._wall_clock())

    def took(self, reply: RolloutReply, outcome: GroupOutcome) -> None:
        """A group that came from a worker, and what became of it."""
        self._groups[outcome] += 1
        self._completions += reply.num_samples
        self._unscored += reply.num_samples - reply.num_scored

    def export(self, load: RunLoad) -> None:
        """Hands everything to Ray, where that is due. Never raises."""
        now = self._clock()
        if self._broken or now < self._due:
            return
        self._due = now + EXPORT_EVERY_S
        try:
            self._export(load)
        except Exception as error:  # any error of Ray: a run must not end because its metrics fail
            self._broken = True
            logger.warning(
                "metrics are no longer exported, the run continues: %s: %s", type(error).__name__, error
            )

    def _export(self, load: RunLoad) -> None:
        if self._instruments is None:
            self._instruments = Instruments()
        self._count(load)
        for (name, own_tags), value in self._values.items():
            self._instruments.gauges[name].set(value, {**self._tags, **dict(own_tags)})
        for seconds in self._delivery_seconds:
            self._instruments.delivery_seconds.observe(seconds, self._tags)
        self._delivery_seconds.clear()

    def _count(self, load: RunLoad) -> None:
        for incident in load.incidents[self._incidents_seen :]:
            self._kinds[incident["kind"]] += 1
        self._incidents_seen = len(load.incidents)
        self._put("groups_running", load.groups_running)
        self._put("groups_waiting", load.groups_waiting)
        self._put("workers", load.workers)
        self._put("workers_behind", load.workers_behind)
        self._put("tokens_generated_total", load.tokens)
        self._put("completions_total", self._completions)
        self._put("completions_unscored_total", self._unscored)
        self._put("groups_stale_total", load.groups_stale)
        self._put("delivery_failures_total", load.delivery_failures)
        for monitor, count in self._alarms.items():
            self._put("alarms_total", count, monitor=monitor)
        for outcome, count in self._groups.items():
            self._put("groups_total", count, outcome=outcome)
        for kind, count in self._kinds.items():
            self._put("incidents_total", count, kind=kind)

    def _put(self, name: str, value: float, **own_tags: str) -> None:
        self._values[name, tuple(own_tags.items())] = float(value)

    def _has_room(self, component: str) -> bool:
        if component not in self._components and len(self._components) < MAX_COMPONENTS:
            self._components.add(component)
        return component in self._components


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


@dataclass(slots=True)
class RunProgress:
    """Belongs to the coordinator's event loop.

    Example:
        RunProgress(phase="training", version=17, groups_done=272, tokens=87040)
    """

    phase: str = "starting"
    version: int = 0
    groups_done: int = 0
    tokens: int = 0
    """Tokens of groups for the learner, without validation rounds."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The newest line."""
    alarms: list[str] = field(default_factory=list)
    """Text of each monitor that has raised its alarm, once."""

    def raised(self, monitors: Iterable[MonitorSpec]) -> None:
        """Remembers alarms, for the driver, which does not see every step."""
        self.alarms += [monitor.text for monitor in monitors if monitor.text not in self.alarms]

    def shown(self, num_tokens: int, run_state: RunState, incidents_seen: int) -> dict[str, Any]:
        """Plain values for the driver.

        `num_tokens`: all of them; incidents from the `incidents_seen`-th on.
        """
        return {
            "phase": self.phase if run_state.failure is None else "failed",
            "step": self.version,
            "groups_done": self.groups_done,
            "tokens": num_tokens,
            "metrics": self.metrics,
            "alarms": self.alarms,
            "incidents": run_state.incidents[incidents_seen:],
        }


class RewardFailureMonitor:
    """Belongs to the coordinator's event loop. Equal reasons one after another are one incident."""

    def __init__(self, config: TrainConfig, run_state: RunState) -> None:
        self._config = config
        self._run_state = run_state
        self._samples = 0
        self._unscored = 0
        self._groups = 0
        self._any_scored = False
        self._last_error = ""
        self._last_retry = ""

    def new_batch(self) -> None:
        """The share of unscored completions is counted anew with every batch that is cut."""
        self._samples, self._unscored = 0, 0

    def observe(self, reply: RolloutReply) -> None:
        """Counts a group; ends the run above reward.service.max_unscored_share, and at its start where the reward
        scores nothing at all."""
        self._groups += 1
        self._any_scored = self._any_scored or reply.num_scored > 0
        self._samples += reply.num_samples
        self._unscored += reply.num_samples - reply.num_scored
        if reply.error and reply.error != self._last_error:
            self._run_state.incident("unscored", f"group {reply.group_id}: {reply.error}")
        self._last_error = reply.error or self._last_error
        if reply.retried and reply.retried != self._last_retry:
            self._last_retry = reply.retried
            self._run_state.incident(
                "reward_retried", f"group {reply.group_id} or one beside it was sent again: {reply.retried}"
            )
        self._check_share()

    def _check_share(self) -> None:
        self._check_first_groups()
        rollout, limit = self._config.rollout, self._config.reward.service.max_unscored_share
        enough = rollout.prompts_per_step * rollout.group_size // 2
        if self._samples >= enough and self._unscored > limit * self._samples:
            self._fail(
                f"{self._unscored} of the last {self._samples} completions could not be scored, above "
                f"reward.service.max_unscored_share={limit:g}"
            )

    def _check_first_groups(self) -> None:
        rollout, limit = self._config.rollout, self._config.reward.service.max_unscored_share
        if self._any_scored or limit >= 1 or self._groups < min(FIRST_GROUPS, rollout.prompts_per_step):
            return
        self._fail(f"none of the first {self._samples} completions could be scored")

    def _fail(self, found: str) -> None:
        """Ends the run; the log gets the whole reason, e.g. a traceback of the reward function."""
        reason = self._last_error or "the reward gave none"
        error = RewardError(f"{found}; the reason given: {reason.splitlines()[0]}")
        error.add_note(reason)
        self._run_state.fail(error)
