"""Starting or joining Ray, and saying before anything starts whether a run fits on it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from polyray.capacity.bundles import Machine, Misfit, Part, misfit
from polyray.cluster.joining import join
from polyray.cluster.lost import watched_ray
from polyray.config.paths import import_path
from polyray.config.run import RaySpec
from polyray.errors import ResourceError

NAMESPACE = "polyray"
OUTSIDE_ANY_GROUP = PlacementGroupSchedulingStrategy(placement_group=None)  # type: ignore[arg-type]
"""Inside a Tune trial every actor without an explicit strategy is captured by the trial's placement group."""

WORKER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0"),
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
"""Variables of every worker of a job. The last one makes Ray hide all GPUs from workers that ask for none."""

CPU_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "THP_MEM_ALLOC_ENABLE": "1",
    "GOMP_SPINCOUNT": "1000",
}
"""Variables of processes that compute on a CPU: freed memory stays with the process, in pages of 2 MiB, and threads
that wait do not keep a core from others.

By default OpenMP's threads spin for milliseconds where they wait for each other. One other busy process on two cores
then makes products of matrices 10 times slower. After 1,000 turns a thread sleeps: that rarely happens between two
operators, and costs little beyond the core that another process takes.

By default glibc gives every large tensor back to the kernel, which clears its pages anew for the next one: a step of
SmolLM2-135M then has 130,000 page faults, with these hardly any. Processes with a GPU keep the default: their host
memory is largest while they load a model, and would stay so.
"""


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Placement of an actor that its starter needs: it is lost with the starter's node, and with no other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@contextmanager
def ray_session(spec: RaySpec, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Ray for the length of a job; yields the dashboard's address (or a word on why there is none).

    Joins the cluster that RAY_ADDRESS names (as inside `ray job submit`), else starts a local one that ends
    with the job. An already connected process is used as it is. Workers import the same clone as this process.
    """
    if ray.is_initialized():
        yield "already connected"
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1" if spec.dashboard else "0")
    # A learner whose machine is taken away must fail like any other: the run is told, and makes room for it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    # If engines start at the same time, Serve's proxy needs longer than the 5 s after which it would be killed.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    runtime_env = {"env_vars": {**import_path(), **WORKER_ENVIRONMENT, **(environment or {})}}
    address = os.environ.get("RAY_ADDRESS")
    with _own_sigterm():
        context = _connect(spec, address, runtime_env)
    try:
        with watched_ray():
            yield f"http://{context.dashboard_url}" if context.dashboard_url else "off (ray.dashboard=false)"
    finally:
        ray.shutdown()
        if "ray.serve.context" in sys.modules:  # else the next session would ask the controller of this one
            sys.modules["ray.serve.context"]._set_global_client(None)


def _connect(spec: RaySpec, address: str | None, runtime_env: dict[str, Any]) -> Any:
    """Joins the cluster at `address`, or starts a local Ray."""
    if address:
        os.environ.setdefault(
            "RAY_OVERRIDE_JOB_RUNTIME_ENV", "1"
        )  # a job that was submitted has variables of its own
        return join(address, namespace=NAMESPACE, runtime_env=runtime_env, log_to_driver=False)
    port = _free_port()
    # Ray Train's actors ask the state API, which without this is that of the cluster that `ray start` brought up
    # on this machine last, even if it is long gone: each question then waits for half a minute.
    runtime_env["env_vars"]["RAY_ADDRESS"] = f"{ray.util.get_node_ip_address()}:{port}"
    with variables_set(RAY_GCS_SERVER_PORT=str(port)):
        return ray.init(
            address="local",  # else it would join the cluster that was started last on this machine
            num_cpus=spec.num_cpus,
            object_store_memory=spec.object_store_mib * 2**20,
            include_dashboard=spec.dashboard,
            dashboard_host="127.0.0.1",
            namespace=NAMESPACE,
            runtime_env=runtime_env,
            log_to_driver=False,
            configure_logging=False,
        )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps this process's handler of SIGTERM: Ray's own, which it installs, leaves with exit code 15."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return listening.getsockname()[1]


@contextmanager
def variables_set(**variables: str) -> Iterator[None]:
    """Set these variables for processes that are started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def check_placement(parts: Sequence[Part], lower: str) -> None:
    """Raise ResourceError if the run can never be placed; it names the parts that do not fit.

    Resources of other jobs count as free, because these jobs end.
    `lower` says which fields would make the run smaller.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    machines = {
        f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})": Machine(
            node["Resources"], node["Labels"]
        )
        for node in nodes
    }
    found = misfit(parts, machines)
    if found is not None:
        joined = len(nodes) > 1 or bool(os.environ.get("RAY_ADDRESS"))
        raise ResourceError(f"{found.text}; {_way_out(found, joined)}, or lower {lower}")


def _way_out(found: Misfit, joined: bool) -> str:
    if joined:
        return (
            "add machines (those that an autoscaler would still add do not count, the cluster must already have the "
            "room: raise its least number of machines first)"
        )
    if found.resource == "CPU":
        return "raise ray.num_cpus (logical CPUs)"
    return "use a machine with more GPUs, join a cluster (RAY_ADDRESS)"


def reap(name: str) -> None:
    """Ends an actor that an earlier start of the same run left behind."""
    try:
        leftover = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    ray.kill(leftover)
