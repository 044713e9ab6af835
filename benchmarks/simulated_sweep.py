"""Many simulated trials on one simulated fleet: load of the engines, and each trial's share of them.

    threads: 1 SimulatedTrial each -- RemoteCoordination --> CoordinatorHosts (actors) -- coordinators, 8 each
        learner waits learn_s                                    |
    SimulatedKeeper (actor: FleetKeeper) --owns--> SimulatedHost (actor) -- RolloutWorkers on simulated engines

Keeper, pools, coordinators, turns and deliveries are the real ones; trials have no end, so there is no tail in which
engines run dry. Coordinators share processes because 32 of them take a minute of two cores to start alone.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.exceptions

from benchmarks.measure import Measure
from benchmarks.simulated_fleet import REWARD_APP, HostedHandle, SimulatedPool
from benchmarks.simulated_run import CALL_TIMEOUT_S, START_TIMEOUT_S, SimulatedLoad, simulated_payload
from benchmarks.sweep_trials import LIMITS as LIMITS_OF_LOADS
from benchmarks.sweep_trials import load_measures
from polyray.cluster.session import NAMESPACE
from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig
from polyray.errors import PolyrayError
from polyray.launch.rl_worker import RemoteCoordination
from polyray.learner.embedded import build_tokenizer
from polyray.learner.step_result import StepResult
from polyray.orchestrator.coordinator import Coordinator
from polyray.orchestrator.rollout_actor import Scoring
from polyray.orchestrator.rollout_pool import FleetKeeper, RolloutPool, SharedPool
from polyray.rollout.engine import EngineSettings
from polyray.types import EngineUsage

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay

BUSY_AT_LEAST = 0.9
JUDGED_AT = 32
COORDINATORS_PER_HOST = 8
WARM_UP_STEPS = 1
POLL_S = 0.2
DELIVERIES = {"adapter": True, "merged": False}
"""Name -> whether engines load while groups run."""


class SimulatedKeeper(FleetKeeper):
    """The keeper of a fleet with engines in one process."""

    def __init__(self, owner: str, rollout: RolloutSpec, score_s: float) -> None:
        self._pool = SimulatedPool(owner, rollout, score_s)


class SimulatedSharedPool(SharedPool):
    """A SharedPool with such a keeper."""

    def __init__(self, owner: str, rollout: RolloutSpec, score_s: float) -> None:
        actor = ray.remote(SimulatedKeeper).options(num_cpus=0, namespace=NAMESPACE)
        self._keeper: Any = actor.remote(owner, rollout, score_s)
        RolloutPool.__init__(self, owner, rollout)

    def shutdown(self) -> None:
        """Ends the keeper, and with it its hosts."""
        ray.kill(self._keeper)


class CoordinatorHost:
    """An actor that carries coordinators."""

    def __init__(self) -> None:
        self._coordinators: dict[str, Coordinator] = {}

    async def start(self, name: str, config: TrainConfig, pool: SharedPool) -> None:
        """The coordinator of one trial."""
        scoring = Scoring(
            REWARD_APP, config.reward.service, False, config.algorithm, config.rollout.group_timeout_s
        )
        self._coordinators[name] = Coordinator(config, pool, scoring, "float32")

    async def call(self, name: str, method: str, *arguments: Any) -> Any:
        """Any method of the coordinator of this trial."""
        return await getattr(self._coordinators[name], method)(*arguments)


class SimulatedTrial:
    """A coordinator in a host, and the thread of a learner that only waits."""

    def __init__(self, name: str, seed: int, load: SimulatedLoad, host: Any, pool: SharedPool) -> None:
        self.steps = 0
        """Versions that were learnt and that all engines serve."""
        self._name = name
        self._load = load
        self._config = load.config().model_copy(update={"name": name, "seed": seed})
        ray.get(host.start.remote(name, self._config, pool.for_run(name)), timeout=START_TIMEOUT_S)
        self.coordinator: Any = HostedHandle(host, name)
        self._ending = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._learn, name=name, daemon=True)

    def start(self) -> None:
        """The learner begins."""
        self._thread.start()

    def end(self) -> None:
        """Announce that the trial's host is about to end."""
        self._ending.set()

    def check(self) -> None:
        """Raises what ended the learner."""
        if self._error is not None:
            raise PolyrayError(f"simulated trial {self._name} ended: {self._error!r}") from self._error

    def _learn(self) -> None:
        try:
            self._steps()
        except BaseException as error:
            if not self._ending.is_set():
                self._error = error

    def _steps(self) -> None:
        coordination = RemoteCoordination(self.coordinator, self._config, rank=0, world_size=1)
        attempt = coordination.begin_attempt(None)
        self._publish(coordination, attempt, 0)
        while True:
            if isinstance(coordination.next_batch(self.steps), StepResult):
                failure: Any = ray.get(self.coordinator.failure.remote(), timeout=CALL_TIMEOUT_S)
                raise failure or PolyrayError("its coordinator stopped it")
            if self._ending.wait(self._load.learn_s):
                return
            self._publish(coordination, attempt, self.steps + 1)
            self.steps += 1

    def _publish(self, coordination: RemoteCoordination, attempt: int, version: int) -> None:
        if coordination.publish(simulated_payload(attempt, version, self._load.payload_bytes)) is None:
            raise PolyrayError(f"version {version} was refused")


