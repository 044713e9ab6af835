"""Serves a trained policy, or reward models, over HTTP until Ctrl-C or SIGTERM.

    polyray serve configs/serve/generation.yaml [key=value ...] [--check]
    polyray serve configs/serve/reward.yaml [key=value ...] [--check]

`service` in the file says what is served. Joins the Ray cluster of RAY_ADDRESS if that is set, else starts a local
one.

generation: OpenAI's /v1/completions and /v1/chat/completions, /v1/candidates (k of them, scored, one selected),
/v1/selections (people's picks: `polyray curate selections` makes training data of them), adapters that come
and go (/v1/adapters, or adapters='[{follow: runs/first}]' for a run that is still training), and a page at /.
POLYRAY_API_TOKEN and POLYRAY_ADMIN_TOKEN, or a tokens_file, limit access; without any, access is open.

reward: with POLYRAY_API_TOKEN set, every route but /healthz and /readyz needs `Authorization: Bearer TOKEN`. SIGHUP
reads the file again and loads its models beside those that are served, which answer until the new ones have passed
their canary; a configuration that cannot be loaded is refused and the old models still serve. Changes of
reward.service need a restart.

The same services without this job: deploy/serve/README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from polyray.config.loader import read_value
from polyray.errors import ConfigError

SERVICES = ("reward", "generation")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads which service the file is for, and serves it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if _service(arguments) == "generation":
        from polyray.cli.serve_generation import serve_generation

        return serve_generation(arguments, __doc__)
    from polyray.cli.serve_reward import serve_reward

    return serve_reward(arguments, __doc__)


def _service(arguments: Sequence[str]) -> str:
    """`service` of the file or of an override; the reward where neither names one, and for --help."""
    files = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    overrides = [argument for argument in arguments if argument.startswith("service=")]
    service = read_value(files[0], overrides, "service") if files else None
    if service is not None and service not in SERVICES:
        raise ConfigError(f"{files[0]}: service={service!r} is none of {', '.join(SERVICES)}")
    return service or "reward"
