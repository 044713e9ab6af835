"""Prometheus metrics of a training run, through Ray's metrics agent (which prefixes names with `ray_`).

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
                                                      alarms{kind}, incidents{kind}
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polyray.config.dynamics import COLLAPSED
from polyray.config.run import TrainConfig
from polyray.orchestrator.rollout_actor import RolloutReply
from polyray.orchestrator.run_instruments import STEP_VALUES, TAGGED_VALUES, Instruments

logger = logging.getLogger(__name__)

EXPORT_EVERY_S = 2.0
"""Ray's own interval is 10 s by default, and it drops a gauge that was not set for two of them."""
MAX_COMPONENTS = 32

GroupOutcome = Literal["kept", "unscored", "zero_advantage"]
GROUP_OUTCOMES: tuple[GroupOutcome, ...] = ("kept", "unscored", "zero_advantage")
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

ALARMS: Mapping[str, str] = {
    "over_optimisation": "over_optimisation",
    COLLAPSED: "collapse",
    "mismatch_alarm": "mismatch",
}
"""Key of the report, which is 1 on a step with the alarm -> its kind."""


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
        self._alarms: Tally[str] = Tally(dict.fromkeys(ALARMS.values(), 0))
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
        for key, kind in ALARMS.items():
            self._alarms[kind] += bool(metrics.get(key))
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
        for kind, count in self._alarms.items():
            self._put("alarms_total", count, kind=kind)
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
