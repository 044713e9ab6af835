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
SLOW = dataclasses.replace(H100, flash=False)
MIXED = Gpus("13.0", ("T4", "V100", "A100"), ((7, 5), (7, 0), (8, 0)), (14.6, 15.8, 39.4), flash=False)
CARD = ("ok", r"NVIDIA H100, 79 GiB, .*9\.0: bfloat16$")
CARDS = (
    ("warn", r"T4, 15 GiB, .*7\.5: no bfloat16"),
    ("FAIL", r"V100, 16 GiB, .*7\.0: CUDA 13 .*7\.5"),
    ("ok", r"A100, 39 GiB, .*8\.0: bfloat16$"),
)
CUDA_OK, FLASH = ("ok", r"CUDA 13\.0.* 13\.0"), ("ok", "flash attention")


@pytest.mark.parametrize(
    ("driver", "gpus", "wants_gpu", "expected"),
    [
        ((13, 0), H100, True, [CUDA_OK, CARD, FLASH]),
        ((14, 2), H100, True, [("ok", r"CUDA 14\.2.* 13\.0"), CARD, FLASH]),
        ((12, 8), H100, True, [("FAIL", r"CUDA 12\.8.* 13\.0"), CARD, FLASH]),
        # Within one major version kernels run, but code that is compiled later may not.
        ((13, 0), dataclasses.replace(H100, torch_cuda="13.2"), True, [("warn", ""), CARD, FLASH]),
        ((13, 0), SLOW, True, [CUDA_OK, CARD, ("warn", "flash attention")]),
        ((13, 0), MIXED, True, [CUDA_OK, *CARDS]),
        ((13, 0), Gpus("13.0"), True, [CUDA_OK, ("FAIL", "no GPU")]),
        ((13, 0), Gpus(None), True, [("FAIL", "torch .*CUDA")]),
        (None, Gpus("13.0"), True, [("warn", "no NVIDIA driver")]),
        ((13, 0), Gpus(None), False, [("warn", "NVIDIA driver.* CPU build")]),
    ],
)
def test_judge_gpus_finds_every_mismatch(
    driver: tuple[int, int] | None, gpus: Gpus, wants_gpu: bool, expected: list[tuple[str, str]]
) -> None:
    findings = list(judge_gpus(driver, gpus, wants_gpu))
    assert [finding.level for finding in findings] == [level for level, _ in expected]
    for finding, (_, words) in zip(findings, expected, strict=True):
        assert re.search(words, finding.what)
    if driver == (12, 8):
        assert findings[0].fix == NEWER_DRIVER


def test_check_gpus_reads_the_gpus_of_torch_in_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = json.dumps(dataclasses.asdict(H100))
    assert gpus_from(json.loads(printed)) == H100
    monkeypatch.setattr(doctor_gpu, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(doctor_gpu, "installed_version", {"torch": "2.13.0", "vllm": "0.32.0"}.get)
    monkeypatch.setattr(doctor_gpu, "LOOK", ("-c", f"print({printed!r})"))
    assert [finding.level for finding in check_gpus()] == ["ok", "ok", "ok"]
    monkeypatch.setattr(doctor_gpu, "LOOK", ("-c", "raise OSError('libcudart.so.13 is missing')"))
    (finding,) = check_gpus()
    assert finding.level == "FAIL" and finding.what.endswith("OSError: libcudart.so.13 is missing")
    monkeypatch.setattr(doctor_gpu, "driver_cuda", lambda: None)
    monkeypatch.setattr(doctor_gpu, "installed_version", {"torch": "2.13.0+cpu"}.get)
    assert list(check_gpus()) == []


@pytest.mark.parametrize(
    ("number", "status", "version"), [(13000, 0, (13, 0)), (12080, 0, (12, 8)), (0, 3, None)]
)
def test_driver_cuda_is_read_from_the_driver_library(
    monkeypatch: pytest.MonkeyPatch, number: int, status: int, version: tuple[int, int] | None
) -> None:
    def answer(pointer: Any) -> int:
        pointer._obj.value = number
        return status

    assert driver_cuda("libcuda-that-is-not-there.so") is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=answer))
    assert driver_cuda() == version
