"""Numbers of a simulated run: throughput against the ideal, waiting, cost. Pure."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.simulated_run import SimulatedLoad, SimulatedRun, SimulatedStep
from polyray.rollout.simulated_engine import DecodingBatch
from polyray.seeds import sample_seed

IDEAL_GROUPS = 2000


@dataclass(frozen=True, slots=True)
class Figures:
    """A run after its warm-up. Seconds, unless they say otherwise.

    Example:
        Figures(groups_per_s=31.2, ideal_groups_per_s=32.0, cpu_s_per_group=.0021, refill_s=(.01, .02), ...)
    """

    groups_per_s: float
    ideal_groups_per_s: float
    cpu_s_per_group: float
    """CPU time of the coordinator's process."""
    cpu_share: float
    """Share of one core, used by the coordinator's process."""
    refill_s: tuple[float, ...]
    """A group leaves a worker -> the next one arrives there."""
    wait_s: tuple[float, ...]
    """A group is scored -> the learner has it."""
    lag_s: tuple[float, ...]
    """Delays of the coordinator's event loop."""
    fan_out_s: tuple[float, ...]
    """A version is published -> the last worker has loaded it and answered the probe."""
    idle_engines: float
    idle_learner: float
    step_s: tuple[float, ...]
    staleness: float
    growth_bytes_per_group: float
    """Growth of the coordinator's resident memory."""
    resident_bytes: int

    @property
    def share_of_ideal(self) -> float:
        """1: no engine or learner ever waited for the coordinator."""
        return self.groups_per_s / self.ideal_groups_per_s


def figures_of(run: SimulatedRun, warm_up: int) -> Figures:
    """From the batch number `warm_up` to the last one: engines fill up and get their first version before."""
    first, last = run.steps[warm_up - 1], run.steps[-1]
    elapsed = last.got - first.got
    within = [when for when in run.seen.scored.values() if first.got < when <= last.got]
    cpu_s = last.usage["cpu_s"] - first.usage["cpu_s"]
    measured = run.steps[warm_up:]
    growth = last.usage["resident_bytes"] - first.usage["resident_bytes"]
    return Figures(
        groups_per_s=len(within) / elapsed,
        ideal_groups_per_s=ideal_groups_per_s(run.load),
        cpu_s_per_group=cpu_s / len(within),
        cpu_share=cpu_s / elapsed,
        refill_s=tuple(wait for when, wait in run.seen.refill_s if first.got < when <= last.got),
        wait_s=tuple(step.got - run.seen.scored[group] for step in measured for group in step.group_ids),
        lag_s=tuple(lag for step in measured for lag in step.usage["lag_s"]),
        fan_out_s=_fan_out_s(run, measured),
        idle_engines=_idle_engines(run, first.got),
        idle_learner=1 - sum(step.learned - step.got for step in run.steps[warm_up - 1 : -1]) / elapsed,
        step_s=tuple(b.got - a.got for a, b in zip(run.steps[warm_up - 1 :], measured, strict=False)),
        staleness=statistics.mean(step.staleness for step in measured),
        growth_bytes_per_group=growth / len(within),
        resident_bytes=last.usage["resident_bytes"],
    )


def ideal_groups_per_s(load: SimulatedLoad) -> float:
    """Ideal throughput: engines that are always full, or a learner that always has a batch; the slower one."""
    learner = load.prompts_per_step / load.learn_s if load.learn_s else math.inf
    return min(load.num_workers * engine_groups_per_s(load), learner)


def engine_groups_per_s(load: SimulatedLoad) -> float:
    """One engine of the load by itself, which gets a new group the moment one is complete."""
    simulation = load.rollout().simulation
    if not simulation.takes_time:
        return math.inf
    batch = DecodingBatch(simulation.step_s, simulation.sequence_s, load.max_sequences)

    def add(group_id: int) -> None:
        for place, length in enumerate(_group_lengths(group_id, load)):
            batch.add(group_id * load.group_size + place, length)

    for group_id in range(load.window):
        add(group_id)
    ended: Counter[int] = Counter()
    done, seconds = 0, 0.0
    while done < IDEAL_GROUPS:
        seconds += (until := batch.next_end_s())
        for sample in batch.run(until):
            ended[group_id := sample // load.group_size] += 1
            if ended[group_id] == load.group_size:
                add(load.window + done)
                done += 1
    return done / seconds


def percentile(values: Sequence[float], share: float) -> float:
    """Percentile: about this share of the values is below it; NaN for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def _group_lengths(group_id: int, load: SimulatedLoad) -> list[int]:
    simulation = load.rollout().simulation
    draws = [random.Random(sample_seed(0, group_id, index)) for index in range(load.group_size)]
    return [simulation.draw_length(draw, load.max_completion_tokens)[0] for draw in draws]


def _fan_out_s(run: SimulatedRun, steps: Sequence[SimulatedStep]) -> tuple[float, ...]:
    """Fan-out time of the versions that every worker loaded; some workers skip an outdated version."""
    numbered = list(enumerate(run.steps))[-len(steps) :]
    return tuple(
        max(times) - step.learned
        for index, step in numbered
        if len(times := run.seen.deliveries.get(index + 1, [])) == run.load.num_workers
    )


def _idle_engines(run: SimulatedRun, since: float) -> float:
    """Mean share of the time between a worker's first delivery after `since` and its last one in which its engine did
    not decode; NaN where no worker had two."""
    shares = []
    for points in run.seen.busy.values():
        later = [point for point in points if point[0] >= since]
        if len(later) > 1:
            (start, busy_at_start), (end, busy_at_end) = later[0], later[-1]
            shares.append(1 - (busy_at_end - busy_at_start) / (end - start))
    return statistics.mean(shares) if shares else math.nan
