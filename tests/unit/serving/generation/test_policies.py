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


async def policies_of(engine: Any, max_adapters: int = 2) -> LivePolicies:
    policies = LivePolicies(engine, reference, "float32", max_adapters, GenerationMetrics())
    await policies.start()
    return policies


def served_of(
    policies: LivePolicies, root: Path, *configured: AdapterSpec, wanted: Wanted | None = None
) -> ServedAdapters:
    return ServedAdapters(policies, wanted or Wanted(), configured, (str(root),), 8)


async def test_base_is_served_as_an_empty_adapter() -> None:
    engine = ScriptedTextEngine()
    policies = await policies_of(engine)
    assert policies.names() == ["base"]
    assert policies.resolve(None) is policies.resolve("base")
    assert engine.served["base"].tensors == b""


async def test_adapter_that_fails_verification_is_not_served(tmp_path: Path) -> None:
    engine = ScriptedTextEngine()
    policies = await policies_of(engine)
    engine.lie = 0.01
    source = AdapterSource("first", write_adapter(tmp_path / "first", "a"))
    with pytest.raises(WeightSyncMismatch, match=r"0\.01 .*0\.0001"):
        await policies.load(source)
    assert policies.names() == ["base"] and list(engine.served) == ["base"]


async def test_magnified_answers_of_the_engine_are_verified(tmp_path: Path) -> None:
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
    await policies.load(AdapterSource("first", write_adapter(tmp_path / "first", "a")))
    engine.magnified_lie = 1.0
    with pytest.raises(WeightSyncMismatch, match="magnified 64 times"):
        await policies.load(AdapterSource("second", write_adapter(tmp_path / "second", "b")))
    assert policies.names() == list(engine.served) == ["base", "first"]


async def test_failed_replacement_keeps_the_previous_weights(tmp_path: Path) -> None:
    engine = ScriptedTextEngine()
    policies = await policies_of(engine)
    first = write_adapter(tmp_path / "first", "a")
    before, _ = await policies.load(AdapterSource("first", first))
    second = write_adapter(tmp_path / "second", "b")
    engine.refuse = {hashlib.sha256(b"b").hexdigest()}
    with pytest.raises(WeightSyncError, match="refused"):
        await policies.load(AdapterSource("first", second))
    assert policies.resolve("first").policy == before.policy
    assert engine.served["first"].tensors == b"a"


async def test_unknown_model_error_lists_the_models(tmp_path: Path) -> None:
    policies = await policies_of(ScriptedTextEngine())
    await policies.load(AdapterSource("policy-v3", write_adapter(tmp_path / "3", "a"), 3))
    policies.point("latest", "policy-v3")
    with pytest.raises(UnknownPolicy, match=r"'gpt-9'.* base, policy-v3, latest"):
        policies.resolve("gpt-9")
    assert policies.resolve("latest").version == 3


async def test_adapter_beyond_the_limit_unloads_the_least_recently_used(tmp_path: Path) -> None:
    engine = ScriptedTextEngine()
    policies = await policies_of(engine)
    for name in "ab":
        await policies.load(AdapterSource(name, write_adapter(tmp_path / name, name)))
    policies.resolve("a")
    _, gone = await policies.load(AdapterSource("c", write_adapter(tmp_path / "c", "c")))
    assert gone == ["b"] and policies.names() == ["base", "a", "c"]
    assert sorted(engine.served) == ["a", "base", "c"]


async def test_configured_or_aliased_adapter_is_never_unloaded(tmp_path: Path) -> None:
    policies = await policies_of(ScriptedTextEngine())
    await policies.load(AdapterSource("a", write_adapter(tmp_path / "a", "a")), pinned=True)
    await policies.load(AdapterSource("b", write_adapter(tmp_path / "b", "b")))
    policies.point("latest", "b")
    with pytest.raises(AdapterConflict, match="max_adapters=2"):
        await policies.load(AdapterSource("c", write_adapter(tmp_path / "c", "c")))
    assert policies.names() == ["base", "a", "b", "latest"]


