"""Faults of workers, coordinator and rewards, on simulated engines: real processes are killed, stopped, garbled."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
import ray.exceptions

from polyray.config.run import TrainConfig
from polyray.launch.fleet import Fleet, open_fleet
from polyray.launch.plan import plan_fleet
from polyray.orchestrator.rollout_pool import RolloutPool
from polyray.rewards import plan_reward
from polyray.runs.saved_groups import INDEX
from polyray.serving.reward.run import RewardServiceAddress
from tests.chaos.simulated import SimulatedRun
from tests.conftest import marked_processes, session_mark

pytestmark = pytest.mark.chaos
STEPS = 8


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File that makes scoring slow; `under_way` beside it exists during a call."""
    return tmp_path_factory.mktemp("reward") / "slow"


@pytest.fixture(scope="module")
def chaos_config(train_config: Callable[..., TrainConfig], slow: Path) -> Callable[..., TrainConfig]:
    file = slow.with_name("constant.py")
    file.write_text(
        "import pathlib, time\n"
        f"slow = pathlib.Path({str(slow)!r})\n"
        "def score(items):\n"
        "    if slow.exists():\n"
        "        slow.with_name('under_way').touch()\n"
        "        time.sleep(0.3)\n"
        "        slow.with_name('under_way').unlink(missing_ok=True)\n"
        "    return [0.5] * len(items)\n"
    )
    reward = {"type": "python", "path": f"{file}:score", "service": {"port": 0, "num_cpus": 0.5}}

    def build(name: str, **changes: Any) -> TrainConfig:
        common = {
            "reward": reward,
            "rollout__engine": "simulated",
            "rollout__num_workers": 3,
            "rollout__max_staleness": 2,
        }
        return train_config(name, learner__steps=STEPS, **{**common, **changes})

    return build


@pytest.fixture(scope="module")
def simulated_fleet(ray_session: None, chaos_config: Callable[..., TrainConfig]) -> Iterator[Fleet]:
    """Three engines without a model, and a reward that is always the same."""
    with open_fleet(plan_fleet(chaos_config("fleet")), "chaos") as fleet:
        fleet.pool.wait_until_ready()
        yield fleet


@pytest.fixture
def start(simulated_fleet: Fleet) -> Iterator[Callable[[TrainConfig], SimulatedRun]]:
    runs: list[SimulatedRun] = []

    def begin(config: TrainConfig) -> SimulatedRun:
        runs.append(SimulatedRun(config, simulated_fleet))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


def pid_of(pool: RolloutPool, index: int) -> int:
    info: Any = ray.get(pool.workers[index].handle.ready.remote())
    return info["pid"]


def is_gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("number", "timeout_s"),
    [(signal.SIGKILL, 60.0), pytest.param(signal.SIGSTOP, 10.0, marks=pytest.mark.slow)],
)
def test_killed_or_stopped_worker_is_replaced_without_a_change_of_history(
    number: signal.Signals,
    timeout_s: float,
    chaos_config: Callable[..., TrainConfig],
    simulated_fleet: Fleet,
    start: Callable[[TrainConfig], SimulatedRun],
) -> None:
    name = f"worker-{number.name.lower()}"
    run = start(chaos_config(name, rollout__group_timeout_s=timeout_s, delivery__timeout_s=timeout_s))
    pool = simulated_fleet.pool
    pid, victim = pid_of(pool, 1), pool.workers[1].name

    def signal_victim(step: int) -> None:
        if step == 2:
            os.kill(pid, number)

    assert run.learn(STEPS, signal_victim) == "done"
    run.check()
    deadline = time.monotonic() + 30
    while not (incidents := run.incidents()) and time.monotonic() < deadline:
        time.sleep(0.1)  # a stopped worker without work is found at the next deadline
    assert {item["kind"] for item in incidents} == {
        "worker_replaced"
    }  # a busy machine may be slow with others
    replaced = [item["message"].startswith(f"rollout worker {victim} was replaced by ") for item in incidents]
    assert sum(replaced) == 1
    assert is_gone(pid)


def test_killed_coordinator_ends_the_learner_and_its_successor_resumes(
    chaos_config: Callable[..., TrainConfig], start: Callable[[TrainConfig], SimulatedRun]
) -> None:
    run = start(chaos_config("coordinator"))

    def kill(step: int) -> None:
        if step == 3:
            run.snapshot_with_groups()
            ray.kill(run.coordinator)

    with pytest.raises(ray.exceptions.RayActorError):
        run.learn(STEPS, kill)
    run.start_coordinator()
    finishes_with_waiting_groups(run)


