"""Spending and budget of a judge. Pure bookkeeping; called by client.py around every request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from polyray.config.judge import BudgetSpec, JudgeSpec, PriceSpec
from polyray.errors import BudgetReached
from polyray.runs.cost import Cost
from polyray.shelf.judge.items import Usage

_ROUNDING = 1e-9
"""Relative: prices add up to a limit exactly, floats nearly."""


def priced(usage: Usage, prices: PriceSpec | None) -> Usage:
    """`usage` with its cost in dollars; 0 without prices."""
    if prices is None:
        return replace(usage, cost_usd=0.0)
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    cost = (
        (usage.input_tokens - usage.cached_tokens) * prices.input
        + usage.cached_tokens * cached_price
        + usage.output_tokens * prices.output
    )
    return replace(usage, cost_usd=cost / 1e6)


class Ledger:
    """Admits requests while the budget lasts.

    The next request, and each in flight, is counted at the price of the dearest answer so far (at first: the mean
    of earlier starts). So the budget is exceeded only by answers that are dearer than all before them.
    """

    def __init__(self, spec: JudgeSpec, paid_before: Usage) -> None:
        """`paid_before`: the tokens of earlier starts of the same run, which count as well."""
        self._prices = spec.prices
        self._budget: BudgetSpec = spec.budget
        self._in_flight = 0
        self.spent = priced(paid_before, spec.prices)
        """Spending over all starts of the run."""
        self.spent_now = Usage()
        """Spending since this ledger was created."""
        answers = max(1, paid_before.requests)
        self._dearest_usd = self.spent.cost_usd / answers
        self._dearest_tokens = self.spent.total_tokens // answers

    def admit(self) -> None:
        """Counts a request as in flight. Raises BudgetReached where the budget leaves no room for it."""
        money, tokens = self._budget.max_cost_usd, self._budget.max_tokens
        running = self._in_flight + 1
        if money is not None and _exceeds(self.spent.cost_usd, running * self._dearest_usd, money):
            self._refuse("max_cost_usd", f"{self.spent.cost_usd:.6f}", money, "dollars")
        if tokens is not None and _exceeds(self.spent.total_tokens, running * self._dearest_tokens, tokens):
            self._refuse("max_tokens", str(self.spent.total_tokens), tokens, "tokens")
        self._in_flight += 1

    def add_elsewhere(self, usage: Usage) -> None:
        """Counts what other processes have spent on the same account."""
        if usage.requests:
            self.spent += priced(usage, self._prices)

    def settle(self, usage: Usage | None) -> Usage:
        """Ends a request: `usage` is what its answer took, None where there was no answer. Returns it priced."""
        self._in_flight -= 1
        if usage is None:
            return Usage()
        charged = priced(usage, self._prices)
        self.spent += charged
        self.spent_now += charged
        self._dearest_usd = max(self._dearest_usd, charged.cost_usd)
        self._dearest_tokens = max(self._dearest_tokens, charged.total_tokens)
        return charged

    def _refuse(self, name: str, spent: str, limit: float, unit: str) -> NoReturn:
        waiting = f" and {self._in_flight} requests are under way" if self._in_flight else ""
        raise BudgetReached(
            f"the judge's budget is reached: {spent} of judge.budget.{name}={limit} {unit} are spent{waiting}, "
            "which leaves no room for another request; what was judged is kept, raise the budget and start again "
            "to continue"
        )


def _exceeds(spent: float, expected: float, limit: float) -> bool:
    return spent >= limit or spent + expected > limit * (1 + _ROUNDING)


def spend_of_answers(answers: Sequence[Mapping[str, Any]], prices: PriceSpec | None) -> Cost:
    """Requests, tokens and dollars of lines of an answers file."""
    counts = (sum(answer[f"{kind}_tokens"] for answer in answers) for kind in ("input", "cached", "output"))
    usage = priced(Usage(len(answers), *counts), prices)
    return Cost(
        judge_requests=usage.requests,
        judge_tokens=usage.total_tokens,
        judge_money=None if prices is None else usage.cost_usd,
    )
