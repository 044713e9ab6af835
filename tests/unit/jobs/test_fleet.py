"""Opening of reward services, and refusals before a worker starts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polyray.capacity.derived import required_cpus
from polyray.config.loader import build_config
from polyray.config.model import ModelSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import EvaluateConfig, TrainConfig
from polyray.errors import ConfigError, RewardError
from polyray.launch.fleet import fleet_owner, open_reward
from polyray.launch.plan import plan_evaluation, plan_fleet, plan_training
from polyray.models import loading
from polyray.models.base import resolve_base
from polyray.rewards import RewardPlan, plan_reward
from polyray.rollout import vllm_build
from polyray.serving.reward.run import RewardServiceAddress
from tests.unit.tiny_policy import save_base


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = json.dumps({"reward_model": "m", "version": "1"}).encode()
        self.send_response(200 if self.path == "/run/reward/v1/info" else 404)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/run/reward"
    server.shutdown()
    server.server_close()
    thread.join()


def config(url: str) -> TrainConfig:
    reward = {"type": "http", "url": url, "client": {"max_attempts": 1}}
    return build_config(TrainConfig, {"name": "x", "reward": reward})


def plan(run: TrainConfig) -> RewardPlan:
    return plan_reward(run.reward, run.task, run.diversity)


def test_open_reward_checks_a_remote_service_and_deploys_none(url: str) -> None:
    run = config(url)
    with open_reward("run-7", plan(run)) as address:
        assert (address.app_name, address.url) == ("run-7-remote", url)
    with pytest.raises(RewardError, match=r"status 404"), open_reward("run-7", plan(config(f"{url}/x"))):
        raise AssertionError("it must not open")
    own = run.model_copy(update={"reward": TrainConfig(name="x").reward})
    assert required_cpus(own) - required_cpus(run) == 1, "no replica, no CPU"


@pytest.mark.parametrize(("service", "any_port"), [({"num_cpus": 0.5}, True), ({"port": 8000}, False)])
def test_open_reward_chooses_a_free_port_unless_the_config_names_one(
    service: dict[str, object], any_port: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def started(owner: str, plan: RewardPlan, token: object, *, any_port: bool) -> RewardServiceAddress:
        asked.append(any_port)
        return RewardServiceAddress("x-reward", "http://127.0.0.1:1")

    monkeypatch.setattr("polyray.launch.fleet.start_reward_service", started)
    monkeypatch.setattr("polyray.launch.fleet.stop_reward_service", lambda owner: None)
    with open_reward("x", plan(build_config(TrainConfig, {"name": "x", "reward": {"service": service}}))):
        pass
    assert asked == [any_port]


def test_fleet_owner_differs_between_directories_and_stays_for_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    owner = fleet_owner("grpo", Path("runs/grpo"))
    assert owner == fleet_owner("grpo", tmp_path / "runs/grpo") and owner.startswith("grpo-")
    assert owner != fleet_owner("grpo", Path("elsewhere/grpo"))


def test_plan_fleet_refuses_a_4_bit_base_without_bitsandbytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = save_base(tmp_path)
    model = ModelSpec(path=str(model_dir), quantization="nf4")
    assert resolve_base(model).directory == model_dir  # an export reads the base as it is stored
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed"):
        plan_fleet(TrainConfig(name="x", model=model))


def test_plans_refuse_engines_that_this_build_of_vllm_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    message = r"^rollout\.gpus_per_worker=0, but vllm 0\.32\.0 .* set rollout\.gpus_per_worker=1"
    model = {"path": str(save_base(tmp_path))}
    evaluation = build_config(EvaluateConfig, {"name": "x", "model": model, "adapters": {"base": None}})
    with pytest.raises(ConfigError, match=message):
        plan_evaluation(evaluation)
    run = build_config(TrainConfig, {"name": "x", "model": model})
    for resolve in (plan_training, plan_fleet):
        with pytest.raises(ConfigError, match=message):
            resolve(run)


@pytest.mark.parametrize(
    "rollout", [{"gpus_per_worker": 1}, {"engine": "simulated"}, {"node_labels": {"kind": "cpu"}}]
)
def test_check_rollout_build_accepts_engines_that_run_elsewhere(
    rollout: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    vllm_build.check_rollout_build(RolloutSpec.model_validate(rollout))