def finishes_with_waiting_groups(run: SimulatedRun) -> None:
    """Finish the run and check that scored groups are kept."""
    saved = json.loads(run.snapshot["files"][INDEX])["groups"]
    assert run.learn(STEPS) == "done"
    run.check()
    assert {line["attempt"] for line in run.lines} == {1, 2}
    sampled_by = {
        group_id: version
        for line in run.lines
        for group_id, version in zip(line["groups"], line["versions"], strict=True)
    }
    used = [entry for entry in saved if entry["group_id"] in sampled_by]  # the others grew too old
    assert used
    assert [sampled_by[entry["group_id"]] for entry in used] == [entry["policy"][1] for entry in used]
    assert [item["kind"] for item in run.incidents()] == ["learner_restarted"]


def test_restarted_learner_resumes_while_workers_sample_for_the_previous_attempt(
    chaos_config: Callable[..., TrainConfig], start: Callable[[TrainConfig], SimulatedRun], slow: Path
) -> None:
    run = start(chaos_config("learner"))

    class Died(Exception):
        pass

    def die(step: int) -> None:
        if step == 2:
            slow.touch()  # from now on every group is under way for a while
        if step == 3:
            run.snapshot_with_groups()
            raise Died

    with pytest.raises(Died):
        run.learn(STEPS, die)
    slow.unlink()
    finishes_with_waiting_groups(run)


def test_drained_run_resumes_at_its_last_step(
    chaos_config: Callable[..., TrainConfig], start: Callable[[TrainConfig], SimulatedRun]
) -> None:
    run = start(chaos_config("drained"))

    def drain(step: int) -> None:
        if step == 3:
            ray.get(run.coordinator.drain.remote())

    assert run.learn(STEPS, drain) == "drained"
    assert [line["step"] for line in run.lines] == [0, 1, 2]
    ray.kill(run.coordinator)
    run.start_coordinator()
    assert run.learn(STEPS) == "done"
    run.check()


@pytest.fixture
def unreliable() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


class Unreliable(BaseHTTPRequestHandler):
    """A reward service that fails in four ways and then works."""

    began = 0.0
    answers: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        cls = type(self)
        cls.began = cls.began or time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kinds = ("500", "429", "garbage", "nothing", "scores")
        kind = kinds[min(4, int((time.monotonic() - cls.began) / 5))]
        cls.answers.append(kind)
        if kind == "nothing":
            self.close_connection = True
            return
        scores = [{"score": 0.5, "class": 1, "components": {}, "error": None} for _ in body["items"]]
        whole = json.dumps({"reward_model": "r", "version": "1", "scores": scores})
        content = (whole if kind == "scores" else "<html>" * 100).encode()
        self.send_response(int(kind) if kind.isdigit() else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the test's output."""


@pytest.mark.slow
def test_a_reward_service_that_fails_for_twenty_seconds_is_waited_for(
    unreliable: ThreadingHTTPServer,
    chaos_config: Callable[..., TrainConfig],
    simulated_fleet: Fleet,
) -> None:
    url = f"http://127.0.0.1:{unreliable.server_address[1]}"
    client = {"breaker_failures": 2, "breaker_open_s": 1.0, "max_attempts": 3}
    reward = {"type": "http", "url": url, "client": client, "service": {"max_unscored_share": 1.0}}
    config = chaos_config("unreliable", reward=reward)
    plan = plan_reward(config.reward, config.task, config.diversity)
    remote = Fleet(simulated_fleet.pool, RewardServiceAddress("unreliable", url), plan)
    run = SimulatedRun(config, remote)
    assert run.learn(STEPS) == "done"
    run.check()
    assert {"500", "429", "garbage", "nothing", "scores"} == set(Unreliable.answers)
    incidents = run.incidents()
    assert {item["kind"] for item in incidents} == {"unscored"}
    dropped = {reason for line in run.lines for _, reason in line["dropped"]}
    assert "unscored" in dropped
    assert dropped <= {"unscored", "stale"}  # what was scored before it began waits, and may grow too old
    run.end()


def test_killed_reward_replica_is_replaced_and_its_groups_are_scored(
    chaos_config: Callable[..., TrainConfig], start: Callable[[TrainConfig], SimulatedRun], slow: Path
) -> None:
    slow.touch()
    under_way = slow.with_name("under_way")
    run = start(chaos_config("replica"))
    (replica,) = replicas()

    def kill_while_scoring() -> None:
        under_way.unlink(missing_ok=True)
        deadline = time.monotonic() + 20
        while not under_way.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(replica, signal.SIGKILL)

    killing = threading.Thread(target=kill_while_scoring)
    assert run.learn(STEPS, lambda step: killing.start() if step == 2 else None) == "done"
    killing.join()
    slow.unlink()
    run.check()
    assert {reason for line in run.lines for _, reason in line["dropped"]} <= {"stale"}  # all were scored
    (incident,) = run.incidents()
    assert incident["kind"] == "reward_retried" and "ActorDiedError" in incident["message"]
    assert len(replicas()) == 1 and replicas() != [replica]


def replicas() -> list[int]:
    """The processes of the fleet's reward service."""
    mine = b"ray::ServeReplica:chaos-reward:"
    return [
        pid
        for pid in marked_processes(session_mark())
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(mine)
    ]
