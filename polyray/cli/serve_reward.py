"""`polyray serve` for a file with `service: reward`: reward models over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from polyray.cli.arguments import JobArguments, parse, wait_for_signal
from polyray.config.serve import RewardServeConfig
from polyray.config.service import LOCAL_HOSTS, ServiceSpec
from polyray.errors import EXIT_OK, PolyrayError
from polyray.launch.serve import check_reward_models, open_reward_models

if TYPE_CHECKING:
    from polyray.serving.reward.configuration import ReplicaConfiguration

EXAMPLE_ITEM = {"prompt": "37|b1>e4=", "completion": "RRRUUU"}


def serve_reward(argv: Sequence[str] | None, description: str | None) -> int:
    """Starts the service, prints where it is, waits for a signal, stops it."""
    args = _parse(argv, description)
    config = args.config
    check_reward_models(config)
    if args.check:
        return args.print_check(derived=lambda: _derived(config))
    with open_reward_models(config) as (address, token):
        from polyray.serving.reward.configuration import ReplicaConfiguration
        from polyray.serving.reward.run import reload_reward_service

        service, served = config.how_it_runs, ReplicaConfiguration.from_config(config)
        print(_announcement(address.url, service.host, token is not None), flush=True)

        def load(configuration: ReplicaConfiguration) -> str | None:
            nonlocal served
            error = reload_reward_service(config.name, configuration, served, token, service)
            served = configuration if error is None else served
            return error

        wait_for_signal(lambda reloads: print(_reload(argv, config, reloads, load), flush=True))
    return EXIT_OK


def _parse(argv: Sequence[str] | None, description: str | None = None) -> JobArguments[RewardServeConfig]:
    return parse(argv, job="serve", description=description, config_model=RewardServeConfig)


def _reload(
    argv: Sequence[str] | None,
    running: RewardServeConfig,
    reloads: int,
    load: Callable[[ReplicaConfiguration], str | None],
) -> str:
    """Reads CONFIG again and hands its models to `load`; what is to be printed about it."""
    from polyray.serving.reward.configuration import ReplicaConfiguration

    try:
        config = _parse(argv).config
        configuration = ReplicaConfiguration.from_config(config)
        revision = f"{config.revision}+{reloads}"  # files may have changed behind the same paths
        error = load(replace(configuration, revision=revision))
    except PolyrayError as caught:
        error = str(caught)
    if error is not None:
        return f"NOT reloaded, the old models still serve: {error}"
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
            1, f"  WARNING: {host} is open to everyone in reach; set POLYRAY_API_TOKEN to require a token"
        )
    return "\n".join(lines)