@dataclass(frozen=True, slots=True)
class Reading:
    """Totals at one moment.

    Example:
        Reading(when=12.5, usage=[EngineUsage(busy_s=9.1, ...)], groups=[40, 41], tokens=98_304, steps=[5, 5])
    """

    when: float
    usage: list[EngineUsage]
    """EngineUsage of each engine."""
    groups: list[int]
    """Groups of each trial."""
    tokens: int
    steps: list[int]
    """Steps of each trial."""


@dataclass(frozen=True, slots=True)
class Window:
    """Activity between two readings: seconds, and sums of that time."""

    load: SimulatedLoad
    seconds: float
    usage: list[EngineUsage]
    groups: list[int]
    tokens: int
    steps: list[int]

    @classmethod
    def between(cls, load: SimulatedLoad, first: Reading, last: Reading) -> Window:
        """`first` was read before `last`, of the same engines and trials."""
        return cls(
            load,
            last.when - first.when,
            [_difference(after, before) for before, after in zip(first.usage, last.usage, strict=True)],
            [after - before for before, after in zip(first.groups, last.groups, strict=True)],
            last.tokens - first.tokens,
            [after - before for before, after in zip(first.steps, last.steps, strict=True)],
        )

    @property
    def busy(self) -> tuple[float, ...]:
        """Share of the time in which each engine decoded."""
        return tuple(usage.busy_s / self.seconds for usage in self.usage)

    @property
    def share_of_full_batches(self) -> float:
        """Tokens over those of engines that decode as many sequences as they may, all the time."""
        simulation, sequences = self.load.rollout().simulation, self.load.max_sequences
        tokens_per_s = sequences / (simulation.step_s + sequences * simulation.sequence_s)
        return self.tokens / (self.seconds * tokens_per_s * self.load.num_workers)


def simulated_measures(
    load: dict[str, Any],
    simulation: dict[str, Any],
    trials: Sequence[int],
    rounds: int,
    display: ProgressDisplay,
) -> list[Measure]:
    """Each number of trials with each way of delivery."""
    measures: list[Measure] = []
    total = len(DELIVERIES) * len(trials)
    for place, (delivery, keeps_versions) in enumerate(DELIVERIES.items()):
        full = SimulatedLoad(
            **load, simulation={**simulation, "keeps_versions": keeps_versions}, steps=rounds
        )
        for number, num_trials in enumerate(trials, start=place * len(trials) + 1):
            display.section(f"{num_trials} simulated trials, {delivery}", number, total)
            measures += window_measures(delivery, run_trials(full, num_trials, display))
    return measures


