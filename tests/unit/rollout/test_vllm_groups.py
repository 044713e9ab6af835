"""Assignment of vLLM answers to groups, with plain objects as answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from polyray.rollout.vllm_groups import RunningGroups
from polyray.types import GroupRequest, PolicyVersion, Prompt

OLD, NEW = PolicyVersion(1, 3, "a" * 64), PolicyVersion(2, 3, "b" * 64)


class Tokenizer:
    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [1, 2]}

    def batch_decode(self, tokens: Any, **kwargs: Any) -> list[str]:
        return [str(item.tolist()) for item in tokens]


def _answer(request_id: str, token: int, reason: str = "stop") -> Any:
    output = SimpleNamespace(
        token_ids=[token], logprobs=SimpleNamespace(logprobs=[-0.5]), finish_reason=reason
    )
    return SimpleNamespace(request_id=request_id, outputs=[output])


def test_stale_replies_of_aborted_group_are_ignored() -> None:
    groups = RunningGroups(Tokenizer(), 64)
    request = GroupRequest(7, Prompt("p", "x"), (5, 6), 10)
    groups.admit(request, OLD)
    first = groups.request_ids(7)
    given_up = groups.forget(7)
    assert given_up == (OLD, first)
    groups.admit(request, NEW)
    second = groups.request_ids(7)
    assert len({*first, *second}) == 4
    assert groups.take(_answer(first[0], 10)) is None  # it had ended before it was given up
    assert groups.take(_answer(first[1], 11, reason="abort")) is None
    assert groups.take(_answer(second[1], 21)) is None
    group = groups.take(_answer(second[0], 20))
    assert group is not None and group.policy == NEW
    assert [item.token_ids.tolist() for item in group.completions] == [[20], [21]]
    assert not groups
    assert groups.take(_answer(second[0], 20)) is None
