"""Every field of every objective changes what is trained, or the configuration refuses it.

The fields are those of the models, so a new one without an entry in VALUES fails. A result is what the learner's own
step makes of a batch (advantages of all completions, gradient of the tiny model) and what a rollout worker and the
coordinator make of a group (is it usable, does it teach, may it be replaced).
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError

from polyray.config import algorithm as algorithms
from polyray.config.algorithm import OF_CLASSES, OF_DISTANCES, PolychromicSpec
from polyray.config.loss import LossSpec
from polyray.config.objective import AnnealSpec
from polyray.config.run import SftConfig, TrainConfig
from polyray.config.supervised import BaLoraSpec, GemSpec
from polyray.config.supervised_term import PolychromicSftSpec
from polyray.data.packing import collate
from polyray.data.token_rows import TokenRow
from polyray.learner.advantages import algorithm_at
from polyray.learner.step import PolicyLearner
from polyray.learner.supervised_objectives import build_batch_loss
from polyray.models.pissa import start_from_principal_components
from polyray.orchestrator.rollout_actor import usefulness
from polyray.orchestrator.rollout_buffer import RolloutBuffer
from polyray.types import ScoredGroup, TrainingBatch
from tests.unit.learner.step_fixtures import with_ratios
from tests.unit.tiny_policy import build_policy, move, random_group, train_config

Values = dict[str, Any]
STEP = 3
"""Step of the batch, so that an annealed value is on its way."""
GROUP_SIZE = 8

SPECS: dict[str, type[BaseModel]] = {
    spec.model_fields["type"].default: spec for spec in get_args(get_args(algorithms.AlgorithmSpec)[0])
}
BASES: dict[str, Values] = {
    "polychromic": {"objective": "cluster", "diversity_weight": 0.8, "set_size": 3},
    "shaped": {"diversity_weight": 0.8},
    "reinforce": {"positive_weight": 0.0},
} | {name: {"set_size": 3} for name in ("pass_at_k", "pkpo", "poly_epo", "polychromic_ppo")}
"""Fields without a default, sets of which half a group holds one, a weight at which right samples teach nothing."""

VALUES: dict[str, list[Any]] = {
    # LossSpec
    "surrogate": ["ppo", "gspo", "cispo", "sapo"],
    "clip_low": [0.6],
    "clip_high": [5.0],
    "dual_clip": [1.001],
    "cispo_cap": [0.7],
    "sapo_temperature_positive": [3.0],
    "sapo_temperature_negative": [3.0],
    "normalisation": ["constant", "token", "sequence", "sum"],
    "kl_coefficient": [0.4],
    "kl_placement": ["loss", "reward"],
    "kl_estimator": ["k1", "k2", "k3"],
    "entropy_coefficient": [0.3],
    "covariance": ["none", "clip_cov", "kl_cov"],
    "covariance_share": [0.7],
    "covariance_band": [(0.0, 0.05)],
    "kl_cov_coefficient": [3.0],
    "proximal": ["rollout", "learner"],
    "importance_correction": ["truncate", "mask", "two_sided", "none"],
    "importance_cap": [1.2],
    "importance_floor": [0.9],
    "sequence_mask_band": [0.1],
    # ObjectiveSpec
    "scale": ["none", "group", "batch"],
    "std": ["population"],
    "truncated": ["keep", "mask", "drop"],
    "overlong_buffer": [4],
    "overlong_weight": [0.3],
    "dynamic_sampling": [False, True],
    "max_resampled_batches": [1],
    "anneal": [{"set_size": 2, "over_steps": 6}, {"diversity_weight": 3.0, "over_steps": 6}],
    # one type's own
    "set_size": [4, 2],
    "variant": ["sloo_minus_one", "sloo", "s"],
    "credit_scale": ["unbiased", "mean", "sum"],
    "num_sets": [7],
    "unbiased_scale": [False],
    "diversity_weight": [2.5],
    "combine": ["multiply", "add"],
    "penalty": [0.9],
    "positive_weight": [0.1],
    "mode_threshold": [0.8],
    "alpha": [0.9],
    "tau": [0.9],
    "num_answers": [4],
    "focal_gamma": [1.0],
    "objective": [*OF_CLASSES, *OF_DISTANCES, "max", "distinct_n", "self_bleu"],
    "quality_weight": [0.2],
    "quality_floor": [0.6],
    "num_subsets": [2],
    "stale_weights": ["token", "sample", "set_product"],
    "stale_weight_cap": [1.05],
}
"""field -> the values it may be changed to: all of a choice, one or two of a number."""

WITH: dict[tuple[str, Any], Values] = {
    ("covariance", "clip_cov"): {"covariance_band": (0.0, 5.0), "covariance_share": 0.7}
}
"""Further values without which a change cannot show on this batch: it is small, and has no covariance above 1."""
KL = {"kl_coefficient": 0.1}
CORRECTED_ONCE = {"proximal": "learner", "importance_correction": "none"}
LOSS_CONTEXTS: list[Any] = [
    {},
    *({"surrogate": surrogate} for surrogate in ("gspo", "cispo", "sapo")),
    *(
        pytest.param({"surrogate": surrogate, "proximal": "learner"}, marks=pytest.mark.slow)
        for surrogate in ("ppo", "gspo", "cispo", "sapo")
    ),
    {"covariance": "clip_cov", "covariance_band": (0.0, 5.0), "covariance_share": 0.1},
    {"covariance": "kl_cov"},
    *(
        pytest.param({"importance_correction": rule}, marks=pytest.mark.slow)
        for rule in ("mask", "two_sided", "none")
    ),
    pytest.param(
        {"importance_correction": "mask", "proximal": "learner", "surrogate": "gspo"}, marks=pytest.mark.slow
    ),
    KL,
    {**KL, "kl_placement": "reward", "kl_estimator": "k1"},
]
"""Modes of the loss, which does not know of objectives: with one of them, in full."""
CONTEXTS: list[Values] = [
    {},
    {"scale": "group"},
    {"scale": "batch"},
    {"overlong_buffer": 3},
    {"dynamic_sampling": True},
    {**KL, "kl_placement": "reward", "kl_estimator": "k1"},
]
"""Modes of all objectives."""
ANNEALED: dict[str, Any] = {"set_size": 6, "diversity_weight": 1.5, "over_steps": 4, "shape": "cosine"}
"""Values that each field of an `anneal` to set_size=2 and diversity_weight=3.0 over 9 steps is changed to."""


def sample_group(group_id: int) -> ScoredGroup:
    """Graded rewards, ties of classes, wrong, unscored and truncated ones, distances that are no kernel."""
    rewards = [[1, 0.5, 0.9, 0, 0.7, 0.9, 0.9, 0.2], [1, 1, 0.25, np.nan, 0.5, 1, 0, 0.5]][group_id]
    classes = [[4, 5, 4, -1, 6, 7, 4, 6], [8, 9, 8, -1, 10, 9, -1, 11]][group_id]
    group = random_group(group_id, rewards, classes=classes, lengths=[2, 3, 6, 4, 5, 3, 4, 3])
    draw = np.random.default_rng(group_id)
    for completion in group.group.completions:  # few different tokens, so that bigrams are shared
        completion.token_ids[:] = draw.integers(3, 6, len(completion.token_ids))
    spread = np.linspace(-0.45, 0.45, GROUP_SIZE)
    ratios = {
        at: tuple(
            float(spread[(3 * at + group_id) % GROUP_SIZE]) + drift
            for drift in np.linspace(-0.5, 0.4, len(completion.token_ids))
        )
        for at, completion in enumerate(group.group.completions)
    }
    distances = draw.choice([0.2, 0.6, 1.0], (GROUP_SIZE, GROUP_SIZE))
    distances = np.triu(distances, 1) * np.outer([c >= 0 for c in classes], [c >= 0 for c in classes])
    return replace(with_ratios(group, ratios), distances_GG=distances + distances.T)


@functools.cache
def batch() -> tuple[ScoredGroup, ...]:
    return sample_group(0), sample_group(1)


@functools.cache
def policy() -> Any:
    return build_policy()


@dataclass(frozen=True)
class Result:
    """Everything that a configuration makes of the batch."""

    advantages: np.ndarray
    gradient: np.ndarray
    decisions: tuple[Any, ...]

    def differs(self, other: Result) -> bool:
        return (
            self.decisions != other.decisions
            or not np.allclose(self.advantages, other.advantages, rtol=1e-4, atol=1e-6)
            or not np.allclose(self.gradient, other.gradient, rtol=1e-3, atol=1e-6)
        )


def configuration(values: Values, updates: int = 1) -> TrainConfig:
    """Raises ValidationError where the values are refused."""
    return train_config(
        algorithm=values,
        rollout={"group_size": GROUP_SIZE, "prompts_per_step": 2, "max_completion_tokens": 6},
        learner={"max_grad_norm": 1e9, "updates_per_batch": updates},
    )


class Enough(Exception):
    """The rest of the step does not matter."""


def result(config: TrainConfig, gradients: bool) -> Result:
    return _result(config.model_dump_json(include={"algorithm"}), config.learner.updates_per_batch, gradients)


@functools.cache
def _result(algorithm: str, updates: int, gradients: bool) -> Result:
    """With several updates the gradient is that of a policy which has moved since the batch began."""
    config = configuration(json.loads(algorithm)["algorithm"], updates)
    model = policy()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    seen: list[np.ndarray] = []
    learner = PolicyLearner(model, optimizer, schedule, config)
    give = learner._give_advantages

    def watched(given: TrainingBatch, rows: Any, spec: Any) -> Any:
        sums = give(given, rows, spec)
        seen.append(np.array([(row.advantage, row.trained) for of_group in rows for row in of_group]))
        if not gradients:
            raise Enough
        if updates > 1:  # after the anchors, before the first update
            move(model, 0.3)
        return sums

    learner._give_advantages = watched  # type: ignore[method-assign]
    with contextlib.suppress(Enough):
        learner.step(TrainingBatch(step=STEP, groups=batch(), num_groups_total=2))
    gradient = np.concatenate(
        [np.zeros(p.numel()) if p.grad is None else p.grad.flatten().numpy().copy() for p in parameters]
    )
    with torch.no_grad():
        for parameter, value in zip(parameters, start, strict=True):
            parameter.copy_(value)
    return Result(seen[0], gradient, decisions(config))


def decisions(config: TrainConfig) -> tuple[Any, ...]:
    """Partly scored groups and one without signal: usable, has signal, how many are replaced."""
    spec = algorithm_at(config.algorithm, STEP)
    group = random_group(7, [1.0] * GROUP_SIZE, classes=[3] * GROUP_SIZE)
    still = replace(
        group,
        group=replace(group.group, completions=(group.group.completions[1],) * GROUP_SIZE),
        distances_GG=np.zeros((GROUP_SIZE, GROUP_SIZE)),
    )
    found = []
    partly = [
        random_group(8 + scored, [1, 0.5, 0.2, 1][:scored] + [np.nan] * (GROUP_SIZE - scored))
        for scored in (3, 4)
    ]
    for one in (*batch(), *(replace(group, distances_GG=still.distances_GG) for group in partly), still):
        num_taking_part, has_signal = usefulness(one, spec, config.rollout.max_completion_tokens)
        found.append((num_taking_part, num_taking_part >= config.algorithm.min_samples, has_signal))
    if not found[-1][2]:
        found.append(num_replaced(config.algorithm.max_resampled_batches))
    return tuple(found)


@functools.cache
def num_replaced(max_batches: int) -> int:
    """Groups of a step that the ledger replaces where none of them has_signal."""
    ledger = RolloutBuffer[None](batch=2, max_staleness=0, total_steps=5)
    for replaced in range(40):
        if not ledger.filter(ledger.next_id(), max_batches):
            return replaced
    raise AssertionError("groups are replaced for ever")


def spec_fields(name: str) -> list[str]:
    return [field for field in SPECS[name].model_fields if field != "type"]


def changes(base: TrainConfig, field: str) -> Iterator[Any]:
    current = base.algorithm.model_dump()[field]
    return (value for value in VALUES[field] if value != current)


def is_synonym(values: Values, value: Any) -> bool:
    """These surrogates bound the weight of the engine's mismatch themselves, so truncation adds nothing."""
    bounded = values.get("surrogate") in ("gspo", "cispo", "sapo") and "proximal" not in values
    return bounded and value == "none" and "importance_correction" not in values


