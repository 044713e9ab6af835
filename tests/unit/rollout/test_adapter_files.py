"""Adapters in shared memory: PEFT reads them, and nothing stays when their process is gone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftModel

from polyray.config.model import LoraSpec
from polyray.errors import WeightSyncError
from polyray.models.adapter import AdapterShape
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.rollout.vllm_delivery import LOCK, AdapterFiles, ownerless
from polyray.weight_sync.merge import zero_adapter
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.tiny_policy import build_base, move, save_base

SHAPE = AdapterShape(1, 1.0, ("q_proj",))
SEQUENCES = ((1, 8, 9, 4, 20), (1, 7, 3))


def test_written_files_are_a_peft_adapter(tmp_path: Path) -> None:
    lora = LoraSpec(rank=3, alpha=5.0, target_modules=("q_proj", "down_proj"))
    policy = attach_adapter(build_base(), lora, None, base_sha256="b" * 64, seed=0)
    move(policy)
    shape = AdapterShape.from_peft(adapter_config(policy))
    files = AdapterFiles(tmp_path)
    where = files.write("policy-a1-v1-aa", shape, adapter_bytes(policy))
    again = PeftModel.from_pretrained(build_base(), str(where))
    difference = probe_logprobs(again, SEQUENCES) - probe_logprobs(policy.eval(), SEQUENCES)
    assert abs(difference).max() == 0
    assert {entry.name for entry in where.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_rslora_is_written_down() -> None:
    config: dict[str, Any] = AdapterShape(4, 8.0, ("q_proj",), use_rslora=True).to_peft()
    fields = {key: value for key, value in config.items() if key not in ("peft_type", "task_type")}
    read = LoraConfig(**fields)
    assert (read.r, read.lora_alpha, read.use_rslora, read.target_modules) == (4, 8.0, True, {"q_proj"})


def test_versions_and_engines_leave_nothing(tmp_path: Path) -> None:
    files, other = AdapterFiles(tmp_path), AdapterFiles(tmp_path)
    for name in ("one", "two"):
        files.write(name, SHAPE, name.encode())
    files.remove("one")
    assert {entry.name for entry in files.directory.iterdir()} == {LOCK, "two"}
    files.close()
    files.close()
    assert list(tmp_path.iterdir()) == [other.directory]


def test_a_full_memory_is_named_and_leaves_no_half_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = AdapterFiles(tmp_path)

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WeightSyncError, match=r"2\.0 MiB of v1\b.*No space left.*--shm-size"):
        files.write("v1", SHAPE, bytes(2 * 2**20))
    assert [entry.name for entry in files.directory.iterdir()] == [LOCK]


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from polyray.rollout.vllm_delivery import AdapterFiles\n"
        "from polyray.models.adapter import AdapterShape; shape = AdapterShape(1, 1.0, ('q_proj',))\n"
        "AdapterFiles(Path(sys.argv[1])).write('v1', shape, b'x'); print('written', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    (left,) = tmp_path.iterdir()
    assert (left / "v1" / "adapter_model.safetensors").is_file()
    assert ownerless(tmp_path) == [], "its process lives"
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20
    while left.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_files_left_without_a_watchdog_are_removed_by_the_next(tmp_path: Path) -> None:
    gone, alive = tmp_path / "polyray-adapters-1", tmp_path / "polyray-adapters-2"
    starting, foreign = tmp_path / ".polyray-adapters-3", tmp_path / "polyray-adapters"
    for directory in (gone, alive, starting, foreign):
        (directory / "v1").mkdir(parents=True)
        (directory / LOCK).touch()
    with (alive / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ownerless(tmp_path) == [gone]
        files = AdapterFiles(tmp_path)
    assert set(tmp_path.iterdir()) == {alive, starting, foreign, files.directory}
    assert ownerless(tmp_path) == [alive]


def test_the_probe_of_a_zero_adapter_is_the_base(tmp_path: Path) -> None:
    base_dir = save_base(tmp_path / "base")
    content, shape = zero_adapter(base_dir)
    where = AdapterFiles(tmp_path / "base").write("v0", shape, content)
    model = PeftModel.from_pretrained(build_base(), str(where))
    difference = probe_logprobs(model, SEQUENCES) - probe_logprobs(build_base(), SEQUENCES)
    assert abs(difference).max() == 0