def window_measures(delivery: str, window: Window) -> list[Measure]:
    """The lines of one number of trials and one delivery."""
    num_trials = len(window.groups)
    name = f"{delivery}, {num_trials} trial{'s' if num_trials > 1 else ''}"
    judged = num_trials == JUDGED_AT
    samples = [groups * window.load.group_size for groups in window.groups]
    limit = LIMITS_OF_LOADS["return_share"] if judged and delivery == "merged" else None
    return [
        Measure(
            f"{name}: engines busy",
            (statistics.mean(window.busy),),
            "",
            BUSY_AT_LEAST if judged else None,
            "at least",
        ),
        Measure(f"{name}:   of each engine", window.busy),
        Measure(f"{name}: tokens, of full batches all the time", (window.share_of_full_batches,)),
        *load_measures(name, window.usage, limit),
        Measure(f"{name}: samples per second", (sum(samples) / window.seconds,)),
        Measure(f"{name}: samples per trial", tuple(map(float, samples))),
        Measure(f"{name}: steps per trial", tuple(map(float, window.steps))),
    ]


def run_trials(load: SimulatedLoad, num_trials: int, display: ProgressDisplay) -> Window:
    """Starts fleet and trials; what happens while the slowest trial takes `load.steps` steps, after a warm-up."""
    with tempfile.TemporaryDirectory(prefix="polyray-simulated-") as directory:
        build_tokenizer().save_pretrained(directory)
        with _parts(load, num_trials, Path(directory)) as (pool, trials):
            for trial in trials:
                trial.start()
            _wait_for(trials, WARM_UP_STEPS, display)
            first = _read(pool, trials)
            _wait_for(trials, max(first.steps) + load.steps, display)
            return Window.between(load, first, _read(pool, trials))


@contextmanager
def _parts(
    load: SimulatedLoad, num_trials: int, model_dir: Path
) -> Iterator[tuple[SharedPool, list[SimulatedTrial]]]:
    rollout = load.rollout()
    pool = SimulatedSharedPool("simulated-sweep", rollout, load.score_s)
    actor = ray.remote(CoordinatorHost).options(num_cpus=0, max_concurrency=1 << 16, namespace=NAMESPACE)
    hosts: list[Any] = [actor.remote() for _ in range(-(-num_trials // COORDINATORS_PER_HOST))]
    trials: list[SimulatedTrial] = []
    try:
        pool.build(EngineSettings(str(model_dir), "float32", rollout, runs=num_trials))
        pool.wait_until_ready()
        for seed in range(num_trials):
            host = hosts[seed // COORDINATORS_PER_HOST]
            trials.append(SimulatedTrial(f"trial-{seed:02}", seed, load, host, pool))
        yield pool, trials
    finally:
        for trial in trials:
            trial.end()
        for host in hosts:
            ray.kill(host)
        pool.shutdown()


def _wait_for(trials: Sequence[SimulatedTrial], steps: int, display: ProgressDisplay) -> None:
    while (least := min(trial.steps for trial in trials)) < steps:
        display.update(phase="steps of the slowest trial", step=least, total=steps)
        for trial in trials:
            trial.check()
        time.sleep(POLL_S)


def _read(pool: SharedPool, trials: Sequence[SimulatedTrial]) -> Reading:
    when = time.perf_counter()
    usage: Any = ray.get([worker.handle.usage.remote() for worker in pool.workers], timeout=CALL_TIMEOUT_S)
    progress: Any = ray.get([trial.coordinator.progress.remote() for trial in trials], timeout=CALL_TIMEOUT_S)
    return Reading(
        when,
        usage,
        [seen["groups_done"] for seen in progress],
        sum(seen["tokens"] for seen in progress),
        [trial.steps for trial in trials],
    )


def _difference(after: EngineUsage, before: EngineUsage) -> EngineUsage:
    return EngineUsage(
        **{item.name: getattr(after, item.name) - getattr(before, item.name) for item in fields(EngineUsage)}
    )