def with_it(field: str, value: Any) -> Values:
    return WITH.get((field, value), {}) if isinstance(value, str) else {}


def check(values: Values, field: str, gradients: bool = True) -> str:
    """ "effect" or "refused"; AssertionError where a value is accepted and changes nothing."""
    # From the learner's own start the first update has a ratio of 1; KL-Cov measures from there.
    updates = 2 if values.get("proximal") == "learner" or values.get("covariance") == "kl_cov" else 1
    base = configuration(values, updates)
    outcomes = set()
    for value in changes(base, field):
        try:
            changed = configuration({**values, field: value, **with_it(field, value)}, updates)
        except ValidationError as error:
            assert field in str(error), f"{values}: the refusal of {field}={value} does not name it: {error}"
            outcomes.add("refused")
            continue
        differs = result(base, gradients).differs(result(changed, gradients))
        assert differs or is_synonym(values, value), f"{values}: {field}={value} is accepted without effect"
        outcomes.add("effect")
    assert outcomes, f"{field}: VALUES holds no value but the one of {values}"
    return "effect" if "effect" in outcomes else "refused"


def test_every_field_of_every_type_has_values() -> None:
    fields = {field for name in SPECS for field in spec_fields(name)}
    assert fields == set(VALUES)
    assert set(AnnealSpec.model_fields) == set(ANNEALED)
    assert set(LOSS_CONTEXT) <= set(LossSpec.model_fields)


