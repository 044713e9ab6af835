"""A Ray of our own beside the traces of others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from polyray.errors import EXIT_FAILURE
from tests.conftest import REPOSITORY_ROOT

GONE = "127.0.0.1:1"
PROGRAM = """
import json, os, sys, time
import ray
from polyray.cluster.session import ray_session
from polyray.config.run import RaySpec

class Asking:
    def alive(self):
        from ray.util.state import get_actor
        started = time.monotonic()
        state = get_actor(ray.get_runtime_context().get_actor_id(), timeout=10)
        return state.state, time.monotonic() - started

with ray_session(RaySpec(num_cpus=2, object_store_mib=80)):
    state, seconds = ray.get(ray.remote(Asking).remote().alive.remote())
print(json.dumps({"state": state, "seconds": seconds, "left": os.environ.get("RAY_GCS_SERVER_PORT")}))
"""


GROUP_PROGRAM = """
import threading
from polyray.cli.arguments import run
from polyray.cluster.session import ray_session
from polyray.config.run import RaySpec

def main():
    with ray_session(RaySpec(num_cpus=1, object_store_mib=80, dashboard=False)):
        try:
            print("up", flush=True)
            threading.Event().wait()
        finally:
            threading.Event().wait()  # as Serve's client on the way out, whose controller never answers

run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="process groups")
def test_command_ends_soon_after_a_signal_to_its_group() -> None:
    with tempfile.TemporaryDirectory(prefix="pr-", ignore_cleanup_errors=True) as directory:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        process = subprocess.Popen(
            [sys.executable, "-c", GROUP_PROGRAM],
            cwd=REPOSITORY_ROOT,
            env={**environment, "RAY_TMPDIR": directory, "PYTHONPATH": str(REPOSITORY_ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=90)
        assert process.returncode == EXIT_FAILURE
        assert "error: Ray's raylet has ended" in errors and "start the same command again" in errors


@pytest.mark.slow  # a Ray with its dashboard starts
def test_local_ray_uses_its_own_state_api_despite_traces_of_another() -> None:
    """Ray Train uses the state API during and after a run."""
    with tempfile.TemporaryDirectory(prefix="pr-") as directory:  # its sockets have short names
        traces = Path(directory) / "ray"
        traces.mkdir()
        (traces / "ray_current_cluster").write_text(GONE)
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=REPOSITORY_ROOT,
            env={**environment, "RAY_TMPDIR": directory, "PYTHONPATH": str(REPOSITORY_ROOT)},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        seen = json.loads(done.stdout.splitlines()[-1])
        assert seen["state"] == "ALIVE" and seen["seconds"] < 10
        assert seen["left"] is None
