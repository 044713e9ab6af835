"""Builds the embedded base model: 0.86 M parameters, trained here so that nothing must be downloaded.

    polyray pretrain configs/pretrain.yaml [key=value ...] [--check]

The model goes to `cache_dir` (~/.cache/polyray), under a name that follows from the configuration: building
it again finds it there. Every configuration with `model.path: embedded` uses the one that was built or found
last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from polyray.cli.arguments import parse
from polyray.config.run import PretrainConfig
from polyray.errors import EXIT_OK

LINES = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the model or finds it; prints its directory."""
    args = parse(argv, job="pretrain", description=__doc__, config_model=PretrainConfig)
    config = args.config
    if args.check:
        return args.print_check(derived=lambda: {"training_sequences": config.steps * config.batch_rows})
    from polyray.learner.embedded import build_embedded

    started = time.monotonic()

    def report(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // LINES) == 0 or step == steps:
            print(
                f"pretrain step {step}/{steps} loss {loss:.3f} {time.monotonic() - started:.0f} s", flush=True
            )

    print(build_embedded(config, report))
    return EXIT_OK