LOSS_CONTEXT: dict[str, Values] = {
    "cispo_cap": {"surrogate": "cispo"},
    "sapo_temperature_positive": {"surrogate": "sapo"},
    "sapo_temperature_negative": {"surrogate": "sapo"},
    "kl_placement": {**KL, "kl_estimator": "k1"},
    "kl_estimator": KL,
    "covariance_share": {"covariance": "kl_cov"},
    "covariance_band": {"covariance": "clip_cov", "covariance_share": 0.7},
    "kl_cov_coefficient": {"covariance": "kl_cov"},
    "importance_floor": {"importance_correction": "two_sided"},
}
"""A mode in which the field applies; for those not named here, the default one."""


@pytest.mark.parametrize("field", LossSpec.model_fields)
def test_loss_field_changes_the_gradient(field: str) -> None:
    assert check({"type": "grpo", **LOSS_CONTEXT.get(field, {})}, field) == "effect"


@pytest.mark.parametrize("context", LOSS_CONTEXTS, ids=lambda c: "-".join(map(str, c.values())) or "default")
def test_loss_field_has_an_effect_or_is_refused(context: Values) -> None:
    for field in LossSpec.model_fields:
        check({"type": "grpo", **context}, field)


@pytest.mark.parametrize("name", SPECS)
def test_field_of_every_type_has_an_effect_or_is_refused(name: str) -> None:
    found: dict[str, set[str]] = {}
    unscaled = name == "reinforce"  # refuses every scale
    for context in CONTEXTS:
        if unscaled and "scale" in context:
            continue
        for field in spec_fields(name):
            if field in LossSpec.model_fields or (field == "stale_weights" and context):
                continue
            outcome = check({"type": name, **BASES.get(name, {}), **context}, field, gradients=False)
            found.setdefault(field, set()).add(outcome)
    never = {field for field, outcomes in found.items() if "effect" not in outcomes}
    expected = {"anneal"} if not {"set_size", "diversity_weight"} & set(SPECS[name].model_fields) else set()
    if unscaled:
        expected |= {"scale", "std"}
    if name == "polychromic":  # see the next test
        expected |= {"num_subsets", "stale_weights", "stale_weight_cap"}
    assert never == expected


