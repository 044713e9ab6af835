"""The engagement reward model: people's reactions, learnt from records or preference pairs.

parts.py       rows that a model may see: parts and halves                      (no torch)
data.py        records -> items, pairs, weights, targets                        (no torch)
features.py    the head's features of two embeddings
head.py        the head as it is trained                  network.py    head, encoder, terms of age and position
objective.py   batches, losses, validation                training.py   the loop
checkpoint.py  resume, the best network                   finish.py     calibration, card, model directory
model.py       a saved model: loading, raw scores, scores (no torch but the encoder's)
card.py        origin of a model; whether two are independent
reward.py      the model as a Reward

Scoring needs only the names below; training is called by `training.reward_model_loop`.
"""

from polyray.shelf.preferences.reward_model.card import ModelCard, check_independent
from polyray.shelf.preferences.reward_model.model import EngagementModel, read_card
from polyray.shelf.preferences.reward_model.reward import EngagementReward, build_engagement_reward

__all__ = [
    "EngagementModel",
    "EngagementReward",
    "ModelCard",
    "build_engagement_reward",
    "check_independent",
    "read_card",
]
