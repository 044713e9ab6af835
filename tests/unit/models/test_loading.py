"""Finding base models and telling them apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from polyray.config.model import ModelSpec
from polyray.errors import ConfigError
from polyray.models.base_files import base_fingerprint, hub_name, resolve_dtype, resolve_model_dir


def _model_dir(directory: Path, value: float = 0.0, position: int = 0, layers: int = 2) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"layers": layers}))
    weights = torch.zeros(100_000)
    weights[position] = value
    save_file({"w": weights}, directory / "model.safetensors")
    return directory


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    directory = _model_dir(tmp_path / "m")
    assert resolve_model_dir(ModelSpec(path=str(directory))) == directory


def test_a_directory_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        resolve_model_dir(ModelSpec(path=str(tmp_path)))


def test_the_embedded_model_must_have_been_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"polyray pretrain configs/pretrain\.yaml"):
        resolve_model_dir(ModelSpec(path="embedded", cache_dir=str(tmp_path)))


def test_a_hub_name_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="'nobody/nothing'"):
        resolve_model_dir(ModelSpec(path="nobody/nothing"))


def test_dtype_by_device() -> None:
    assert [resolve_dtype(ModelSpec(), use_gpu) for use_gpu in (False, True)] == ["float32", "bfloat16"]
    assert resolve_dtype(ModelSpec(dtype="bfloat16"), use_gpu=False) == "bfloat16"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/cache/hub/models--Qwen--Qwen3-8B/snapshots/9c1b2f/", "Qwen/Qwen3-8B"),
        ("/cache/hub/models--gpt2/snapshots/9c1b2f", "gpt2"),
        ("/cache/hub/models--Qwen--Qwen3-8B/snapshots/9c1b2f/mine", None),
        ("/models/Qwen3-8B", None),
        ("./Qwen3-8B", None),
        ("~/Qwen3-8B", None),
        ("models/qwen/here", None),
        ("embedded", None),
        ("", None),
    ],
)
def test_a_base_has_a_name_on_the_hub_or_none(path: str, name: str | None) -> None:
    assert hub_name(path) == name


def test_a_directory_that_looks_like_a_hub_name_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name("mine/base") == "mine/base"
    (tmp_path / "mine" / "base").mkdir(parents=True)
    assert hub_name("mine/base") is None


def test_fingerprints_tell_bases_apart(tmp_path: Path) -> None:
    fingerprint = base_fingerprint(_model_dir(tmp_path / "a"))
    assert base_fingerprint(_model_dir(tmp_path / "same")) == fingerprint
    others = [
        _model_dir(tmp_path / "first", value=1.0, position=0),
        _model_dir(tmp_path / "middle", value=1.0, position=50_000),
        _model_dir(tmp_path / "last", value=1.0, position=99_999),
        _model_dir(tmp_path / "config", layers=3),
    ]
    assert len({fingerprint, *map(base_fingerprint, others)}) == 5
    assert len(fingerprint) == 64


def test_a_fingerprint_needs_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"\*\.safetensors"):
        base_fingerprint(tmp_path)
