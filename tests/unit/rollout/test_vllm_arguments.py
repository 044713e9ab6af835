"""The arguments of vLLM that say how the base is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError, RolloutError
from polyray.rollout import vllm_engine
from polyray.rollout.vllm_engine import engine_arguments


def _find(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    monkeypatch.setattr(
        vllm_engine.importlib.util, "find_spec", lambda name: object() if name in present else None
    )


def _arguments(dtype: str, lora_rank: int | None = 16) -> dict[str, Any]:
    return engine_arguments(Path("base"), RolloutSpec(), dtype, lora_rank)


def test_4_bits_are_what_the_plugin_makes_of_the_base_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _find(monkeypatch, "vllm_bnb_plugin")
    quantised, plain = _arguments("nf4"), _arguments("bfloat16")
    assert (quantised["dtype"], quantised.pop("quantization")) == ("bfloat16", "bitsandbytes")
    assert quantised == plain
    assert _arguments("float32")["dtype"] == "float32"


def test_without_the_plugin_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _find(monkeypatch)
    with pytest.raises(ConfigError, match=r"needs vllm-bnb-plugin beside vLLM, .* requirements/gpu\.txt"):
        _arguments("nf4")


def test_4_bits_take_no_merged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    _find(monkeypatch, "vllm_bnb_plugin")
    with pytest.raises(RolloutError, match=r"takes adapters only; set delivery\.mode=adapter"):
        _arguments("nf4", lora_rank=None)
