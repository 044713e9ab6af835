"""Checks this machine, a model, a cluster: versions, GPUs, memory, disk, ports; what must load, loads; an engine.

    polyray doctor
    polyray doctor --no-engine               without an engine and an encoder, which take half a minute
    polyray doctor --model Qwen/Qwen3-0.6B   also whether this base loads; --config FILE: all that it names
    polyray doctor --address HEAD:6379       also a cluster and each of its machines (else RAY_ADDRESS's)

One line per finding (ok, warn or FAIL) with its fix; exit code 1 if anything fails. Nothing is changed.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial

from polyray.cli.arguments import JobParser
from polyray.config.model import ModelSpec
from polyray.doctor.cluster import check_cluster
from polyray.doctor.findings import Check
from polyray.doctor.gpu import check_gpus
from polyray.doctor.machine import (
    check_cores,
    check_memory,
    check_open_files,
    check_ports,
    check_programs,
    check_space,
)
from polyray.doctor.models import check_encoder, check_engine, check_model, model_and_encoders
from polyray.doctor.packages import check_engine_package, check_python, check_versions
from polyray.errors import EXIT_FAILURE, EXIT_OK

CHECKS: Sequence[Check] = (
    check_python,
    check_versions,
    check_engine_package,
    check_programs,
    check_gpus,
    check_cores,
    check_memory,
    check_space,
    check_open_files,
    check_ports,
)
LOADING: Sequence[Check] = (check_encoder, check_engine)
"""Slow checks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs every check and prints its findings as they come."""
    parser = JobParser("doctor", __doc__)
    parser.add_argument(
        "--no-engine", action="store_true", help="leave out the engine and the packaged encoder"
    )
    parser.add_argument(
        "--model", metavar="PATH", help="a base that must load: directory, hub name or embedded"
    )
    parser.add_argument("--encoder", metavar="NAME", help="a sentence encoder that must load")
    parser.add_argument("--config", metavar="FILE", help="file with the model and encoders that must load")
    parser.add_argument(
        "--address", metavar="HEAD:6379", help="a cluster, or its dashboard: http://HEAD:8265"
    )
    options = parser.parse_strictly(argv)
    failed = False
    for check in [*CHECKS, *_asked_for(options), *([] if options.no_engine else LOADING)]:
        for finding in check():
            print(finding.line(), flush=True)
            failed = failed or finding.level == "FAIL"
    return EXIT_FAILURE if failed else EXIT_OK


def _asked_for(options: Namespace) -> Iterator[Check]:
    """Checks of a cluster, models and encoders that the command line names."""
    address = options.address or os.environ.get("RAY_ADDRESS")
    if address:
        yield partial(check_cluster, address)
    model, encoders = model_and_encoders(options.config) if options.config else (None, [])
    if options.model:
        model = ModelSpec(path=options.model)
    if model is not None:
        yield partial(check_model, model)
    named: list[str] = [*encoders, *([options.encoder] if options.encoder else [])]
    for name in dict.fromkeys(named):
        yield partial(check_encoder, name)
