"""Findings of the doctor about a cluster, from reports of its machines.

A real cluster: tests/integration/test_submit.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from polyray.doctor import cluster as doctor_cluster
from polyray.doctor.cluster import SAME_EVERYWHERE, check_cluster, judge_machines, own_packages
from polyray.doctor.findings import Finding
from polyray.errors import ConfigError

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


def test_dashboard_that_refuses_the_token_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyray.submission.client.Cluster.open", lambda address: None)
    assert [finding.level for finding in check_cluster("http://head:8265")] == ["ok"]

    def refuse(address: str) -> None:
        raise ConfigError(f"the cluster at {address} refuses the token; set RAY_AUTH_TOKEN")

    monkeypatch.setattr("polyray.submission.client.Cluster.open", refuse)
    assert list(check_cluster("http://head:8265")) == [
        Finding("FAIL", "the cluster at http://head:8265 refuses the token", "set RAY_AUTH_TOKEN")
    ]
