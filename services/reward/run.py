"""Starts and stops a run's reward service on the Ray that this process is connected to.

Everything is named by the run: application `RUN-reward`, route `/RUN/reward`. One Serve instance, and so one
HTTP address, belongs to a Ray cluster: a second run on the same cluster shares it under its own route.
"""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass

from pydantic import SecretStr
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client  # the only way to learn a running instance's port
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from polyray.config.service import ServiceSpec
from polyray.errors import ResourceError, RewardError
from polyray.rewards import RewardPlan
from services.reward.app import build_reward_app
from services.reward.configuration import ReplicaConfiguration

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
POLL_S = 0.05
ANSWERS_PER_REPLICA = 3


@dataclass(frozen=True, slots=True)
class RewardServiceAddress:
    """Where a started service is found.

    Example:
        RewardServiceAddress(app_name="run-1-reward", url="http://127.0.0.1:8000/run-1/reward")
    """

    app_name: str
    """What RewardClient takes."""
    url: str
    """What RewardServiceClient takes."""


def reward_app_name(run_name: str) -> str:
    """The Serve application of a run's reward service."""
    return f"{run_name}-reward"


def start_reward_service(
    run_name: str,
    plan: RewardPlan | ReplicaConfiguration,
    token: SecretStr | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
    spec: ServiceSpec | None = None,
) -> RewardServiceAddress:
    """Deploys the service, replacing a leftover of the same run, and waits until it answers.

    `plan` is one reward, or several by name; `spec` says how the replicas run, the (first) reward's own unless given.
    Raises ResourceError where the port is taken or no replica can be placed, RewardError where the reward's
    own code fails. Needs an initialised Ray.
    """
    configuration = plan if isinstance(plan, ReplicaConfiguration) else ReplicaConfiguration.of(plan)
    spec = spec or configuration.default_spec
    host, port = _ensure_serve(spec)
    app_name = reward_app_name(run_name)
    if app_name in serve.status().applications:
        serve.delete(app_name)
    _deploy(run_name, configuration, token, spec)
    try:
        _wait_until_running(app_name, spec, start_timeout_s)
    except BaseException:
        serve.delete(app_name)
        raise
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return RewardServiceAddress(app_name, f"http://{reachable}:{port}/{run_name}/reward")


def reload_reward_service(
    run_name: str, configuration: ReplicaConfiguration, token: SecretStr | None, spec: ServiceSpec
) -> str | None:
    """Gives the running replicas new models without a restart; waits until all that answer have them.

    Returns None, or why the new configuration was refused: the old models then go on. `token` and `spec` are those of
    the start. The configuration needs a new revision, or nothing tells whether a replica serves it.
    """
    _deploy(run_name, configuration, token, spec)
    handle = serve.get_app_handle(reward_app_name(run_name))
    deadline = time.monotonic() + START_TIMEOUT_S
    in_a_row = 0
    while in_a_row < ANSWERS_PER_REPLICA * spec.most_replicas:  # which replica answers is Serve's choice
        info = handle.info.remote().result(timeout_s=spec.request_timeout_s)
        if info.reload_error is not None and info.revision != configuration.revision:
            return info.reload_error
        in_a_row = in_a_row + 1 if info.revision == configuration.revision else 0
        if time.monotonic() > deadline:
            return f"not loaded after {START_TIMEOUT_S:g} s"
        time.sleep(POLL_S)
    return None


def stop_reward_service(run_name: str) -> None:
    """Removes a run's service; does nothing where there is none. Serve itself stays for other runs."""
    try:
        serve.delete(reward_app_name(run_name))
    except RayServeException:
        return


def _deploy(
    run_name: str, configuration: ReplicaConfiguration, token: SecretStr | None, spec: ServiceSpec
) -> None:
    application = build_reward_app(configuration, token, spec)
    target = serve.RunTarget(application, name=reward_app_name(run_name), route_prefix=f"/{run_name}/reward")
    serve.run_many([target], wait_for_applications_running=False)


def _ensure_serve(spec: ServiceSpec) -> tuple[str, int]:
    """(host, port) of the cluster's Serve, which is started unless it runs already."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every deployment
    try:
        client = _get_global_client()
    except RayServeException:
        client = None
    running = client.http_config if client is not None else None
    if running is None:
        port = _free_port(spec.host, spec.port)
        options = HTTPOptions(host=spec.host, port=port, request_timeout_s=spec.request_timeout_s)
        try:
            _start_serve(options)
        except (
            RayActorError
        ) as error:  # Serve gave up a proxy that was slow to start, and has started another
            logger.warning("Serve's HTTP proxy is started once more: %s", error)
            _start_serve(options)
        return spec.host, port
    if spec.port not in (0, running.port):
        raise ResourceError(
            f"reward.service.port={spec.port}, but this Ray cluster's Serve listens on port {running.port}; "
            f"set reward.service.port to {running.port} or 0, or start a Ray of your own"
        )
    return running.host or spec.host, running.port


def _start_serve(options: HTTPOptions) -> None:
    """Where Serve runs already this only connects to it."""
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=options,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )


def _free_port(host: str, port: int) -> int:
    """`port` if nothing listens there, any free one for 0.

    Serve's proxy opens its port with SO_REUSEPORT and would silently share it with another service.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"reward.service cannot listen on {host}:{port} ({error.strerror}); "
                "stop what uses it, or set reward.service.port to another port, or to 0 for any free one"
            ) from None
        return probe.getsockname()[1]


def _wait_until_running(app_name: str, spec: ServiceSpec, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        status = serve.status().applications.get(app_name)
        if status is not None and status.status == "RUNNING":
            return
        if status is not None and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            details = [deployment.message for deployment in status.deployments.values() if deployment.message]
            raise RewardError(
                f"the reward service {app_name} did not start: {_last_line(*details, status.message)}"
            )
        if time.monotonic() > deadline:
            raise ResourceError(
                f"the reward service {app_name} is not ready after {timeout_s:g} s; it needs "
                f"{spec.num_replicas} x {spec.num_cpus:g} CPUs: raise ray.num_cpus, or lower "
                "reward.service.num_replicas or num_cpus"
            )
        time.sleep(POLL_S)


def _last_line(*tracebacks: str) -> str:
    """What was raised, out of Serve's report of a failed start."""
    last = next((text for text in tracebacks if text), "").strip().rpartition("\n")[2]
    return last.removeprefix(f"{RewardError.__module__}.{RewardError.__name__}: ")
