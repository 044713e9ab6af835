"""Simulated run on three nodes that loses one of them.

Run by test_node_lost.py in a process of its own, because a process knows one Ray.

Prints a JSON object: what the learner's loop returned, the incidents, and what was left over.
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
import ray.exceptions
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from polyray.capacity.bundles import Part
from polyray.cluster.session import NAMESPACE, check_placement
from polyray.cluster.storage_check import PROBE, check_storage
from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.errors import ResourceError
from polyray.launch.fleet import open_fleet
from polyray.launch.plan import plan_fleet
from tests.chaos.simulated import SimulatedRun

STORE_BYTES = 80 * 2**20


def main(values: dict[str, Any]) -> dict[str, Any]:
    config = build_config(TrainConfig, values)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=4, object_store_memory=STORE_BYTES)
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    check_storage(config.run_dir)
    refused = refusal(Part("engine", 1, {"CPU": 5.0}))
    left = [path.name for path in config.run_dir.glob(f"{PROBE}*")]
    with open_fleet(plan_fleet(config), "node-lost") as fleet:
        infos = fleet.pool.wait_until_ready()
        run = SimulatedRun(config, fleet)

        def take_away(step: int) -> None:
            if step == 3:
                gone = next(node for node in cluster.list_all_nodes() if node.node_id == infos[0]["node_id"])
                cluster.remove_node(gone, allow_graceful=False)

        outcome = run.learn(config.learner.steps, take_away, step_s=0.3)
        run.check()
        result = {
            "outcome": outcome,
            "probes_left": left,
            "refused": refused,
            "incidents": run.incidents(),
            "lost_node": infos[0]["node_id"],
            "on_that_node": sum(info["node_id"] == infos[0]["node_id"] for info in infos),
        }
        result["nodes_of_workers"] = nodes_of_workers(run)
        ray.kill(run.coordinator)
    result["placement_groups"] = len(placement_group_table())
    ray.shutdown()
    cluster.shutdown()
    return result


def nodes_of_workers(run: SimulatedRun) -> list[str]:
    """Nodes of the workers, once all are ready.

    Ray may place a replacement on the lost node before it knows of the loss; a second one follows then.
    """
    deadline = time.monotonic() + 100
    while True:
        workers: Any = ray.get(run.coordinator.workers.remote())
        try:
            ready: Any = ray.get([worker.handle.ready.remote() for worker in workers], timeout=100)
        except ray.exceptions.RayActorError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.5)
        else:
            return [info["node_id"] for info in ready]


def refusal(part: Part) -> str:
    """Error of a part that fits on no machine, else empty."""
    try:
        check_placement([part], "rollout.cpus_per_worker")
    except ResourceError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
