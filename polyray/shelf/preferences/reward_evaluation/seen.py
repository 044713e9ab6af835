"""Clusters on which the validated engagement models were trained or stopped, by their cards.

Nothing is loaded but cards. Called by pipeline.py: seen clusters are never validated.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from polyray.config.reward_validation import (
    EngagementScorerSpec,
    RewardScorerSpec,
    RewardValidationConfig,
    ScorerSpec,
)
from polyray.config.text_reward import EngagementRewardSpec
from polyray.errors import ConfigError, MissingFile
from polyray.shelf.preferences.reward_evaluation.held_out import HeldOut, Seen
from polyray.shelf.preferences.reward_model.card import ModelCard, cluster_digests
from polyray.shelf.preferences.reward_model.model import read_card


def seen_by_models(specs: Iterable[ScorerSpec]) -> Seen:
    """Whether one of the engagement models among `specs` was trained or stopped on a cluster.

    Raises MissingFile for a model that is not there.
    """
    known = frozenset[bytes]().union(*(card.clusters for spec in specs for card in cards_of(spec)))
    return lambda cluster_id: base64.b64decode(cluster_digests([cluster_id])) in known


def check_unseen(config: RewardValidationConfig, data: HeldOut) -> None:
    """Raises ConfigError where a model was trained on what is validated: its numbers would mean nothing."""
    validated = sorted(set(data.validated.clusters_N.tolist()))
    for name, spec in config.scorers.items():
        seen = list(filter(seen_by_models([spec]), validated))
        if seen:
            raise ConfigError(
                f"{name} was trained or stopped on {len(seen)} of the clusters that are validated, e.g. {seen[0]!r}; "
                "validate it on the test part of the data it was trained with (train it with data.path set to the "
                "run of polyray curate)"
            )


def cards_of(spec: ScorerSpec) -> list[ModelCard]:
    """Card of the model that `spec` names, if it names one. Raises MissingFile where it is not there."""
    asked = spec.reward if isinstance(spec, RewardScorerSpec) else spec
    if not isinstance(asked, EngagementScorerSpec | EngagementRewardSpec):
        return []
    path = Path(asked.path)
    if not path.is_dir():
        raise MissingFile(
            f"{path}: no such file or directory; train a model first (polyray train_reward CONFIG) and "
            "give its runs/NAME/model"
        )
    return [read_card(path)]
