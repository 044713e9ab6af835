"""Requests of groups and texts, with an engine whose steps a test writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.models.adapter import PolicyUpdate, Probe
from polyray.rollout.engine import Engine, Running
from polyray.types import Group, GroupRequest, PolicyVersion, Prompt, TextDelta

OLD, NEW = PolicyVersion(1, 3, "a" * 64), PolicyVersion(2, 3, "b" * 64)


class Tokenizer:
    eos_token_id = 0

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [1, 2]}

    def batch_decode(self, tokens: Any, **kwargs: Any) -> list[str]:
        return [str(item.tolist()) for item in tokens]


class ManualEngine(Engine):
    """Its next step answers `outputs`; versions that it dropped are in `unloaded`."""

    def __init__(self) -> None:
        super().__init__(Tokenizer(), RolloutSpec(), keeps_versions=True)
        self.outputs: list[tuple[int, TextDelta]] = []
        self.added: list[list[int]] = []
        self.unloaded: list[PolicyVersion] = []

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self._step()
        return np.zeros(1, np.float32)

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...

    def _add(self, running: Running) -> None:
        self.added.append(running.samples)

    def _advance(self) -> list[tuple[int, TextDelta]]:
        outputs, self.outputs = self.outputs, []
        return outputs

    def _cancel(self, running: Running) -> None: ...

    def _load(self, payload: PolicyUpdate) -> PolicyVersion:
        return payload.policy

    def _unload(self, loaded: PolicyVersion) -> None:
        self.unloaded.append(loaded)


def _engine() -> ManualEngine:
    engine = ManualEngine()
    engine.load(_payload(OLD))
    return engine


def _payload(policy: PolicyVersion) -> PolicyUpdate:
    return PolicyUpdate(policy, b"", None, Probe((), np.zeros(0, np.float32), None))


def _ended(sample: int, token: int) -> tuple[int, TextDelta]:
    return sample, TextDelta("", (token,), (-0.5,), (), "stop")


def test_stale_replies_of_aborted_group_are_ignored() -> None:
    engine = _engine()
    request = GroupRequest(7, Prompt("p", "x"), (5, 6), 10)
    engine.submit(7, request)
    engine.outputs = [_ended(engine.added[0][1], 10)]
    assert engine.poll() == []
    engine.abort(7)
    engine.load(_payload(NEW))
    engine.submit(7, request)
    first, second = engine.added
    assert len({*first, *second}) == 4
    engine.outputs = [_ended(first[0], 11), _ended(second[1], 21), _ended(second[0], 20)]
    ((number, group),) = engine.poll()
    assert number == 7 and isinstance(group, Group) and group.policy == NEW
    assert [item.token_ids.tolist() for item in group.completions] == [[20], [21]]
    assert engine.idle
    engine.outputs = [_ended(second[0], 20)]
    assert engine.poll() == []


def test_group_that_ends_during_a_probe_may_still_be_aborted() -> None:
    engine = _engine()
    engine.submit(7, GroupRequest(7, Prompt("p", "x"), (5,), 10))
    engine.outputs = [_ended(engine.added[0][0], 10)]
    engine.probe(())
    assert not engine.idle
    engine.abort(7)
    assert engine.idle and engine.poll() == []


def test_version_is_unloaded_when_its_last_request_ends_and_a_newer_one_is_there() -> None:
    engine = _engine()
    for number in (0, 1):
        engine.submit(number, GroupRequest(number, Prompt("p", "x"), (5,), 10))
    engine.load(_payload(NEW))
    assert engine.held() == {OLD.name: 2, NEW.name: 0}
    engine.abort(0)
    assert engine.unloaded == []
    engine.outputs = [_ended(engine.added[1][0], 10)]
    assert len(engine.poll()) == 1
    assert (engine.unloaded, engine.held()) == ([OLD], {NEW.name: 0})
    engine.forget("")
    assert engine.unloaded == [OLD, NEW]
