"""The doctor on a cluster: whether it lets us in, what it has, what its machines can run (not a job itself).

`python -m polyray.doctor.cluster HEAD:6379` joins as a job does and prints what it saw as JSON, in a process
of its own: what Ray's client prints and how long it waits is its own affair.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from polyray.config.paths import REPOSITORY_ROOT
from polyray.doctor.findings import Finding, installed_version, look
from polyray.doctor.packages import ENGINES, SUPPORTED
from polyray.errors import PolyrayError

LOOK = ("-m", "polyray.doctor.cluster")
TIMEOUT_S = 180.0
WORKER_TIMEOUT_S = 90.0
PACKAGES = (*SUPPORTED, *ENGINES)
FORWARD = "ssh -L 8265:127.0.0.1:8265 HEAD, or kubectl port-forward svc/HEAD-svc 8265"
TOKEN = "with token authentication, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's own"
SAME_EVERYWHERE = "the same image, or environments of the same requirements/*.txt, on all machines"


def check_cluster(address: str) -> Iterator[Finding]:
    """Check a cluster. `address`: HEAD:6379 to join, or the dashboard's URL, which is only asked for its identity."""
    if address.startswith(("http://", "https://")):
        yield _dashboard(address)
        return
    seen, error = look((*LOOK, address), TIMEOUT_S)
    if error:
        yield Finding("FAIL", f"Ray at {address}: {error}", "`ray status` on its head shows its state")
        return
    if "error" in seen:
        what, _, fix = seen["error"].partition("; ")
        yield Finding("FAIL", what, fix)
        return
    yield from judge_machines(address, seen["machines"], own_packages())


def judge_machines(
    address: str, machines: Mapping[str, Mapping[str, Any]], own: Mapping[str, str]
) -> Iterator[Finding]:
    """`machines`: name -> its resources, and its packages or an error, as its worker told; `own`: ours."""
    cpus = sum(machine["resources"].get("CPU", 0) for machine in machines.values())
    gpus = sum(machine["resources"].get("GPU", 0) for machine in machines.values())
    number = f"{len(machines)} machine{'s' * (len(machines) != 1)}"
    yield Finding("ok", f"Ray at {address}: {number}, {cpus:g} CPUs, {gpus:g} GPUs")
    for name, machine in machines.items():
        yield _judge_machine(name, machine, own)


def own_packages() -> dict[str, str]:
    """Python and what is installed here."""
    versions = {package: installed_version(package) for package in PACKAGES}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, **{package: version for package, version in versions.items() if version}}


def _judge_machine(name: str, machine: Mapping[str, Any], own: Mapping[str, str]) -> Finding:
    resources = ", ".join(f"{machine['resources'].get(key, 0):g} {key}s" for key in ("CPU", "GPU"))
    what = f"{name}: {resources}"
    if machine.get("error"):
        place = "installed" if REPOSITORY_ROOT is None else f"at the same path as here, {REPOSITORY_ROOT}"
        fix = f"an image or environment with polyray {place}; {SAME_EVERYWHERE}"
        return Finding("FAIL", f"{what}; no worker there imports polyray: {machine['error']}", fix)
    there: Mapping[str, str] = machine["packages"]
    different = [
        f"{package} {there.get(package, 'none')} (here {own.get(package, 'none')})"
        for package in ("python", *PACKAGES)
        if there.get(package) != own.get(package)
    ]
    if different:
        return Finding("FAIL", f"{what}; {', '.join(different)}", SAME_EVERYWHERE)
    return Finding("ok", f"{what}; a worker imports polyray, with the same packages")


def _dashboard(address: str) -> Finding:
    """Ask for the version, as `ray job submit` does before it sends anything."""
    import ray
    from ray.job_submission import JobSubmissionClient

    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray's client prefers them to its argument
        os.environ.pop(name, None)
    try:
        there = JobSubmissionClient(address)._server_ray_version
    except ConnectionError:
        fix = f"is the head up, and its port reachable from here ({FORWARD})?"
        return Finding("FAIL", f"no dashboard answers at {address}", fix)
    except Exception as error:  # Ray has no class for what a dashboard refuses
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding("FAIL", f"the dashboard at {address} answers with an error: {first[:300]}", TOKEN)
    if there != ray.__version__:
        return Finding("FAIL", f"{address} runs Ray {there}, this machine {ray.__version__}", SAME_EVERYWHERE)
    return Finding("ok", f"the dashboard at {address} takes jobs, with the Ray of this machine")


def _look(address: str) -> dict[str, Any]:
    """Joins as jobs do, and has a worker of each machine report."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from polyray.cluster.session import ray_session
    from polyray.config.run import RaySpec

    os.environ["RAY_ADDRESS"] = address
    try:
        with ray_session(RaySpec()):
            nodes = [node for node in ray.nodes() if node["Alive"]]
            report = ray.remote(num_cpus=0, max_retries=0)(_reporter(PACKAGES))
            asked = {
                node["NodeID"]: report.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ).remote()
                for node in nodes
            }
            return {"machines": {_name(node): _told(node, asked[node["NodeID"]]) for node in nodes}}
    except PolyrayError as error:
        return {"error": " ".join(str(error).split())}


def _told(node: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    import ray
    import ray.exceptions

    told: dict[str, Any] = {"resources": {key: node["Resources"].get(key, 0) for key in ("CPU", "GPU")}}
    try:
        report: Any = ray.get(answer, timeout=WORKER_TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        lines = str(error).strip().splitlines() or ["no message"]
        return told | {"error": f"{type(error).__name__}: {lines[-1]}"}
    return told | report


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})"


def _reporter(packages: tuple[str, ...]) -> Any:
    """A function that travels by its code, since a worker may not have this file."""

    def report() -> dict[str, Any]:
        import importlib
        import sys
        from importlib import metadata

        found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
        for package in packages:
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        try:
            importlib.import_module("polyray.types")
        except ImportError as error:
            return {"error": str(error)}
        return {"packages": found}

    return report


if __name__ == "__main__":
    print(json.dumps(_look(sys.argv[1])))