OWN = [field for field in PolychromicSpec.model_fields if field not in LossSpec.model_fields and field in (
    "set_size", "anneal", *(set(PolychromicSpec.model_fields) - set(algorithms.OfSetsSpec.model_fields))
) and field != "type"]  # fmt: skip


@pytest.mark.parametrize("objective", VALUES["objective"])
def test_field_of_every_polychromic_objective_has_an_effect_or_is_refused(objective: str) -> None:
    base = {"type": "polychromic", "objective": objective, "diversity_weight": 0.8, "set_size": 3}
    fresh = {field: check(base, field, gradients=False) for field in OWN}
    refused = {"stale_weights", "stale_weight_cap"}
    if objective == "max":
        refused |= {"quality_floor"}
    if objective not in ("determinant", "logdet", "vendi", "distinct_n", "self_bleu"):
        refused |= {"num_subsets"}
    assert {field for field, outcome in fresh.items() if outcome == "refused"} == refused
    if objective == "facility":
        return  # takes no stale weights
    assert check({**base, **CORRECTED_ONCE}, "stale_weights", gradients=False) == "effect"
    for weights in ("sample", "set_product"):
        stale = {
            field: check({**base, **CORRECTED_ONCE, "stale_weights": weights}, field, gradients=False)
            for field in OWN
            if field != "objective"
        }
        refused = {"num_subsets"} | ({"quality_floor"} if objective == "max" else set())
        assert {field for field, outcome in stale.items() if outcome == "refused"} == refused