async def test_loaded_and_unloaded_adapters_are_remembered(tmp_path: Path) -> None:
    policies, wanted = await policies_of(ScriptedTextEngine()), Wanted()
    served = served_of(policies, tmp_path, wanted=wanted)
    await served.start()
    directory = str(write_adapter(tmp_path / "sft" / "adapter", "a"))
    key, (live,) = await served.add(AdapterSpec(path=directory))
    assert (key, live.model) == ("sft", "sft")
    assert wanted.specs == {"sft": {"path": directory}}
    # Another replica, or the same one started again.
    other = await policies_of(ScriptedTextEngine())
    again = served_of(other, tmp_path, wanted=wanted)
    await again.start()
    assert other.names() == ["base", "sft"]
    await served.remove("sft")
    assert wanted.specs == {} and policies.names() == ["base"]
    await again.look()
    assert other.names() == ["base"]


async def test_adapter_requested_at_another_replica_is_loaded_once(tmp_path: Path) -> None:
    wanted = Wanted()
    policies = await policies_of(ScriptedTextEngine())
    served = served_of(policies, tmp_path, wanted=wanted)
    await served.start()
    wanted.specs["a"] = {"path": str(write_adapter(tmp_path / "a", "a"))}
    await served.catch_up(None)
    await served.catch_up("base")
    assert policies.names() == ["base"]
    await served.catch_up("a")
    assert policies.names() == ["base", "a"]
    wanted.specs["b"] = {"path": str(write_adapter(tmp_path / "b", "other base"))}
    await served.catch_up("b")
    write_adapter(tmp_path / "b", "b")
    await served.catch_up("b")  # known not to work: whoever asks again does not have it read again
    assert policies.names() == ["base", "a"] and "another base" in served.troubles["b"]
    await served.look()
    assert policies.names() == ["base", "a", "b"]


async def test_one_that_is_pushed_out_is_not_loaded_again(tmp_path: Path) -> None:
    policies, wanted = await policies_of(ScriptedTextEngine(), max_adapters=1), Wanted()
    served = served_of(policies, tmp_path, wanted=wanted)
    for name in "ab":
        await served.add(AdapterSpec(path=str(write_adapter(tmp_path / name, name))))
    assert list(wanted.specs) == ["b"]
    await served.look()
    assert policies.names() == ["base", "b"]


async def test_new_versions_of_a_followed_run_are_served(tmp_path: Path) -> None:
    engine = ScriptedTextEngine()
    policies = await policies_of(engine, max_adapters=3)
    run = tmp_path / "run"
    run.mkdir()
    served = served_of(policies, tmp_path)
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
    assert len(engine.loads) == 3, "best/ holds the very weights of versions/2"
    # The learner fell back, and made version 10 again with other bytes.
    write_adapter(run / "versions" / "10", "v10, again")
    await served.look()
    assert engine.served["policy-v10"].tensors == b"v10, again"
    loads = len(engine.loads)
    await served.look()
    assert len(engine.loads) == loads
    await served.remove("policy")
    assert policies.names() == ["base"]


async def test_a_followed_run_lets_go_of_its_oldest_versions(tmp_path: Path) -> None:
    policies = await policies_of(ScriptedTextEngine(), max_adapters=2)
    served = served_of(policies, tmp_path)
    run = tmp_path / "run"
    for version in range(1, 6):
        write_adapter(run / "versions" / str(version), f"v{version}")
        if version == 1:
            await served.add(AdapterSpec(follow=str(run), name="mine"))
        await served.look()
    assert policies.names() == ["base", "mine-v4", "mine-v5", "mine-latest"]


async def test_trouble_of_a_followed_run_is_reported_and_later_versions_are_served(tmp_path: Path) -> None:
    engine = ScriptedTextEngine()
    policies = await policies_of(engine, max_adapters=4)
    served = served_of(policies, tmp_path)
    run = tmp_path / "run"
    write_adapter(run / "versions" / "1", "v1")
    await served.add(AdapterSpec(follow=str(run)))
    write_adapter(run / "versions" / "2", "other base")
    await served.look()
    assert served.troubles == {"policy": "this adapter belongs to another base"}
    assert policies.resolve("latest").version == 1
    write_adapter(run / "versions" / "3", "v3")
    await served.look()
    assert served.troubles == {} and policies.resolve("latest").version == 3


