"""Findings of the doctor about a cluster, from reports of its machines.

A real cluster: tests/integration/test_submit.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from polyray.doctor import cluster as doctor_cluster
from polyray.doctor.cluster import SAME_EVERYWHERE, check_cluster, judge_machines, own_packages
from polyray.doctor.findings import Finding

OWN = {"python": "3.11", "ray": "2.60.0", "torch": "2.13.0", "vllm": "0.32.0"}


def test_judge_machines_names_the_machine_that_differs() -> None:
    other = {"python": "3.12", "ray": "2.60.0", "torch": "2.12.1"}
    machines = {
        "a": {"resources": {"CPU": 4.0, "GPU": 0.0}, "packages": OWN},
        "b": {"resources": {"CPU": 16.0, "GPU": 2.0}, "packages": other},
        "c": {"resources": {"CPU": 4.0, "GPU": 0.0}, "error": "No module named 'polyray'"},
    }
    total, same, different, broken = judge_machines("head:6379", machines, OWN)
    assert total == Finding("ok", "Ray at head:6379: 3 machines, 24 CPUs, 2 GPUs")
    assert (same.level, same.fix, same.what.startswith("a: 4 CPUs, 0 GPUs; ")) == ("ok", "", True)
    assert different == Finding(
        "FAIL",
        "b: 16 CPUs, 2 GPUs; python 3.12 (here 3.11), torch 2.12.1 (here 2.13.0), vllm none (here 0.32.0)",
        SAME_EVERYWHERE,
    )
    assert broken.level == "FAIL" and "No module named 'polyray'" in broken.what


def test_reporter_returns_own_packages() -> None:
    assert doctor_cluster._reporter(doctor_cluster.PACKAGES)() == {"packages": own_packages()}


@pytest.mark.parametrize(
    ("seen", "error", "words", "fix"),
    [
        ({"error": "no answer at x; start the head"}, "", "no answer at x", "start the head"),
        ({}, "not done after 180 s", "x:1: not done after 180 s", "`ray status`"),
    ],
)
def test_check_cluster_fails_if_the_cluster_cannot_be_joined(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], error: str, words: str, fix: str
) -> None:
    monkeypatch.setattr(doctor_cluster, "look", lambda *arguments: (seen, error))
    (finding,) = check_cluster("x:1")
    assert finding.level == "FAIL" and words in finding.what and fix in finding.fix


@pytest.mark.parametrize(
    ("answer", "level", "what"),
    [
        (ray.__version__, "ok", "http://head:8265"),
        ("1.2.3", "FAIL", "http://head:8265 runs Ray 1.2.3, this machine"),
        (ConnectionError("x"), "FAIL", "no dashboard answers at http://head:8265"),
        (RuntimeError("status code 401: no\nmore"), "FAIL", "status code 401: no"),
    ],
)
def test_check_cluster_judges_the_answer_of_a_dashboard(
    answer: Any, level: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(address: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(_server_ray_version=answer)

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", client)
    (finding,) = check_cluster("http://head:8265")
    assert finding.level == level and what in finding.what
