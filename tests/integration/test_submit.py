"""jobs.submit against a real head with token authentication: a run is sent, followed, stopped and taken up again."""

from __future__ import annotations

import json
import re
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

pytestmark = pytest.mark.slow  # a Ray of its own, with its dashboard

PLANTED = "planted-hub-token-0815"
STEPS = 12


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head"), "submit", {"HF_TOKEN": PLANTED}) as found:
        yield found


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


def job_id(printed: str) -> str:
    found = re.search(r"^job +(\S+)$", printed, re.MULTILINE)
    assert found is not None, printed
    return found[1]


def test_a_run_is_sent_followed_and_leaves_no_secret_behind(head: Head, sft: Path, tmp_path: Path) -> None:
    done = head.submit("sft", str(sft), "--env", "SOME_SETTING=1")
    assert done.returncode == 0, done.stdout + done.stderr
    submission_id = job_id(done.stdout)
    assert submission_id.startswith("polyray-sft-submitted-")
    assert f"fine-tuning  {STEPS}/{STEPS}" in done.stdout  # the job's own log
    assert done.stdout.splitlines()[-1].startswith(f"{submission_id}  SUCCEEDED  python -m polyray.cli sft")
    run = tmp_path / "runs" / "submitted"
    assert (run / "DONE").is_file() and len(read_jsonl(run / "metrics.jsonl")) == STEPS
    jobs = head.get("/api/jobs/")
    (info,) = [job for job in json.loads(jobs) if job["submission_id"] == submission_id]
    assert info["metadata"]["polyray_job"] == "sft"
    everything = (
        done.stdout
        + done.stderr
        + jobs
        + "".join(path.read_text(errors="replace") for path in run.rglob("*.json*"))
    )
    assert PLANTED not in everything and RAY_TOKEN not in everything
    listed = head.submit("--list")
    assert listed.returncode == 0 and submission_id in listed.stdout
    (trained,) = json.loads(head.get("/api/train/v2/runs/v1"))["train_runs"]
    assert (
        trained["name"].startswith("submitted-") and trained["status"] == "FINISHED"
    )  # the dashboard's Train page
    assert head.submit("--status", submission_id).stdout.split()[1] == "SUCCEEDED"


def test_a_run_that_is_stopped_goes_on_where_it_was(head: Head, sft: Path, tmp_path: Path) -> None:
    sent = head.submit("sft", str(sft), "learner.steps=5000", "name=long", "--no-wait")
    assert sent.returncode == 0, sent.stderr
    first = job_id(sent.stdout)
    metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
    wait_for(lambda: len(read_jsonl(metrics)) >= 5, 300)
    stopped = head.submit("--stop", first)
    assert stopped.stdout.split()[1] == "STOPPED", stopped.stdout + stopped.stderr
    before = len(read_jsonl(metrics))
    checkpoints = sorted((tmp_path / "runs" / "long" / "checkpoints").glob("step-*"))
    assert checkpoints
    again = head.submit("--resume", first, "--no-wait")
    second = job_id(again.stdout)
    assert second != first and again.returncode == 0
    wait_for(lambda: len(read_jsonl(metrics)) > before + 5, 300)
    steps = [line["step"] for line in read_jsonl(metrics)]
    assert steps == list(range(len(steps)))  # no step twice, none left out
    head.submit("--stop", second)


def test_who_may_not_and_what_is_not_there(head: Head, sft: Path) -> None:
    refused = head.submit("--list", token="another-token-of-some-length")
    assert refused.returncode == 2 and "refuses the token" in refused.stderr
    nowhere = subprocess.run(
        [sys.executable, "-m", "jobs.submit", "--list", "--address", f"http://127.0.0.1:{free_port()}"],
        cwd=REPOSITORY_ROOT, env=head.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert nowhere.returncode == 2 and "no dashboard answers at" in nowhere.stderr
    missing = head.submit("--status", "polyray-none")
    assert missing.returncode == 2 and "there is no job polyray-none" in missing.stderr
    too_big = head.submit("train", "configs/train/hidden_trap_grid.yaml", "rollout.num_workers=90",
                          f"runs_dir={sft.parent}/runs", f"model.cache_dir={sft.parent}",
                          "model.warm_start=null")  # fmt: skip
    assert too_big.returncode == 2 and "FAILED" in too_big.stdout  # the job's own exit code


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
