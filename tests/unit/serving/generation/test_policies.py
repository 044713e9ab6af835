"""Served adapters: verification, names, aliases, the limit."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.config.generation import AdapterSpec, GenerationServeConfig
from polyray.errors import ConfigError, WeightSyncError, WeightSyncMismatch
from polyray.models.adapter import AdapterShape, Magnified, PolicyUpdate, Probe
from polyray.serving.generation.adapter_sync import ServedAdapters
from polyray.serving.generation.errors import AdapterConflict, InvalidRequest, UnknownPolicy
from polyray.serving.generation.metrics import GenerationMetrics
from polyray.serving.generation.policies import LivePolicies
from polyray.serving.generation.sources import AdapterSource, check_configured, followed, key_of, source_of
from polyray.types import PolicyVersion
from tests.unit.serving.generation.scripted_text_engine import ScriptedTextEngine

SEQUENCES = ((1, 8, 9),)


def write_adapter(directory: Path, content: str, rank: int = 4, **manifest: object) -> Path:
    """Write the files that are read before the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"r": rank, "peft_type": "LORA"}))
    (directory / "adapter_model.safetensors").write_text(content)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    (directory / "polyray.json").write_text(json.dumps({**manifest, "adapter_sha256": sha256}))
    return directory


def reference(directory: Path | None, version: int, previous: np.ndarray | None) -> PolicyUpdate:
    """The hash of the weights, and log-probs that depend on it."""
    content = b"" if directory is None else (directory / "adapter_model.safetensors").read_bytes()
    if content == b"other base":
        raise ConfigError("this adapter belongs to another base")
    sha256 = hashlib.sha256(content).hexdigest()
    logprobs = np.array([-int(sha256[:4], 16) / 65536, -1.0], np.float32)
    return PolicyUpdate(PolicyVersion(1, version, sha256), content, None, Probe(SEQUENCES, logprobs, None))


class Wanted:
    """Wanted adapters in memory, in place of SelectionStore."""

    def __init__(self) -> None:
        self.specs: dict[str, dict[str, object]] = {}

    def adapters(self) -> dict[str, dict[str, object]]:
        return dict(self.specs)

    def add_adapter(self, name: str, spec: object) -> None:
        self.specs[name] = dict(spec)  # type: ignore[call-overload]

    def remove_adapter(self, name: str) -> None:
        self.specs.pop(name, None)


async def started(
    root: Path, max_adapters: int = 2, wanted: Wanted | None = None, *configured: AdapterSpec
) -> tuple[ScriptedTextEngine, LivePolicies, ServedAdapters]:
    """An engine with the base, its policies, and the adapters of `wanted` and `configured`."""
    engine: Any = ScriptedTextEngine()
    policies = LivePolicies(engine, reference, "float32", max_adapters, GenerationMetrics())
    await policies.start()
    served = ServedAdapters(policies, wanted or Wanted(), configured, (str(root),), 8)
    await served.start()
    return engine, policies, served


def source(root: Path, name: str, content: str | None = None) -> AdapterSource:
    return AdapterSource(name, write_adapter(root / (content or name), content or name))


async def test_policies_base_is_an_empty_adapter_and_an_unknown_model_lists_the_models(
    tmp_path: Path,
) -> None:
    engine, policies, _ = await started(tmp_path)
    assert policies.names() == ["base"] and engine.served["base"].tensors == b""
    assert policies.resolve(None) is policies.resolve("base")
    await policies.load(AdapterSource("policy-v3", write_adapter(tmp_path / "3", "a"), 3))
    policies.point("latest", "policy-v3")
    with pytest.raises(UnknownPolicy, match=r"'gpt-9'.* base, policy-v3, latest"):
        policies.resolve("gpt-9")
    assert policies.resolve("latest").version == 3


async def test_policies_serve_no_unverified_weights_and_keep_the_previous_ones(tmp_path: Path) -> None:
    engine, policies, _ = await started(tmp_path)
    engine.lie = 0.01
    with pytest.raises(WeightSyncMismatch, match=r"0\.01 .*5e-05"):
        await policies.load(source(tmp_path, "first"))
    assert policies.names() == ["base"] and list(engine.served) == ["base"]
    engine.lie = 0.0
    before, _ = await policies.load(source(tmp_path, "first", "a"))
    engine.refuse = {hashlib.sha256(b"b").hexdigest()}
    with pytest.raises(WeightSyncError, match="refused"):
        await policies.load(source(tmp_path, "first", "b"))
    assert policies.resolve("first").policy == before.policy
    assert engine.served["first"].tensors == b"a"


async def test_policies_verify_magnified_answers_of_the_engine(tmp_path: Path) -> None:
    def magnifying(directory: Path | None, version: int, previous: np.ndarray | None) -> PolicyUpdate:
        update = reference(directory, version, previous)
        if directory is None:
            return update
        logprobs = update.probe.logprobs - 1
        larger = Magnified(64.0, logprobs, np.stack([logprobs - 0.1, logprobs + 0.1]))
        probe = replace(update.probe, magnified=larger)
        return replace(update, shape=AdapterShape(4, 8.0, ("q_proj",)), probe=probe)

    engine: Any = ScriptedTextEngine()
    policies = LivePolicies(engine, magnifying, "bfloat16", 2, GenerationMetrics())
    await policies.start()
    await policies.load(source(tmp_path, "first"))
    engine.magnified_lie = 1.0
    with pytest.raises(WeightSyncMismatch, match="magnified 64 times"):
        await policies.load(source(tmp_path, "second"))
    assert policies.names() == list(engine.served) == ["base", "first"]


