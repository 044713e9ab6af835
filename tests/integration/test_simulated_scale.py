"""A run of the scale benchmark with eight simulated workers is correct."""

from __future__ import annotations

from benchmarks.simulated_measures import figures_of
from benchmarks.simulated_run import SimulatedLoad, run_simulated

LOAD = SimulatedLoad(
    num_workers=8,
    max_staleness=2,
    prompts_per_step=32,
    group_size=4,
    max_sequences=8,
    max_completion_tokens=40,
    simulation={"step_s": 0.02, "mean_length": 10, "keeps_versions": True},
    learn_s=0.2,
    steps=8,
)


def test_eight_simulated_workers_keep_the_order_of_a_run(ray_session: None) -> None:
    run = run_simulated(LOAD)
    consumed = [group for step in run.steps for group in step.group_ids]
    assert len(consumed) == len(set(consumed)) == LOAD.steps * LOAD.prompts_per_step
    assert set(consumed) <= set(run.seen.scored)
    assert all(0 <= step.staleness <= LOAD.max_staleness for step in run.steps)
    assert len(run.seen.busy) == LOAD.num_workers
    assert all(len(times) <= LOAD.num_workers for times in run.seen.deliveries.values())
    assert len(run.seen.deliveries[0]) == LOAD.num_workers
    figures = figures_of(run, warm_up=2)
    assert (
        0.3 < figures.share_of_ideal < 1.2
    )  # a busy machine may be slow, but nothing is faster than the ideal
    assert 0 < figures.cpu_share < 1
