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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{here}", r"config\.json"),
        ("embedded", r"polyray pretrain configs/pretrain\.yaml"),
        ("nobody/nothing", "'nobody/nothing'"),
    ],
)
def test_base_that_is_not_there_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=message):
        resolve_model_dir(ModelSpec(path=path.format(here=tmp_path), cache_dir=str(tmp_path)))


def test_dtype_follows_device_and_configuration() -> None:
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
        ("mine/base", None),
        ("embedded", None),
        ("", None),
    ],
)
def test_hub_name_is_that_of_a_repository_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str | None
) -> None:
    (tmp_path / "mine" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name(path) == name


def test_fingerprint_tells_bases_apart(tmp_path: Path) -> None:
    fingerprint = base_fingerprint(_model_dir(tmp_path / "a"))
    assert base_fingerprint(_model_dir(tmp_path / "same")) == fingerprint
    others = [
        _model_dir(tmp_path / "first", value=1.0, position=0),
        _model_dir(tmp_path / "middle", value=1.0, position=50_000),
        _model_dir(tmp_path / "last", value=1.0, position=99_999),
        _model_dir(tmp_path / "config", layers=3),
    ]
    assert len({fingerprint, *map(base_fingerprint, others)}) == 5
    assert resolve_model_dir(ModelSpec(path=str(others[0]))) == others[0]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"\*\.safetensors"):
        base_fingerprint(tmp_path)
