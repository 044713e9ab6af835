"""Findings of the doctor about bases, encoders and rounds of an engine."""

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


def test_look_loads_a_base_and_reports_missing_parts(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (base / "model.safetensors").stat().st_size
    assert seen(base) == {"bytes": size, "missing": [], "no_targets": [], "loaded": True}
    assert seen(base, lora=LoraSpec(target_modules=("q_proj", "c_attn")))["no_targets"] == ["c_attn"]
    assert "adapter_config.json is missing" in seen(base, warm_start=str(tmp_path))["error"]
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    look = seen(copy)
    assert (look["missing"], look["loaded"]) == (["model-2.safetensors"], False)
    (tmp_path / "empty").mkdir()
    assert "config.json" in seen(tmp_path / "empty")["error"]
    monkeypatch.setattr(doctor_models, "available_memory", lambda: 1000)
    look = seen(base)
    assert look["loaded"] is False and look["missing"] == []


LOADED = {"bytes": GIB, "missing": [], "no_targets": [], "loaded": True}
LARGE = LOADED | {"bytes": 15 * GIB, "loaded": False}
TORN = LOADED | {"missing": ["model-2.safetensors"], "loaded": False}


@pytest.mark.parametrize(
    ("look", "error", "level", "words"),
    [
        (LOADED, "", "ok", "model a/b: 1,024 MiB .*finite"),
        (LARGE, "", "ok", "model a/b: 15,360 MiB .*not loaded .*3.0 GiB"),
        (TORN, "", "FAIL", r"model a/b: model-2\.safetensors"),
        (LOADED | {"no_targets": ["c_attn"]}, "", "FAIL", r"model a/b .*\bc_attn$"),
        ({"error": "not there; build it with x"}, "", "FAIL", "model a/b: not there$"),
        ({}, "not done after 300 s", "FAIL", "model a/b: not done after 300 s$"),
    ],
)
def test_check_model_judges_the_look(
    look: dict[str, Any], error: str, level: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_models, "look", lambda *arguments: (look, error))
    monkeypatch.setattr(doctor_models, "available_memory", lambda: 3 * GIB)
    (finding,) = check_model(ModelSpec(path="a/b"))
    assert (finding.level, bool(finding.fix)) == (level, level == "FAIL")
    assert re.match(words, finding.what)


def test_check_encoder_warns_of_the_default_and_fails_for_a_named_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: dict[str, Any] = {"dimension": 384, "max_tokens": 256}
    monkeypatch.setattr(doctor_models, "look", lambda *arguments: (answers, ""))
    (finding,) = check_encoder()
    assert finding.level == "ok" and re.match("encoder packaged: 384 .* 256 ", finding.what)
    monkeypatch.setattr(doctor_models, "look", lambda *arguments: ({}, "ConfigError: no such package"))
    words = "encoder packaged: ConfigError: no such package"
    assert list(check_encoder()) == [Finding("warn", words, REINSTALL)]
    (named,) = check_encoder("packaged")
    assert named.level == "FAIL"


def test_model_and_encoders_are_read_from_every_section_of_a_configuration(tmp_path: Path) -> None:
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


ANSWER = (
    "import json, os; print('noise'); print(json.dumps({'probe_difference': 5e-07, "
    "'logprob_difference_max': 2e-06, 'device': f\"[{os.environ.get('CUDA_VISIBLE_DEVICES')}]\"}))"
)


@pytest.mark.parametrize(
    ("code", "engine", "level", "words"),
    [
        (ANSWER, "vllm-cpu", "ok", r" \[\]: .*5e-07 nats, .*2e-06"),
        (ANSWER, "vllm", "ok", r" \[0,1\]: .*5e-07 nats, .*2e-06"),
        (
            "raise RuntimeError('no room for the cache')",
            "vllm",
            "FAIL",
            "RuntimeError: no room for the cache",
        ),
        ("import time; time.sleep(60)", "vllm", "FAIL", r" 0\.5 s$"),
    ],
)
def test_check_engine_reports_a_round_in_a_child_that_sees_gpus_with_the_gpu_build_only(
    code: str, engine: str, level: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(doctor_models, "installed_version", {engine: "0.32.0"}.get)
    monkeypatch.setattr(doctor_models, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(doctor_models, "ENGINE_ROUND", ("-c", code))
    monkeypatch.setattr(doctor_models, "ENGINE_TIMEOUT_S", 0.5 if "sleep" in code else 60.0)
    (finding,) = check_engine()
    assert (finding.level, finding.fix == "") == (level, level == "ok")
    assert re.search(words, finding.what)


def test_check_engine_does_not_start_the_gpu_build_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_models, "installed_version", {"vllm": "0.32.0"}.get)
    monkeypatch.setattr(doctor_models, "driver_cuda", lambda: None)
    monkeypatch.setattr(doctor_models, "ENGINE_ROUND", ("-c", "raise SystemExit(1)"))
    (finding,) = check_engine()
    assert finding.level == "warn" and "CUDA build" in finding.what and "GPU machine" in finding.fix
