"""`ray job submit` to a real head with token authentication: a run is sent, stopped and submitted again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.runs.jsonl import read_jsonl
from tests.conftest import REPOSITORY_ROOT
from tests.ray_head import RAY_TOKEN, Head, free_port, ray_head, wait_for
from tests.terminal import clone

pytestmark = pytest.mark.slow  # a Ray of its own, with its dashboard

PLANTED = "planted-hub-token-0815"
STEPS = 12


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head"), "submit", {"HF_TOKEN": PLANTED}) as found:
        yield found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with secrets and a run, which must not be sent."""
    directory = tmp_path_factory.mktemp("reader") / "polyray"
    clone(directory)
    for name in (".env", "deploy/server.key", "runs/first/DONE"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"TOKEN={PLANTED}")
    return directory


@pytest.fixture
def sft(model_cache: Path, tmp_path: Path) -> Path:
    values: dict[str, Any] = {
        "name": "submitted",
        "runs_dir": str(tmp_path / "runs"),
        "model": {"cache_dir": str(model_cache), "lora": {"rank": 4, "alpha": 8}},
        "learner": {"steps": STEPS, "checkpoint_every": 1, "num_threads": 1, "learning_rate": 3e-3},
        "dynamics": None,
    }
    file = tmp_path / "sft.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def submit(
    head: Head, checkout: Path, name: str, *command: str, wait: bool = True
) -> subprocess.CompletedProcess[str]:
    options = ["--working-dir", str(checkout), "--runtime-env", str(checkout / "deploy/runtime_env.yaml")]
    options += ["--submission-id", name, *([] if wait else ["--no-wait"])]
    return head.job("submit", *options, "--", *command)


def test_submitted_run_leaves_secrets_and_runs_behind(
    head: Head, checkout: Path, sft: Path, tmp_path: Path
) -> None:
    done = submit(head, checkout, "first", "python", "-m", "jobs.sft", str(sft))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"fine-tuning  {STEPS}/{STEPS}" in done.stdout
    run = tmp_path / "runs" / "submitted"
    assert (run / "DONE").is_file() and len(read_jsonl(run / "metrics.jsonl")) == STEPS
    listed = submit(head, checkout, "look", "find", ".", "-type", "f")
    assert "./jobs/sft.py" in listed.stdout and "./.rayignore" in listed.stdout
    for name in (".env", "server.key", "DONE", ".venv"):
        assert name not in listed.stdout
    seen = [done.stdout, done.stderr, head.get("/api/jobs/")]
    seen += [path.read_text(errors="replace") for path in run.rglob("*.json*")]
    assert PLANTED not in "".join(seen) and RAY_TOKEN not in "".join(seen)


def test_stopped_run_resumes_when_it_is_submitted_again(
    head: Head, checkout: Path, sft: Path, tmp_path: Path
) -> None:
    command = ("python", "-m", "jobs.sft", str(sft), "learner.steps=5000", "name=long")
    sent = submit(head, checkout, "long-1", *command, wait=False)
    assert sent.returncode == 0, sent.stderr
    metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
    wait_for(lambda: len(read_jsonl(metrics)) >= 5, 300)
    stopped = head.job("stop", "long-1")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "STOPPED" in head.get("/api/jobs/long-1")
    before = len(read_jsonl(metrics))
    assert sorted((tmp_path / "runs" / "long" / "checkpoints").glob("step-*"))
    submit(head, checkout, "long-2", *command, wait=False)
    wait_for(lambda: len(read_jsonl(metrics)) > before + 5, 300)
    steps = [line["step"] for line in read_jsonl(metrics)]
    assert steps == list(range(len(steps)))  # no step twice, none left out
    head.job("stop", "long-2")


def test_submitted_run_refuses_a_directory_that_ray_removes(head: Head, checkout: Path, sft: Path) -> None:
    done = submit(head, checkout, "lost", "python", "-m", "jobs.sft", str(sft), "runs_dir=runs")
    assert done.returncode != 0
    assert "is in Ray's copy of the working directory, which Ray removes" in done.stdout
    assert json.loads(head.get("/api/jobs/lost"))["driver_exit_code"] == 2


def doctor(head: Head, address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.doctor", "--no-engine", "--address", address],
        cwd=REPOSITORY_ROOT, env=head.environment | variables, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip


def test_the_doctor_asks_the_cluster_and_each_of_its_machines(head: Head) -> None:
    done = doctor(head, head.gcs)
    assert f"ok    Ray at {head.gcs}: 1 machine, 8 CPUs, 0 GPUs\n" in done.stdout
    assert "8 CPUs, 0 GPUs; a worker imports polyray, with the same packages" in done.stdout
    assert f"ok    the dashboard at {head.address} takes jobs" in doctor(head, head.address).stdout
    nobody = f"127.0.0.1:{free_port()}"
    refused = doctor(head, nobody)
    assert refused.returncode == 1
    assert f"RAY_ADDRESS={nobody} (Connection refused)" in refused.stdout


def test_a_token_that_is_refused_is_named_by_the_doctor_and_by_jobs(head: Head, sft: Path) -> None:
    other = {"RAY_AUTH_TOKEN": "another-token-of-some-length"}
    reason = f"RAY_ADDRESS={head.gcs} does not let this process in (RAY_AUTH_MODE=token)"
    refused = doctor(head, head.gcs, **other)
    assert refused.returncode == 1 and f"FAIL  {reason}  ->  its token is another one" in refused.stdout
    job = subprocess.run(
        [sys.executable, "-m", "jobs.sft", str(sft), "name=refused"],
        cwd=REPOSITORY_ROOT, env=head.environment | other | {"RAY_ADDRESS": head.gcs}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert job.returncode == 2 and f"error: {reason}; its token is another one" in job.stderr
    assert all(
        secret not in job.stdout + job.stderr + refused.stdout for secret in (RAY_TOKEN, *other.values())
    )
