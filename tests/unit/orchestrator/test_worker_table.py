"""The worker table against a brute-force reading of its rules, under random interleavings of everything."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from polyray.config.rollout import RolloutSpec
from polyray.orchestrator import worker_table
from polyray.orchestrator.rollout_pool import PoolWorker
from polyray.orchestrator.worker_table import ExpectedLengths, FailureAction, RunState, WorkerRow, WorkerTable
from polyray.types import PolicyVersion

WINDOW = 2


def policy(version: int, attempt: int = 1) -> PolicyVersion:
    return PolicyVersion(attempt, version, "0" * 64)


def make_table(num_needed: int = 2, joined: int | None = None, max_replacements: int = 8) -> WorkerTable:
    """A table whose workers may have WINDOW groups each, and of which `joined` serve version 0."""
    rollout = RolloutSpec(
        group_size=1,
        max_sequences=1,
        prompts_per_step=100,
        max_staleness=1,
        max_worker_replacements=max_replacements,
    )
    table = WorkerTable([PoolWorker(i, f"w{i}", None) for i in range(num_needed)], rollout)
    table.new_attempt(1)
    table.newest = policy(0)
    for index in range(num_needed if joined is None else joined):
        row = table.rows[index] if index < num_needed else table.add(PoolWorker(index, f"w{index}", None))
        table.proved(row, policy(0))
    return table


def chosen(table: WorkerTable, least: int = 0) -> str | None:
    row = table.choose(lambda version: version >= least)
    return None if row is None else row.name


def test_least_loaded_worker_with_room_takes_the_group() -> None:
    table = make_table()
    taken = []
    while (row := table.choose(lambda version: True)) is not None:
        row.started()
        taken.append(row.name)
    assert taken == ["w0", "w1", "w0", "w1"]
    table.rows[1].ended()
    assert chosen(table) == "w1"


def test_weight_decides_between_workers_and_window_counts_groups() -> None:
    table = make_table()
    first, second = table.rows
    first.started(3.0)
    second.started(1.0)
    assert chosen(table) == "w1"
    second.started(0.5)
    assert chosen(table) == "w0"  # w1 has no room, however light its groups
    second.ended(1.0)
    second.ended(0.5)
    assert (second.groups, second.load) == (0, 0.0)


def test_only_versions_that_may_start_are_chosen_and_new_attempt_serves_none() -> None:
    table = make_table()
    table.newest = policy(1)
    table.proved(table.rows[1], policy(1))
    assert (chosen(table, least=1), chosen(table)) == ("w1", "w0")
    table.new_attempt(2)
    assert chosen(table) is None and not table.all_serve
    table.newest = policy(0, attempt=2)
    table.proved(table.rows[0], policy(0, attempt=2))
    assert chosen(table) == "w0"


def test_join_follows_proof_and_synchronous_run_waits_for_joined_workers() -> None:
    table = make_table(joined=0)
    assert (table.all_serve, table.num_expected) == (False, 2)
    for row in table.rows:
        assert not table.proved(row, policy(0))  # needed workers join without an incident
    third = table.add(PoolWorker(2, "w2", None))
    assert table.all_serve and table.num_expected == 2
    assert table.proved(third, policy(0)) and table.num_expected == 3
    table.newest = policy(1)
    assert (table.num_behind, table.all_serve) == (3, False)
    for row in table.rows:
        table.proved(row, policy(1))
    assert table.all_serve


def test_loss_of_needed_workers_is_counted_and_too_many_end_the_run() -> None:
    table = make_table(max_replacements=1)
    first, second = table.rows
    assert table.lost(first, in_time=True) is FailureAction.REPLACED
    assert (table.replacements, table.num_joined, table.all_serve) == (1, 1, False)
    assert table.lost(second, in_time=False) is FailureAction.TOO_MANY and table.replacements == 2


def test_loss_of_optional_worker_is_free_and_lack_of_room_is_silent() -> None:
    table = make_table(joined=3, max_replacements=0)
    assert table.lost(table.rows[0], in_time=True) is FailureAction.REPLACED
    waiting = table.add(PoolWorker(0, "new", None))
    assert table.lost(waiting, in_time=False) is FailureAction.STILL_WAITS
    waiting = table.add(PoolWorker(0, "newer", None))
    assert table.lost(waiting, in_time=True) is FailureAction.REPLACED
    assert (table.replacements, table.failed_joins) == (0, 1)


def test_optional_workers_that_never_serve_are_given_up_unless_one_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_table, "MAX_FAILED_JOINS", 2)
    table = make_table(max_replacements=0)

    def fails(name: str) -> FailureAction:
        return table.lost(table.add(PoolWorker(2, name, None)), in_time=True)

    actions = [fails(f"new{index}") for index in range(2)]
    joins = table.add(PoolWorker(2, "joins", None))
    assert table.proved(joins, policy(0)) and table.failed_joins == 0
    assert table.lost(joins, in_time=True) is FailureAction.REPLACED
    actions += [fails(f"other{index}") for index in range(3)]
    assert actions == [FailureAction.REPLACED] * 4 + [FailureAction.GIVEN_UP]


def test_half_of_busy_workers_may_load_at_once() -> None:
    table = make_table(num_needed=4)
    rows = table.rows
    assert table.may_load
    rows[0].holds_turn = True
    assert table.may_load
    rows[1].holds_turn = True
    assert not table.may_load
    table.remove(rows[1])  # it died while it loaded
    assert table.may_load


def test_idle_share_is_time_without_steps_between_two_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(worker_table, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    row = make_table().rows[0]
    row.stepped(2.0)
    assert row.idle_share is None
    clock[0] = 10.0
    row.stepped(7.0)
    assert row.idle_share == 0.5


def test_long_restart_of_learner_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(worker_table, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    state = RunState()
    state.check_learner()
    for clock[0] in (1.0, 130.0):
        state.learner_failed("rank 0 died")
        clock[0] += worker_table.LEARNER_PATIENCE_S - 1
        state.check_learner()
        assert state.learner_is_gone
        state.learner_called()
        clock[0] += 2
        state.check_learner()
    assert [incident["kind"] for incident in state.incidents] == ["learner_failed"] * 2
    state.learner_failed("rank 0 died")
    clock[0] += worker_table.LEARNER_PATIENCE_S
    for _ in range(2):
        state.check_learner()
    assert [incident["kind"] for incident in state.incidents[2:]] == ["learner_failed", "learner_waits"]


def test_expected_lengths_are_means_of_a_prompt_over_the_mean_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_table, "MAX_KNOWN_PROMPTS", 2)
    lengths = ExpectedLengths()
    assert lengths.weight("p") == 1.0
    for prompt, tokens in (("p", 30), ("p", 50), ("q", 10), ("r", 70)):
        lengths.observe(prompt, tokens)
    assert lengths.weight("p") == 1.0  # 40 of a mean of 40
    assert lengths.weight("q") == 0.25
    assert lengths.weight("r") == 1.0  # not remembered


class AnyOrder(RuleBasedStateMachine):
    """Workers start, prove, take groups, die and come again, in any order; `served` is the model's own account."""

    def __init__(self) -> None:
        super().__init__()
        self.table = make_table(joined=0, max_replacements=10_000)
        self.served: dict[str, PolicyVersion] = {}
        self.joined: set[str] = set()
        self.in_flight: list[tuple[WorkerRow, float]] = []
        self.lost_needed = 0
        self.started = 2

    @rule(optional=st.booleans())
    def starts(self, optional: bool) -> None:
        places = {row.worker.index for row in self.table.rows}
        free = [place for place in range(5 if optional else 2) if place not in places]
        if free:
            self.table.add(PoolWorker(free[0], f"w{self.started}", None))
            self.started += 1

    @rule()
    def publishes(self) -> None:
        newest, attempt = self.table.newest, self.table.attempt
        self.table.newest = policy(0 if newest is None else newest.version + 1, attempt)

    @rule()
    def learner_restarts(self) -> None:
        self.table.new_attempt(self.table.attempt + 1)

    @precondition(lambda self: self.table.rows and self.table.newest is not None)
    @rule(data=st.data(), behind=st.integers(0, 1))
    def proves(self, data: st.DataObject, behind: int) -> None:
        row, newest = data.draw(st.sampled_from(self.table.rows)), self.table.newest
        assert newest is not None
        proven = policy(max(0, newest.version - behind), newest.attempt)
        joins = proven == newest and row.name not in self.joined
        beside = joins and len(self.joined) >= 2
        assert self.table.proved(row, proven) is beside
        self.served[row.name] = proven
        if joins:
            self.joined.add(row.name)

    @precondition(lambda self: self.table.rows)
    @rule(data=st.data(), in_time=st.booleans())
    def dies(self, data: st.DataObject, in_time: bool) -> None:
        row = data.draw(st.sampled_from(self.table.rows))
        self.joined.discard(row.name)
        self.served.pop(row.name, None)
        self.lost_needed += len(self.joined) < 2
        self.table.lost(row, in_time=in_time)
        assert not self.table.has(row) and self.table.replacements == self.lost_needed

    @rule(weight=st.sampled_from([0.5, 1.0, 2.0]), least=st.integers(0, 3))
    def group_starts(self, weight: float, least: int) -> None:
        able = [
            (row.load, row.worker.index, row.name)
            for row in self.table.rows
            if row.name in self.served
            and self.served[row.name].attempt == self.table.attempt
            and self.served[row.name].version >= least
            and sum(other is row for other, _ in self.in_flight) < WINDOW
        ]
        assert chosen(self.table, least) == (min(able)[2] if able else None)
        if (row := self.table.choose(lambda version: version >= least)) is not None:
            row.started(weight)
            self.in_flight.append((row, weight))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def group_ends(self, data: st.DataObject) -> None:
        row, weight = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        row.ended(weight)  # also of a worker that is gone

    @invariant()
    def counts_follow_from_the_account(self) -> None:
        table, newest = self.table, self.table.newest
        assert {row.name for row in table.rows if row.joined} == self.joined
        assert {row.name: row.served for row in table.rows if row.served} == self.served
        behind = sum(self.served[name] != newest for name in self.joined)
        assert (table.num_joined, table.num_behind) == (len(self.joined), behind)
        assert table.all_serve is (newest is not None and len(self.joined) >= 2 and behind == 0)
        assert table.num_expected == max(2, len(self.joined))
        for row in table.rows:
            weights = [weight for other, weight in self.in_flight if other is row]
            assert (row.groups, row.load) == (len(weights), pytest.approx(sum(weights)))


TestAnyOrder = AnyOrder.TestCase
