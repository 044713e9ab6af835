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


def machine(cpus: float, gpus: float, **told: Any) -> dict[str, Any]:
    return {"resources": {"CPU": cpus, "GPU": gpus}, **(told or {"packages": OWN})}


def test_a_cluster_in_order() -> None:
    machines = {"10.0.0.1 (node ab)": machine(4, 0), "10.0.0.2 (node cd)": machine(16, 2)}
    findings = list(judge_machines("head:6379", machines, OWN))
    assert {(finding.level, finding.fix) for finding in findings} == {("ok", "")}
    expected = ("head:6379: 2 machines, 20 CPUs, 2 GPUs", "10.0.0.1 (node ab): 4 CPUs, 0 GPUs; ",
                "10.0.0.2 (node cd): 16 CPUs, 2 GPUs; ")  # fmt: skip
    assert all(words in finding.what for words, finding in zip(expected, findings, strict=True))


def test_a_machine_with_other_packages_is_named() -> None:
    there = {"python": "3.12", "ray": "2.60.0", "torch": "2.12.1"}
    machines = {"m": machine(4, 0, packages=there)}
    assert list(judge_machines("head:6379", machines, OWN))[1] == Finding(
        "FAIL",
        "m: 4 CPUs, 0 GPUs; python 3.12 (here 3.11), torch 2.12.1 (here 2.13.0), vllm none (here 0.32.0)",
        SAME_EVERYWHERE,
    )


def test_an_image_without_the_package_is_named() -> None:
    machines = {"m": machine(4, 0, error="No module named 'polyray'")}
    finding = list(judge_machines("head:6379", machines, OWN))[1]
    assert finding.level == "FAIL"
    assert finding.what.startswith("m: 4 CPUs, 0 GPUs; ") and "No module named 'polyray'" in finding.what
    assert finding.fix.endswith(SAME_EVERYWHERE)


def test_reporter_returns_own_packages() -> None:
    assert doctor_cluster._reporter(doctor_cluster.PACKAGES)() == {"packages": own_packages()}
    assert own_packages()["ray"] == "2.60.0"


@pytest.mark.parametrize(
    ("seen", "error", "words", "fix"),
    [
        ({"error": "no answer at x; start the head"}, "", "no answer at x", "start the head"),
        ({}, "not done after 180 s", "x:1: not done after 180 s", "`ray status`"),
    ],
)
def test_a_cluster_that_cannot_be_joined(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], error: str, words: str, fix: str
) -> None:
    monkeypatch.setattr(doctor_cluster, "look", lambda *arguments: (seen, error))
    (finding,) = check_cluster("x:1")
    assert finding.level == "FAIL" and words in finding.what and fix in finding.fix


@pytest.mark.parametrize(
    ("answer", "level", "what"),
    [
        (ray.__version__, "ok", "the dashboard at http://head:8265 takes jobs"),
        ("1.2.3", "FAIL", "http://head:8265 runs Ray 1.2.3, this machine"),
        (ConnectionError("x"), "FAIL", "no dashboard answers at http://head:8265"),
        (RuntimeError("status code 401: no\nmore"), "FAIL", "answers with an error: status code 401: no"),
    ],
)
def test_dashboard_answer_becomes_a_finding(
    answer: Any, level: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(address: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(_server_ray_version=answer)

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", client)
    (finding,) = check_cluster("http://head:8265")
    assert finding.level == level and what in finding.what
