"""Fixtures of the engagement model's tests."""

from tests.unit.rewards.engagement.stand_ins import known_encoder

__all__ = ["known_encoder"]
