"""The simulated benchmarks: command lines, handles, and runs with known times."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks import overlap, recovery, scale, simulated_fleet
from benchmarks.simulated_fleet import HostedHandle, KillablePool, Observations, SimulatedPool
from benchmarks.simulated_measures import engine_groups_per_s, figures_of, ideal_groups_per_s, percentile
from benchmarks.simulated_run import SimulatedLoad, SimulatedRun, SimulatedStep, simulated_payload
from polyray.errors import ConfigError, PolyrayError
from polyray.models.adapter import sha256_of

SECONDS_A_STEP = 10.0


def load_of(**changes: Any) -> SimulatedLoad:
    values: dict[str, Any] = {
        "num_workers": 2,
        "max_staleness": 1,
        "prompts_per_step": 4,
        "group_size": 2,
        "max_sequences": 4,
        "max_completion_tokens": 100,
        "simulation": {"step_s": 0.1, "given_lengths": (10,)},
        "learn_s": 4.0,
        "steps": 5,
    }
    return SimulatedLoad(**values | changes)


def step_at(index: int, generate_s: float = 6.0, learn_s: float = 4.0) -> SimulatedStep:
    """The batch of step i is there at 10 i + 10 s, and was scored two seconds before."""
    got = SECONDS_A_STEP * (index + 1)
    usage = {"cpu_s": 0.2 * index, "resident_bytes": 1000 * index, "lag_s": [0.001 * index]}
    ids = tuple(range(4 * index, 4 * index + 4))
    return SimulatedStep(got - 6, got, got + learn_s, got + learn_s, ids, float(index), generate_s, usage)


def run_of(steps: int = 5, **load: Any) -> SimulatedRun:
    done = tuple(step_at(index) for index in range(steps))
    seen = Observations(
        scored={group: step.got - 2 for step in done for group in step.group_ids},
        refill_s=[(step.got, 0.5 * index) for index, step in enumerate(done)],
        deliveries={index + 1: [step.learned + 0.25, step.learned + 0.75] for index, step in enumerate(done)},
        busy={
            "a": [(step.learned, 9.0 * index) for index, step in enumerate(done)],
            "b": [(step.learned, 5.0 * index) for index, step in enumerate(done)],
        },
    )
    return SimulatedRun(load_of(**load), done, seen)


def test_a_runs_figures_count_from_the_end_of_its_warm_up() -> None:
    figures = figures_of(run_of(), warm_up=2)
    # From the second batch (20 s) to the fifth (50 s): three batches of four.
    assert figures.groups_per_s == pytest.approx(12 / 30)
    assert figures.cpu_s_per_group == pytest.approx(0.6 / 12)
    assert figures.cpu_share == pytest.approx(0.02)
    assert figures.growth_bytes_per_group == pytest.approx(3000 / 12)
    assert figures.refill_s == (1.0, 1.5, 2.0)
    assert figures.wait_s == (2.0,) * 12
    assert figures.lag_s == pytest.approx((0.002, 0.003, 0.004))
    assert figures.fan_out_s == pytest.approx((0.75,) * 3)
    assert figures.step_s == (10.0,) * 3
    assert figures.staleness == 3.0
    assert figures.idle_learner == pytest.approx(1 - 4 / 10)
    assert figures.idle_engines == pytest.approx((0.1 + 0.5) / 2)


def test_a_version_that_some_worker_skipped_has_no_fan_out() -> None:
    run = run_of()
    run.seen.deliveries[5].pop()
    assert len(figures_of(run, warm_up=2).fan_out_s) == 2


def test_the_ideal_is_an_engine_that_is_never_left_alone_or_a_learner() -> None:
    # Two sequences a group, two groups at a time (of four in the window), ten steps of .1 s: two groups a second.
    assert engine_groups_per_s(load_of()) == pytest.approx(2.0)
    assert ideal_groups_per_s(load_of(learn_s=0.5)) == pytest.approx(4.0)
    assert ideal_groups_per_s(load_of(learn_s=2.0)) == pytest.approx(2.0)
    assert ideal_groups_per_s(load_of(learn_s=0.0)) == pytest.approx(4.0)
    assert figures_of(run_of(learn_s=0.5), warm_up=2).share_of_ideal == pytest.approx(0.1)
    assert engine_groups_per_s(load_of(simulation={})) == math.inf


def test_percentiles() -> None:
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert math.isnan(percentile([], 0.5))


def test_overlap_is_judged_against_the_slower_half_of_a_synchronous_step() -> None:
    def steps(*times: float) -> SimulatedRun:
        done = [step_at(0)]
        for seconds in times:
            shifted = step_at(0)
            got = done[-1].got + seconds
            done.append(SimulatedStep(got, got, got + 4, got + 4, (), 0.0, shifted.generate_s, shifted.usage))
        return SimulatedRun(load_of(), tuple(done), Observations())

    measures = overlap.overlap_measures(
        "adapter", [steps(10, 10, 10, 12)], [steps(10, 10, 6.6, 6.6, 30, 6.6)]
    )
    by_name = {measure.name: measure for measure in measures}
    speed_up = by_name["adapter: steps per minute, S = 1 over S = 0"]
    assert speed_up.median == pytest.approx(11 / 12.45)
    assert speed_up.ok is False
    slower = by_name["adapter: step at S = 1 over max(generate, learn)"]
    assert (slower.median, slower.ok) == (pytest.approx(1.1), True)


def test_limits_of_scale_apply_to_the_largest_size_only() -> None:
    figures = figures_of(run_of(learn_s=0.5), warm_up=2)
    assert [m.ok for m in scale.size_measures(64, figures) if m.limit is not None] == [False]
    assert all(m.ok is None for m in scale.size_measures(16, figures))
    assert scale.comparison({16: figures}) == []
    assert scale.comparison({16: figures, 256: figures})[0].ok is True


def test_a_kill_may_cost_a_start_and_the_work_that_was_in_flight() -> None:
    seen = recovery.Recovery(unbroken=(20.0, 21.0, 29.0), killed=(24.0, 27.0), start=(4.3, 5.3))
    assert seen.shares == pytest.approx((3 / 5, 1.0))
    judged = recovery.cost_measures(0, seen)[-1]
    assert (judged.median, judged.ok) == (pytest.approx(0.8), True)
    late = recovery.Recovery(unbroken=(20.0,), killed=(26.0,), start=(4.3,))
    assert recovery.cost_measures(1, late)[-1].ok is False


def test_replacement_start_is_taken_from_the_place_of_the_victim() -> None:
    run = run_of()
    run.seen.start_s |= {"simulated-rollout-0-1": 9.0, "simulated-rollout-1-3": 4.0}
    assert recovery.replacement_start_s(run) == 4.0
    del run.seen.start_s["simulated-rollout-1-3"]
    with pytest.raises(PolyrayError, match="5 steps"):
        recovery.replacement_start_s(run)


def test_a_pool_to_kill_in_has_a_process_for_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    killed: list[str] = []
    monkeypatch.setattr(SimulatedPool, "_new_host", lambda self: made.append(f"host {len(made)}") or made[-1])
    monkeypatch.setattr(simulated_fleet.ray, "kill", killed.append)
    spec = load_of(num_workers=3).rollout()
    assert SimulatedPool("a", spec, 0.0).hosts == ["host 0"]
    pool = KillablePool("a", spec, 0.0)
    assert pool.hosts == ["host 1", "host 2", "host 3"]
    assert pool.replace(pool.workers[1]).name == "a-rollout-1-4"
    assert (pool.hosts, killed) == (["host 1", "host 4", "host 3"], ["host 2"])
    pool.shutdown()
    assert killed == ["host 2", "host 1", "host 4", "host 3"]


@dataclass
class FakeHost:
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def call(self) -> FakeHost:
        return self

    def options(self, **options: Any) -> FakeHost:
        self.calls.append(tuple(options.items()))
        return self

    def remote(self, *arguments: Any) -> str:
        self.calls.append(arguments)
        return "reference"


def test_a_hosted_worker_is_called_like_an_actor_of_its_own() -> None:
    host = FakeHost()
    handle = HostedHandle(host, "rollout-3")
    assert handle.rollout.options(num_returns=2).remote("request", "scoring") == "reference"
    assert handle.deliver.remote("payload") == "reference"
    assert host.calls == [
        (("num_returns", 2),),
        ("rollout-3", "rollout", "request", "scoring"),
        (),
        ("rollout-3", "deliver", "payload"),
    ]
    assert pickle.loads(pickle.dumps(HostedHandle("host", "a"))) == HostedHandle("host", "a")


def test_observations_of_several_hosts_are_merged() -> None:
    one, other = Observations(scored={1: 2.0}), Observations(scored={2: 3.0}, refill_s=[(1.0, 0.1)])
    one.deliveries[0].append(1.0)
    other.deliveries[0].append(2.0)
    other.start_s["b"] = 4.0
    one.merge(other)
    assert one.start_s == {"b": 4.0}
    assert (one.scored, one.refill_s, one.deliveries[0]) == ({1: 2.0, 2: 3.0}, [(1.0, 0.1)], [1.0, 2.0])


def test_simulated_payload_matches_its_hash_and_probe() -> None:
    payload = simulated_payload(2, 7, 64)
    assert len(payload.tensors) == 64
    assert payload.policy.sha256 == sha256_of(payload.tensors)
    assert payload.probe.logprobs.tolist() == [-3.5, -1.0]
    assert simulated_payload(2, 8, 64).probe.previous.tolist() == [-3.5, -1.0]  # type: ignore[union-attr]


def test_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--check", "--workers", "4", "16"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"] == [4, 16]
    assert overlap.main(["--check"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert (checked["load"]["prompts_per_step"], checked["parts"]) == (16, ["overlap", "recovery"])
    with pytest.raises(ConfigError, match=r"--steps 2: .*3 "):
        scale.main(["--steps", "2"])
    with pytest.raises(ConfigError, match=r"0 workers: .*1"):
        scale.main(["--workers", "0"])
    with pytest.raises(ConfigError, match=r"100.* 2048 .*256 workers"):
        scale.main(["--full-speed-groups", "100"])
    with pytest.raises(ConfigError, match=r"--rounds 0.* 1 round"):
        overlap.main(["--rounds", "0"])