async def test_a_look_that_fails_is_not_the_last_one(tmp_path: Path) -> None:
    policies, wanted = await policies_of(ScriptedTextEngine()), Wanted()
    served = served_of(policies, tmp_path, wanted=wanted)
    looking = asyncio.create_task(served.keep_looking(0.001))
    wanted.specs["a"] = {"path": 3}  # no AdapterSpec, as another version of the service might have stored it
    await asyncio.sleep(0.05)
    wanted.specs = {"b": {"path": str(write_adapter(tmp_path / "b", "b"))}}
    async with asyncio.timeout(5):
        while policies.names() != ["base", "b"]:
            await asyncio.sleep(0.01)
    looking.cancel()


async def test_changes_happen_one_at_a_time(tmp_path: Path) -> None:
    """A look between an adapter's load and its being remembered would unload it again."""
    policies = await policies_of(ScriptedTextEngine())
    served = served_of(policies, tmp_path)
    spec = AdapterSpec(path=str(write_adapter(tmp_path / "a", "a")))
    await asyncio.gather(served.add(spec), served.look(), served.look())
    assert policies.names() == ["base", "a"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: AdapterSpec(path="/etc"), InvalidRequest, r"'/etc' is outside of adapter_roots="),
        (
            lambda root: AdapterSpec(path=str(root / "none")),
            InvalidRequest,
            "is not an adapter: adapter_config",
        ),
        (
            lambda root: AdapterSpec(path=str(write_adapter(root / "big", "a", rank=64))),
            InvalidRequest,
            "rank 64.* 8.* max_lora_rank=64",
        ),
        (
            lambda root: AdapterSpec(path=str(root / "latest")),
            InvalidRequest,
            "'latest' ",
        ),
        (
            lambda root: AdapterSpec(path=str(write_adapter(root / "other", "other base"))),
            ConfigError,
            "belongs to another base",
        ),
    ],
)
async def test_a_wrong_adapter_is_refused(
    tmp_path: Path, make: object, error: type[Exception], message: str
) -> None:
    policies, wanted = await policies_of(ScriptedTextEngine()), Wanted()
    served = served_of(policies, tmp_path, wanted=wanted)
    with pytest.raises(error, match=message):
        await served.add(make(tmp_path))  # type: ignore[operator]
    assert policies.names() == ["base"] and not wanted.specs


async def test_link_out_of_the_roots_is_refused(tmp_path: Path) -> None:
    outside = write_adapter(tmp_path / "outside", "a")
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "link").symlink_to(outside)
    served = served_of(await policies_of(ScriptedTextEngine()), tmp_path / "roots")
    with pytest.raises(InvalidRequest, match="adapter_roots"):
        await served.add(AdapterSpec(path=str(tmp_path / "roots" / "link")))


async def test_configured_adapter_cannot_be_unloaded_over_http(tmp_path: Path) -> None:
    spec = AdapterSpec(path=str(write_adapter(tmp_path / "a", "a")))
    served = served_of(await policies_of(ScriptedTextEngine()), tmp_path, spec)
    await served.start()
    with pytest.raises(AdapterConflict, match=r"'a' .*configuration"):
        await served.remove("a")
    with pytest.raises(UnknownPolicy, match=r"'b' .*\['a'\]"):
        await served.remove("b")
    with pytest.raises(AdapterConflict, match=r"'a' .*already"):
        await served.add(AdapterSpec(path=str(write_adapter(tmp_path / "c", "c")), name="a"))


def test_names(tmp_path: Path) -> None:
    assert source_of(AdapterSpec(path="runs/sft/adapter")).model == "sft"
    assert source_of(AdapterSpec(path="runs/mine")).model == "mine"
    assert source_of(AdapterSpec(run="runs/first")) == AdapterSource(
        "first", Path.cwd() / "runs/first/adapter"
    )
    third = AdapterSource("policy-v3", Path.cwd() / "runs/first/versions/3", 3)
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
def test_a_configuration_that_cannot_be_served_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specs: list[dict[str, str]], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_adapter(tmp_path / "runs" / name, name)
    config = GenerationServeConfig.model_validate({"adapters": specs, "max_adapters": 2})
    with pytest.raises(ConfigError, match=message):
        check_configured(config)
