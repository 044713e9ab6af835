"""The doctor on the machine: programs, cores, memory, disk, files, ports, variables (not a job itself)."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from polyray.doctor.findings import GIB, Finding, Level

PORTS = {
    8265: "Ray's dashboard takes another port",
    8000: "stop what listens there, or give the job reward.service.port=8001",
}
FEWEST_FILES, COMFORTABLE_FILES = 2_048, 8_192
"""Open at a time. Ray raises the soft limit to the hard one by itself."""


def check_programs() -> Iterator[Finding]:
    """Programs that the engine calls when it starts; the compiler's part only if torch.compile is on."""
    lscpu = shutil.which("lscpu")
    yield Finding("ok", lscpu) if lscpu else Finding("FAIL", "no lscpu", "apt-get install util-linux")
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
        return
    header = Path(sysconfig.get_path("include")) / "Python.h"
    present = {
        "a C++ compiler": shutil.which(os.environ.get("CXX") or "g++") is not None,
        "openssl": shutil.which("openssl") is not None,
        str(header): header.is_file(),
    }
    missing = [what for what, is_there in present.items() if not is_there]
    if missing:
        fix = "apt-get install g++ openssl python3-dev, or export TORCH_COMPILE_DISABLE=1"
        yield Finding("warn", f"torch.compile lacks {', '.join(missing)}", fix)
    else:
        yield Finding("ok", "torch.compile has its compiler, headers and openssl")


def check_cores() -> Iterator[Finding]:
    """Cores this process may use."""
    cores = len(os.sched_getaffinity(0))
    yield (
        Finding("ok", f"{cores} cores")
        if cores > 1
        else Finding("warn", "1 core", "it works, at half the speed")
    )


def check_memory() -> Iterator[Finding]:
    """Free memory, within the container's limit; one engine, one learner and Ray take about 3.5 GiB."""
    yield _amount("free memory", available_memory(), 3, 5, "close other programs; rollout.num_workers=1")


def check_space() -> Iterator[Finding]:
    """Shared memory for Ray's object store, disk for runs and for Ray's session."""
    fix = (
        "docker run --shm-size=2g, in Kubernetes an emptyDir of medium Memory at /dev/shm, or a larger tmpfs"
    )
    yield _amount("/dev/shm", shutil.disk_usage("/dev/shm").total, 0.25, 1, fix)
    for directory in dict.fromkeys((".", tempfile.gettempdir())):
        free = shutil.disk_usage(directory).free
        yield _amount(
            f"free disk at {Path(directory).resolve()}", free, 1, 5, "delete old runs, or set runs_dir"
        )


def check_open_files() -> Iterator[Finding]:
    """Every process of Ray holds connections to many others, and each is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= COMFORTABLE_FILES:
        number = "any number of" if hard == resource.RLIM_INFINITY else f"{hard:,}"
        yield Finding("ok", f"{number} open files")
        return
    level: Level = "FAIL" if hard < FEWEST_FILES else "warn"
    fix = "ulimit -Hn 65536 as root, docker run --ulimit nofile=65536:65536, LimitNOFILE= of the service"
    yield Finding(level, f"{hard:,} open files, {COMFORTABLE_FILES:,} are comfortable", fix)


def check_ports() -> Iterator[Finding]:
    """Ports on which a local Ray and Serve listen."""
    for port, fix in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                yield Finding("warn", f"port {port} is taken", fix)
            else:
                yield Finding("ok", f"port {port} is free")


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process can still get: what the machine has free, at most what its container may use."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        return min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _amount(what: str, amount: int, fail_below_gib: float, warn_below_gib: float, fix: str) -> Finding:
    gib = amount / GIB
    if gib >= warn_below_gib:
        return Finding("ok", f"{what}: {gib:.1f} GiB")
    level: Level = "FAIL" if gib < fail_below_gib else "warn"
    return Finding(level, f"{what}: {gib:.1f} GiB, {warn_below_gib} GiB are comfortable", fix)
