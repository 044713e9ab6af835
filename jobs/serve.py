"""Serves reward models over HTTP until Ctrl-C or SIGTERM.

    python -m jobs.serve configs/serve/reward.yaml [key=value ...] [--check]

With POLYRAY_API_TOKEN set, every route but /healthz and /readyz needs `Authorization: Bearer TOKEN`. Joins
the Ray cluster of RAY_ADDRESS where that is set, else starts a local one. SIGHUP reads CONFIG again and loads
its models beside those that are served, which answer until the new ones have passed their canary; a
configuration that cannot be loaded is refused and the old models go on. What is under reward.service needs a
restart. The same service without this job: deploy/serve/README.md.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.cli import REPOSITORY_ROOT, JobArguments, parse, run
from polyray.config.serve import RewardServeConfig
from polyray.config.service import ServiceSpec
from polyray.errors import EXIT_OK, PolyrayError

if TYPE_CHECKING:
    from services.reward.configuration import ReplicaConfiguration

EXAMPLE_ITEM = {"prompt": "37|b1>e4=", "completion": "RRRUUU"}
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the service, prints where it is, waits for a signal, stops it."""
    args = _parse(argv)
    config = args.config

    from polyray.rewards import plan_reward

    for spec in config.specs.values():
        plan_reward(
            spec, config.task, config.diversity
        )  # what is wrong with a file of the user's is said now
    if args.check:
        return args.print_check(derived=_derived(config))

    from polyray.actors.resources import ray_session
    from services.auth import token_from_environment
    from services.reward.configuration import ReplicaConfiguration
    from services.reward.run import reload_reward_service, start_reward_service, stop_reward_service

    token = token_from_environment()
    service = config.how_it_runs
    with ray_session(config.ray, REPOSITORY_ROOT):
        address = start_reward_service(
            config.name, ReplicaConfiguration.from_config(config), token, spec=service
        )
        try:
            print(_announcement(address.url, service.host, token is not None), flush=True)

            def load(configuration: ReplicaConfiguration) -> str | None:
                return reload_reward_service(config.name, configuration, token, service)

            _wait_for_signal(lambda reloads: print(_reload(argv, config, reloads, load), flush=True))
        finally:
            stop_reward_service(config.name)
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> JobArguments[RewardServeConfig]:
    return parse(argv, job="serve", description=__doc__, config_model=RewardServeConfig)


def _reload(
    argv: Sequence[str] | None,
    running: RewardServeConfig,
    reloads: int,
    load: Callable[[ReplicaConfiguration], str | None],
) -> str:
    """Reads CONFIG again and hands its models to `load`; what is to be printed about it."""
    from services.reward.configuration import ReplicaConfiguration

    try:
        config = _parse(argv).config
        configuration = ReplicaConfiguration.from_config(config)
        revision = f"{config.revision}+{reloads}"  # files may have changed behind the same paths
        error = load(replace(configuration, revision=revision))
    except PolyrayError as caught:
        error = str(caught)
    if error is not None:
        return f"NOT reloaded, the old models go on: {error}"
    kept = [
        name
        for name, before, after in (
            ("reward.service", running.how_it_runs, config.how_it_runs),
            ("name", running.name, config.name),
            ("ray", running.ray, config.ray),
        )
        if before != after
    ]
    restart = f"; {', '.join(kept)} changed too, and needs a restart" if kept else ""
    return f"Reloaded, revision {revision}: {', '.join(config.specs)}{restart}"


def _derived(config: RewardServeConfig) -> dict[str, object]:
    service: ServiceSpec = config.how_it_runs
    return {
        "models": list(config.specs),
        "replicas": service.num_replicas,
        "logical_cpus_needed": service.num_replicas * service.num_cpus,
        "gpus_needed": service.num_replicas * service.num_gpus,
        "max_ongoing_requests_per_replica": service.max_ongoing_requests,
    }


def _announcement(url: str, host: str, has_token: bool) -> str:
    authorization = ' -H "Authorization: Bearer $POLYRAY_API_TOKEN"' if has_token else ""
    body = json.dumps({"items": [EXAMPLE_ITEM]})
    lines = [
        f"The reward service is ready: {url}",
        f"  curl {url}/v1/score{authorization} -H 'Content-Type: application/json' -d '{body}'",
        "Ctrl-C stops it.",
    ]
    if not has_token and host not in LOCAL_HOSTS:
        lines.insert(
            1, f"  WARNING: {host} is open to whoever reaches it; set POLYRAY_API_TOKEN to require a token"
        )
    return "\n".join(lines)


def _wait_for_signal(on_reload: Callable[[int], object]) -> None:
    """Returns at SIGINT or SIGTERM, calls `on_reload(1)`, `(2)`, ... at SIGHUPs; set up after Ray, which installs
    handlers of its own."""
    stopped, reload = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    reloads = 0
    while not stopped.wait(0.5):  # a wait without a limit would not let the handler run
        if reload.is_set():
            reload.clear()
            on_reload(reloads := reloads + 1)


if __name__ == "__main__":
    run(main)
