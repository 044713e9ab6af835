"""Monitors of a run: a metric, the rule that raises an alarm, and what the alarm does.

The rules are computed in learner/monitors.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from polyray.config.base import StrictModel, default_type
from polyray.config.presets import MARK, expanded_from
from polyray.types import SECOND_OPINION

MONITOR = "monitor/"
"""Prefix of the keys of metrics.jsonl that hold 0 or 1 for each monitor."""
OF_ROUNDS = "validation/"
"""Prefix of the metrics that are measured in rounds on fixed prompts, not at every step."""
SIGNIFICANCE = 0.01
"""Level of each one-sided Mann-Kendall trend test."""
GROWING_SHARE = 0.2
"""Share of the way from `healthy` to the limit from which on a significant move raises the alarm."""

PRESETS: Mapping[str, dict[str, Any]] = {
    "mismatch": {"metric": "kl_rollout", "rule": {"type": "limit", "above": 0.05, "healthy": 0.0}},
    "low_ess": {"metric": "ess", "rule": {"type": "limit", "below": 0.5, "healthy": 1.0}},
    "collapse": {"metric": f"{OF_ROUNDS}diversity", "rule": {"type": "drop"}},
    "over_optimisation": {
        "metric": "reward_mean",
        "rule": {"type": "diverge", "other": f"reward/{SECOND_OPINION}"},
    },
}
"""Name -> the entry that `@NAME` stands for."""

_MISMATCH = (
    "engine and learner differ, and updates are made on samples of another policy. Lower rollout.max_staleness or "
    "learner.learning_rate; at max_staleness=0 compare logprob_difference_max with delivery_difference_max, and use "
    "one dtype for both"
)
_COLLAPSE = (
    "a set objective (algorithm.type=polychromic, a larger algorithm.diversity_weight), a KL term to the warm start "
    "(algorithm.kl_coefficient) or a lower learning rate keep more diversity"
)
ADVICE: Mapping[str, str] = {
    "kl_rollout": _MISMATCH,
    "ess": _MISMATCH,
    f"{OF_ROUNDS}diversity": _COLLAPSE,
    f"{OF_ROUNDS}semantic_diversity": _COLLAPSE,
    f"{OF_ROUNDS}distinct_classes": _COLLAPSE,
    f"{OF_ROUNDS}sequence_entropy": _COLLAPSE,
    f"reward/{SECOND_OPINION}": "read rollouts.jsonl, and consider an earlier version, a larger "
    "algorithm.kl_coefficient or a better reward",
}
"""Metric that a rule watches -> what to do about its alarm."""


class LimitRule(StrictModel):
    """The median of the last `window` values is beyond a limit."""

    type: Literal["limit"] = "limit"
    above: float | None = Field(default=None, description="highest median without an alarm")
    below: float | None = Field(default=None, description="lowest median without an alarm")
    healthy: float | None = Field(
        default=None,
        description="value without the fault; if given, a significant move (p <= .01, Mann-Kendall) from it towards "
        "the limit also raises the alarm, as soon as the median is past a fifth of the way",
    )
    window: int = Field(default=20, ge=1, description="values; until there are so many there is no alarm")

    @model_validator(mode="after")
    def _one_limit(self) -> LimitRule:
        if (self.above is None) == (self.below is None):
            raise ValueError(
                f"above={self.above} and below={self.below}: give one limit; for two use two monitors"
            )
        if self.healthy is None:
            return self
        if self.healthy >= self.limit if self.below is None else self.healthy <= self.limit:
            raise ValueError(
                f"healthy={self.healthy:g} is beyond the limit {self.limit:g}; give a value on its other side"
            )
        if self.window < 5:
            raise ValueError(f"window={self.window}: a trend needs at least 5 values; raise it")
        return self

    @property
    def limit(self) -> float:
        """Largest or smallest median without an alarm."""
        limit = self.below if self.above is None else self.above
        assert limit is not None
        return limit

    def text(self, metric: str, unit: str) -> str:
        """Condition of the alarm, for people."""
        side = "below" if self.above is None else "above"
        found = f"the median of {metric} over the last {self.window} {unit} is {side} {self.limit:g}"
        return found if self.healthy is None else f"{found}, or moves there significantly"


class DropRule(StrictModel):
    """The last values are below a share of the first value of the run."""

    type: Literal["drop"] = "drop"
    share: float = Field(default=0.5, gt=0, lt=1, description="share of the first value that is lost")
    in_a_row: int = Field(default=2, ge=1, description="values in a row before it is an alarm")

    def text(self, metric: str, unit: str) -> str:
        """Condition of the alarm, for people."""
        return (
            f"{metric} is below {1 - self.share:.2g} of its first value for {self.in_a_row} {unit} in a row"
        )


class DivergeRule(StrictModel):
    """Over the last `window` values the metric rises while another one falls, both significantly."""

    type: Literal["diverge"] = "diverge"
    other: str = Field(description="metric that falls")
    window: int = Field(default=30, ge=10, description="values; until there are so many there is no alarm")
    min_rise: float = Field(
        default=0.01, ge=0, description="smallest rise over the window, by the Theil-Sen line"
    )
    max_fall: float = Field(
        default=0.01, ge=0, description="tolerated fall of `other` over the window, by the Theil-Sen line"
    )

    def text(self, metric: str, unit: str) -> str:
        """Condition of the alarm, for people."""
        return (
            f"over the last {self.window} {unit} {metric} rose by at least {self.min_rise:g} and {self.other} fell "
            f"by more than {self.max_fall:g}, both significantly (p <= {SIGNIFICANCE:g})"
        )


RuleSpec = Annotated[
    LimitRule | DropRule | DivergeRule, Field(discriminator="type"), BeforeValidator(default_type("limit"))
]


class MonitorSpec(StrictModel):
    """Watches a metric; its alarm is 1 under `monitor/NAME` in metrics.jsonl.

    Presets: "@mismatch" and "@low_ess" (engine and learner drift apart), "@collapse" (diversity falls below half of
    its first value), "@over_optimisation" (the reward rises while `second_opinion` falls). Changes to a preset are
    keys beside its name: {preset: "@collapse", action: stop}.
    """

    name: str = Field(default="", description="name of the alarm; empty: that of the preset, else the metric")
    metric: str = Field(
        min_length=1,
        description="any key of a line of metrics.jsonl, e.g. grad_norm, reward/NAME, or validation/diversity of the "
        "rounds on fixed prompts; lines without a number are passed over",
    )
    rule: RuleSpec
    action: Literal["warn", "stop"] = Field(
        default="warn",
        description="warn: once, when the alarm is raised; stop: the run ends with MonitorStopped, and its newest "
        "checkpoint stays",
    )

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        named = {name: {"name": name, **block} for name, block in PRESETS.items()}
        value = expanded_from(value, named, f"known are {', '.join(MARK + name for name in named)}")
        if not isinstance(value, dict):
            return value
        return {**value, "name": value.get("name") or value.get("metric", "")}

    @model_validator(mode="after")
    def _one_kind_of_line(self) -> MonitorSpec:
        if len({metric.startswith(OF_ROUNDS) for metric in self.metrics}) > 1:
            raise ValueError(
                f"metric={self.metric!r} and rule.other={self.metrics[1]!r}: only rounds on fixed prompts have "
                f"{OF_ROUNDS}...; take both from rounds, or both from steps"
            )
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that the rule reads."""
        return (self.metric, self.rule.other) if isinstance(self.rule, DivergeRule) else (self.metric,)

    @property
    def of_rounds(self) -> bool:
        """Whether the metric is measured in rounds on fixed prompts."""
        return self.metric.startswith(OF_ROUNDS)

    @property
    def needs_second_opinion(self) -> bool:
        """Whether a metric exists only in runs with `second_opinion`."""
        return any(SECOND_OPINION in metric for metric in self.metrics)

    @property
    def key(self) -> str:
        """Key of metrics.jsonl and dynamics.jsonl."""
        return MONITOR + self.name

    @property
    def condition(self) -> str:
        """Name and condition of the alarm, for people."""
        return f"monitor {self.name}: {self.rule.text(self.metric, 'rounds' if self.of_rounds else 'steps')}"

    @property
    def text(self) -> str:
        """Message for people when the alarm is raised: condition, and what to do."""
        advice = ADVICE.get(self.metrics[-1])
        return self.condition + (f"; {advice}" if advice else "")


def preset_monitors(*names: str) -> tuple[MonitorSpec, ...]:
    """Monitors of these presets."""
    return tuple(MonitorSpec.model_validate(MARK + name) for name in names)


def check_names(monitors: Iterable[MonitorSpec]) -> None:
    """Raises ValueError where two monitors have one name, and so one key of metrics.jsonl."""
    names = [monitor.name for monitor in monitors]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"monitors: {names.count(name)} have the name {name!r}; give each a `name` of its own"
            )
