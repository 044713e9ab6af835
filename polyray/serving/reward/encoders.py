"""The encoder behind /v1/embed and /v1/diversity: that of a reward model, or the one of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from polyray.models.embedder import shared_embedder
from polyray.rewards.base import Reward


class Encoder(Protocol):
    """Texts to vectors; thread-safe."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dimension], unit length."""
        ...


class LateEncoder:
    """An encoder that is loaded when it is first asked, and shared by the whole process."""

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self._device = device

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dimension] float32, unit length. Raises ConfigError where the encoder cannot be loaded."""
        return shared_embedder(self.name, self._device).encode(texts)


def encoder_of(reward: Reward, fallback: str, device: str) -> Encoder:
    """The encoder of the reward's own model, where it has one (an engagement model has), else `fallback` on
    `device`."""
    own: Encoder | None = getattr(getattr(reward, "model", None), "embedder", None)
    return LateEncoder(fallback, device) if own is None else own
