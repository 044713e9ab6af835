"""Adapters in shared memory: PEFT reads them, and nothing stays when their process is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peft import LoraConfig, PeftModel

from polyray.config.model import LoraSpec
from polyray.errors import WeightSyncError
from polyray.models.adapter import AdapterShape
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.rollout.adapter_files import AdapterFiles, peft_config, reap_adapter_files
from polyray.rollout.processes import ProcessIdentity, descendants, pid_namespace, this_process
from polyray.rollout.vllm_delivery import zero_adapter
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.tiny_policy import build_base, move, save_base

SEQUENCES = ((1, 8, 9, 4, 20), (1, 7, 3))


def test_written_files_are_a_peft_adapter(tmp_path: Path) -> None:
    lora = LoraSpec(rank=3, alpha=5.0, target_modules=("q_proj", "down_proj"))
    policy = attach_adapter(build_base(), lora, None, base_sha256="b" * 64, seed=0)
    move(policy)
    shape = AdapterShape.from_peft(adapter_config(policy))
    files = AdapterFiles(tmp_path)
    where = files.write("policy-a1-v1-aa", peft_config(shape), adapter_bytes(policy))
    again = PeftModel.from_pretrained(build_base(), str(where))
    difference = probe_logprobs(again, SEQUENCES) - probe_logprobs(policy.eval(), SEQUENCES)
    assert abs(difference).max() == 0
    assert {entry.name for entry in where.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_rslora_is_written_down() -> None:
    config = peft_config(AdapterShape(rank=4, alpha=8.0, target_modules=("q_proj",), use_rslora=True))
    fields = {key: value for key, value in config.items() if key not in ("peft_type", "task_type")}
    read = LoraConfig(**fields)
    assert (read.r, read.lora_alpha, read.use_rslora, read.target_modules) == (4, 8.0, True, {"q_proj"})


def test_versions_and_engines_leave_nothing(tmp_path: Path) -> None:
    files, other = AdapterFiles(tmp_path), AdapterFiles(tmp_path)
    for name in ("one", "two"):
        files.write(name, {}, name.encode())
    files.remove("one")
    assert [entry.name for entry in files.directory.iterdir()] == ["two"]
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
        files.write("v1", {}, bytes(2 * 2**20))
    assert list(files.directory.iterdir()) == []


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from polyray.rollout.adapter_files import AdapterFiles\n"
        "AdapterFiles(Path(sys.argv[1])).write('v1', {}, b'x'); print('written', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    (left,) = tmp_path.iterdir()
    assert (left / "v1" / "adapter_model.safetensors").is_file()
    assert reap_adapter_files(tmp_path) == [], "its process lives"
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20
    while left.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_files_left_without_a_watchdog_are_removed_by_the_next(tmp_path: Path) -> None:
    own, namespace = this_process(), pid_namespace()
    gone = tmp_path / f"polyray-adapters-{namespace}-{2**22 + 1}-1-x"
    recycled = tmp_path / f"polyray-adapters-{namespace}-{own.pid}-{own.started + 1}-x"
    alive = tmp_path / f"polyray-adapters-{namespace}-{own.pid}-{own.started}-x"
    elsewhere = tmp_path / f"polyray-adapters-{namespace + 1}-{2**22 + 1}-1-x"
    foreign = tmp_path / "polyray-adapters"
    for directory in (gone, recycled, alive, elsewhere, foreign):
        directory.mkdir()
    files = AdapterFiles(tmp_path)
    assert set(tmp_path.iterdir()) == {alive, elsewhere, foreign, files.directory}


def test_a_process_is_its_pid_and_its_start() -> None:
    own = this_process()
    assert own.pid == os.getpid()
    assert own.is_alive
    assert not ProcessIdentity(own.pid, own.started + 1).is_alive
    assert ProcessIdentity.of(2**22 + 1) is None


def test_descendants_are_found_at_any_depth() -> None:
    child = subprocess.Popen(["bash", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert {child.pid, grandchild} <= {item.pid for item in descendants(os.getpid())}
        assert {item.pid for item in descendants(child.pid)} == {grandchild}
    finally:
        os.kill(grandchild, 9)
        child.wait()
    assert ProcessIdentity.of(child.pid) is None


def test_a_process_that_only_waits_to_be_collected_is_none() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert ProcessIdentity.of(child.pid) is None
    child.wait()


def test_the_probe_of_a_zero_adapter_is_the_base(tmp_path: Path) -> None:
    base_dir = save_base(tmp_path / "base")
    content, shape = zero_adapter(base_dir)
    where = AdapterFiles(tmp_path / "base").write("v0", peft_config(shape), content)
    model = PeftModel.from_pretrained(build_base(), str(where))
    difference = probe_logprobs(model, SEQUENCES) - probe_logprobs(build_base(), SEQUENCES)
    assert abs(difference).max() == 0
