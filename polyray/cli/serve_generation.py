"""`polyray serve` for a file with `service: generation`: candidates over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence

from polyray.cli.arguments import parse, wait_for_signal
from polyray.config.generation import GenerationServeConfig
from polyray.config.service import LOCAL_HOSTS
from polyray.errors import EXIT_OK, MissingFiles
from polyray.launch.serve import check_generation, open_generation

EXAMPLE = {"prompt": "37|b1>e4=", "k": 4}


def serve_generation(argv: Sequence[str], description: str | None) -> int:
    """Starts the service, prints where it is, waits for a signal, stops it."""
    args = parse(argv, job="serve", description=description, config_model=GenerationServeConfig)
    config = args.config

    check_generation(config)
    if args.check:
        return args.print_check(derived=lambda: _derived(config), inputs=lambda: _look_at(config))
    with open_generation(config) as (address, book):
        print(_announcement(address.url, config.host, book.needs_token), flush=True)
        wait_for_signal()
    return EXIT_OK


def _look_at(config: GenerationServeConfig) -> None:
    from polyray.models.base import find_base
    from polyray.serving.generation.tokens import TokenBook

    missing = MissingFiles()
    find_base(config.model.model_copy(update={"warm_start": None}), missing, only_look=True)
    missing.raise_if_any()
    TokenBook.load(config.tokens_file)


def _derived(config: GenerationServeConfig) -> dict[str, object]:
    reward = (
        0.0 if config.reward is None else config.reward.service.num_replicas * config.reward.service.num_cpus
    )
    return {
        "replicas": config.num_replicas,
        "logical_cpus_needed": config.num_replicas * config.num_cpus + reward,
        "gpus_needed": config.num_replicas * config.num_gpus,
        "max_model_len": config.engine.max_prompt_tokens + config.engine.max_completion_tokens,
        "adapters_per_engine": config.max_adapters + 1,
        "configured_adapters": [spec.model_dump(exclude_none=True) for spec in config.adapters],
    }


def _announcement(url: str, host: str, needs_token: bool) -> str:
    authorization = ' -H "Authorization: Bearer $POLYRAY_API_TOKEN"' if needs_token else ""
    lines = [
        f"The generation service is ready: {url}/ (a page; OpenAI's clients take {url}/v1)",
        f"  curl {url}/v1/candidates{authorization} -H 'Content-Type: application/json' -d '{json.dumps(EXAMPLE)}'",
        "Ctrl-C stops it.",
    ]
    if not needs_token and host not in LOCAL_HOSTS:
        lines.insert(
            1,
            f"  WARNING: {host} is open to everyone in reach; set POLYRAY_API_TOKEN and POLYRAY_ADMIN_TOKEN",
        )
    return "\n".join(lines)
