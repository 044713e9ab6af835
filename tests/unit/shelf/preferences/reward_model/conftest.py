"""Fixtures of the engagement model's tests."""

from tests.unit.shelf.preferences.reward_model.stand_ins import known_encoder

__all__ = ["known_encoder"]
