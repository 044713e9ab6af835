"""Starts and stops a run's reward service on the Ray that this process is connected to.

Everything is named by the run: application `RUN-reward`, route `/RUN/reward`. One Serve instance, and so one
HTTP address, belongs to a Ray cluster: a second run on the same cluster shares it under its own route.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pydantic import SecretStr
from ray import serve

from polyray.config.service import ServiceSpec
from polyray.errors import RewardError
from polyray.rewards import RewardPlan
from polyray.serving.reward.app import build_reward_app
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.serve_instance import (
    POLL_S,
    Listening,
    ensure_serve,
    reachable,
    stop_application,
    wait_until_running,
)

START_TIMEOUT_S = 120.0
ANSWERS_PER_REPLICA = 3


@dataclass(frozen=True, slots=True)
class RewardServiceAddress:
    """Address of a started service.

    Example:
        RewardServiceAddress(app_name="run-1-reward", url="http://127.0.0.1:8000/run-1/reward")
    """

    app_name: str
    """Name for RewardClient."""
    url: str
    """Address for RewardServiceClient."""


@dataclass(frozen=True, slots=True)
class StartingRewardService:
    """A service that was deployed and need not answer yet.

    Example:
        StartingRewardService(RewardServiceAddress(...), ServiceSpec()).wait()
    """

    address: RewardServiceAddress
    spec: ServiceSpec

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> RewardServiceAddress:
        """Returns once it answers; where it cannot start, it is removed and the reason raised."""
        spec, app_name = self.spec, self.address.app_name
        gpus = f" and {spec.num_gpus:g} GPUs" if spec.num_gpus else ""
        needs = (
            f"{spec.num_replicas} x {spec.num_cpus:g} CPUs{gpus}: raise ray.num_cpus, or lower "
            f"reward.service.num_replicas or num_cpus{' or num_gpus' if spec.num_gpus else ''}"
        )
        try:
            wait_until_running(app_name, "the reward service", timeout_s, needs, RewardError)
        except BaseException:
            serve.delete(app_name)
            raise
        return self.address


def reward_app_name(run_name: str) -> str:
    """The Serve application of a run's reward service."""
    return f"{run_name}-reward"


def start_reward_service(
    run_name: str,
    plan: RewardPlan | ReplicaConfiguration,
    token: SecretStr | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
    spec: ServiceSpec | None = None,
    any_port: bool = False,
) -> RewardServiceAddress:
    """Deploys the service, replacing a leftover of the same run, and waits until it answers.

    `plan` is one reward, or several by name; `spec` says how the replicas run, the (first) reward's own unless given.
    With `any_port` a port that is taken is replaced by a free one. Raises ResourceError where the port is taken or no
    replica can be placed, RewardError where the reward's own code fails. Needs an initialised Ray.
    """
    return deploy_reward_service(run_name, plan, token, spec, any_port).wait(start_timeout_s)


def deploy_reward_service(
    run_name: str,
    plan: RewardPlan | ReplicaConfiguration,
    token: SecretStr | None = None,
    spec: ServiceSpec | None = None,
    any_port: bool = False,
    over_http: bool = True,
) -> StartingRewardService:
    """The same without waiting: what else has to start can start beside it.

    Without `over_http` it has no route, and only RewardClient reaches it.
    """
    configuration = plan if isinstance(plan, ReplicaConfiguration) else ReplicaConfiguration.of(plan)
    spec = spec or configuration.default_spec
    guarded = token is not None or any_port or not over_http
    listening = Listening(spec.host, spec.port, spec.request_timeout_s, "reward.service.", any_port, guarded)
    host, port = ensure_serve(listening)
    app_name = reward_app_name(run_name)
    if app_name in serve.status().applications:
        serve.delete(app_name)
    _deploy(run_name, configuration, token, spec, over_http)
    address = RewardServiceAddress(app_name, f"http://{reachable(host)}:{port}/{run_name}/reward")
    return StartingRewardService(address, spec)


def reload_reward_service(
    run_name: str,
    configuration: ReplicaConfiguration,
    served: ReplicaConfiguration,
    token: SecretStr | None,
    spec: ServiceSpec,
) -> str | None:
    """Give the running replicas new models without a restart; wait until all that answer have them.

    Returns None, or why the new configuration was refused: the old models then still serve, and replicas to come get
    `served`, the configuration before. `token` and `spec` are those of the start. The configuration needs a new
    revision, or nothing tells whether a replica serves it.
    """
    error = _reload(run_name, configuration, token, spec)
    if error is not None:
        _deploy(run_name, served, token, spec)
    return error


def _reload(
    run_name: str, configuration: ReplicaConfiguration, token: SecretStr | None, spec: ServiceSpec
) -> str | None:
    _deploy(run_name, configuration, token, spec)
    handle = serve.get_app_handle(reward_app_name(run_name))
    deadline = time.monotonic() + START_TIMEOUT_S
    in_a_row = 0
    while in_a_row < ANSWERS_PER_REPLICA * spec.most_replicas:  # which replica answers is Serve's choice
        info = handle.info.remote().result(timeout_s=spec.request_timeout_s)
        if info.refused_revision == configuration.revision:
            return info.reload_error
        in_a_row = in_a_row + 1 if info.revision == configuration.revision else 0
        if time.monotonic() > deadline:
            return f"not loaded after {START_TIMEOUT_S:g} s"
        time.sleep(POLL_S)
    return None


def stop_reward_service(run_name: str) -> None:
    """Removes a run's service; does nothing where there is none. Serve itself stays for other runs."""
    stop_application(reward_app_name(run_name))


def _deploy(
    run_name: str,
    configuration: ReplicaConfiguration,
    token: SecretStr | None,
    spec: ServiceSpec,
    over_http: bool = True,
) -> None:
    application = build_reward_app(configuration, token, spec)
    route = f"/{run_name}/reward" if over_http else None
    target = serve.RunTarget(application, name=reward_app_name(run_name), route_prefix=route)
    serve.run_many([target], wait_for_applications_running=False)
