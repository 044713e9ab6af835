"""Copies of a prompt's keys and values between the samples of a group."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.request import RequestStatus

from polyray.rollout.vllm_shared_prompt import Copies, SharedPrompt, group_of

BLOCK = 4
PROMPT = 10
"""Tokens: two full blocks and two of a third one; the last token is computed by every sample."""


class Blocks:
    """vLLM's table of blocks, as both the manager and the blocks of one request."""

    def __init__(self, table: dict[str, list[int]], of: str = "") -> None:
        self._table, self._of = table, of

    def get_block_ids(self, request_id: str | None = None) -> tuple[list[int], ...]:
        return (self._table[request_id or self._of],)


class Scheduler:
    """Calls of vLLM's scheduler for one request after the other."""

    def __init__(self) -> None:
        cache = SimpleNamespace(block_size=BLOCK)
        transfer = SimpleNamespace(kv_connector_extra_config={})
        config: Any = SimpleNamespace(cache_config=cache, kv_transfer_config=transfer)
        self.connector = SharedPrompt(config, KVConnectorRole.SCHEDULER, None)
        self.table: dict[str, list[int]] = {}
        self.connector.bind_kv_cache_manager(Blocks(self.table))

    def ask(self, request: Any, found: int = 0) -> int | None:
        """Tokens to copy for a request that found so many in the prefix cache; schedules it if it need not wait."""
        tokens, asynchronous = self.connector.get_num_new_matched_tokens(request, found)
        assert not asynchronous
        if tokens is not None:
            first = 10 * (len(self.table) + 1)
            self.table[request.request_id] = list(range(first, first + 3))
            blocks = Blocks(self.table, request.request_id)
            self.connector.update_state_after_alloc(request, blocks, tokens)
            request.num_computed_tokens, request.status = PROMPT, RequestStatus.RUNNING
        return tokens

    def copies(self) -> Copies:
        return self.connector.build_connector_meta(None)


def sample(index: int, group: str = "7/1") -> Any:
    return SimpleNamespace(
        request_id=f"{group}/{index}",
        num_prompt_tokens=PROMPT,
        num_computed_tokens=0,
        status=RequestStatus.WAITING,
    )


def test_other_samples_copy_all_but_the_last_token() -> None:
    scheduler = Scheduler()
    assert scheduler.ask(sample(0)) == 0
    assert scheduler.copies() == Copies((), ())
    assert scheduler.ask(sample(1)) == PROMPT - 1
    assert scheduler.ask(sample(2), found=8) == 1
    assert scheduler.copies() == Copies((10, 11, 12, 12), (20, 21, 22, 32))
    assert scheduler.copies() == Copies((), ())


def test_samples_wait_until_the_prompt_is_computed() -> None:
    scheduler, first, second = Scheduler(), sample(0), sample(1)
    scheduler.ask(first)
    first.num_computed_tokens = PROMPT - 1
    assert scheduler.ask(second) is None
    first.num_computed_tokens = PROMPT
    assert scheduler.ask(second) == PROMPT - 1


def test_any_living_sample_is_a_source() -> None:
    scheduler, first, second = Scheduler(), sample(0), sample(1)
    scheduler.ask(first)
    scheduler.ask(second)
    scheduler.copies()
    assert scheduler.connector.request_finished(first, []) == (False, None)
    third = sample(2)
    scheduler.ask(third)
    assert scheduler.copies() == Copies((20, 21, 22), (30, 31, 32))
    for finished in (second, third):
        scheduler.connector.request_finished(finished, [])
    assert scheduler.ask(sample(3)) == 0  # no living source: it computes the prompt
    assert scheduler.ask(sample(4)) == PROMPT - 1


def test_groups_and_submissions_do_not_mix() -> None:
    scheduler = Scheduler()
    scheduler.ask(sample(0))
    assert scheduler.ask(sample(1, group="8/2")) == 0
    assert scheduler.ask(sample(1, group="7/3")) == 0
    probe = sample(0)
    probe.request_id = "probe/0"
    assert (group_of("probe/0"), group_of("text/3"), group_of("7/1/0")) == ("", "", "7/1")
    assert scheduler.ask(probe) == 0
    other = sample(0)
    other.request_id = "probe/1"
    assert scheduler.ask(other) == 0


def test_preempted_samples_do_not_wait_for_each_other() -> None:
    scheduler, first, second = Scheduler(), sample(0), sample(1)
    scheduler.ask(first)
    scheduler.ask(second)
    scheduler.copies()
    for preempted in (first, second):
        preempted.num_computed_tokens, preempted.status = 0, RequestStatus.PREEMPTED
    assert scheduler.ask(second) == 0
    assert scheduler.copies() == Copies((), ())
    assert scheduler.ask(first) == PROMPT - 1


def test_copies_change_the_named_blocks_of_every_layer() -> None:
    scheduler = Scheduler()
    layers = {
        name: SimpleNamespace(kv_cache=torch.arange(6.0).repeat(2, 1).T.clone() + k)
        for k, name in enumerate("ab")
    }
    scheduler.connector.bind_connector_metadata(Copies((1, 1), (4, 5)))
    scheduler.connector.start_load_kv(SimpleNamespace(no_compile_layers=layers))
    for k, name in enumerate("ab"):
        assert layers[name].kv_cache[:, 0].tolist() == [k, 1 + k, 2 + k, 3 + k, 1 + k, 1 + k]