@pytest.mark.parametrize("field", AnnealSpec.model_fields)
def test_anneal_field_changes_the_advantages(field: str) -> None:
    base = {"type": "polychromic", **BASES["polychromic"]}
    anneal = {"set_size": 2, "diversity_weight": 3.0, "over_steps": 9}
    before = configuration({**base, "anneal": anneal})
    after = configuration({**base, "anneal": {**anneal, field: ANNEALED[field]}})
    assert result(before, gradients=False).differs(result(after, gradients=False))


# ---- objective of jobs.sft

SUPERVISED: dict[type[BaseModel], Values] = {
    GemSpec: {"beta": 0.3, "link": "logsigmoid"},
    BaLoraSpec: {
        "consistency_weight": 0.5,
        "diversity_weight": 0.5,
        "spectral_weight": 0.5,
        "temperature": 1.0,
        "top_tokens": 3,
        "top_values": 1,
    },
}


def supervised_gradient(spec: Any) -> torch.Tensor:
    model = build_policy(reference=False, moved=False)
    if isinstance(spec, BaLoraSpec):
        start_from_principal_components(model)
    move(model)
    rows = [TokenRow((1, 5, 9, 4, 7, 2), 3), TokenRow((1, 8, 6, 2), 2)]
    build_batch_loss(spec)(model, collate(rows, 0)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("model", "field"),
    [(model, field) for model in SUPERVISED for field in model.model_fields if field != "type"],
)
def test_supervised_objective_field_changes_the_gradient(model: Any, field: str) -> None:
    before, after = (supervised_gradient(model(**v)) for v in ({}, {field: SUPERVISED[model][field]}))
    assert float((before - after).abs().max()) > 1e-6 * float(before.abs().max())


def test_every_supervised_objective_is_covered() -> None:
    union = get_args(SftConfig.model_fields["objective"].annotation)
    named = {spec.model_fields["type"].default for spec in union}
    assert named == {"cross_entropy", "gem", "ba_lora", "polychromic"}
    sections = {"rollout", "delivery", "reward", "diversity"}
    assert set(PolychromicSftSpec.model_fields) == set(PolychromicSpec.model_fields) | sections


@pytest.mark.parametrize("field", [field for field in PolychromicSpec.model_fields if field != "type"])
def test_polychromic_sft_hands_every_field_to_the_learner(field: str) -> None:
    base = {
        "objective": "vendi",
        "diversity_weight": 0.8,
        "proximal": "learner",
        "importance_correction": "none",
    }
    plain = PolychromicSftSpec.model_validate(base)
    value = next(value for value in VALUES[field] if value != plain.model_dump()[field])
    further = {"kl_estimator": "k1"} if field == "kl_placement" else {}
    changed = PolychromicSftSpec.model_validate({**base, **further, field: value})
    assert changed.as_algorithm().model_dump()[field] != plain.as_algorithm().model_dump()[field]
