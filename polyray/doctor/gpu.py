"""The doctor on GPUs: driver against torch's CUDA, what torch sees, bf16, flash attention (not a job itself).

`python -m polyray.doctor.gpu` prints what torch sees as JSON: in a process of its own, because asking takes
GPU memory. Not run on a machine with a GPU; `judge_gpus` is tested with values.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polyray.doctor.findings import REINSTALL, Finding, installed_version, look
from polyray.doctor.packages import GPU_ENGINE

LOOK = ("-m", "polyray.doctor.gpu")
TIMEOUT_S = 120.0
NEWER_DRIVER = "install a newer NVIDIA driver (CUDA 13: 580 or later)"


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs that torch sees.

    Example:
        Gpus(torch_cuda="13.0", names=("NVIDIA H100",), capabilities=((9, 0),), gib=(79.1,), flash=True)
    """

    torch_cuda: str | None
    """CUDA that torch was built with; None: a CPU build."""
    names: tuple[str, ...] = ()
    capabilities: tuple[tuple[int, int], ...] = ()
    gib: tuple[float, ...] = ()
    flash: bool = False
    """Whether torch's own attention, which the learner uses, has its flash kernels."""


def check_gpus() -> Iterator[Finding]:
    """Check the GPUs; yields nothing without a driver and without an engine that wants one."""
    driver, wants_gpu = driver_cuda(), installed_version(GPU_ENGINE) is not None
    if driver is None and not wants_gpu:
        return
    if installed_version("torch") is None:
        return  # said already
    seen, error = look(LOOK, TIMEOUT_S)
    if error:
        yield Finding("FAIL", f"torch and the GPUs: {error}", f"{NEWER_DRIVER}, or {REINSTALL}")
        return
    yield from judge_gpus(driver, gpus_from(seen), wants_gpu)


def judge_gpus(driver: tuple[int, int] | None, gpus: Gpus, wants_gpu: bool) -> Iterator[Finding]:
    """`driver`: the CUDA that it supports; `wants_gpu`: whether vLLM is the CUDA build."""
    if not wants_gpu:
        yield Finding(
            "warn", "this machine has an NVIDIA driver, and vLLM's CPU build is installed: its GPUs are not used",
            "an environment from requirements/gpu.txt, Python 3.12",
        )  # fmt: skip
        return
    if driver is None:
        fix = "install it, in a container --gpus all; a machine that is for its CPUs only needs none"
        yield Finding("warn", "no NVIDIA driver: no engine and no learner rank can use a GPU here", fix)
        return
    if gpus.torch_cuda is None:
        yield Finding("FAIL", "torch knows no CUDA", REINSTALL)
        return
    built = tuple(int(part) for part in gpus.torch_cuda.split(".")[:2])
    what = f"the driver supports CUDA {driver[0]}.{driver[1]}, torch was built with {gpus.torch_cuda}"
    if driver[0] < built[0]:
        yield Finding("FAIL", what, NEWER_DRIVER)
    elif driver < built:
        yield Finding(
            "warn", f"{what}: kernels that are compiled when they are needed may fail", NEWER_DRIVER
        )
    else:
        yield Finding("ok", what)
    if not gpus.names:
        fix = "nvidia-smi says what is wrong; CUDA_VISIBLE_DEVICES may hide them; in a container --gpus all"
        yield Finding("FAIL", "torch sees no GPU", fix)
    for name, capability, gib in zip(gpus.names, gpus.capabilities, gpus.gib, strict=True):
        yield _judge_one(
            f"{name}, {gib:.0f} GiB, compute capability {capability[0]}.{capability[1]}", capability
        )
    if gpus.names and min(gpus.capabilities) >= (8, 0):
        yield _judge_flash(gpus.flash)


def _judge_one(what: str, capability: tuple[int, int]) -> Finding:
    if capability >= (8, 0):
        return Finding("ok", f"{what}: bfloat16")
    if capability >= (7, 5):
        fix = "set model.dtype=float32, which takes twice the memory, or use a GPU of capability 8.0 or later"
        return Finding("warn", f"{what}: no bfloat16, which is the default on GPUs", fix)
    return Finding("FAIL", f"{what}: CUDA 13 needs 7.5", "use a newer GPU")


def _judge_flash(flash: bool) -> Finding:
    if flash:
        return Finding("ok", "flash attention in torch, for the learner; vLLM brings its own")
    return Finding("warn", "torch has no flash attention: the learner is slower on long sequences", REINSTALL)


def driver_cuda(library: str = "libcuda.so.1") -> tuple[int, int] | None:
    """(major, minor) of the CUDA that the driver supports; None where there is no driver."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def gpus_from(seen: dict[str, Any]) -> Gpus:
    """From the JSON of `python -m polyray.doctor.gpu`."""
    capabilities = tuple((major, minor) for major, minor in seen["capabilities"])
    return Gpus(seen["torch_cuda"], tuple(seen["names"]), capabilities, tuple(seen["gib"]), seen["flash"])


def _gpus_here() -> Gpus:
    import torch

    if not torch.cuda.is_available():
        return Gpus(torch.version.cuda)
    all_of_them = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return Gpus(
        torch.version.cuda,
        tuple(one.name for one in all_of_them),
        tuple((one.major, one.minor) for one in all_of_them),
        tuple(one.total_memory / 2**30 for one in all_of_them),
        torch.backends.cuda.is_flash_attention_available(),
    )


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_gpus_here())))
