"""Run by test_elastic_pool.py in a process of its own, because a process knows one Ray: a node comes, and goes again.

Prints a JSON object: what the learner's loop returned, the incidents, the groups that each step consumed.
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

from jobs.fleet import open_fleet
from polyray.actors.resources import NAMESPACE
from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from tests.chaos.simulated import SimulatedRun

STORE_BYTES = 80 * 2**20
JOIN_S = 90.0


def main(values: dict[str, Any]) -> dict[str, Any]:
    config = build_config(TrainConfig, values)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": STORE_BYTES}
    )
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    with open_fleet(config, "elastic") as fleet:
        run = SimulatedRun(config, fleet)
        nodes: list[Any] = []

        def change_the_cluster(step: int) -> None:
            if step == 3:
                nodes.append(cluster.add_node(num_cpus=4, object_store_memory=STORE_BYTES))
                deadline = time.monotonic() + JOIN_S
                while not joined(run) and time.monotonic() < deadline:
                    time.sleep(0.2)
            if step == 6:
                cluster.remove_node(nodes[0], allow_graceful=False)

        outcome = run.learn(config.learner.steps, change_the_cluster, step_s=0.3)
        run.check()
        result = {
            "outcome": outcome,
            "incidents": run.incidents(),
            "groups": [line["groups"] for line in run.lines],
        }
        ray.kill(run.coordinator)
    ray.shutdown()
    cluster.shutdown()
    return result


def joined(run: SimulatedRun) -> bool:
    return any(incident["kind"] == "worker_joined" for incident in run.incidents())


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