async def test_policies_beyond_the_limit_unload_the_least_recently_used(tmp_path: Path) -> None:
    engine, policies, _ = await started(tmp_path)
    for name in "ab":
        await policies.load(source(tmp_path, name))
    policies.resolve("a")
    _, gone = await policies.load(source(tmp_path, "c"))
    assert gone == ["b"] and policies.names() == ["base", "a", "c"]
    assert sorted(engine.served) == ["a", "base", "c"]
    _, pinned, _ = await started(tmp_path)
    await pinned.load(source(tmp_path, "a"), pinned=True)
    await pinned.load(source(tmp_path, "b"))
    pinned.point("latest", "b")
    with pytest.raises(AdapterConflict, match="max_adapters=2"):
        await pinned.load(source(tmp_path, "c"))
    assert pinned.names() == ["base", "a", "b", "latest"]


async def test_adapters_are_remembered_for_every_replica(tmp_path: Path) -> None:
    wanted = Wanted()
    _, policies, served = await started(tmp_path, 2, wanted)
    directory = str(write_adapter(tmp_path / "sft" / "adapter", "a"))
    key, (live,) = await served.add(AdapterSpec(path=directory))
    assert (key, live.model) == ("sft", "sft")
    assert wanted.specs == {"sft": {"path": directory}}
    _, other, again = await started(tmp_path, 2, wanted)
    assert other.names() == ["base", "sft"]
    await served.remove("sft")
    assert wanted.specs == {} and policies.names() == ["base"]
    await again.look()
    assert other.names() == ["base"]
    # Changes happen one at a time: a look in the middle of a load does not unload it.
    spec = AdapterSpec(path=directory, name="a")
    await asyncio.gather(served.add(spec), served.look(), served.look())
    assert policies.names() == ["base", "a"]


async def test_adapters_requested_at_another_replica_are_loaded_once(tmp_path: Path) -> None:
    wanted = Wanted()
    _, policies, served = await started(tmp_path, 2, wanted)
    wanted.specs["a"] = {"path": str(write_adapter(tmp_path / "a", "a"))}
    await served.catch_up(None)
    await served.catch_up("base")
    assert policies.names() == ["base"]
    await served.catch_up("a")
    assert policies.names() == ["base", "a"]
    wanted.specs["b"] = {"path": str(write_adapter(tmp_path / "b", "other base"))}
    await served.catch_up("b")
    write_adapter(tmp_path / "b", "b")
    await served.catch_up("b")  # a known failure is not read again for a request
    assert policies.names() == ["base", "a"] and "another base" in served.troubles["b"]
    await served.look()
    assert policies.names() == ["base", "a", "b"]


async def test_remembered_adapter_that_cannot_be_loaded_can_be_removed(tmp_path: Path) -> None:
    wanted = Wanted()
    wanted.specs = {"gone": {"path": str(tmp_path / "gone")}, "of a later schema": {"place": 1}}
    write_adapter(tmp_path / "first", "a")
    wanted.specs["first"] = {"path": str(tmp_path / "first")}
    _, policies, served = await started(tmp_path, wanted=wanted)
    assert policies.names() == ["base", "first"]
    assert set(served.troubles) == {"gone", "of a later schema"}
    await served.remove("gone")
    assert set(wanted.specs) == {"of a later schema", "first"} and set(served.troubles) == {
        "of a later schema"
    }
    with pytest.raises(UnknownPolicy):
        await served.remove("gone")


async def test_adapters_pushed_out_are_forgotten(tmp_path: Path) -> None:
    wanted = Wanted()
    _, policies, served = await started(tmp_path, 1, wanted)
    for name in "ab":
        await served.add(AdapterSpec(path=str(write_adapter(tmp_path / name, name))))
    assert list(wanted.specs) == ["b"]
    await served.look()
    assert policies.names() == ["base", "b"]


async def test_followed_run_serves_new_versions(tmp_path: Path) -> None:
    engine, policies, served = await started(tmp_path, 3)
    run = tmp_path / "run"
    run.mkdir()
    key, models = await served.add(AdapterSpec(follow=str(run)))
    assert (key, models, policies.names()) == ("policy", [], ["base"])
    write_adapter(run / "versions" / "2", "v2")
    await served.look()
    assert policies.names() == ["base", "policy-v2", "latest"]
    write_adapter(run / "versions" / "10", "v10")
    write_adapter(run / "best", "v2", version=2)
    await served.look()
    assert policies.names() == ["base", "policy-v2", "policy-v10", "best", "latest"]
    assert (policies.resolve("latest").version, policies.resolve("best").version) == (10, 2)
    assert len(engine.loads) == 3, "best/ holds the weights of versions/2"
    # The learner fell back, and made version 10 again with other bytes.
    write_adapter(run / "versions" / "10", "v10, again")
    await served.look()
    assert engine.served["policy-v10"].tensors == b"v10, again"
    loads = len(engine.loads)
    await served.look()
    assert len(engine.loads) == loads
    await served.remove("policy")
    assert policies.names() == ["base"]


