"""The card of an engagement model: where it comes from, what it was measured to do, what it is not for.

Two models may judge one another only where they share neither cluster nor version: `check_independent`. For that a
card carries a digest of 6 bytes of every cluster that its model was trained or stopped on, sorted and in base64:
exact but for a chance of about (clusters of one) x (clusters of the other) / 2^48 of refusing an independent pair.
Two copies of one text under different cluster ids are not found by it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any, Literal

from polyray.config.base import StrictModel
from polyray.errors import ConfigError

DIGEST_BYTES = 6
LIMITS = (
    "The score says what people reacted to in the data named here, not what is true, kind or useful; text that "
    "is optimised against it drifts away from what it has seen. Keep a second model, of the other half of the data, "
    "that nothing is optimised against, and look at samples.",
    "Prompts and completions are read to the encoder's limit of tokens; what comes after counts for nothing.",
    "Within one prompt the score ranks; between prompts it is no measure of how many people will react.",
    "Validation chose the training step and the temperature, so its figures are optimistic; held-out ones: "
    "polyray evaluate reward.",
)


class EncoderCard(StrictModel):
    """Identity of the encoder: its configured name, and the hash of its bytes."""

    name: str
    sha256: str
    fine_tuned: bool
    licence: str
    max_tokens: int


class DataCard(StrictModel):
    """Identity of the data: file, part and clusters."""

    path: str
    sha256: str
    half: Literal["all", "train", "eval"]
    split_seed: int
    counts: dict[str, int]
    origins: tuple[str, ...]
    licences: tuple[str, ...]
    cluster_digests: str
    """base64 of the sorted digests, 6 bytes each."""


class ModelCard(StrictModel):
    """Contents of card.json; README.md says the same for people."""

    name: str
    version: str
    data: DataCard
    encoder: EncoderCard
    objective: dict[str, Any]
    confounders: str
    nuisance: dict[str, float]
    """Weights of standardised age and position in training, on the scale of raw scores."""
    best_step: int
    validation: dict[str, float]
    reference_error: float
    """Greatest difference between a score by the stored quantiles and by all validation completions."""
    limits: tuple[str, ...] = LIMITS

    @property
    def clusters(self) -> frozenset[bytes]:
        """Digests of the clusters."""
        raw = base64.b64decode(self.data.cluster_digests)
        return frozenset(raw[at : at + DIGEST_BYTES] for at in range(0, len(raw), DIGEST_BYTES))


def cluster_digests(clusters: Iterable[str]) -> str:
    """Digests for DataCard.cluster_digests."""
    digests = sorted(
        hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:DIGEST_BYTES]
        for name in set(clusters)
    )
    return base64.b64encode(b"".join(digests)).decode()


def check_independent(card_a: ModelCard, card_b: ModelCard) -> None:
    """Raises ConfigError, saying why, where the one model cannot be used to check what was optimised for the other.

    That is: they are one version, or were trained or stopped on a common cluster (thread, story).
    """
    names = (
        f"{card_a.name!r} (version {card_a.version[:12]}) and {card_b.name!r} (version {card_b.version[:12]})"
    )
    fix = "train two models with data.half=train and data.half=eval and the same data.split_seed"
    if card_a.version == card_b.version:
        raise ConfigError(f"{names} are the same model, which would grade itself; {fix}")
    common = len(card_a.clusters & card_b.clusters)
    if common:
        raise ConfigError(
            f"{names} share {common} of {len(card_a.clusters)} and {len(card_b.clusters)} clusters of training and "
            f"validation (halves {card_a.data.half!r} and {card_b.data.half!r}, split_seed "
            f"{card_a.data.split_seed} and {card_b.data.split_seed}), so the one repeats what the other learnt; {fix}"
        )


def card_as_text(card: ModelCard) -> str:
    """README.md."""
    validation = "\n".join(f"| {name} | {value:.4f} |" for name, value in card.validation.items())
    counts = "\n".join(f"| {name} | {value} |" for name, value in card.data.counts.items())
    nuisance = ", ".join(f"{name} {value:+.3f}" for name, value in card.nuisance.items()) or "none"
    encoder, kind = card.encoder, "fine-tuned" if card.encoder.fine_tuned else "frozen"
    return f"""# {card.name}

An engagement reward model of polyray: given a prompt and a completion, how likely people prefer this completion to
one that people wrote. Version `{card.version}`.

- raw score: calibrated log-odds, P(a beats b) = sigmoid(raw(a) - raw(b)) for two completions of one prompt
- score: the mean of sigmoid(raw - raw_j) over the completions j that people wrote in the validation part; in (0, 1),
  strictly increasing in the raw score, by 256 quantiles of raw_j (largest error {card.reference_error:.1e})

## Data

`{card.data.path}`, sha256 `{card.data.sha256}`, half `{card.data.half}` (split_seed {card.data.split_seed}); origin
{", ".join(card.data.origins) or "not stated"}; licence {", ".join(card.data.licences) or "not stated"}.

| what | how many |
| --- | --- |
{counts}

## Model

Encoder `{encoder.name}` (sha256 `{encoder.sha256}`, licence {encoder.licence}), {kind},
{encoder.max_tokens} tokens at most. Objective `{card.objective["type"]}`, best step {card.best_step}.
Age and position: `{card.confounders}`; weights in training: {nuisance}. They are not part of a score.

## Validation

| metric | value |
| --- | --- |
{validation}

## Limits

{chr(10).join(f"- {limit}" for limit in card.limits)}
"""
