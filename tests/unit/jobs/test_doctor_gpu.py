"""Findings of the doctor about GPUs, from values: no GPU is needed."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from polyray.doctor import gpu as doctor_gpu
from polyray.doctor.gpu import NEWER_DRIVER, Gpus, check_gpus, driver_cuda, gpus_from, judge_gpus

H100 = Gpus("13.0", ("NVIDIA H100",), ((9, 0),), (79.1,), flash=True)


def check_findings(
    driver: tuple[int, int] | None, gpus: Gpus, *expected: tuple[str, str], wants_gpu: bool = True
) -> None:
    """Check the findings: their levels, and a regular expression for each text."""
    findings = list(judge_gpus(driver, gpus, wants_gpu))
    assert [finding.level for finding in findings] == [level for level, _ in expected]
    for finding, (_, words) in zip(findings, expected, strict=True):
        assert re.search(words, finding.what)


CUDA_OK = ("ok", r"CUDA 13\.0.* 13\.0")


def test_a_machine_in_order() -> None:
    card, flash = ("ok", "NVIDIA H100, 79 GiB, .*9.0: bfloat16$"), ("ok", "flash attention")
    check_findings((13, 0), H100, CUDA_OK, card, flash)
    check_findings((14, 2), H100, ("ok", r"CUDA 14\.2.* 13\.0"), card, flash)


def test_a_driver_older_than_torchs_cuda() -> None:
    (finding, *_) = judge_gpus((12, 8), H100, True)
    assert (finding.level, finding.fix) == ("FAIL", NEWER_DRIVER)
    assert re.search(r"CUDA 12\.8.* 13\.0", finding.what)
    newer = dataclasses.replace(H100, torch_cuda="13.2")
    assert next(iter(judge_gpus((13, 0), newer, True))).level == "warn", (
        "within one major version kernels run, what is compiled later may not"
    )


def test_gpus_without_bfloat16_or_flash_attention() -> None:
    several = Gpus("13.0", ("T4", "V100", "A100"), ((7, 5), (7, 0), (8, 0)), (14.6, 15.8, 39.4), flash=False)
    cards = [
        ("warn", r"T4, 15 GiB, .*7\.5: no bfloat16"),
        ("FAIL", r"V100, 16 GiB, .*7\.0: CUDA 13 .*7\.5"),
        ("ok", r"A100, 39 GiB, .*8\.0: bfloat16$"),
    ]
    check_findings((13, 0), several, CUDA_OK, *cards)
    slow = dataclasses.replace(H100, flash=False)
    check_findings((13, 0), slow, CUDA_OK, ("ok", "NVIDIA H100"), ("warn", "flash attention"))


def test_a_driver_without_gpus_that_torch_sees() -> None:
    check_findings((13, 0), Gpus("13.0"), CUDA_OK, ("FAIL", "no GPU"))


def test_builds_and_machines_that_do_not_belong_together() -> None:
    check_findings((13, 0), Gpus(None), ("FAIL", "torch .*CUDA"))
    check_findings(None, Gpus("13.0"), ("warn", "no NVIDIA driver"))
    check_findings((13, 0), Gpus(None), ("warn", "NVIDIA driver.* CPU build"), wants_gpu=False)


def test_cpu_machine_with_cpu_build_has_no_gpu_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "driver_cuda", lambda: None)
    monkeypatch.setattr(doctor_gpu, "installed_version", {"torch": "2.13.0+cpu"}.get)
    assert list(check_gpus()) == []


def test_gpus_of_torch_come_from_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_from(json.loads(json.dumps(dataclasses.asdict(H100)))) == H100
    monkeypatch.setattr(doctor_gpu, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(doctor_gpu, "installed_version", {"torch": "2.13.0", "vllm": "0.32.0"}.get)
    printed = json.dumps(dataclasses.asdict(H100))
    monkeypatch.setattr(doctor_gpu, "LOOK", ("-c", f"print({printed!r})"))
    assert [finding.level for finding in check_gpus()] == ["ok", "ok", "ok"]
    monkeypatch.setattr(doctor_gpu, "LOOK", ("-c", "raise OSError('libcudart.so.13 is missing')"))
    (finding,) = check_gpus()
    assert (finding.level, finding.what) == (
        "FAIL",
        "torch and the GPUs: OSError: libcudart.so.13 is missing",
    )


@pytest.mark.parametrize(
    ("number", "status", "version"), [(13000, 0, (13, 0)), (12080, 0, (12, 8)), (0, 3, None)]
)
def test_driver_cuda_is_read_from_the_driver_library(
    monkeypatch: pytest.MonkeyPatch, number: int, status: int, version: tuple[int, int] | None
) -> None:
    def answer(pointer: Any) -> int:
        pointer._obj.value = number
        return status

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=answer))
    assert driver_cuda() == version


def test_no_driver_is_no_error() -> None:
    assert driver_cuda("libcuda-that-is-not-there.so") is None