async def test_followed_run_unloads_its_oldest_versions_and_reports_trouble(tmp_path: Path) -> None:
    _, policies, served = await started(tmp_path)
    versions = tmp_path / "run" / "versions"
    write_adapter(versions / "1", "v1")
    await served.add(AdapterSpec(follow=str(tmp_path / "run"), name="mine"))
    for version in range(2, 5):
        write_adapter(versions / str(version), f"v{version}")
        await served.look()
    assert policies.names() == ["base", "mine-v3", "mine-v4", "mine-latest"]
    write_adapter(versions / "5", "other base")
    await served.look()
    assert served.troubles == {"mine": "this adapter belongs to another base"}
    assert policies.resolve("mine-latest").version == 4
    write_adapter(versions / "6", "v6")
    await served.look()
    assert served.troubles == {} and policies.resolve("mine-latest").version == 6


async def test_adapters_look_that_fails_is_followed_by_another(tmp_path: Path) -> None:
    wanted = Wanted()
    _, policies, served = await started(tmp_path, 2, wanted)
    looking = asyncio.create_task(served.keep_looking(0.001))
    wanted.specs["a"] = {"path": 3}  # no AdapterSpec, as another version of the service might have stored it
    await asyncio.sleep(0.05)
    wanted.specs = {"b": {"path": str(write_adapter(tmp_path / "b", "b"))}}
    async with asyncio.timeout(5):
        while policies.names() != ["base", "b"]:
            await asyncio.sleep(0.01)
    looking.cancel()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/etc", InvalidRequest, r"'/etc' is outside of adapter_roots="),
        ("none", InvalidRequest, "is not an adapter: adapter_config"),
        ("big", InvalidRequest, "rank 64.* 8.* max_lora_rank=64"),
        ("latest", InvalidRequest, "'latest' "),
        ("other", ConfigError, "belongs to another base"),
        ("link", InvalidRequest, "adapter_roots"),
    ],
)
async def test_adapter_that_cannot_be_served_is_refused(
    tmp_path: Path, path: str, error: type[Exception], message: str
) -> None:
    root, wanted = tmp_path / "root", Wanted()
    write_adapter(root / "big", "a", rank=64)
    write_adapter(root / "other", "other base")
    (root / "link").symlink_to(write_adapter(tmp_path / "outside", "a"))
    _, policies, served = await started(root, 2, wanted)
    with pytest.raises(error, match=message):
        await served.add(AdapterSpec(path=str(root / path)))
    assert policies.names() == ["base"] and not wanted.specs


async def test_configured_adapter_cannot_be_changed_over_http(tmp_path: Path) -> None:
    spec = AdapterSpec(path=str(write_adapter(tmp_path / "a", "a")))
    _, _, served = await started(tmp_path, 2, None, spec)
    with pytest.raises(AdapterConflict, match=r"'a' .*configuration"):
        await served.remove("a")
    with pytest.raises(UnknownPolicy, match=r"'b' .*\['a'\]"):
        await served.remove("b")
    with pytest.raises(AdapterConflict, match=r"'a' .*already"):
        await served.add(AdapterSpec(path=str(write_adapter(tmp_path / "c", "c")), name="a"))


def test_adapter_names_follow_from_their_source(tmp_path: Path) -> None:
    first = Path.cwd() / "runs/first"
    assert source_of(AdapterSpec(path="runs/sft/adapter")).model == "sft"
    assert source_of(AdapterSpec(path="runs/mine")).model == "mine"
    assert source_of(AdapterSpec(run="runs/first")) == AdapterSource("first", first / "adapter")
    third = AdapterSource("policy-v3", first / "versions/3", 3)
    assert source_of(AdapterSpec(run="runs/first", version=3)) == third
    assert source_of(AdapterSpec(run="runs/first", version=3, name="a")).model == "a-v3"
    assert key_of(AdapterSpec(follow="runs/first")) == "policy"
    assert followed(AdapterSpec(follow=str(tmp_path))).latest is None


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([{"path": "/etc/a"}], r"adapters\.0: '/etc/a' .*adapter_roots"),
        ([{"path": "runs/none"}], r"adapters\.0: '.*/runs/none' "),
        ([{"path": "runs/a"}, {"path": "runs/b/../a"}], r"adapters: \['a'\] .*twice"),
        ([{"follow": "runs/a"}], r"adapters .*3 places .*max_adapters=2"),
    ],
)
def test_configured_adapters_that_cannot_be_served_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specs: list[dict[str, str]], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_adapter(tmp_path / "runs" / name, name)
    config = GenerationServeConfig.model_validate({"adapters": specs, "max_adapters": 2})
    with pytest.raises(ConfigError, match=message):
        check_configured(config)
