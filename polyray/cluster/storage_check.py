"""Whether every machine of the cluster writes a run's directory where its driver reads it, asked before a run starts.

A directory of a machine's own exists under the same path on each of them: a run would end with its checkpoints spread
over machines that go away. So each machine writes a file, and the driver looks whether it sees it.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polyray.errors import ResourceError

TIMEOUT_S = 60.0
PROBE = ".write-check-"


def check_storage(directory: Path) -> None:
    """Raises ResourceError that names the machine which cannot write to `directory`, or writes into another one of
    that name. Nothing to ask where there is one machine."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    write = ray.remote(num_cpus=0, max_retries=0)(_write)
    probes = {node["NodeID"]: directory / f"{PROBE}{uuid.uuid4().hex}" for node in nodes}
    answers = {
        node["NodeID"]: write.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(probes[node["NodeID"]]))
        for node in nodes
    }
    try:
        for node in nodes:
            _judge(node, directory, probes[node["NodeID"]], answers[node["NodeID"]])
    finally:
        for probe in probes.values():
            probe.unlink(missing_ok=True)


def _write(path: str) -> str:
    """Write a file on the asked machine; returns the error, or ""."""
    try:
        Path(path).write_text(path, encoding="utf-8")
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror}"
    return ""


def _judge(node: dict[str, Any], directory: Path, probe: Path, answer: Any) -> None:
    where = f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})"
    fix = "give runs_dir a directory that all machines share, e.g. a network file system or a volume of all pods"
    try:
        failed = ray.get(answer, timeout=TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise ResourceError(
            f"{where} did not answer within {TIMEOUT_S:g} s whether it can write to {directory} "
            f"({type(error).__name__}); look at that machine, or take it out of the cluster"
        ) from error
    if failed:
        raise ResourceError(f"{where} cannot write to {directory}: {failed}; {fix}")
    if not probe.is_file():
        raise ResourceError(
            f"{where} writes to a {directory} of its own, which this machine does not see; {fix}"
        )
