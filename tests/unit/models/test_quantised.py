"""A base in 4 bits: what is quantised, that its log-probs and gradients are those of the rounded weights, and what is
refused. The first need bitsandbytes, which the CPU set does not have:

    pip install --no-deps --target DIR bitsandbytes vllm-bnb-plugin
    PYTHONPATH=DIR python -m pytest tests/unit/models/test_quantised.py tests/integration/test_quantised_engine.py
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polyray.config.model import ModelSpec
from polyray.doctor.engine_check import build_tiny_model
from polyray.errors import ConfigError
from polyray.models import loading
from polyray.models.base_files import base_fingerprint, resolve_dtype
from polyray.models.loading import load_base
from tests.unit.quantised_base import check_learner_in_4_bits, linear_layers

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@needs_bitsandbytes
def test_linear_layers_are_in_4_bits_and_nothing_else_is(model_dir: Path) -> None:
    model = load_base(model_dir, "nf4")
    layers = linear_layers(model)
    assert len(layers) == 7 * model.config.num_hidden_layers
    for module in layers.values():
        state = module.weight.quant_state
        assert module.weight.dtype == torch.uint8
        assert module.weight.numel() == module.in_features * module.out_features // 2
        assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
    others = {name: p.dtype for name, p in model.named_parameters() if p.is_floating_point()}
    assert set(others.values()) == {torch.bfloat16}
    assert "model.embed_tokens.weight" in others
    assert not model.training


@needs_bitsandbytes
def test_weights_are_quantised_from_their_stored_values(model_dir: Path) -> None:
    from bitsandbytes.functional import quantize_4bit  # pyright: ignore[reportMissingImports]

    stored = linear_layers(load_base(model_dir, "float32"))
    name, module = next(iter(linear_layers(load_base(model_dir, "nf4")).items()))
    options: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}
    expected, _ = quantize_4bit(stored[name].weight.data, **options)
    after_rounding, _ = quantize_4bit(stored[name].weight.data.bfloat16(), **options)
    assert torch.equal(module.weight.data.flatten(), expected.flatten())
    assert not torch.equal(expected, after_rounding)


@needs_bitsandbytes
def test_logprobs_and_gradients_match_the_rounded_weights(model_dir: Path) -> None:
    check_learner_in_4_bits(model_dir, "cpu")


def test_the_base_stays_the_same_base(model_dir: Path) -> None:
    spec = ModelSpec(path=str(model_dir), quantization="nf4")
    assert [resolve_dtype(spec, use_gpu) for use_gpu in (False, True)] == ["nf4", "nf4"]
    before = base_fingerprint(model_dir)
    if importlib.util.find_spec("bitsandbytes") is not None:
        load_base(model_dir, "nf4")
    assert base_fingerprint(model_dir) == before


def test_unquantisable_model_is_refused(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"bitsandbytes.*quantization=none"):
        load_base(model_dir, "nf4")
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: object())
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}))
    with pytest.raises(ConfigError, match=r"model\.path.*16 bits"):
        load_base(tmp_path, "nf4")
