"""Serves a reward over HTTP until Ctrl-C or SIGTERM.

    python -m jobs.serve configs/serve/reward.yaml [key=value ...] [--check]

With POLYRAY_API_TOKEN set, every route but /healthz and /readyz needs `Authorization: Bearer TOKEN`. Joins
the Ray cluster of RAY_ADDRESS where that is set, else starts a local one.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Sequence

from jobs.cli import REPOSITORY_ROOT, parse, run
from polyray.config.serve import RewardServeConfig
from polyray.config.service import ServiceSpec
from polyray.errors import EXIT_OK

EXAMPLE_ITEM = {"prompt": "37|b1>e4=", "completion": "RRRUUU"}


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the service, prints where it is, waits for a signal, stops it."""
    args = parse(argv, job="serve", description=__doc__, config_model=RewardServeConfig)
    config = args.config

    from polyray.rewards import plan_reward

    plan = plan_reward(config.reward, config.task, config.diversity)
    if args.check:
        return args.print_check(derived=_derived(config.reward.service))

    from polyray.actors.resources import ray_session
    from services.auth import token_from_environment
    from services.reward.run import start_reward_service, stop_reward_service

    token = token_from_environment()
    with ray_session(config.ray, REPOSITORY_ROOT):
        address = start_reward_service(config.name, plan, token)
        try:
            print(_announcement(address.url, config.reward.service.host, token is not None), flush=True)
            _wait_for_signal()
        finally:
            stop_reward_service(config.name)
    return EXIT_OK


def _derived(service: ServiceSpec) -> dict[str, float | int]:
    return {
        "replicas": service.num_replicas,
        "logical_cpus_needed": service.num_replicas * service.num_cpus,
        "max_ongoing_requests_per_replica": 2 * service.max_batch_size,
    }


def _announcement(url: str, host: str, has_token: bool) -> str:
    authorization = ' -H "Authorization: Bearer $POLYRAY_API_TOKEN"' if has_token else ""
    body = json.dumps({"items": [EXAMPLE_ITEM]})
    lines = [
        f"The reward service is ready: {url}",
        f"  curl {url}/v1/score{authorization} -H 'Content-Type: application/json' -d '{body}'",
        "Ctrl-C stops it.",
    ]
    if not has_token and host not in ("127.0.0.1", "localhost", "::1"):
        lines.insert(
            1, f"  WARNING: {host} is open to whoever reaches it; set POLYRAY_API_TOKEN to require a token"
        )
    return "\n".join(lines)


def _wait_for_signal() -> None:
    """Returns at SIGINT or SIGTERM; set up after Ray, which installs handlers of its own."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.wait(1.0):  # a wait without a limit would not let the handler run
        pass


if __name__ == "__main__":
    run(main)
