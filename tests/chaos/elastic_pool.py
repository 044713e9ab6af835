"""Simulated run on a cluster whose second node comes and goes.

Run by test_elastic_pool.py in a process of its own, because a process knows one Ray. The first node has room from the
start, but not the label that the workers of the run need. Prints a JSON object: what the learner's loop returned, the
incidents, how many there were before the node came, the zones of the workers while it was there, the groups that each
step consumed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

import ray
from ray.cluster_utils import Cluster

from polyray.cluster.session import NAMESPACE
from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.launch.fleet import open_fleet
from polyray.launch.plan import plan_fleet
from tests.chaos.simulated import SimulatedRun

STORE_BYTES = 80 * 2**20
JOIN_S = 90.0
ON_DEMAND = {"polyray.io/capacity": "on-demand"}


def main(values: dict[str, Any]) -> dict[str, Any]:
    config = build_config(TrainConfig, values)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4,
            "object_store_memory": STORE_BYTES,
            "labels": ON_DEMAND | {"zone": "a"},
        },
    )
    cluster.add_node(num_cpus=4, object_store_memory=STORE_BYTES, labels={"zone": "c"})
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    with open_fleet(plan_fleet(config), "elastic") as fleet:
        run = SimulatedRun(config, fleet)
        nodes: list[Any] = []
        seen: dict[str, Any] = {}

        def change_the_cluster(step: int) -> None:
            if step == 3:
                seen["incidents_before"] = len(run.incidents())
                node = cluster.add_node(
                    num_cpus=4, object_store_memory=STORE_BYTES, labels=ON_DEMAND | {"zone": "b"}
                )
                nodes.append(node)
                deadline = time.monotonic() + JOIN_S
                while not joined(run) and time.monotonic() < deadline:
                    time.sleep(0.2)
                seen["zones"] = zones(run)
            if step == 6:
                cluster.remove_node(nodes[0], allow_graceful=False)

        outcome = run.learn(config.learner.steps, change_the_cluster, step_s=0.3)
        run.check()
        result = {
            **seen,
            "outcome": outcome,
            "incidents": run.incidents(),
            "groups": [line["groups"] for line in run.lines],
        }
        ray.kill(run.coordinator)
    ray.shutdown()
    cluster.shutdown()
    return result


def zones(run: SimulatedRun) -> list[str]:
    """Zones of the workers, in the order of their places."""
    workers: Any = ray.get(run.coordinator.workers.remote())
    where = [worker.handle.__ray_call__.remote(node_of) for worker in workers]
    labels = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
    return [labels[node_id]["zone"] for node_id in ray.get(where)]


def node_of(actor: Any) -> str:
    return ray.get_runtime_context().get_node_id()


def joined(run: SimulatedRun) -> bool:
    return any(incident["kind"] == "worker_joined" for incident in run.incidents())


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
